"""Greedy CTC decoding of emissions as arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.text.ctc_vocabulary import BLANK


def greedy(log_probs: NDArray[Any]) -> list[int]:
    """The most likely unit of each sub-frame, with repeats merged and blanks dropped, as `omni.decoding.ctc.greedy`.

    Args:
        log_probs: (sub-frames, vocab_size), of one row without padding.
    """
    best = log_probs.argmax(-1)
    first = np.ones(len(best), dtype=bool)
    first[1:] = best[1:] != best[:-1]
    return best[first & (best != BLANK)].tolist()
