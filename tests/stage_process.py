"""Stages of pipelines and sweeps in processes that have everything imported: a fraction of a second to start."""

import os
from functools import partial
from pathlib import Path

from processes import start

from omni.cli import main
from omni.pipeline.definition import StageSpec
from omni.pipeline.launcher import Launcher
from omni.pipeline.status import StageStatus


class StageProcess:
    """A stage in a process that has everything imported, with the interface of `subprocess.Popen`."""

    def __init__(self, command: list[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.process = start(partial(main, command), output=log)

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.process.pid, sig)

    def use_all_cores(self) -> None:
        pass


def launch(launcher: Launcher, stage: StageSpec, status: StageStatus) -> StageProcess:
    """Replaces `Launcher.__call__`."""
    resume = ["--ckpt_path", status.resume] if status.resume else []
    return StageProcess(["fit", *stage.arguments, *resume], launcher.log(stage.name))
