"""Workers: processes that share a long list of jobs, and end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from omni.errors import UserError

J = TypeVar("J")
R = TypeVar("R")


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[J], R], jobs: Sequence[J], processes: int, chunk: int) -> Iterator[R]:
    """Do jobs, in processes started afresh, or in this one if that is all there is.

    Args:
        function: does a job; a function of a module, that the processes can import.
        jobs: what is to be done.
        processes: how many to use.
        chunk: jobs that a process takes at a time.

    Yields:
        What the function returns for each job, in their order.

    Raises:
        UserError: a process was ended from outside. What the function raises comes through.
    """
    if processes == 1:
        yield from map(function, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # forks of a process that has threads may hang
    try:
        with ProcessPoolExecutor(processes, spawn, initializer=_start) as executor:
            with _without_ctrl_c():
                results = executor.map(function, jobs, chunksize=chunk)
            yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "a process was ended from outside, for want of memory perhaps: run the command again, it goes on from here"
        ) from error


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started here never see a Ctrl-C, which a terminal sends to all; this one sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    """What a new process does first."""
    os.environ["OMP_NUM_THREADS"] = "1"  # every CPU has its process already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # killed: nobody is left to ask for the rest
