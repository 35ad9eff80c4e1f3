"""The study of a sweep: its trials, in a journal file or a database that several workers share."""

import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, final
from urllib.parse import urlsplit

from omni.errors import UserError, install_hint
from omni.sweeps.definition import Sweep
from omni.sweeps.parameters import Values

try:
    import optuna
except ImportError as error:
    raise UserError(f"sweeps need Optuna, which is not installed: {install_hint('sweep')}") from error

from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from omni.sweeps.proposals import propose
from omni.sweeps.pruners import make_pruner

optuna.logging.set_verbosity(optuna.logging.WARNING)
State = Literal["running", "complete", "pruned", "failed", "infeasible"]
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@final
@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        index: Its number in the sweep.
        frozen: The trial as Optuna holds it.
    """

    index: int
    frozen: FrozenTrial

    @property
    def values(self) -> Values:
        """The values that it tries, by key."""
        return self.frozen.user_attrs["values"]

    @property
    def state(self) -> State:
        """Its state; `infeasible` if it would break a constraint, and was not run."""
        return "infeasible" if "infeasible" in self.frozen.user_attrs else _STATES[self.frozen.state]

    @property
    def value(self) -> float | None:
        """Its metric: the mean over seeds of the best checkpoint's. None unless it is complete."""
        return self.frozen.value if self.state == "complete" else None

    @property
    def curve(self) -> dict[int, float]:
        """The metric of the first seed's validations, by optimizer step."""
        return self.frozen.intermediate_values

    @property
    def facts(self) -> dict[str, Any]:
        """What was recorded at its end: `steps`, `seconds`, `by_seed`, `error`, `trained`, `reused`."""
        return self.frozen.user_attrs


@final
class SweepStudy:
    """The trials of a sweep; opened by every command that works on it.

    Args:
        sweep: The sweep.
        storage: `postgresql://...`, or `grpc://HOST:PORT` of Optuna's storage proxy. By default a journal file in the
            folder of the sweep.

    Raises:
        UserError: If the storage cannot be reached, or holds another sweep of the same name.
    """

    def __init__(self, sweep: Sweep, storage: str | None = None) -> None:
        self.sweep = sweep
        with storage_errors(sweep, storage):
            self.storage = open_storage(sweep.folder, storage)
            self.study = optuna.create_study(
                study_name=sweep.name,
                storage=self.storage,
                direction=sweep.direction,
                sampler=optuna.samplers.RandomSampler(),  # unused: see `propose`
                pruner=make_pruner(sweep),
                load_if_exists=True,
            )
            self._id = self.storage.get_study_id_from_name(sweep.name)
            self._check_identity()

    def close(self) -> None:
        """Closes the connections to the storage."""
        close_storage(self.storage)

    def trials(self) -> list[Trial]:
        """All trials, in order."""
        return read_trials(self.storage, self._id)

    def refreshed(self, trial: Trial) -> Trial:
        """A trial as it is now."""
        return Trial(trial.index, self.storage.get_trial(trial.frozen._trial_id))

    def propose(self) -> Trial | None:
        """Adds the next trial, which no other worker runs unless this one dies.

        Returns:
            The trial; None if another worker has just added it.
        """
        before = self.trials()
        values, frozen = propose(self.sweep, [each.frozen for each in before])
        broken = _broken_constraints(self.sweep, values)
        attributes: dict[str, Any] = {"index": len(before), "values": values}
        if broken:
            attributes["infeasible"] = "; ".join(reason for reason, _ in broken.values())
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=frozen.params,
            distributions=frozen.distributions,
            user_attrs=attributes,
            system_attrs=frozen.system_attrs,
            constraints={name: excess for name, (_, excess) in broken.items()} or None,
        )
        # One record holds the trial whole: a kill leaves it out or complete.
        identifier = self.storage.create_new_trial(self._id, template_trial=template)
        mine = self.storage.get_trial(identifier)
        if next(each for each in self.trials() if each.index == len(before)).frozen.number != mine.number:
            self.study.tell(mine.number, state=TrialState.FAIL)
            return None
        if broken:
            self.study.tell(mine.number, state=TrialState.PRUNED)
        return Trial(len(before), self.storage.get_trial(identifier))

    def report(self, trial: Trial, step: int, value: float) -> None:
        """Records the metric of a validation."""
        self.storage.set_trial_intermediate_value(trial.frozen._trial_id, step, value)

    def prunes(self, trial: Trial) -> bool:
        """Whether a trial is stopped early, given its last reported value."""
        return self.study.pruner.prune(self.study, self.storage.get_trial(trial.frozen._trial_id))

    def note(self, trial: Trial, **facts: Any) -> None:
        """Records facts about a trial."""
        for name, value in facts.items():
            self.storage.set_trial_user_attr(trial.frozen._trial_id, name, value)

    def finish(self, trial: Trial, state: TrialState, value: float | None = None, **facts: Any) -> None:
        """Ends a trial."""
        self.note(trial, **facts)
        self.study.tell(trial.frozen.number, value, state)

    def _check_identity(self) -> None:
        identity = json.loads(json.dumps(self.sweep.identity()))
        before = self.study.user_attrs.get("identity")
        if before is not None and before != identity:
            names = [name for name in identity if before.get(name) != identity[name]]
            measured = any(each.state in ("complete", "pruned") for each in self.trials())
            if measured or not set(names) <= {"metric", "direction", "pruner"}:
                raise UserError(
                    f"sweep {self.sweep.path}: the study {self.sweep.name!r} was started with other "
                    f"{', '.join(names)}: give this sweep another `name`, or delete {self.sweep.folder} and its study"
                )
        if before != identity:
            self.study.set_user_attr("identity", identity)


def read_trials(storage: optuna.storages.BaseStorage, study: int) -> list[Trial]:
    """The trials of a study, in order."""
    found: dict[int, Trial] = {}
    for frozen in storage.get_all_trials(study, deepcopy=False):
        index = frozen.user_attrs["index"]
        found.setdefault(index, Trial(index, frozen))  # the first of two, if two workers proposed it at once
    return [found[index] for index in sorted(found)]


class Journal(JournalFileBackend):
    """Optuna's journal file, made safe against kills and full disks.

    Its lock is one that the kernel releases when a process dies; Optuna's own stays, and others wait 30 s for it. A
    last record that a kill or a full disk has left incomplete is removed before the next one is written: with it,
    nobody could read the file any more.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends records."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.path.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _end_of_last_line(file)
            file.seek(end)
            file.truncate()
            try:
                file.write(text.encode())
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def _end_of_last_line(file: IO[bytes]) -> int:
    """The size of a file without its last line, if that is incomplete."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def open_storage(folder: Path, storage: str | None) -> optuna.storages.BaseStorage:
    """Opens the storage of a sweep; see `SweepStudy`."""
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(Journal(folder / "journal.log"))
    url = urlsplit(storage)
    if url.scheme == "grpc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proxy = optuna.storages.GrpcStorageProxy(host=url.hostname or "localhost", port=url.port or 13000)
            proxy.wait_server_ready(timeout=10)
            return proxy
    if url.scheme == "postgresql":
        storage = storage.replace("postgresql://", "postgresql+psycopg://", 1)
    elif not url.scheme.startswith("postgresql+") and not url.scheme.startswith("mysql"):
        raise UserError(
            f"--storage {storage}: give postgresql://USER:PASSWORD@HOST/DATABASE, mysql://... or grpc://HOST:PORT; a "
            "file needs none"
        )
    return optuna.storages.RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})


def close_storage(storage: optuna.storages.BaseStorage) -> None:
    """Closes the connections of a storage, if it has any."""
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
    elif isinstance(storage, optuna.storages.GrpcStorageProxy):
        storage.close()


@contextmanager
def storage_errors(sweep: Sweep, storage: str | None) -> Iterator[None]:
    """Turns errors of the storage into one line."""
    where = str(sweep.folder / "journal.log") if storage is None else _without_password(storage)
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"{where}: {why}; nothing is lost: mend it and run the same command again") from error
    except (ImportError, ValueError, KeyError) as error:
        raise UserError(f"{where} cannot be opened as a study: {' '.join(str(error).split())}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "grpc", "optuna", "psycopg"):
            raise
        why = " ".join(str(error).split("\n")[0].split())
        raise UserError(f"{where} cannot be reached ({why}): nothing is lost; run the same command again") from error


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@", 1)


def _broken_constraints(sweep: Sweep, values: Values) -> dict[str, tuple[str, float]]:
    """The constraints that a trial would break, by name: the reason, and by what share the limit is exceeded."""
    limits = sweep.file.constraints
    if limits.parameters is None and limits.memory is None:
        return {}
    from omni.sweeps.stages import stage_with
    from omni.training.memory import format_count, format_size, parse_count, parse_size
    from omni.training.memory_plan import plan_of

    plan = plan_of(stage_with(sweep, sweep.stage, values).configuration)
    broken = {}
    if limits.parameters is not None and plan.total_parameters > (most := parse_count(limits.parameters)):
        reason = f"{format_count(plan.total_parameters)} parameters, more than {limits.parameters}"
        broken["parameters"] = (reason, plan.total_parameters / most - 1)
    if limits.memory is not None and plan.per_device > (available := parse_size(limits.memory)):
        reason = f"needs {format_size(plan.per_device)}, more than {limits.memory}"
        broken["memory"] = (reason, plan.per_device / available - 1)
    return broken


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def now() -> float:
    """Seconds since the epoch, as all machines count them."""
    return time.time()
