"""Ends a streamed text at the first of some strings."""

from collections.abc import Sequence


class StopStrings:
    """Passes on text that is certainly before the first stop string.

    Args:
        stops: The strings; empty: all text is passed on.

    Attributes:
        found: Whether one was found; further text is dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.found = list(stops), False
        self._held = ""  # may be the start of a stop string

    def push(self, text: str) -> str:
        """Adds text; returns what can be passed on."""
        if self.found:
            return ""
        self._held += text
        ends = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._held[: min(ends)]
        kept = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        passed, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return passed

    def finish(self) -> str:
        """The rest of the text."""
        rest, self._held = ("" if self.found else self._held), ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that starts a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
