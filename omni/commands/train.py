"""The verb `train`: all stages of a chain."""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from omni.errors import UserError
from omni.pipeline.definition import Pipeline, StageSpec, read_pipeline
from omni.pipeline.scheduler import Scheduler, Status
from omni.pipeline.status import StageStatus, standing
from omni.pipeline.table import Table, clock
from omni.pipeline.timings import StageTimings


def train(chain: Path, *, jobs: int = 1, report: bool = True) -> None:
    """Train all stages of a chain, each by `omni fit` with its own configuration, in the order that they need.

    What is done, and has neither another configuration, other data nor other ancestors since, is kept; what was cut
    goes on where it was. So the same command begins a chain, goes on with it, and brings it up to date. Ctrl-C stops
    the stages at work, which save. At the end lightning_logs/CHAIN/report.md tells what was reached.

    Args:
        chain: The chain's YAML, such as configs/world/chain.yaml.
        jobs: Stages at work at the same time, at most. They share the processor's cores and the GPU.
        report: Whether to write the report.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}: give 1 or more")
    began = time.monotonic()
    described = read_pipeline(chain)
    with _alone(described) as lock:
        journal = StageTimings(described.folder / "chain.json")
        table = Table(described.links, journal)
        launcher = Launcher(described, lock, threads=max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None)
        scheduler = Scheduler(
            described.links,
            find=standing,
            launch=launcher,
            journal=journal,
            show=lambda: table.show(scheduler.statuses),
            jobs=jobs,
        )
        scheduler.run()
    _end(described, scheduler, launcher)
    if report:
        from omni.pipeline.report import write_report

        print(f"report: {write_report(described, journal)}")
    print(f"all {len(described.links)} stages are done, after {clock(time.monotonic() - began)}")


@final
class Launcher:
    """Starts stages as processes of their own, which write to a log each.

    Args:
        chain: The chain.
        lock: A file that each holds open, so that no other chain begins as long as one of them runs.
        threads: Of each process; by default as PyTorch finds best.
    """

    def __init__(self, chain: Pipeline, lock: int, *, threads: int | None = None) -> None:
        self.chain, self.lock = chain, lock
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if threads is not None:
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))

    def log(self, name: str) -> Path:
        """Where a stage writes what it says."""
        return self.chain.folder / f"{name}.log"

    def __call__(self, link: StageSpec, found: StageStatus) -> subprocess.Popen[bytes]:
        """Starts a stage."""
        resume = ["--ckpt_path", found.resume] if found.resume else []
        command = ["fit", *link.arguments, *resume]
        log = self.log(link.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab" if found.resume else "wb") as file:
            why = f" ({found.reason})" if found.reason else ""
            file.write(f"$ omni {shlex.join(command)}{why}\n".encode())
            file.flush()
            # A session of its own: Ctrl-C reaches it once, through the chain, and not a second time from the terminal.
            return subprocess.Popen(
                [sys.executable, "-m", "omni.pipeline.child", *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                pass_fds=[self.lock],
            )


@contextmanager
def _alone(chain: Pipeline) -> Iterator[int]:
    """Waits until no stage of an earlier command runs any more; whoever was killed may leave one that still saves."""
    chain.folder.mkdir(parents=True, exist_ok=True)
    with (chain.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting: another `omni train`, or a stage that it has left, is at work in {chain.folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _end(chain: Pipeline, scheduler: Scheduler, launcher: Launcher) -> None:
    """Tells of what has failed, and ends with its exit code; or of what was stopped."""
    failed = {name: status for name, status in scheduler.statuses.items() if status.state == "failed"}
    for name, status in failed.items():
        held = [other for other, its in scheduler.statuses.items() if its.state == "blocked"]
        print(f"omni: stage {name} failed: {_why(name, status, launcher)}", file=sys.stderr)
        if held:
            print(f"  it holds up: {', '.join(held)}", file=sys.stderr)
    if scheduler.signum is not None:
        print("stopped, and saved; the same command goes on")
        raise SystemExit(128 + scheduler.signum)
    if failed:
        code = next(iter(failed.values())).code or 1
        raise SystemExit(code if code > 0 else 128 - code)


def _why(name: str, status: Status, launcher: Launcher) -> str:
    if status.problem:
        return status.problem
    log, code = launcher.log(name), status.code or 0
    end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if line.startswith("omni: ")), ["it says nothing", *lines][-1])
    return f"{told.removeprefix('omni: ')} ({end}; {log})"
