"""Chains: which stage runs when, what becomes of the others, how long it took and what is seen of it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omni.errors import UserError
from omni.pipeline.definition import StageSpec, Target
from omni.pipeline.scheduler import Scheduler
from omni.pipeline.status import StageStatus
from omni.pipeline.table import Table, clock
from omni.pipeline.timings import StageTimings


class Fake:
    """A process that ends with a code after some looks at it, or by a signal."""

    def __init__(self, code: int = 0, looks: int = 2) -> None:
        self.code, self.looks = code, looks
        self.signals: list[int] = []

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 and not self.signals else 128 + self.signals[0] if self.signals else self.code

    def send_signal(self, sig: int) -> None:
        self.signals.append(sig)


class Stages:
    """A scheduler of stages that are none: `needs` by name."""

    def __init__(self, needs: dict[str, str], *, codes: dict[str, int] | None = None, jobs: int = 1, **found: Any):
        self.events: list[str] = []
        self.most, self.processes = 0, {}
        self.codes, self.found = codes or {}, found
        links: Any = {name: SimpleNamespace(name=name, needs=tuple(each)) for name, each in needs.items()}
        self.journal = StageTimings(Path("chain.json"))
        self.scheduler = Scheduler(
            links, find=self.find, launch=self.launch, journal=self.journal, show=self.show, jobs=jobs, pause=0
        )

    def find(self, link: StageSpec) -> StageStatus:
        found = self.found.get(link.name, StageStatus("new"))
        if isinstance(found, UserError):
            raise found
        return found

    def launch(self, link: StageSpec, found: StageStatus) -> Fake:
        self.events.append(f"{link.name} {found.state}")
        self.processes[link.name] = Fake(self.codes.get(link.name, 0))
        return self.processes[link.name]

    def show(self) -> None:
        running = [name for name, status in self.scheduler.statuses.items() if status.state == "running"]
        self.most = max(self.most, len(running))

    def run(self) -> dict[str, str]:
        self.scheduler.run()
        return {name: status.state for name, status in self.scheduler.statuses.items()}


CHAIN = {"a": "", "b": "", "c": "", "d": "ab", "e": "cd"}


class TestScheduler:
    def test_one_after_the_other(self, workplace):
        stages = Stages(CHAIN)
        assert set(stages.run().values()) == {"done"}
        assert stages.events == ["a new", "b new", "c new", "d new", "e new"]
        assert stages.most == 1

    def test_side_by_side(self, workplace):
        stages = Stages(CHAIN, jobs=3)
        assert set(stages.run().values()) == {"done"}
        assert stages.most == 3
        assert stages.events[-1] == "e new"

    def test_a_failure_holds_up_those_that_need_it_and_no_others(self, workplace):
        stages = Stages(CHAIN, codes={"b": 2})
        assert stages.run() == {"a": "done", "b": "failed", "c": "done", "d": "blocked", "e": "blocked"}
        assert stages.events == ["a new", "b new", "c new"]

    def test_what_is_done_is_not_run_and_what_was_cut_goes_on(self, workplace):
        stages = Stages(CHAIN, a=StageStatus("done"), b=StageStatus("cut", resume="last"))
        assert set(stages.run().values()) == {"done"}
        assert stages.events == ["b cut", "c new", "d new", "e new"]
        assert [name for name, status in stages.scheduler.statuses.items() if status.kept] == ["a"]

    def test_data_that_cannot_be_read_is_a_failure(self, workplace):
        stages = Stages(CHAIN, c=UserError("no such file"))
        assert stages.run() == {"a": "done", "b": "done", "c": "failed", "d": "done", "e": "blocked"}
        assert stages.scheduler.statuses["c"].problem == "no such file"

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_signals_are_passed_on_and_nothing_more_begins(self, signum, workplace):
        stages = Stages(CHAIN, jobs=2)
        before, show = signal.getsignal(signum), stages.show

        def interrupt() -> None:
            show()
            signal.raise_signal(signum)

        stages.scheduler.show = interrupt
        assert stages.run() == dict.fromkeys("ab", "stopped") | dict.fromkeys("cde", "waiting")
        assert all(process.signals[0] == signum for process in stages.processes.values())
        assert signal.getsignal(signum) is before

    @pytest.mark.parametrize("moment", ["find", "launch"])
    def test_a_signal_at_the_very_start_of_a_stage_is_not_lost(self, moment, workplace):
        stages = Stages(CHAIN)
        before = getattr(stages.scheduler, f"_{moment}")

        def interrupted(*arguments: Any) -> Any:
            found = before(*arguments)
            signal.raise_signal(signal.SIGINT)
            return found

        setattr(stages.scheduler, f"_{moment}", interrupted)
        stages.codes = {"a": 99}  # what it would end with if it were not told
        assert stages.run()["a"] == {"find": "waiting", "launch": "stopped"}[moment]
        assert [process.signals for process in stages.processes.values()] == [[signal.SIGINT]] * (moment == "launch")

    def test_times_add_up_over_attempts_until_a_stage_begins_anew(self, workplace):
        journal = StageTimings(Path("chain.json"), every=0)
        journal.begin("a", anew=True)
        journal.tick("a", 100)  # and then a kill
        again = StageTimings(Path("chain.json"))
        again.begin("a", anew=False)
        again.tick("a", 20, ended=True)
        assert (again.seconds("a"), again.attempts("a"), again.seconds("b")) == (120, 2, None)
        again.begin("a", anew=True)
        assert StageTimings(Path("chain.json")).seconds("a") == 0
        Path("chain.json").write_text("[1]")
        with pytest.raises(UserError, match="is no journal"):
            StageTimings(Path("chain.json"))


def test_a_child_ends_with_its_parent():
    program = "import time; from omni.pipeline.child import end_with_parent; end_with_parent(); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(30) == -signal.SIGTERM


# ---------------------------------------------------------------------- what is seen


class Terminal:
    """Keeps what a terminal of a hundred lines shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.row = 0

    def isatty(self) -> bool:
        return True

    def flush(self) -> None: ...

    def write(self, text: str) -> None:
        if text.startswith("\x1b[") and text[2].isdigit() and "F" in text[:6]:
            up, text = text[2:].split("F", 1)
            self.row -= int(up)
        for line in text.splitlines():
            self.lines[self.row : self.row + 1] = [line.removeprefix("\x1b[2K")]
            self.row += 1


class TestTable:
    @pytest.fixture
    def running(self, workplace):
        """A stage that runs, and one that waits for it."""
        stages = Stages({"thinker": "", "omni": ["thinker"]})  # pyright: ignore
        for name, link in stages.scheduler.links.items():
            link.folder, link.goal = Path(name), Target("val/wer", below=0.2)  # pyright: ignore
        stages.journal.begin("thinker", anew=True)
        stages.journal.tick("thinker", 65)
        status = stages.scheduler.statuses["thinker"]
        status.state, status.standing, status.began = "running", StageStatus("new"), time.monotonic() - 65
        Path("thinker").mkdir()
        progress = {"step": 30, "steps": 120, "first_step": 10, "seconds": 40, "metrics": {"val/wer": 0.25}}
        Path("thinker/progress.json").write_text(json.dumps(progress))
        return stages

    def test_a_terminal_is_written_anew(self, running, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        terminal: Any = Terminal()
        table = Table(running.scheduler.links, running.journal, stream=terminal)
        for _ in range(3):
            table._shown = 0
            table.show(running.scheduler.statuses)
        assert len(terminal.lines) == 3
        assert terminal.lines[1].split("  ")[0] == "thinker"
        assert "30 of 120" in terminal.lines[1]
        assert "3:00 left" in terminal.lines[1]  # 20 steps took 40 s, and 90 are left
        assert "val/wer 0.25 (< 0.2 ✗)" in terminal.lines[1]
        assert "waits for thinker" in terminal.lines[2]

    def test_elsewhere_a_line_tells_what_has_changed(self, running, capsys):
        table = Table(running.scheduler.links, running.journal)
        for _ in range(3):
            table.show(running.scheduler.statuses)
        running.scheduler.statuses["thinker"].state = "done"
        table.show(running.scheduler.statuses)
        assert [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()] == [
            ["thinker", "trains"],
            ["thinker", "done"],
        ]

    def test_progress_of_an_earlier_attempt_is_not_shown(self, running, capsys):
        running.scheduler.statuses["thinker"].began = time.monotonic()
        Table(running.scheduler.links, running.journal).show(running.scheduler.statuses)
        assert "30 of 120" not in capsys.readouterr().out

    def test_clock(self):
        assert [clock(seconds) for seconds in (4.6, 65, 3723)] == ["0:05", "1:05", "1:02:03"]
