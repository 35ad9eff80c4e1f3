"""Live recognition turn by turn."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from omni.inference.live_recognizer import LiveRecognizer
from omni.media.turn_detector import TurnDetector
from omni.media.turn_splitter import TurnSplitter


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
    splitter, said, heard = TurnSplitter(detector), False, 0.0
    for block in blocks:
        for part in splitter.push(block):
            heard, end = part.seconds, part.kind == "end"
            delta = recognizer.finish() if end else recognizer.push(part.samples)
            said = said or bool(delta)
            if said and (delta or end):
                yield LiveText(delta, end, heard)
            said = said and not end
    delta = recognizer.finish() if splitter.speaking else ""
    if said or delta:
        yield LiveText(delta, True, heard)
