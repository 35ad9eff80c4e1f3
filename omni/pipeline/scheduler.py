"""The order of things: which stage is started when, side by side, and what follows from its end."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, final

from omni.errors import UserError
from omni.pipeline.definition import StageSpec
from omni.pipeline.status import StageStatus
from omni.pipeline.timings import StageTimings

State = Literal["waiting", "running", "done", "failed", "stopped", "blocked"]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Process(Protocol):
    """A stage at work, as `subprocess.Popen` is."""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def send_signal(self, sig: int) -> None:
        """Sends it a signal."""


@dataclass
class Status:
    """How a stage fares.

    Attributes:
        state: What it is doing.
        standing: What was found of it before it was started.
        code: Its exit code, once it has failed or stopped.
        problem: Why it could not be started.
        began: When, on the monotonic clock.
    """

    state: State = "waiting"
    standing: StageStatus | None = None
    code: int | None = None
    problem: str = ""
    began: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether it was done before."""
        return self.state == "done" and self.standing is not None and self.standing.state == "done"


@final
class Scheduler:
    """Runs stages, each once those that it needs are done.

    A stage that fails holds up those that need it, and no others. SIGINT and SIGTERM are passed on; then nothing more
    is started.

    Args:
        links: The stages in order.
        find: Finds out where a stage stands.
        launch: Starts a stage, from the standing that was found.
        journal: Where times are kept.
        show: Called often, to show how things are.
        jobs: Stages at work at the same time, at most.
        pause: Seconds between two looks.
    """

    def __init__(
        self,
        links: Mapping[str, StageSpec],
        *,
        find: Callable[[StageSpec], StageStatus],
        launch: Callable[[StageSpec, StageStatus], Process],
        journal: StageTimings,
        show: Callable[[], None] = lambda: None,
        jobs: int = 1,
        pause: float = 0.2,
    ) -> None:
        self.links, self.journal, self.show = links, journal, show
        self.jobs, self.pause = jobs, pause
        self.statuses = {name: Status() for name in links}
        self.signum: int | None = None
        self._find, self._launch = find, launch
        self._running: dict[str, Process] = {}
        self._told: set[str] = set()

    def run(self) -> None:
        """Runs all that can be run; `statuses` tells what became of each stage."""
        with self._signals():
            while True:
                self._reap()
                self._start()
                self._tell_late()
                self.show()
                if not self._running:
                    return
                time.sleep(self.pause)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {signum: signal.signal(signum, self._pass_on) for signum in _SIGNALS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _pass_on(self, signum: int, frame: object) -> None:
        self.signum = signum
        for name, process in self._running.items():
            self._told.add(name)
            process.send_signal(signum)

    def _tell_late(self) -> None:
        """Passes a signal on to a stage that was just being started when it came."""
        if self.signum is None:
            return
        for name in self._running.keys() - self._told:
            self._told.add(name)
            self._running[name].send_signal(self.signum)

    def _reap(self) -> None:
        for name, process in list(self._running.items()):
            status, code = self.statuses[name], process.poll()
            self.journal.tick(name, time.monotonic() - status.began, ended=code is not None)
            if code is None:
                continue
            del self._running[name]
            if code == 0:
                status.state = "done"
            else:
                status.state, status.code = "failed" if self.signum is None else "stopped", code

    def _start(self) -> None:
        for name, link in self.links.items():
            if self.statuses[name].state != "waiting" or self.signum is not None:
                continue
            needed = {self.statuses[need].state for need in link.needs}
            if needed & {"failed", "blocked"}:
                self.statuses[name].state = "blocked"
            elif needed <= {"done"} and len(self._running) < self.jobs:
                self._begin(link)

    def _begin(self, link: StageSpec) -> None:
        status = self.statuses[link.name]
        try:
            status.standing = self._find(link)
            if status.standing.state == "done":
                status.state = "done"
            if status.state == "done" or self.signum is not None:
                return
            self.journal.begin(link.name, anew=status.standing.state == "new")
            self._running[link.name] = self._launch(link, status.standing)
        except UserError as error:
            status.state, status.code, status.problem = "failed", 2, str(error)
            return
        status.state, status.began = "running", time.monotonic()
