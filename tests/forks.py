"""Runs on several ranks as real processes: forks of the test's own, so that none has to import anything."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import collectives


class Ranks:
    """Processes that call a function as the ranks of a run, as torchrun starts them; what is left is killed at the end.

    Each rank's collectives are recorded, and `wait` fails where ranks that ended well differ in them.

    Args:
        function: What each rank calls, with its rank.
        count: How many ranks there are.
    """

    def __init__(self, function: Callable[[int], Any], count: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self._environment = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free.getsockname()[1]),
                "TORCHELASTIC_RUN_ID": "test",
                "WORLD_SIZE": str(count),
            }
        self.codes: dict[int, int] = {}
        self.processes = [self._start(function, rank) for rank in range(count)]

    def _start(self, function: Callable[[int], Any], rank: int) -> int:
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            os.environ |= {**self._environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            output = os.open(f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            collectives.record(Path(f"collectives-{rank}.txt"))
            function(rank)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            os._exit(code)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends all of them by SIGKILL."""
        for process in self.processes:
            if process not in self.codes:
                os.kill(process, signal.SIGKILL)
                self.codes[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def wait(self, seconds: float = 60.0) -> list[int]:
        """Exit codes, in the order of the ranks.

        Raises:
            TimeoutError: If one is still running after that many seconds; the message holds what they wrote.
            AssertionError: If all ended with 0 and their collectives were not the same, in the same order.
        """
        end = time.monotonic() + seconds
        while len(self.codes) < len(self.processes):
            for process in set(self.processes) - self.codes.keys():
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self.codes[process] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                outputs = [self.output(rank) for rank in range(len(self.processes))]
                raise TimeoutError("\n".join([*outputs, self._difference() or "collectives agree"]))
            time.sleep(0.01)
        codes = [self.codes[process] for process in self.processes]
        if not any(codes) and (difference := self._difference()):
            raise AssertionError(difference)
        return codes

    def _difference(self) -> str | None:
        return collectives.difference([Path(f"collectives-{rank}.txt") for rank in range(len(self.processes))])

    def output(self, rank: int) -> str:
        """What a rank has written to stdout and stderr."""
        return Path(f"rank-{rank}.txt").read_text(encoding="utf-8")
