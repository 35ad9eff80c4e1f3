"""A Thinker's graph that continues a prompt, with its KV cache passed from step to step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.runtime.engine import Run

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


def continuation(
    run: Run,
    prompt: Sequence[int],
    constants: Mapping[str, Any],
    *,
    max_tokens: int,
    stop: int,
    choose: Choose = most_likely,
) -> Iterator[int]:
    """Continues a prompt.

    Args:
        run: The graph.
        prompt: Tokens; not empty.
        constants: The manifest's constants of the Thinker.
        max_tokens: Most new tokens.
        stop: The token that ends the continuation; it is yielded.
        choose: Chooses a token among those of the tokenizer.
    """
    tokens, past = np.array([prompt], dtype=np.int64), empty_past(constants)
    for step in range(max_tokens):
        logits, past = run({"tokens": tokens, "past": past})
        token = choose(logits[0, -1, : constants["tokenizer_size"]])
        yield token
        if token == stop or step == max_tokens - 1:
            return
        tokens = np.array([[token]], dtype=np.int64)
