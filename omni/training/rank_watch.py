"""Ends a run on several ranks when one of them fails: with one message, and the same exit code on all.

Otherwise the other ranks would wait for the timeout of the process group, 10 or 30 minutes. Each rank has a thread that
polls the rendezvous store every 0.2 s. The first rank that fails prints why and stores its exit code there.
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

_INTERVAL = 0.2  # s between two polls
_PATIENCE = 10.0  # s that rank 0 waits for the other ranks to end


class RankWatch:
    """Watches the other ranks of a run, from one rank.

    Args:
        rank: Rank of this process.
        world_size: Number of ranks.
        children: Returns the processes of other ranks that this one has started.
        parent: Whether this rank ends when its parent process does.
        last_words: Called before this process is ended from outside its main thread.
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
        RankWatch._runs += 1  # one process group may have several runs in turn
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

    # ------------------------------------------------------------------ the end of a run

    def finish(self) -> None:
        """Reports success of this rank; rank 0, which may hold the store, waits for the others."""
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
        """Announces a failure of this rank: if its main thread does not reach `fail` soon, the watch reports it.

        Lightning cleans up in between, and may wait for a device that waits for another rank.
        """
        self._expected = (time.monotonic() + _PATIENCE, message, code)

    def fail(self, message: str, code: int) -> int:
        """Reports a failure of this rank, from its main thread.

        Args:
            message: Printed unless another rank has failed before.
            code: The exit code.

        Returns:
            The exit code of the rank that failed first.
        """
        self._stop.set()
        self._thread.join()
        code = self._report(message, code)
        self._part()
        return code

    def _report(self, message: str, code: int) -> int:
        """Prints the message and stores the code if this rank is the first to fail; else returns the stored code."""
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
        except dist.DistError:  # rank 0 has ended, and the store with it
            pass
        return code

    def _part(self) -> None:
        """Signs off; rank 0 waits for the others, because it may hold the store or be their parent."""
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
                children.clear()  # hides them from Lightning's observer, which would kill this process too
            code = self._failure()
            if code is None and (killed := self._killed()):
                code = self._report(*killed)
            if code is None and self._expected is not None and time.monotonic() > self._expected[0]:
                code = self._report(*self._expected[1:])
            if code is not None and self._expected is not None and time.monotonic() < self._expected[0]:
                continue  # the main thread is about to report it
            if code is not None and not self._stop.is_set():
                self._leave(code)

    def _leave(self, code: int) -> None:
        """Ends this process, even while its main thread is blocked."""
        self._part()
        try:
            self._last_words()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _failure(self) -> int | None:
        """The exit code of the rank that failed first; None if no rank has failed."""
        store = self._store()
        try:
            return int(store.get("code")) if store is not None and store.check(["code"]) else None
        except dist.DistError:
            return 1

    def _killed(self, wait: float = 0.0) -> tuple[str, int] | None:
        """A message and an exit code if a rank started by this one has failed, or does so within `wait` seconds.

        The message is empty if that rank has printed its own.
        """
        end = time.monotonic() + wait
        while True:
            for rank, child in enumerate(self._children, 1):
                if code := child.poll():
                    return ("", code) if code > 0 else (f"omni: rank {rank} was killed by signal {-code}", 128 - code)
            if not self._children or time.monotonic() >= end:
                return None
            time.sleep(_INTERVAL / 4)

    def _store(self) -> Any:
        """A separate connection to the rendezvous store; None before the process group is initialised."""
        with self._lock:
            if self._kept is None and dist.is_initialized():
                self._kept = PrefixStore(self._name, distributed_c10d._get_default_store()).clone()
            return self._kept
