"""`omni transcribe --live`: words while they are spoken."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch import Tensor

from omni.errors import UserError
from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.live_turns import live_turns
from omni.inference.recognizer import Recognizer
from omni.media.live_audio import microphone, piped_audio
from omni.media.turn_detector import TurnDetector


def transcribe_live(source: str, recognizer: Recognizer, rate: int | None) -> None:
    """Prints the words of live audio, a line for each turn, until the audio ends or Ctrl-C.

    Args:
        source: `-`, `microphone`, or a file.
        recognizer: The model.
        rate: Sample rate of audio without a header.
    """
    with _live_source(source, rate) as blocks, _interruptible(blocks) as heard:
        for text in live_turns(heard, LiveRecognizer(recognizer), TurnDetector()):
            print(text.delta, end="\n" if text.end else "", flush=True)


@contextmanager
def _live_source(source: str, rate: int | None) -> Iterator[Iterator[Tensor]]:
    if source == "microphone":
        with microphone() as blocks:
            print("omni transcribe: listening, Ctrl-C ends", file=sys.stderr)
            yield blocks
    elif source == "-":
        yield piped_audio(sys.stdin.buffer, rate=rate)
    else:
        try:
            stream = Path(source).open("rb")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror}") from error
        with stream:
            yield piped_audio(stream, rate=rate, name=source)


@contextmanager
def _interruptible(blocks: Iterator[Tensor]) -> Iterator[Iterator[Tensor]]:
    """The blocks until Ctrl-C, which is an end of the audio: what was heard is transcribed to its end."""
    asked = reading = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if reading:  # waits for audio; elsewhere the models would be cut in mid-step
            raise KeyboardInterrupt

    def until_asked() -> Iterator[Tensor]:
        nonlocal reading
        while not asked:
            reading = True
            try:
                block = next(blocks, None)
            except KeyboardInterrupt:
                return
            finally:
                reading = False
            if block is None:
                return
            yield block

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield until_asked()
    finally:
        signal.signal(signal.SIGINT, before)
