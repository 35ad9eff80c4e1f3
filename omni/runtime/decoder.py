"""A Thinker's graph that continues a prompt, with its KV cache passed from step to step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.decoding.sampling_options import Sampling, random_stream
from omni.errors import UserError
from omni.runtime.engine import Run
from omni.runtime.sampling import choose
from omni.text.stream_decoder import StreamDecoder
from omni.text.tokenizer import Tokenizer

Inputs = dict[str, NDArray[Any]]
Choose = Callable[[NDArray[np.float32]], int]
"""Maps the logits (vocab_size,) of a position to a token."""


def most_likely(logits: NDArray[np.float32]) -> int:
    """The most likely token."""
    return int(logits.argmax())


def empty_past(constants: Mapping[str, Any], rows: int = 1) -> NDArray[np.float32]:
    """The KV cache of a start, (layers, 2, rows, kv heads, 0, head dim).

    Args:
        constants: The manifest's constants of the Thinker.
        rows: Number of rows.
    """
    shape = (constants["num_layers"], 2, rows, constants["num_kv_heads"], 0, constants["head_dim"])
    return np.zeros(shape, dtype=np.float32)


def inputs_of(
    tokens: Sequence[int],
    constants: Mapping[str, Any],
    *,
    start: int = 0,
    media: NDArray[np.float32] | None = None,
    positions: NDArray[np.float32] | None = None,
) -> Inputs:
    """Inputs of a Thinker's graph but for its KV cache.

    Args:
        tokens: Not empty.
        constants: The manifest's constants of the Thinker; one that reads media has `image_token`.
        start: Position of the first token, where `positions` is not given.
        media: (time, dim), embeddings of media at the places of their tokens; zeros if not given.
        positions: (3, time), see `omni.text.media_spans`.
    """
    inputs: Inputs = {"tokens": np.array([tokens], dtype=np.int64)}
    if "image_token" in constants:
        empty = np.zeros((len(tokens), constants["dim"]), dtype=np.float32)
        inputs["media"] = (empty if media is None else media)[None]
        if constants["rope_axes"] == 3:
            places = np.tile(np.arange(start, start + len(tokens), dtype=np.float32), (3, 1))
            inputs["positions"] = (places if positions is None else positions)[:, None]
    return inputs


def continuation(
    run: Run,
    prompt: Inputs,
    constants: Mapping[str, Any],
    *,
    max_tokens: int,
    stop: int,
    choose: Choose = most_likely,
) -> Iterator[int]:
    """Continues a prompt.

    Args:
        run: The graph.
        prompt: From `inputs_of`.
        constants: The manifest's constants of the Thinker.
        max_tokens: Most new tokens.
        stop: The token that ends the continuation; it is yielded.
        choose: Chooses a token among those of the tokenizer.
    """
    inputs, past = prompt, empty_past(constants)
    start = int(inputs["positions"][:, 0, -1].max()) + 1 if "positions" in inputs else inputs["tokens"].shape[1]
    for step in range(max_tokens):
        logits, past = run({**inputs, "past": past})
        token = choose(logits[0, -1, : constants["tokenizer_size"]])
        yield token
        if token == stop or step == max_tokens - 1:
            return
        inputs = inputs_of([token], constants, start=start + step)


def text_of(
    run: Run,
    prompt: Inputs,
    constants: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    sampling: Sampling,
    row: int = 0,
    turn: bool,
) -> Iterator[str]:
    """Continues a prompt in pieces of text.

    Args:
        run: The graph.
        prompt: From `inputs_of`.
        constants: The manifest's constants of the Thinker.
        tokenizer: Its tokenizer.
        max_tokens: Most new tokens.
        sampling: Sampling options.
        row: Number of the random stream.
        turn: Whether the text is a turn of a conversation; see `omni.text.stream_decoder.StreamDecoder`.

    Raises:
        UserError: If `max_tokens` is less than 1.
    """
    if max_tokens < 1:
        raise UserError(f"max_tokens must be 1 or more, not {max_tokens}")
    seen = np.zeros(tokenizer.vocab_size, dtype=bool)
    seen[prompt["tokens"][0]] = True
    draws, decoder = random_stream(sampling.seed, row), StreamDecoder(tokenizer, turn=turn)

    def chosen(logits: NDArray[np.float32]) -> int:
        return choose(sampling, logits, seen, draws.random())

    stop = constants["stop"]
    for token in continuation(run, prompt, constants, max_tokens=max_tokens, stop=stop, choose=chosen):
        seen[token] = True
        if token != stop:
            yield decoder.push(token)
    yield decoder.finish()
