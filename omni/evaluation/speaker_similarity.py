"""Speaker similarity (SIM): cosines of embeddings of a speaker-verification encoder."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from omni.media.audio import SAMPLE_RATE

SHORTEST = 0.5  # seconds; one frame of an x-vector's last layer spans 0.3 s, and shorter sounds are not judged


class SpeakerSimilarity(NamedTuple):
    """The similarity of sounds to a speaker.

    Attributes:
        mean: Mean cosine, -1 to 1; nan without sounds.
        deviation: Standard deviation over the sounds.
        sounds: Number of sounds that were compared.
    """

    mean: float
    deviation: float
    sounds: int


def cosines_to_mean(embeddings: Tensor, references: Tensor) -> Tensor:
    """The cosine of each embedding and the mean of a speaker's embeddings.

    The mean is that of embeddings of length 1, so that each reference counts alike: the centroid of GE2E
    (arXiv:1710.10467). References should be other sounds than those compared: a sound in its own mean is too near.

    Args:
        embeddings: (sounds, dim), of any length.
        references: (recordings, dim), one or more of one speaker.

    Returns:
        (sounds,), float64, -1 to 1.

    Raises:
        ValueError: If there are no references, or shapes do not match.
    """
    if references.ndim != 2 or not len(references):
        raise ValueError(f"references are {tuple(references.shape)}: give (recordings, dim), with 1 recording or more")
    if embeddings.ndim != 2 or embeddings.shape[1] != references.shape[1]:
        found = f"{tuple(embeddings.shape)} and {tuple(references.shape)}"
        raise ValueError(f"embeddings and references are {found}: give (sounds, dim) and (recordings, dim)")
    mean = F.normalize(references.double(), dim=1).mean(0)
    return F.cosine_similarity(embeddings.double(), mean[None])


def speaker_similarity(
    sounds: Sequence[Tensor], references: Tensor, encode: Callable[[Tensor], Tensor]
) -> SpeakerSimilarity:
    """The similarity of sounds to the mean of a speaker's embeddings.

    Args:
        sounds: (samples,) each, 16 kHz.
        references: (recordings, dim), from `embed`.
        encode: The encoder: (samples,) at 16 kHz to (dim,).

    Raises:
        ValueError: If there are no references.
    """
    cosines = cosines_to_mean(embed(sounds, encode).reshape(-1, references.shape[1]), references)
    if not len(cosines):
        return SpeakerSimilarity(float("nan"), float("nan"), 0)
    return SpeakerSimilarity(cosines.mean().item(), cosines.std(unbiased=False).item(), len(cosines))


def embed(sounds: Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Embeddings (sounds, dim) of the sounds of at least `SHORTEST` seconds, one at a time; (0, 0) without any."""
    found = [encode(sound) for sound in sounds if len(sound) >= SHORTEST * SAMPLE_RATE]
    return torch.stack(found) if found else torch.zeros(0, 0)
