"""The choice of a token from logits as an array."""

import numpy as np
from numpy.typing import NDArray

from omni.decoding.sampling_options import BELOW_ONE, Sampling


def choose(sampling: Sampling, logits: NDArray[np.float32], seen: NDArray[np.bool_], draw: float) -> int:
    """Chooses a token, as `omni.decoding.sampling.choose_tokens`.

    Args:
        sampling: The options.
        logits: (vocab,).
        seen: (vocab,): tokens that the row already holds.
        draw: Uniform in [0, 1].
    """
    if sampling.repetition_penalty != 1:
        penalty = np.float32(sampling.repetition_penalty)
        logits = np.where(seen, np.where(logits > 0, logits * (1 / penalty), logits * penalty), logits)
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / np.float32(sampling.temperature)
    kept = min(sampling.top_k or len(scaled), len(scaled))
    if kept == len(scaled) and sampling.top_p == 1:
        return _draw(_softmax(scaled), draw)
    tokens = np.argsort(-scaled, kind="stable")[:kept]
    probabilities = _softmax(scaled[tokens])
    if sampling.top_p < 1:
        before = probabilities.cumsum() - probabilities
        probabilities = np.where(before >= np.float32(sampling.top_p), 0, probabilities)
    return int(tokens[_draw(probabilities, draw)])


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def _draw(probabilities: NDArray[np.float32], draw: float) -> int:
    """Inverts the cumulative distribution; the probabilities need not sum to 1."""
    cumulative = probabilities.cumsum()
    return int(np.searchsorted(cumulative, np.float32(draw) * (cumulative[-1] * BELOW_ONE), side="right"))
