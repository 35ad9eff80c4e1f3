"""The sessions that are open: a bounded number, ended when the server stops."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from omni.serving.errors import overloaded


class OpenSessions:
    """Counts sessions.

    Args:
        most: Most sessions at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._ends: set[asyncio.Event] = set()

    def __len__(self) -> int:
        return len(self._ends)

    @contextmanager
    def enter(self) -> Iterator[asyncio.Event]:
        """Counts a session until the end of the context.

        Yields:
            An event that is set when the session is to end.

        Raises:
            ApiError: If there are too many.
        """
        if len(self) >= self.most:
            raise overloaded(f"{self.most} sessions are open already: try again later.", code="sessions_full")
        end = asyncio.Event()
        self._ends.add(end)
        try:
            yield end
        finally:
            self._ends.discard(end)

    def close(self) -> None:
        """Asks all sessions to end; called in the event loop."""
        for end in self._ends:
            end.set()
