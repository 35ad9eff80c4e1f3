"""The frames of a Talker's graph, one call each."""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omni.decoding.sampling_options import SpeechSampling
from omni.runtime.engine import Run


class Frame(NamedTuple):
    """A frame of a text.

    Attributes:
        inputs: Of the graph.
        codes: (codebooks,).
        position: The character that it reads; 0 is the start symbol, 1 the first character.
    """

    inputs: dict[str, NDArray[Any]]
    codes: NDArray[np.int64]
    position: int


def frames(
    run: Run,
    encoded: NDArray[np.float32],
    past: NDArray[np.float32],
    *,
    frame_rate: float,
    num_codebooks: int,
    draws: Random,
    sampling: SpeechSampling,
) -> Iterator[Frame]:
    """Speaks a text, as `omni.decoding.talker.speak`.

    Args:
        run: The graph `talker`.
        encoded: (1, characters + 2, dim), from the graph `talker_text`.
        past: The KV cache of a start.
        frame_rate: Frames per second.
        num_codebooks: Codebooks of a frame.
        draws: Random numbers: one for each codebook and one for the advance, frame by frame.
        sampling: Sampling of codes and pace.
    """
    options, longest = sampling_input(sampling), max(1, int(sampling.max_dwell * frame_rate))
    before, position, dwelt = np.full((1, num_codebooks), -1), 0, 0
    while position < encoded.shape[1]:
        uniform = np.array([[draws.random() for _ in range(num_codebooks + 1)]], dtype=np.float32)
        inputs = {"before": before, "characters": encoded[:, position], "draws": uniform, "sampling": options}
        inputs["past"] = past
        before, advances, past = run(inputs)
        yield Frame(inputs, before[0], position)
        dwelt += 1
        step = max(int(advances[0]), int(dwelt >= longest))
        dwelt = 0 if step else dwelt
        position += step


def sampling_input(sampling: SpeechSampling) -> NDArray[np.float32]:
    """The input `sampling` of the graph, (3, 3): temperature, top_k and top_p of first codebook, others, advance."""
    rows = [[one.temperature, one.top_k, one.top_p] for one in (sampling.first, sampling.rest, sampling.pace)]
    return np.array(rows, dtype=np.float32)
