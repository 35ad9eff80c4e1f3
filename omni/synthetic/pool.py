"""Processes that share a long list of jobs, and end when the process that started them ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from omni.cores import usable_cores
from omni.errors import UserError

J = TypeVar("J")
R = TypeVar("R")


def processes_for(jobs: int, worthwhile: int) -> int:
    """Number of processes, at most one for each CPU.

    Args:
        jobs: Number of jobs.
        worthwhile: Number of jobs that make one more process worth its start.
    """
    return max(1, min(usable_cores(), jobs // worthwhile))


def in_order(function: Callable[[J], R], jobs: Sequence[J], processes: int, chunk: int) -> Iterator[R]:
    """Runs jobs in new processes; one process is the present one.

    Args:
        function: Runs a job; processes must be able to import it.
        jobs: The jobs.
        processes: Number of processes.
        chunk: Number of jobs that a process takes at a time.

    Yields:
        The result of each job, in the order of the jobs.

    Raises:
        UserError: If a process was killed. What the function raises is passed on.
    """
    if processes == 1:
        yield from map(function, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # forks of a process that has threads may hang
    try:
        with ProcessPoolExecutor(processes, spawn, initializer=_start) as executor:
            with _sigint_blocked():
                results = executor.map(function, jobs, chunksize=chunk)
            yield from results
    except BrokenProcessPool as error:
        raise UserError("a process was killed, perhaps out of memory: run the command again to resume") from error


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    """Initializes a new process."""
    os.environ["OMP_NUM_THREADS"] = "1"  # every CPU has its process already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody collects the results
