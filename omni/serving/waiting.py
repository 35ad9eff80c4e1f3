"""How long a request would wait, estimated from those before it."""

import math

_RECENT = 32  # jobs: the weight of an older one shrinks
_LONGEST = 120  # seconds: the load may be another by then


class ServiceTimes:
    """The mean time of recent jobs.

    Attributes:
        mean: Seconds from the first step of a job to its end; 0 before the first has ended.
    """

    def __init__(self) -> None:
        self.mean, self._count = 0.0, 0

    def add(self, seconds: float) -> None:
        """Counts a job that has ended."""
        self._count += 1
        self.mean += (seconds - self.mean) / min(self._count, _RECENT)

    def wait(self, waiting: int, rows: int) -> int:
        """Seconds until jobs that wait have started: their number times the mean time, over those at once.

        Args:
            waiting: Jobs that wait.
            rows: Most jobs at once.

        Returns:
            1 to 120 whole seconds.
        """
        return min(max(1, math.ceil(self.mean * waiting / rows)), _LONGEST)
