"""How urgent long work is: the engine takes the step of the least value next."""

import time

from omni.media.audio import SAMPLE_RATE

SPEECH_CHUNK = 0.32  # seconds of speech per step: others wait for no more
_HEADSTART = 1.0  # seconds that recognition waits for speech that is about to run dry


class Playback:
    """The urgency of speech: how many seconds of it a client still has to play.

    Speech that has not started is more urgent than all that has, the oldest first.

    Args:
        sample_rate: Of the speech in Hz.

    Attributes:
        seconds: Speech that was sent.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        self.sample_rate = sample_rate
        self._asked = time.monotonic()
        self._started: float | None = None
        self.seconds = 0.0

    def add(self, samples: int) -> None:
        """Counts samples that were sent."""
        if self._started is None:
            self._started = time.monotonic()
        self.seconds += samples / self.sample_rate

    def urgency(self) -> float:
        """Seconds until the client has played everything; less is more urgent."""
        now = time.monotonic()
        if self._started is None:
            return -1000.0 - (now - self._asked)
        return self.seconds - (now - self._started)


class Turn:
    """The urgency of work whose client waits for its end: it grows with the time since its last step."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def taken(self) -> None:
        """Counts a step."""
        self._last = time.monotonic()

    def urgency(self) -> float:
        """Comparable with the seconds of `Playback`."""
        return _HEADSTART - (time.monotonic() - self._last)
