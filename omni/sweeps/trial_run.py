"""A trial as this process runs it: its stages one after the other, each a process of `omni fit`."""

import fcntl
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, final

from optuna.trial import TrialState

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.files import NO_LOCKS
from omni.pipeline.definition import StageSpec
from omni.pipeline.launcher import Launcher, last_error
from omni.pipeline.scheduler import Process
from omni.pipeline.status import read_progress, stage_status
from omni.sweeps.definition import Sweep
from omni.sweeps.parameters import Values
from omni.sweeps.stages import TrialStages, trial_folder
from omni.sweeps.study import SweepStudy, Trial, host, now
from omni.training.history import read_validations

ALIVE = 60.0  # seconds between two signs of life
ATTEMPTS = 3  # of a process that is killed without having made a step


class SweepError(UserError):
    """An error that ends the whole sweep: it would be the same for every trial."""


class Slot(NamedTuple):
    """One of the places for a trial.

    Attributes:
        gpu: The GPU of its processes; None without one.
        threads: Their threads; PyTorch's choice by default.
    """

    gpu: str | None = None
    threads: int | None = None


class Lock:
    """A lock on a folder, which the processes of the trial inherit: it is held until all of them have ended.

    Args:
        sweep: The sweep.
        name: Name of the lock.
    """

    def __init__(self, sweep: Sweep, name: str) -> None:
        self._path = sweep.folder / "locks" / f"{name.replace('/', '-')}.lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Takes the lock unless somebody else holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            if error.errno not in NO_LOCKS:
                raise
            raise SweepError(f"{self._path.parent} is on a file system without locks, which trials need") from error
        self._file = file
        return True

    @property
    def descriptor(self) -> int:
        """The file descriptor, once the lock is held."""
        assert self._file is not None
        return self._file.fileno()

    def release(self) -> None:
        """Lets go of the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Run(NamedTuple):
    """A stage of a trial, with one of its seeds."""

    seed: int
    stage: StageSpec


@final
class TrialRun:
    """Runs a trial step by step; `advance` is called several times a second, and never waits.

    Args:
        study: The study.
        trial: The trial, whose lock this process holds.
        stages: Finds its stages.
        earlier: Values of the trials before it.
        lock: The lock.
        slot: Where it runs.

    Attributes:
        state: `running` until it is `ended` (its result is in the study) or `stopped` (to be resumed later).
    """

    def __init__(
        self, study: SweepStudy, trial: Trial, stages: TrialStages, earlier: Sequence[Values], lock: Lock, slot: Slot
    ) -> None:
        self.study, self.trial, self.slot = study, trial, slot
        self.sweep = study.sweep
        self.state: Literal["running", "ended", "stopped"] = "running"
        self.current: Run | None = None
        self.trained: list[str] = list(trial.facts.get("trained", ()))
        self.reused: list[str] = list(trial.facts.get("reused", ()))
        self._stages, self._earlier, self._lock = stages, earlier, lock
        self._by_seed: dict[int, list[StageSpec]] = {}
        self._waiting: list[Run] | None = None
        self._process: Process | None = None
        self._stage_lock: Lock | None = None
        self._stopping = self._pruning = False
        self._started, self._seen_alive = time.monotonic(), 0.0
        self._before = float(trial.facts.get("seconds", 0.0))
        self._deaths: dict[int, int] = {}  # deaths of the process, by the step that it had saved

    @property
    def seconds(self) -> float:
        """Seconds of the trial, over all its attempts."""
        return self._before + time.monotonic() - self._started

    @property
    def folder(self) -> Path:
        """The folder of the trial."""
        return trial_folder(self.sweep, self.trial.index)

    @property
    def error(self) -> str | None:
        """Why the trial has failed; None unless it has."""
        return self.trial.facts.get("error")

    def advance(self) -> None:
        """Starts what can be started, and records what has happened."""
        if time.monotonic() - self._seen_alive > ALIVE:
            self._seen_alive = time.monotonic()
            self.study.note(self.trial, host=host(), alive=now(), seconds=self.seconds)
        try:
            if self._process is not None:
                self._watch(self._process)
            else:
                self._start_next()
        except SweepError:
            raise
        except UserError as error:
            self._fail(str(error))

    def stop(self, signum: int) -> None:
        """Ends the trial's process, which saves first; the trial is resumed by the next command."""
        self._stopping = True
        if self._process is None:
            self._end("stopped")
        else:
            self._process.send_signal(signum)

    def _start_next(self) -> None:
        if self._waiting is None:
            self._by_seed = {
                seed: self._stages.of(self.trial.index, self.trial.values, self._earlier, seed=seed)
                for seed in range(self.sweep.file.seeds)
            }
            self._waiting = [Run(seed, stage) for seed, stages in self._by_seed.items() for stage in stages]
        if self._stopping:  # the process had just ended by itself; the next command goes on
            self._end("stopped")
            return
        if not self._waiting:
            self._complete()
            return
        self.current = self._waiting[0]
        stage = self.current.stage
        if self._stage_lock is None:
            lock = Lock(self.sweep, str(stage.folder))
            if not lock.acquire():
                return  # another trial trains the same stage
            self._stage_lock = lock
        status = stage_status(stage)
        if status.state == "done":
            self._note_reused(stage)
            self._read_curve()
            if self.state == "running":
                self._next()
            return
        launcher = Launcher(self._logs, self._stage_lock.descriptor, threads=self.slot.threads, gpu=self.slot.gpu)
        self._process = launcher(stage, status)

    @property
    def _logs(self) -> Path:
        assert self.current is not None
        return self.sweep.folder / "logs" / f"{self.trial.index:04d}" / f"seed{self.current.seed}"

    def _note_reused(self, stage: StageSpec) -> None:
        own = self.folder.absolute() in (stage.folder.absolute(), *stage.folder.absolute().parents)
        if not own and stage.name not in (*self.reused, *self.trained):
            self.reused.append(stage.name)

    def _next(self) -> None:
        assert self._waiting is not None
        self._waiting.pop(0)
        self._release_stage()

    def _release_stage(self) -> None:
        if self._stage_lock is not None:
            self._stage_lock.release()
            self._stage_lock = None

    def _watch(self, process: Process) -> None:
        code = process.poll()
        self._read_curve()
        if code is None:
            return
        self._process = None
        assert self.current is not None
        stage = self.current.stage
        if stage.name not in self.trained:
            self.trained.append(stage.name)
        if self._pruning:
            self._prune()
        elif code == 0:
            self._next()
        elif self._stopping:
            self._end("stopped")
        else:
            self._handle_failure(code)

    def _handle_failure(self, code: int) -> None:
        """Resumes a process that was killed, and records one that has failed."""
        assert self.current is not None
        stage = self.current.stage
        log = self._logs / f"{stage.name}.log"
        if code < 0 or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            step = int(read_progress(stage.folder).get("step", 0))
            self._deaths[step] = self._deaths.get(step, 0) + 1
            if self._deaths[step] < ATTEMPTS:
                return  # it is resumed
            name = signal.Signals(-code if code < 0 else code - 128).name
            self._fail(f"killed by {name} {ATTEMPTS} times at step {step}; see {log}")
            return
        error = last_error(log)
        if "No space left on device" in error:
            raise SweepError(f"{error}: make room, and run the same command again: no trial is lost")
        self._fail(error)

    def _read_curve(self) -> None:
        """Reports new validations of the stage that is compared, and asks the pruner about each."""
        assert self.current is not None
        seed, stage = self.current
        if stage.name != self.sweep.stage or seed != 0 or self._pruning or self._stopping:
            return
        known = self.study.refreshed(self.trial).curve
        steps = self.sweep.steps or math.inf
        for record in read_validations(stage.folder):
            step = record["step"]
            if step not in known:
                self.study.report(self.trial, step, _metric(self.sweep, record["metrics"]))
            elif step != max(known):
                continue  # its decision was made; a kill may have come before that of the last one
            if step < steps and self.study.prunes(self.trial):
                self._pruning = True
                if self._process is None:
                    self._prune()
                else:
                    self._process.send_signal(signal.SIGTERM)
                return

    def _prune(self) -> None:
        self._finish(TrialState.PRUNED)

    def _complete(self) -> None:
        by_seed, steps = [], []
        for stages in self._by_seed.values():
            folder = next(each for each in stages if each.name == self.sweep.stage).folder
            step, value = best_value(self.sweep, folder)
            by_seed.append(value)
            steps.append(step)
        value = sum(by_seed) / len(by_seed)
        if math.isnan(value):
            self._fail(f"{self.sweep.metric} is NaN")
            return
        self._finish(TrialState.COMPLETE, value, by_seed=by_seed, best_steps=steps)

    def _fail(self, error: str) -> None:
        self._finish(TrialState.FAIL, error=error)

    def _finish(self, state: TrialState, value: float | None = None, **facts: Any) -> None:
        steps = sum(_saved_step(folder) for folder in self._run_folders())
        facts |= {"trained": self.trained, "reused": self.reused, "seconds": self.seconds, "steps": steps}
        self.study.finish(self.trial, state, value, **facts)
        self.trial = self.study.refreshed(self.trial)
        self._end("ended")

    @property
    def steps(self) -> int:
        """Optimizer steps that the trial has made so far, in all stages of its own."""
        return sum(int(read_progress(folder).get("step", 0)) for folder in self._run_folders())

    def _run_folders(self) -> list[Path]:
        """Folders of the trial's own runs."""
        found = (path.parent.relative_to(self.folder) for path in self.folder.rglob("progress.json"))
        return [self.folder / path for path in found if "earlier" not in path.parts]

    def _end(self, state: Literal["ended", "stopped"]) -> None:
        self.state = state
        self._release_stage()
        self._lock.release()


def _saved_step(folder: Path) -> int:
    """Optimizer steps of a run; those of its last checkpoint if it was stopped after its progress was last written."""
    step = int(read_progress(folder).get("step", 0))
    last = folder / "last.ckpt"
    return max(step, Checkpoint(last).lineage["step"]) if last.is_file() else step


def best_value(sweep: Sweep, folder: Path) -> tuple[int, float]:
    """The metric of a run's best checkpoint, and its step.

    Raises:
        SweepError: If the metric is not logged.
    """
    step = Checkpoint(folder / "best.ckpt").lineage["step"]
    record = next(each for each in read_validations(folder) if each["step"] == step)
    return step, _metric(sweep, record["metrics"])


def _metric(sweep: Sweep, metrics: dict[str, float]) -> float:
    if sweep.metric not in metrics:
        raise SweepError(
            f"sweep {sweep.path}: metric {sweep.metric} is never logged: give one of {', '.join(sorted(metrics))}"
        )
    return metrics[sweep.metric]
