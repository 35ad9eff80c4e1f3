"""`omni fit` in a copy of this process, which has everything imported: a fraction of a second instead of several."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from omni.cli import main
from omni.pipeline.child import follow_parent
from omni.pipeline.definition import StageSpec
from omni.pipeline.launcher import Launcher
from omni.pipeline.status import StageStatus

_OPEN: set[int] = set()  # write ends of the pipes of all forks


class ForkedFit:
    """A running stage; as in production it saves and ends once its parent is gone.

    Args:
        command: Arguments of `omni`.
        log: Its log file.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.code: int | None = None
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            _OPEN.add(write)
            self._write = write
            return
        for other in (*_OPEN, write):  # otherwise a sibling would keep this pipe open
            os.close(other)
        os.dup2(read, 0)
        sys.stdout = sys.stderr = log.open("a")
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        follow_parent()
        code = 1
        try:
            main(command)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            sys.stdout.close()
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                _OPEN.discard(self._write)
                os.close(self._write)
        return self.code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def use_all_cores(self) -> None:
        pass


def launch(launcher: Launcher, stage: StageSpec, status: StageStatus) -> Any:
    """Replaces `Launcher.__call__`."""
    resume = ["--ckpt_path", status.resume] if status.resume else []
    return ForkedFit(["fit", *stage.arguments, *resume], launcher.log(stage.name))
