"""The scheduler: starts each stage once the stages that it needs are done."""

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


class Process(Protocol):
    """A running stage, such as a `subprocess.Popen`."""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def send_signal(self, sig: int) -> None:
        """Sends it a signal."""

    def use_all_cores(self) -> None:
        """Lets it run a thread on each core: no other stage will run beside it."""


@dataclass
class StageRun:
    """A stage as the scheduler runs it.

    Attributes:
        state: Its state; `blocked` by a stage that has failed.
        status: Its status before it was started.
        code: Exit code, if it has failed or was stopped.
        problem: Why it could not be started.
        started: When it was started, on the monotonic clock.
        alone: Whether it was told that it runs alone.
    """

    state: State = "waiting"
    status: StageStatus | None = None
    code: int | None = None
    problem: str = ""
    started: float = 0.0
    alone: bool = False

    @property
    def done_before(self) -> bool:
        """Whether it was done before the scheduler ran."""
        return self.state == "done" and self.status is not None and self.status.state == "done"


@final
class Scheduler:
    """Runs stages, each once the stages that it needs are done.

    A stage that fails blocks those that need it, and no others. SIGINT and SIGTERM are passed on to the running stages;
    no further stage is started afterwards.

    Args:
        stages: The stages in order.
        find_status: Determines the status of a stage.
        launch: Starts a stage with that status.
        timings: Keeps the times.
        show: Called several times a second, to display the state.
        jobs: Most stages that run at the same time.
        pause: Seconds between two looks at the running stages.
    """

    def __init__(
        self,
        stages: Mapping[str, StageSpec],
        *,
        find_status: Callable[[StageSpec], StageStatus],
        launch: Callable[[StageSpec, StageStatus], Process],
        timings: StageTimings,
        show: Callable[[], None] = lambda: None,
        jobs: int = 1,
        pause: float = 0.2,
    ) -> None:
        self.stages, self.timings, self.show = stages, timings, show
        self.jobs, self.pause = jobs, pause
        self.runs = {name: StageRun() for name in stages}
        self.signum: int | None = None
        self._find_status, self._launch = find_status, launch
        self._processes: dict[str, Process] = {}

    def run(self) -> None:
        """Runs every stage that can run; `runs` holds the outcomes."""
        with self._forwarded_signals():
            while True:
                self._collect_ended()
                self._start_ready()
                self._widen_if_alone()
                self.show()
                if not self._processes:
                    return
                time.sleep(self.pause)

    @contextmanager
    def _forwarded_signals(self) -> Iterator[None]:
        def forward(signum: int, frame: object) -> None:
            self.signum = signum
            for process in self._processes.values():
                process.send_signal(signum)

        previous = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _collect_ended(self) -> None:
        for name, process in list(self._processes.items()):
            run, code = self.runs[name], process.poll()
            self.timings.update(name, time.monotonic() - run.started, ended=code is not None)
            if code is None:
                continue
            del self._processes[name]
            if code == 0:
                run.state = "done"
            else:
                run.state, run.code = "failed" if self.signum is None else "stopped", code

    def _start_ready(self) -> None:
        for name, stage in self.stages.items():
            if self.runs[name].state != "waiting" or self.signum is not None:
                continue
            needed = {self.runs[need].state for need in stage.needs}
            if needed & {"failed", "blocked"}:
                self.runs[name].state = "blocked"
            elif needed <= {"done"} and len(self._processes) < self.jobs:
                self._start(stage)

    def _widen_if_alone(self) -> None:
        """A stage that runs alone does so until its end: any other that could start would have been started."""
        if self.jobs > 1 and len(self._processes) == 1:
            ((name, process),) = self._processes.items()
            if not self.runs[name].alone:
                self.runs[name].alone = True
                process.use_all_cores()

    def _start(self, stage: StageSpec) -> None:
        run = self.runs[stage.name]
        try:
            run.status = self._find_status(stage)
            if run.status.state == "done":
                run.state = "done"
            if run.status.state == "done" or self.signum is not None:
                return
            self.timings.start(stage.name, from_scratch=run.status.state == "new")
            process = self._launch(stage, run.status)
        except UserError as error:
            run.state, run.code, run.problem = "failed", 2, str(error)
            return
        run.state, run.started = "running", time.monotonic()
        self._processes[stage.name] = process
        if self.signum is not None:  # the signal came while the process was being started
            process.send_signal(self.signum)
