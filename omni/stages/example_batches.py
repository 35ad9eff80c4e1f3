"""Batches of the largest shapes, for `omni plan`."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from omni.batch import SpeechBatch
from omni.media.audio import HOP_LENGTH

UNITS_PER_SECOND = 15  # of fast speech


def largest_utterances(data: Mapping[str, Any], *, silence: float = 0.0) -> tuple[int, float]:
    """How many of the longest utterances a batch holds, and the seconds of each.

    Args:
        data: Arguments of the data module.
        silence: Seconds added before and after each utterance.
    """
    seconds = (data.get("crop") or data["max_duration"]) + 2 * silence
    return max(1, min(data["max_batch_rows"], int(data["batch_seconds"] / seconds))), seconds


def speech_batch(data: Mapping[str, Any], *, audio: bool = False, hop_length: int = HOP_LENGTH) -> SpeechBatch:
    """As many of the longest utterances, or of the crops, as `batch_seconds` holds, at 15 units a second.

    Args:
        data: Arguments of the data module.
        audio: Whether it holds waveforms.
        hop_length: Their samples per frame.
    """
    rows, seconds = largest_utterances(data)
    frames, units = math.ceil(seconds * 100), math.ceil(seconds * UNITS_PER_SECOND)
    return SpeechBatch(
        mels=torch.zeros(rows, frames, data["num_mels"]),
        mel_lengths=torch.full((rows,), frames),
        targets=torch.ones(rows, units, dtype=torch.long),
        target_lengths=torch.full((rows,), units),
        rows=torch.zeros(rows, dtype=torch.long),
        seconds=float(rows * seconds),
        audio=torch.zeros(rows, frames * hop_length) if audio else None,
    )
