"""Runs inputs in a process of its own under guard: against exceptions, hangs, memory, and files written elsewhere.

Each input is run in a fresh folder. A finding is anything but success or an error of one line.
"""

import contextlib
import faulthandler
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from processes import start

from omni.errors import UserError

CPU_SECONDS, WALL_SECONDS = 10.0, 60.0  # a hang: by its own time, as others use the machine; or asleep
MEMORY = 1 << 30  # bytes by which the peak may grow
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")
_CHANGES = {"os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.link": (1,),
            "os.symlink": (1,), "os.truncate": (0,), "shutil.move": (0, 1), "shutil.rmtree": (0,)}  # fmt: skip


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        make: Writes valid files into the current folder, once.
        mutate: Changes some of them, in the current folder.
        read: Reads them in every way that omni does.
    """

    make: Callable[[], None]
    mutate: Callable[[Random], None]
    read: Callable[[], None]


class Finding(NamedTuple):
    """What an input did that it must not do.

    Attributes:
        number: The input's number.
        what: What happened, with the stack.
    """

    number: int
    what: str


def run_cases(name: str, kind: Callable[[], Kind], count: int, *, seed: int, place: Path) -> list[Finding]:
    """Runs inputs, in as many processes as die of them.

    Args:
        name: The kind's name.
        kind: A function of a module.
        count: Number of inputs.
        seed: Of the mutations.
        place: An empty folder.
    """
    findings: list[Finding] = []
    report, log = place / "report.jsonl", place / "log.txt"
    report.touch()
    first = 0
    while first < count:
        process = start(partial(_work, name, kind, first, count, seed, place), output=log)
        process.join()
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        done = max((line["number"] for line in lines), default=-1)
        if process.exitcode == 0:
            break
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
        if done < first - 1 or not (place / "ready").exists():
            raise AssertionError(f"{name}: the process ended with {process.exitcode} before any input\n{tail}")
        findings.append(Finding(done + 1, f"the process ended with {process.exitcode}\n{tail}"))
        first = done + 2
        with report.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"number": done + 1, "what": ""}) + "\n")
    lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return findings + [Finding(line["number"], line["what"]) for line in lines if line["what"]]


def _work(name: str, kind: Callable[[], Kind], first: int, count: int, seed: int, place: Path) -> None:
    valid, case, temporary = place / "valid", place / "case", place / "tmp"
    os.environ |= {"TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1", "HF_HOME": str(temporary / "hf")}
    tempfile.tempdir = None
    temporary.mkdir(exist_ok=True)
    made = kind()
    if not valid.exists():
        valid.mkdir()
        os.chdir(valid)
        made.make()
    shutil.copytree(valid, case, dirs_exist_ok=True)
    os.chdir(case)
    made.read()  # imports everything, and the valid files must be read
    (place / "ready").touch()
    guard = _Guard([case, temporary])
    sys.addaudithook(guard)
    with (place / "report.jsonl").open("a", encoding="utf-8") as report:
        for number in range(first, count):
            os.chdir(place)
            shutil.rmtree(case)
            shutil.copytree(valid, case)
            os.chdir(case)
            made.mutate(Random(f"{seed} {name} {number}"))
            what = _watched(made.read, guard)
            report.write(json.dumps({"number": number, "what": what}) + "\n")
            report.flush()


def _watched(read: Callable[[], None], guard: "_Guard") -> str:
    """What a reader does wrong; empty for nothing."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, chain=True)  # writes the stack, then ends the process
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = _memory("VmRSS")
    guard.seen, guard.on = [], True
    try:
        read()
        what = ""
    except BaseException:
        what = traceback.format_exc()
    finally:
        guard.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    if guard.seen:
        what += f"\ndid outside of its folder: {guard.seen}"
    if (grown := _memory("VmHWM") - before) > MEMORY:
        what += f"\nmemory grew by {grown >> 20} MiB"
    return what


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


class _Guard:
    """An audit hook that records forbidden calls, and files changed outside of some folders."""

    def __init__(self, folders: list[Path]):
        self.folders = [*map(os.path.realpath, folders), "/dev/null", "/dev/shm"]
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            if (flags or 0) & _WRITES or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._check(event, path)
        elif event in _CHANGES:
            for number in _CHANGES[event]:
                self._check(event, args[number])
        elif event in _FORBIDDEN:
            self.seen.append(f"{event} {args}"[:300])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if not any(real == folder or real.startswith(f"{folder}/") for folder in self.folders):
            self.seen.append(f"{event} {real}")


def refused(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a function that may end with an error of one line."""
    message = ""
    try:
        return call(*args, **options)
    except UserError as error:
        message = str(error)
    assert "\n" not in message, f"an error of several lines: {message}"
    return None


def command(*argv: str) -> None:
    """Runs a command of omni, which may end with an error of one line."""
    from omni.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(argv))
    except SystemExit as stop:
        code = stop.code
    assert code in (0, 1, 2), f"exit code {code}"
    last = (err.getvalue().splitlines() or [""])[-1]
    assert code != 2 or last.startswith("omni: "), f"an error of several lines: {err.getvalue()[-2000:]}"
    assert "Traceback" not in err.getvalue(), err.getvalue()[-3000:]
