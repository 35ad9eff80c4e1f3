"""Text generation with a trained Thinker."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.sampling import Sampling
from omni.decoding.sampling import generate as generate_tokens
from omni.devices import resolve
from omni.models.interfaces import LanguageModel
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.thinker import Thinker
from omni.text.stream_decoder import Delta, StreamDecoder, joined_rows
from omni.text.tokenizer import Tokenizer


class TextModel:
    """A Thinker and its tokenizer.

    Args:
        thinker: The model, in eval mode.
        tokenizer: The tokenizer it was trained with.
    """

    def __init__(self, thinker: LanguageModel, tokenizer: Tokenizer) -> None:
        self.thinker, self.tokenizer = thinker, tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, after the start of a document."""
        eos, bos = self.tokenizer.eos, self.tokenizer.bos
        start = eos if bos is None else bos  # without a bos, documents follow the eos of another in training
        return [start, *self.tokenizer.encode(text)]

    @torch.inference_mode()
    def token_losses(self, text: str) -> Tensor:
        """Negative log-likelihoods of the tokens of a text, each given those before it.

        Args:
            text: Not empty, and not longer than the model's context.

        Returns:
            (tokens,), in nats, on the CPU; the start of the document is not scored.
        """
        tokens = torch.tensor([self.encode(text)], device=next(self.thinker.parameters()).device)
        logits = self.thinker(tokens[:, :-1]).logits[0].float()
        return F.cross_entropy(logits, tokens[0, 1:], reduction="none").cpu()

    def stream(
        self, prompts: Sequence[str], *, max_tokens: int = 128, sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Continues all prompts as one batch, piece by piece.

        Args:
            prompts: Texts; an empty one starts a document.
            max_tokens: Most new tokens per prompt.
            sampling: Sampling options.

        Yields:
            Pieces of text; joined, those of a row are its continuation.

        Raises:
            UserError: As in `omni.decoding.sampling.generate`.
        """
        eos, tokens = self.tokenizer.eos, [self.encode(prompt) for prompt in prompts]
        decoders = [StreamDecoder(self.tokenizer) for _ in tokens]
        steps = generate_tokens(
            self.thinker,
            tokens,
            max_tokens=max_tokens,
            stop=eos,
            vocab_size=self.tokenizer.vocab_size,
            sampling=sampling,
        )
        for step in steps:
            for row, token in enumerate(step):
                if token is not None and token != eos:
                    yield Delta(row, decoders[row].push(token))
        for row, decoder in enumerate(decoders):
            yield Delta(row, decoder.finish())

    def generate(
        self, prompts: str | Sequence[str], *, max_tokens: int = 128, sampling: Sampling | None = None
    ) -> list[str]:
        """The continuations of all prompts; arguments as in `stream`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return joined_rows(self.stream(prompts, max_tokens=max_tokens, sampling=sampling), len(prompts))


def load(path: Source, *, device: str = "auto") -> TextModel:
    """Loads a trained Thinker.

    Args:
        path: A checkpoint with a Thinker.
        device: `auto`, or a name that PyTorch knows; see `omni.devices.resolve`.

    Raises:
        UserError: If the checkpoint is missing, damaged or has no Thinker, or there is no such device.
    """
    checkpoint = Checkpoint.open(path)
    thinker, tokenizer = checkpoint.part("thinker", Thinker, PretrainedThinker), checkpoint.tokenizer
    thinker.transpose_weights_for_decoding()
    return TextModel(thinker.to(resolve(device)), tokenizer)
