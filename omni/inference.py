"""Trained models at work, without Lightning: load one, let it write."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from omni.checkpoint import from_checkpoint
from omni.errors import UserError
from omni.generation import Sampling
from omni.generation import generate as generate_tokens
from omni.models.thinker import Thinker
from omni.tokenizer import BOS, EOS, StreamDecoder, Tokenizer


class Delta(NamedTuple):
    """A piece of text that a row goes on with.

    Attributes:
        row: Number of the prompt.
        text: The piece; may be empty while a character is incomplete.
    """

    row: int
    text: str


class TextModel:
    """A Thinker and its tokenizer.

    Args:
        thinker: The model, in eval mode.
        tokenizer: The tokenizer it was trained with.
    """

    def __init__(self, thinker: Thinker, tokenizer: Tokenizer) -> None:
        self.thinker, self.tokenizer = thinker, tokenizer

    def stream(
        self, prompts: Sequence[str], *, max_tokens: int = 128, sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Continues all prompts together, piece by piece.

        Args:
            prompts: Texts; an empty one begins a document.
            max_tokens: Most tokens to add to each.
            sampling: How tokens are chosen.

        Yields:
            Pieces of text as they come; a row's pieces joined are its whole continuation.

        Raises:
            UserError: As in `omni.generation.generate`.
        """
        tokens = [[BOS, *self.tokenizer.encode(prompt)] for prompt in prompts]
        decoders = [StreamDecoder(self.tokenizer) for _ in tokens]
        steps = generate_tokens(
            self.thinker,
            tokens,
            max_tokens=max_tokens,
            stop=EOS,
            vocab_size=self.tokenizer.vocab_size,
            sampling=sampling,
        )
        for step in steps:
            for row, token in enumerate(step):
                if token is not None and token != EOS:
                    yield Delta(row, decoders[row].push(token))
        for row, decoder in enumerate(decoders):
            yield Delta(row, decoder.finish())

    def generate(
        self, prompts: str | Sequence[str], *, max_tokens: int = 128, sampling: Sampling | None = None
    ) -> list[str]:
        """Continuations of all prompts, complete; arguments as in `stream`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        texts = [""] * len(prompts)
        for row, text in self.stream(prompts, max_tokens=max_tokens, sampling=sampling):
            texts[row] += text
        return texts


def load(path: str | Path, *, device: str = "auto") -> TextModel:
    """Loads a trained Thinker from the checkpoint of any stage that holds one.

    Args:
        path: The checkpoint.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        UserError: If the checkpoint is missing, damaged or without a Thinker, or the device is not there.
    """
    thinker, tokenizer = from_checkpoint(path, "thinker", Thinker)
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"checkpoint {path} holds units of speech and no tokenizer of text")
    thinker.lay_out_for_decoding()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return TextModel(thinker.to(device), tokenizer)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def generate(
    checkpoint: str,
    text: list[str] | str | None = None,
    *,
    file: str | None = None,
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    num_samples: int = 1,
    device: str = "auto",
) -> None:
    """Continue a text with a trained Thinker, printing it as it comes.

    Several prompts are continued together, and each is printed whole once those before it are.

    Args:
        checkpoint: A checkpoint that holds a Thinker, such as lightning_logs/thinker/best.ckpt.
        text: A text to continue, or several: '[one, another]'. Without one, documents are begun.
        file: A file with one prompt a line; `-` reads standard input.
        max_tokens: Most tokens to add.
        temperature: Spread of the choice; 0 always takes the likeliest token.
        top_k: Choose among this many tokens; 0 means all.
        top_p: Choose among the likeliest tokens that together hold this probability.
        repetition_penalty: Over 1, tokens already said become less likely.
        seed: The same seed gives the same text.
        num_samples: Continuations of each prompt.
        device: cpu, cuda, or auto.
    """
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
    )
    if num_samples < 1:
        raise UserError(f"num_samples must be 1 or more, not {num_samples}")
    prompts = [prompt for prompt in _prompts(text, file) for _ in range(num_samples)]
    model = load(checkpoint, device=device)
    _print(prompts, model.stream(prompts, max_tokens=max_tokens, sampling=sampling))


def _prompts(text: list[str] | str | None, file: str | None) -> list[str]:
    if text is not None and file is not None:
        raise UserError("give either text or file, not both")
    if text is not None:
        return [text] if isinstance(text, str) else text
    if file is None:
        return [""]
    try:
        lines = (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).splitlines()
    except OSError as error:
        raise UserError(f"prompts {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompts {file} are not UTF-8 (byte {error.start})") from error
    if not lines:
        raise UserError(f"prompts {file} are empty: write one prompt a line")
    return lines


def _print(prompts: list[str], deltas: Iterator[Delta]) -> None:
    """Prints the first unfinished row as it comes, and what the others said meanwhile once it is their turn."""
    waiting = [[prompt] for prompt in prompts]
    current = 0
    print(prompts[0], end="", flush=True)
    for row, piece in deltas:
        if row == current:
            print(piece, end="", flush=True)
        else:
            waiting[row].append(piece)
    print()
    for row in range(1, len(prompts)):
        print("-" * 8 + "\n" + "".join(waiting[row]))
