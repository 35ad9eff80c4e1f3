"""Stages as processes: how they are started, their logs, and the lock that keeps out other commands."""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

from omni.cores import usable_cores
from omni.files import NO_LOCKS
from omni.pipeline.definition import Pipeline, StageSpec
from omni.pipeline.scheduler import StageRun
from omni.pipeline.status import StageStatus


@contextmanager
def exclusive(pipeline: Pipeline, *, waiting: Callable[[], None], unlocked: Callable[[], None]) -> Iterator[int]:
    """Holds the lock of a pipeline, which its stages inherit: a killed command may leave one that still saves.

    Args:
        pipeline: The pipeline.
        waiting: Called once if the lock is held by others.
        unlocked: Called if the file system has no locks: nothing then keeps a second command out.

    Yields:
        The file descriptor of the lock.
    """
    pipeline.folder.mkdir(parents=True, exist_ok=True)
    with (pipeline.folder / ".lock").open("w") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            unlocked()
        yield file.fileno()


@final
class StageProcess(subprocess.Popen[bytes]):
    """A stage as a process.

    Args:
        shares_cores: Whether it was started with fewer threads than there are cores, because of others.
        arguments: As of `Popen`.
    """

    def __init__(self, *arguments: Any, shares_cores: bool, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._shares_cores = shares_cores

    def use_all_cores(self) -> None:
        """Lets it run a thread on each core, if it shares them."""
        if self._shares_cores and self.stdin is not None:
            with suppress(BrokenPipeError):  # it has just ended
                os.write(self.stdin.fileno(), str(usable_cores()).encode())


@final
class Launcher:
    """Starts stages as processes, each with a log file.

    Args:
        folder: Folder of the log files.
        lock: File descriptor that each process inherits, see `exclusive`.
        threads: Threads of each process; PyTorch's choice by default. OMP_NUM_THREADS, if set, is used instead.
        gpu: The one GPU that each process sees, as CUDA_VISIBLE_DEVICES names it; all by default.
    """

    def __init__(self, folder: Path, lock: int, *, threads: int | None = None, gpu: str | None = None) -> None:
        self.folder, self.lock = folder, lock
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.shares_cores = threads is not None and "OMP_NUM_THREADS" not in os.environ
        if threads is not None:
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))
        if gpu is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = gpu

    def log(self, name: str) -> Path:
        """The log file of a stage."""
        return self.folder / f"{name}.log"

    def __call__(self, stage: StageSpec, status: StageStatus) -> StageProcess:
        """Starts a stage."""
        resume = ["--ckpt_path", status.resume] if status.resume else []
        command = ["fit", *stage.arguments, *resume]
        log = self.log(stage.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab" if status.resume else "wb") as file:
            reason = f" ({status.reason})" if status.reason else ""
            file.write(f"$ omni {shlex.join(command)}{reason}\n".encode())
            file.flush()
            # A session of its own: Ctrl-C reaches it once, from the scheduler, and not also from the terminal.
            return StageProcess(
                [sys.executable, "-m", "omni.pipeline.child", *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                pass_fds=[self.lock],
                shares_cores=self.shares_cores,
            )

    def failure(self, name: str, run: StageRun) -> str:
        """Why a stage has failed: its error line, or the last line of its log."""
        if run.problem:
            return run.problem
        log, code = self.log(name), run.code or 0
        end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{last_error(log)} ({end}; {log})"


def last_error(log: Path) -> str:
    """The error line of the last attempt in a log file, or its last line if there is none."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    first = next((number for number, line in reversed([*enumerate(lines)]) if line.startswith("$ omni ")), -1)
    lines = lines[first + 1 :]
    error = next((line for line in reversed(lines) if line.startswith("omni: ")), ["no output", *lines][-1])
    return error.removeprefix("omni: ")
