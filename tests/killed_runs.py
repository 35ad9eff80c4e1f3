"""Runs that are killed (SIGKILL) or put to sleep at a chosen moment of training, and what is equal at their end."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from processes import start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_commands import TOY, TOY_CODEC, TOY_OMNI, TOY_SPEECH, TOY_TALKER, TOY_VISION, TOY_VOCODER, command
from toy_runs import callback

from omni.checkpoints.checkpoint import Checkpoint
from omni.training.history import read_validations

# Moments are counted in calls of Python functions, or of these functions that change files.
_WRITES = {"write", "flush", "fsync", "replace", "rename", "open", "unlink", "touch", "close", "truncate"}
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "rng", "lineage", "metrics", "parts", "tokenizer")
_TIMES = ("_per_second", "mfu")  # curves that are measured with a clock
# Lightning counts an epoch less once it has resumed from the last batch of one: its steps are compared, not its values.
_MISCOUNTED = "epoch"


OFTEN = callback("omni.training.callbacks.StageCheckpoint", filename="last", every_n_train_steps=2)
DROPOUT = "model.init_args.{}.init_args.dropout"
# name of the configuration -> toy values, and the fixture of the data
STAGES = {
    "thinker": (TOY | {DROPOUT.format("thinker"): "0.1"}, "workplace"),
    "audio": (TOY_SPEECH | {DROPOUT.format("audio_encoder"): "0.1"}, "speech"),
    "vision": (TOY_VISION, "pictures"),
    "codec": (TOY_CODEC, "speech"),
    "talker": (TOY_TALKER | {DROPOUT.format("talker"): "0.1"}, "words"),
    "vocoder": (TOY_VOCODER, "speech"),
    "omni": (TOY_OMNI, "conversations"),
}


def fit(stage: str) -> list[str]:
    """A run with a validation at each 3rd of 7 steps, and a checkpoint at each 2nd."""
    toy, _ = STAGES[stage]
    steps = {"trainer__max_steps": 7 if stage != "vocoder" else 14, "trainer__val_check_interval": 3}
    return command(stage, toy, "fit", OFTEN, "--ckpt_path=auto", **steps)


class Calls(NamedTuple):
    """Numbers of calls from the start of training on.

    Attributes:
        python: Calls of Python functions.
        writes: Calls that change files.
    """

    python: int
    writes: int

    def draw(self, rng: Random) -> "Calls":
        """A moment: at a call of one kind."""
        if rng.random() < 0.5:
            return Calls(rng.randrange(1, self.python), 0)
        return Calls(0, rng.randrange(1, self.writes))


def run(
    argv: Sequence[str], folder: Path, *, kill: Calls | None = None, sleep: float | None = None
) -> tuple[int | None, Calls]:
    """Runs a command in a folder and a process of its own.

    Args:
        argv: The arguments of `omni`.
        folder: The current folder.
        kill: The moment of the kill; its other kind of call is 0.
        sleep: Seconds that the process stands still at that moment, as on a machine that sleeps, instead of its end.

    Returns:
        The exit code, and the calls that were made if it was not killed.
    """
    counts = folder / "calls.txt"
    counts.unlink(missing_ok=True)
    number = signal.SIGKILL if sleep is None else signal.SIGSTOP
    process = start(partial(_run, list(argv), folder, kill, number), output=folder / "log.txt")
    if sleep is not None:
        _wake(process, sleep)
    process.join()
    found = Calls(*map(int, counts.read_text().split())) if counts.exists() else Calls(0, 0)
    return process.exitcode, found


def _wake(process: BaseProcess, sleep: float) -> None:
    """Waits until a process stands still, and lets it run again."""
    state = Path(f"/proc/{process.pid}/stat")
    while process.is_alive() and state.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.05)
    assert process.is_alive(), "the process ended before it stood still"
    time.sleep(sleep)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)


def _run(argv: list[str], folder: Path, kill: Calls | None, number: int) -> None:
    from lightning.pytorch.loops.fit_loop import _FitLoop

    from omni.cli import main

    os.chdir(folder)
    made = [0, 0]

    def count(frame: Any, event: str, function: Any) -> None:
        if event == "call":
            made[0] += 1
        elif event == "c_call" and getattr(function, "__name__", "") in _WRITES:
            made[1] += 1
        else:
            return
        if kill is not None and (made[0] == kill.python or made[1] == kill.writes > 0):
            os.kill(os.getpid(), number)

    train: Callable[[Any], None] = _FitLoop.run

    def counted(loop: Any) -> None:
        sys.setprofile(count)
        try:
            train(loop)
        finally:
            sys.setprofile(None)

    _FitLoop.run = counted  # type: ignore[method-assign]
    main(argv)
    Path("calls.txt").write_text(f"{made[0]} {made[1]}")


def differences(whole: Path, killed: Path) -> list[str]:
    """What of a run that was killed and resumed differs from one that was not.

    Args:
        whole: The folder of the run that was not killed.
        killed: The folder of the other.
    """
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, other = Checkpoint(whole / name).content, Checkpoint(killed / name).content
        found += [f"{name}: {key}" for key in KEPT if not equal(one.get(key), other.get(key))]
        found += [f"{name}: {key}" for key in _scores(one) if not equal(_scores(one)[key], _scores(other).get(key))]
    one, other = curves(whole), curves(killed)
    for tag in sorted(one.keys() | other.keys()):
        a, b = one.get(tag, []), other.get(tag, [])
        if [step for step, _ in a] != [step for step, _ in b]:
            found.append(f"curve {tag}: steps {[step for step, _ in b]}, not {[step for step, _ in a]}")
        elif a != b and tag != _MISCOUNTED and not tag.endswith(_TIMES):
            found.append(f"curve {tag}: {b}, not {a}")
    if _validations(whole) != _validations(killed):
        found.append(f"validations: {_validations(killed)}, not {_validations(whole)}")
    return found + [f"left behind: {path.name}" for path in killed.rglob("*.part")]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every scalar in TensorBoard's files, as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _validations(folder: Path) -> list[Any]:
    records = read_validations(folder)
    return [(each["step"], {k: v for k, v in each["metrics"].items() if not k.endswith(_TIMES)}) for each in records]


def _scores(content: dict[str, Any]) -> dict[str, Any]:
    states = content["callbacks"].items()
    return {name: state["best_model_score"] for name, state in states if "best_model_score" in state}


def equal(one: Any, other: Any) -> bool:
    """Whether two trees of plain data and tensors are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(equal, one, other))
    return one == other


class FullDisk:
    """Counts the writes to unfinished files of omni, and lets one fail as on a full disk.

    Args:
        fails_at: Number of the write that fails, and all after it; None for none.
    """

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.writes = fails_at, 0

    def _count(self) -> None:
        self.writes += 1
        if self.fails_at is not None and self.writes >= self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def install(self, patch: pytest.MonkeyPatch) -> "FullDisk":
        """Counts from now on."""
        opened, synced = Path.open, os.fsync

        def open_path(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = opened(path, mode, *args, **options)
            return _Counted(file, self._count) if path.suffix == ".part" and "w" in mode else file

        def sync(file: int) -> None:
            self._count()
            synced(file)

        patch.setattr(Path, "open", open_path)
        patch.setattr(os, "fsync", sync)
        return self


class _Counted:
    """A file each of whose writes is counted before it is made."""

    def __init__(self, file: Any, count: Callable[[], None]) -> None:
        self._file, self._count = file, count

    def write(self, data: Any) -> int:
        self._count()
        return self._file.write(data)

    def __enter__(self) -> "_Counted":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
