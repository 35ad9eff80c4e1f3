"""The Thinker of any stage, as a step with its KV cache."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
from scipy.special import log_softmax

from omni.checkpoints.checkpoint import Checkpoint
from omni.export.graphs import thinker_graph
from omni.export.hf import random_rows
from omni.export.parts.part import Inputs, OnnxPart, Quality
from omni.models.thinker import Thinker
from omni.runtime.decoder import continuation, empty_past, inputs_of
from omni.runtime.engine import Run
from omni.text.chat_template import encode_chat, stop_token
from omni.text.tokenizer import BOS

CONTEXT = 2048  # tokens, where the checkpoint has no `context`: rotary positions have no limit of their own
_ROW, _NEW = 128, 32  # tokens of a compared row, and of a continuation
_CONTINUED = 8  # rows that are continued greedily


@final
class ThinkerPart(OnnxPart):
    """`thinker`: tokens and a KV cache to logits and the longer cache."""

    name = "thinker"
    needs = "a Thinker trained by omni, such as one of stage A or E"
    rows = "text"
    quality_loss = 0.01  # nats a token

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        if "thinker" not in checkpoint:
            return "no Thinker"
        pretrained = not checkpoint.content["parts"]["thinker"]["class_path"].endswith(".Thinker")
        if pretrained:
            return "the Thinker is a pretrained model: export it with optimum or transformers"
        return "the Thinker conditions a Talker" if "normalization" in checkpoint.content["tokenizer"] else None

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.thinker = checkpoint.part("thinker", Thinker).float()
        self.vocabulary = self.tokenizer = checkpoint.tokenizer
        self.graph = thinker_graph(self.thinker)
        chat = "chat" if checkpoint.lineage["stage"] == "OmniTuning" else None
        self.template = checkpoint.content.get("template") or chat
        self.context = int(checkpoint.content.get("context") or CONTEXT)
        self.stop = stop_token(self.tokenizer, self.template or "plain")

    def constants(self) -> dict[str, Any]:
        inner = self.thinker.transformer
        return {
            "num_layers": inner.num_layers,
            "num_kv_heads": inner.num_kv_heads,
            "head_dim": inner.head_dim,
            "vocab_size": self.thinker.vocab_size,
            "tokenizer_size": self.tokenizer.vocab_size,
            "bos": BOS,
            "stop": self.stop,
            "template": self.template,
            "context": self.context,
        }

    def random_items(self) -> Sequence[str]:
        return random_rows(self.tokenizer).texts

    def inputs(self, items: Sequence[str]) -> Iterator[Inputs]:
        """Each row whole; then pairs of equally long rows, so that a batch is among them."""
        rows = [[BOS, *self.tokenizer.encode(text)][:_ROW] for text in items]
        pairs = [[one[: len(other)], other[: len(one)]] for one, other in zip(rows[::2], rows[1::2], strict=False)]
        for batch in (*([row] for row in rows), *pairs[:_CONTINUED]):
            yield {"tokens": np.array(batch), "past": empty_past(self.constants(), len(batch))}

    def results(self, run: Run, items: Sequence[str]) -> list[str]:
        constants = self.constants()
        found = []
        for text in items[:_CONTINUED]:
            tokens = continuation(
                run, inputs_of(self._prompt(text), constants), constants, max_tokens=_NEW, stop=self.stop
            )
            found.append(self.tokenizer.decode(list(tokens), skip_specials=False))
        return found

    def quality(self, run: Run, items: Sequence[str]) -> Quality:
        """Mean loss of a token, of all rows; the interval is over rows, normal."""
        losses, counts = [], []
        for text in items:
            tokens = np.array([[BOS, *self.tokenizer.encode(text)][:_ROW]])
            scores = log_softmax(run({"tokens": tokens, "past": empty_past(self.constants())})[0][0], axis=-1)
            losses.append(-scores[np.arange(tokens.shape[1] - 1), tokens[0, 1:]].sum())
            counts.append(tokens.shape[1] - 1)
        value, mean = sum(losses) / sum(counts), np.mean(counts)
        spread = 1.96 * float(np.std(np.array(losses) - value * np.array(counts)) / mean / len(losses) ** 0.5)
        return Quality("loss", float(value), float(value) - spread, float(value) + spread, len(losses))

    def _prompt(self, text: str) -> list[int]:
        if self.template == "chat":
            messages = [{"role": "user", "content": text}]
            return encode_chat(self.tokenizer, messages, add_generation_prompt=True).tokens[-_ROW:]
        ids = self.tokenizer.encode(text)
        return [BOS, *ids[: min(len(ids) // 3, _ROW)]]
