"""Ends a run on several ranks when one of them fails: with one message, and the same exit code on all.

A rank that waits for one that has failed would wait for the process group's timeout, 10 or 30 minutes. So each rank has
a thread that looks every 0.2 s into the store through which the ranks found one another. The rank that fails first
prints why, and leaves its exit code there.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.distributed_c10d import PrefixStore

_INTERVAL = 0.2  # s between two looks
_PATIENCE = 10.0  # s that rank 0 waits for other ranks to end before it ends


class RankWatch:
    """The watch of one rank over one run.

    Args:
        rank: Of this process among all.
        world_size: Number of ranks.
        children: Returns the processes of other ranks that this one has started.
        parent: Whether the process that started this one must live.
        last_words: What is called before the process is ended from outside its main thread.
    """

    _runs = 0

    def __init__(
        self,
        rank: int,
        world_size: int,
        *,
        children: Callable[[], list[subprocess.Popen[Any]]],
        parent: bool,
        last_words: Callable[[], Any],
    ) -> None:
        RankWatch._runs += 1  # the ranks of a process group can have several runs, one after another
        self._name = f"omni/run/{RankWatch._runs}"
        self.rank, self.world_size = rank, world_size
        self._children_of, self._children, self._last_words = children, [], last_words
        self._parent = os.getppid() if parent else None
        self._expected: tuple[float, str, int] | None = None
        self._kept: Any = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="rank-watch", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ the ends of a run

    def finish(self) -> None:
        """The run has ended as it should on this rank; rank 0, which may hold the store, is the last to leave."""
        self._stop.set()
        self._thread.join()
        store = self._store()
        if store is None:
            return
        store.add("finished", 1)
        while self.rank == 0 and store.add("finished", 0) < self.world_size:
            if code := self._failure():
                self._leave(code)
            time.sleep(_INTERVAL / 4)

    def expect(self, message: str, code: int) -> None:
        """The run is failing on this rank: if its main thread does not get to `fail` soon, the watch does it.

        Lightning cleans up in between, and may wait for a device that waits for another rank.
        """
        self._expected = (time.monotonic() + _PATIENCE, message, code)

    def fail(self, message: str, code: int) -> int:
        """The run has failed on this rank, in its main thread.

        Args:
            message: What to print, if no other rank has failed before.
            code: The exit code.

        Returns:
            The exit code of the rank that failed first, once it may be used.
        """
        self._stop.set()
        self._thread.join()
        code = self._report(message, code)
        self._part()
        return code

    def _report(self, message: str, code: int) -> int:
        """Prints, and leaves the code, if this rank is the first to fail; else finds the code of the one that was."""
        store = self._store()
        try:
            if store is not None and store.add("failures", 1) > 1:
                store.wait(["code"], timedelta(seconds=_PATIENCE))
                return int(store.get("code"))
            message, code = self._killed(wait=0.5) or (message, code)
            if message:
                print(message, file=sys.stderr, flush=True)
            if store is not None:
                store.set("code", str(code))
        except dist.DistError:  # rank 0 has gone, and with it the store
            pass
        return code

    def _part(self) -> None:
        """Leaves the others; rank 0 only when they have left, because it may hold the store or be their parent."""
        store, end = self._store(), time.monotonic() + _PATIENCE
        try:
            if store is not None:
                store.add("left", 1)
            while self.rank == 0 and store is not None and time.monotonic() < end:
                if store.add("left", 0) >= self.world_size:
                    break
                if self._children and all(child.poll() is not None for child in self._children):
                    break
                time.sleep(_INTERVAL / 4)
        except dist.DistError:
            pass
        for child in self._children:
            child.kill()

    # ------------------------------------------------------------------ the thread

    def _look(self) -> None:
        while not self._stop.wait(_INTERVAL):
            if self._parent is not None and os.getppid() != self._parent:
                self._leave(1)
            if not self._children and (children := self._children_of()):
                self._children = list(children)
                children.clear()  # from Lightning's own observer, which kills this process, too
            code = self._failure()
            if code is None and (killed := self._killed()):
                code = self._report(*killed)
            if code is None and self._expected is not None and time.monotonic() > self._expected[0]:
                code = self._report(*self._expected[1:])
            if code is not None and self._expected is not None and time.monotonic() < self._expected[0]:
                continue  # the main thread is about to say the same
            if code is not None and not self._stop.is_set():
                self._leave(code)

    def _leave(self, code: int) -> None:
        """Ends this process, whatever its main thread waits for."""
        self._part()
        try:
            self._last_words()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _failure(self) -> int | None:
        """The exit code of the rank that has failed first; None if none has."""
        store = self._store()
        try:
            return int(store.get("code")) if store is not None and store.check(["code"]) else None
        except dist.DistError:
            return 1

    def _killed(self, wait: float = 0.0) -> tuple[str, int] | None:
        """A message and an exit code if a rank that this one has started has ended by itself, or does within `wait` s.

        The message is empty where that rank has printed its own.
        """
        end = time.monotonic() + wait
        while True:
            for rank, child in enumerate(self._children, 1):
                if code := child.poll():
                    return ("", code) if code > 0 else (f"omni: rank {rank} ended by signal {-code}", 128 - code)
            if not self._children or time.monotonic() >= end:
                return None
            time.sleep(_INTERVAL / 4)

    def _store(self) -> Any:
        """A connection of this watch's own to the ranks' store; None before they have found one another."""
        with self._lock:
            if self._kept is None and dist.is_initialized():
                self._kept = PrefixStore(self._name, distributed_c10d._get_default_store()).clone()
            return self._kept
