"""The supervisor: keeps every slot busy with a trial until the budget of the sweep is spent."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch

from omni.cores import usable_cores
from omni.errors import UserError
from omni.sweeps.definition import Sweep
from omni.sweeps.stages import TrialStages
from omni.sweeps.study import SweepStudy, Trial, host, now
from omni.sweeps.trial_run import ALIVE, Lock, Slot, SweepError, TrialRun

SAME_ERRORS = 3  # trials in a row that fail alike before the sweep ends


@final
class Supervisor:
    """Runs trials. A free slot takes a trial whose worker has died, or else the next one, without waiting for others.

    SIGINT and SIGTERM are passed on to the running trials, which save; the next command resumes them.

    Args:
        study: The study.
        slots: Where trials run.
        show: Called several times a second, to display the state.
        pause: Seconds between two looks at the running trials.

    Attributes:
        running: The trials that run here.
        ended: Those that have ended here.
        signum: The signal that has ended the sweep; None without one.
    """

    def __init__(
        self,
        study: SweepStudy,
        slots: Sequence[Slot],
        *,
        show: Callable[[], None] = lambda: None,
        pause: float = 0.1,
    ) -> None:
        self.study, self.sweep, self.show, self.pause = study, study.sweep, show, pause
        self.running: list[TrialRun] = []
        self.ended: list[TrialRun] = []
        self.signum: int | None = None
        self._free = list(slots)
        self._stages = TrialStages(self.sweep)

    def run(self) -> None:
        """Runs trials until the budget is spent, or a signal comes.

        Raises:
            SweepError: If an error would be the same for every trial; the running ones are stopped first.
        """
        with self._signals():
            try:
                self._run()
            except BaseException:
                self._stop(signal.SIGTERM)
                raise

    def _run(self) -> None:
        while True:
            for run in list(self.running):
                run.advance()
                if run.state != "running":
                    self.running.remove(run)
                    self._free.append(run.slot)
                    self.ended.append(run)
            self._check_errors()
            if self.signum is not None:
                self._stop(self.signum)
                return
            while self._free and (run := self._next()) is not None:
                self.running.append(run)
            self.show()
            if not self.running:
                return
            time.sleep(self.pause)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def remember(signum: int, frame: object) -> None:
            self.signum = signum

        previous = {signum: signal.signal(signum, remember) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _stop(self, signum: int) -> None:
        """Stops the running trials and waits until they have saved."""
        for run in self.running:
            run.stop(signum)
        while self.running:
            for run in list(self.running):
                if run.state == "running":
                    run.advance()
                else:
                    self.running.remove(run)
            self.show()
            time.sleep(self.pause)

    def _next(self) -> TrialRun | None:
        """A trial to run in a free slot; None if there is none."""
        trials = self.study.trials()
        mine = {run.trial.index for run in self.running}
        for trial in trials:
            if trial.state == "running" and trial.index not in mine and not _lives_elsewhere(trial):
                run = self._claimed(trial, trials)
                if run is not None:
                    return run
        while not budget_is_spent(self.sweep, trials, self.running):
            trial = self.study.propose()
            trials = self.study.trials()
            if trial is not None and trial.state == "running":
                run = self._claimed(trial, trials)
                if run is not None:
                    return run
        return None

    def _claimed(self, trial: Trial, trials: Sequence[Trial]) -> TrialRun | None:
        """The run of a trial, if nobody else runs it."""
        lock = Lock(self.sweep, f"{trial.index:04d}")
        if not lock.acquire():
            return None
        trial = self.study.refreshed(trial)
        if trial.state != "running":
            lock.release()
            return None
        earlier = [each.values for each in trials[: trial.index]]
        return TrialRun(self.study, trial, self._stages, earlier, lock, self._free.pop(0))

    def _check_errors(self) -> None:
        last = [_general(run.error) if run.error else None for run in self.ended[-SAME_ERRORS:]]
        if len(last) == SAME_ERRORS and last[0] is not None and len(set(last)) == 1:
            raise SweepError(
                f"sweep {self.sweep.path}: {SAME_ERRORS} trials in a row have failed with the same error: "
                f"{self.ended[-1].error}"
            )


def budget_is_spent(sweep: Sweep, trials: Sequence[Trial], running: Sequence[TrialRun] = ()) -> bool:
    """Whether no further trial is started.

    Args:
        sweep: The sweep.
        trials: All its trials.
        running: Those that run here.
    """
    budget = sweep.file.budget
    ended = [trial for trial in trials if trial.state != "running"]
    steps = sum(trial.facts.get("steps", 0) for trial in ended) + sum(run.steps for run in running)
    hours = (sum(trial.facts.get("seconds", 0.0) for trial in ended) + sum(run.seconds for run in running)) / 3600
    return (
        (sweep.trials is not None and len(trials) >= sweep.trials)
        or (budget.steps is not None and steps >= budget.steps)
        or (budget.hours is not None and hours >= budget.hours)
    )


def make_slots(sweep: Sweep, jobs: int) -> list[Slot]:
    """The slots of a sweep: each GPU for one trial at a time, or the cores divided among the trials.

    Raises:
        UserError: If there are fewer GPUs than jobs.
    """
    accelerator = sweep.stages[sweep.stage].configuration.config["trainer"]["accelerator"]
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        if jobs > len(gpus):
            raise UserError(f"jobs is {jobs}, but each trial takes one of {len(gpus)} GPUs: give --jobs {len(gpus)}")
        return [Slot(gpu=gpu) for gpu in gpus[:jobs]]
    return [Slot(threads=max(1, usable_cores() // jobs) if jobs > 1 else None)] * jobs


def _lives_elsewhere(trial: Trial) -> bool:
    """Whether another machine runs a trial: it has given a sign of life lately."""
    return trial.facts.get("host") not in (None, host()) and now() - trial.facts.get("alive", 0.0) < 10 * ALIVE


def _general(error: str) -> str:
    """An error without what differs between trials that fail alike: numbers."""
    return re.sub(r"\d+", "0", error)
