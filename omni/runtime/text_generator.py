"""Text generation by an exported Thinker."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from omni.decoding.sampling_options import Sampling
from omni.errors import UserError
from omni.runtime.decoder import inputs_of, text_of
from omni.runtime.exported import ExportedPart, parts_of
from omni.text.chat_template import Template, encode_chat
from omni.text.stream_decoder import Delta, joined_rows
from omni.text.tokenizer import Tokenizer

OMNI_THINKER = "omni_thinker"  # the Thinker of a model that reads images and audio


@final
class TextGenerator:
    """The Thinker of an exported folder: it continues texts, or answers questions about them.

    Args:
        folder: As `omni export --to onnx` writes it.
        variant: `fp32` or `int8`; by default the one that the export chose.
        threads: Number of threads; 0: one for each core.

    Attributes:
        tokenizer: Its tokenizer.
        template: The chat template that it was trained with; None for a model that continues texts.

    Raises:
        UserError: If the folder is not a complete export of a Thinker, or another tokenizer is beside it.
    """

    def __init__(self, folder: str | Path, *, variant: str | None = None, threads: int = 0) -> None:
        name = OMNI_THINKER if OMNI_THINKER in parts_of(folder) else "thinker"
        part = ExportedPart(folder, name, variant=variant, threads=threads)
        self._run, self._constants = part.run, part.constants
        self.tokenizer: Tokenizer = part.vocabulary(Tokenizer)
        self.template: Template | None = part.constants["template"]
        self.context: int = part.constants["context"]

    def stream(
        self, prompts: Sequence[str], *, max_tokens: int = 128, sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Continues prompts one after the other, piece by piece.

        Args:
            prompts: Texts; an empty one starts a document.
            max_tokens: Most new tokens per prompt.
            sampling: Sampling options.

        Yields:
            Pieces of text; joined, those of a row are its continuation.

        Raises:
            UserError: If `max_tokens` is less than 1.
        """
        for row, prompt in enumerate(prompts):
            tokens = [self._constants["bos"], *self.tokenizer.encode(prompt)]
            for text in self._pieces(tokens, row, max_tokens, sampling or Sampling(), turn=False):
                yield Delta(row, text)

    def generate(
        self, prompts: str | Sequence[str], *, max_tokens: int = 128, sampling: Sampling | None = None
    ) -> list[str]:
        """The continuations of all prompts; arguments as in `stream`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return joined_rows(self.stream(prompts, max_tokens=max_tokens, sampling=sampling), len(prompts))

    def answer(
        self,
        messages: str | Sequence[dict[str, Any]],
        *,
        max_tokens: int = 128,
        sampling: Sampling | None = None,
        row: int = 0,
    ) -> Iterator[str]:
        """Answers a question, or a conversation of text that ends with a message of the user, piece by piece.

        Args:
            messages: The question, or messages with `role` and `content`; see `omni.text.chat_template.encode_chat`.
            max_tokens: Most tokens of the answer.
            sampling: Sampling options; greedy by default.
            row: Number of the random stream.

        Yields:
            Pieces of text; joined, they are the answer.

        Raises:
            UserError: If the model only continues texts, a message is invalid, or the conversation is too long.
        """
        if self.template is None:
            raise UserError("the exported model only continues texts: export a checkpoint of stage E for answers")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        tokens = encode_chat(self.tokenizer, messages, template=self.template, add_generation_prompt=True).tokens
        if len(tokens) + max_tokens > self.context:
            raise UserError(
                f"the question takes {len(tokens):,} tokens, and {max(0, self.context - max_tokens):,} fit: the "
                f"context is {self.context:,}, and {max_tokens:,} are reserved for the answer"
            )
        yield from self._pieces(tokens, row, max_tokens, sampling or Sampling(temperature=0), turn=True)

    def _pieces(
        self, tokens: Sequence[int], row: int, max_tokens: int, sampling: Sampling, *, turn: bool
    ) -> Iterator[str]:
        prompt = inputs_of(tokens, self._constants)
        options = {"max_tokens": max_tokens, "sampling": sampling, "row": row, "turn": turn}
        return text_of(self._run, prompt, self._constants, self.tokenizer, **options)
