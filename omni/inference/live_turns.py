"""Live recognition turn by turn."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from omni.inference.live_recognizer import LiveRecognizer
from omni.media.audio import SAMPLE_RATE
from omni.media.turn_detector import TurnDetector

_BEFORE = 0.4  # seconds before a turn is noticed that belong to it


class LiveText(NamedTuple):
    """Text of the turn that is spoken.

    Attributes:
        delta: What is added to it; never changed later.
        end: Whether the turn is over.
        seconds: Seconds of audio that have been heard.
    """

    delta: str
    end: bool
    seconds: float


def live_turns(blocks: Iterable[Tensor], recognizer: LiveRecognizer, detector: TurnDetector) -> Iterator[LiveText]:
    """Transcribes live audio; what is said in a turn does not depend on the turns before it.

    Args:
        blocks: Audio as it comes: (samples,) each, at 16 kHz.
        recognizer: Transcribes the turns.
        detector: Finds them. Audio outside of turns is not transcribed.

    Yields:
        New text, and the end of each turn that has any.
    """
    before, heard, said = torch.zeros(0), 0, False
    for block in blocks:
        for samples in block.split(round(0.02 * SAMPLE_RATE)):
            heard += len(samples)
            was_speaking, delta = detector.speaking, ""
            events = detector.push(samples)
            if was_speaking or detector.speaking:
                delta = recognizer.push(samples if was_speaking else torch.cat((before, samples)))
                before = samples[:0]
            else:
                before = torch.cat((before, samples))[-round(_BEFORE * SAMPLE_RATE) :]
            end = any(event.kind == "end" for event in events)
            delta += recognizer.finish() if end else ""
            said = said or bool(delta)
            if said and (delta or end):
                yield LiveText(delta, end, heard / SAMPLE_RATE)
            said = said and not end
    delta = recognizer.finish() if detector.speaking else ""
    if said or delta:
        yield LiveText(delta, True, heard / SAMPLE_RATE)
