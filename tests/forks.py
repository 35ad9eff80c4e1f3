"""Runs on several ranks as real processes, forked from the test process, which has imported everything.

Every run is guarded: ranks whose collectives differ fail, with the calls of each (see `collectives.py`).
"""

import faulthandler
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
import torch


class Ranks:
    """Processes that call a function as the ranks of a run, as started by torchrun; killed at the end if still running.

    Args:
        function: Called on each rank, with its rank.
        count: Number of ranks.
        results: Whether the results of the function are kept, for `results`.
    """

    def __init__(self, function: Callable[[int], Any], count: int = 2, *, results: bool = False) -> None:
        self._keeps = results
        for rank in range(count):  # of an earlier run in this folder
            Path(f"collectives-{rank}.txt").unlink(missing_ok=True)
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
            faulthandler.register(signal.SIGUSR1, file=2)
            collectives.record(rank)
            result = function(rank)
            if self._keeps:
                torch.save(result, f"rank-{rank}.pt")
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
        """Kills all running ranks by SIGKILL."""
        for process in self.processes:
            if process not in self.codes:
                os.kill(process, signal.SIGKILL)
                self.codes[process] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def wait(self, seconds: float = 60.0) -> list[int]:
        """Exit codes, in the order of the ranks.

        Raises:
            AssertionError: If the ranks' collectives differ.
            TimeoutError: If a rank is still running after this time; the message holds the last collective, the output
                and the stack of each.
        """
        start = looked = time.monotonic()
        while len(self.codes) < len(self.processes):
            for process in set(self.processes) - self.codes.keys():
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    self.codes[process] = os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if now > start + seconds:
                raise TimeoutError(self._stuck())
            if now > looked + 1:
                self._guard()
                looked = now
            time.sleep(0.01)
        self._guard()
        return [self.codes[process] for process in self.processes]

    def results(self, seconds: float = 60.0) -> list[Any]:
        """The results of the function on each rank; waits as `wait` does, and fails if a rank fails."""
        codes = self.wait(seconds)
        assert not any(codes), "\n".join([f"exit codes {codes}", *map(self.output, range(len(codes)))])
        return [torch.load(f"rank-{rank}.pt", weights_only=False) for rank in range(len(codes))]

    def _guard(self) -> None:
        done = [rank for rank, process in enumerate(self.processes) if self.codes.get(process) == 0]
        if found := collectives.difference(len(self.processes), done=done):
            raise AssertionError(found)

    def _stuck(self) -> str:
        running = [process for process in self.processes if process not in self.codes]
        for process in running:
            os.kill(process, signal.SIGUSR1)
        time.sleep(0.5)
        lines = [collectives.last(len(self.processes))]
        for rank in range(len(self.processes)):
            lines += [f"rank {rank}:", *(line for line in self.output(rank).splitlines() if "/_pytest/" not in line)]
        return "\n".join(line for line in lines if "/pluggy/" not in line)

    def output(self, rank: int) -> str:
        """The output of a rank to stdout and stderr."""
        return Path(f"rank-{rank}.txt").read_text(encoding="utf-8")
