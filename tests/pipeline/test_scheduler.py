"""The scheduler: the order of stages, failures and signals; times; the display."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from omni.errors import UserError
from omni.pipeline.definition import StageSpec, Target
from omni.pipeline.launcher import Launcher, StageProcess
from omni.pipeline.scheduler import Scheduler
from omni.pipeline.status import StageStatus
from omni.pipeline.table import PipelineTable
from omni.pipeline.timings import StageTimings, format_duration


class Fake:
    """A process that exits with a code after some polls, or by a signal."""

    def __init__(self, code: int = 0, looks: int = 2) -> None:
        self.code, self.looks = code, looks
        self.signals: list[int] = []
        self.widened = 0

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 and not self.signals else 128 + self.signals[0] if self.signals else self.code

    def send_signal(self, sig: int) -> None:
        self.signals.append(sig)

    def use_all_cores(self) -> None:
        self.widened += 1


class Stages:
    """A scheduler of fake stages, given what each needs by name."""

    def __init__(self, needs: dict[str, str], *, codes: dict[str, int] | None = None, jobs: int = 1, **found: Any):
        self.events: list[str] = []
        self.most, self.processes = 0, {}
        self.codes, self.found = codes or {}, found
        stages: Any = {name: SimpleNamespace(name=name, needs=tuple(each)) for name, each in needs.items()}
        self.timings = StageTimings(Path("chain.json"))
        self.scheduler = Scheduler(
            stages,
            find_status=self.find,
            launch=self.launch,
            timings=self.timings,
            show=self.show,
            jobs=jobs,
            pause=0,
        )

    def find(self, stage: StageSpec) -> StageStatus:
        found = self.found.get(stage.name, StageStatus("new"))
        if isinstance(found, UserError):
            raise found
        return found

    def launch(self, stage: StageSpec, status: StageStatus) -> Fake:
        self.events.append(f"{stage.name} {status.state}")
        self.processes[stage.name] = Fake(self.codes.get(stage.name, 0))
        return self.processes[stage.name]

    def show(self) -> None:
        running = [name for name, status in self.scheduler.runs.items() if status.state == "running"]
        self.most = max(self.most, len(running))

    def run(self) -> dict[str, str]:
        self.scheduler.run()
        return {name: status.state for name, status in self.scheduler.runs.items()}


CHAIN = {"a": "", "b": "", "c": "", "d": "ab", "e": "cd"}


class TestScheduler:
    def test_stages_run_in_sequence(self, workplace):
        stages = Stages(CHAIN)
        assert set(stages.run().values()) == {"done"}
        assert stages.events == ["a new", "b new", "c new", "d new", "e new"]
        assert stages.most == 1

    def test_stages_run_in_parallel(self, workplace):
        stages = Stages(CHAIN, jobs=3)
        assert set(stages.run().values()) == {"done"}
        assert stages.most == 3
        assert stages.events[-1] == "e new"

    def test_a_stage_that_runs_alone_gets_all_cores_once(self, workplace):
        stages = Stages(CHAIN, jobs=3)
        stages.run()
        assert [stages.processes[name].widened for name in "abcde"] == [0, 0, 0, 1, 1]
        stages = Stages(CHAIN)
        stages.run()
        assert not any(process.widened for process in stages.processes.values())  # it has them

    def test_a_failure_blocks_the_stages_that_need_it_and_no_others(self, workplace):
        stages = Stages(CHAIN, codes={"b": 2})
        assert stages.run() == {"a": "done", "b": "failed", "c": "done", "d": "blocked", "e": "blocked"}
        assert stages.events == ["a new", "b new", "c new"]

    def test_done_stages_are_kept_and_interrupted_ones_resumed(self, workplace):
        stages = Stages(CHAIN, a=StageStatus("done"), b=StageStatus("interrupted", resume="last"))
        assert set(stages.run().values()) == {"done"}
        assert stages.events == ["b interrupted", "c new", "d new", "e new"]
        assert [name for name, run in stages.scheduler.runs.items() if run.done_before] == ["a"]

    def test_data_that_cannot_be_read_is_a_failure(self, workplace):
        stages = Stages(CHAIN, c=UserError("no such file"))
        assert stages.run() == {"a": "done", "b": "done", "c": "failed", "d": "done", "e": "blocked"}
        assert stages.scheduler.runs["c"].problem == "no such file"

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_signals_are_passed_on_and_nothing_more_starts(self, signum, workplace):
        stages = Stages(CHAIN, jobs=2)
        before, show = signal.getsignal(signum), stages.show

        def interrupt() -> None:
            show()
            signal.raise_signal(signum)

        stages.scheduler.show = interrupt
        assert stages.run() == dict.fromkeys("ab", "stopped") | dict.fromkeys("cde", "waiting")
        assert all(process.signals[0] == signum for process in stages.processes.values())
        assert signal.getsignal(signum) is before

    @pytest.mark.parametrize("moment", ["find_status", "launch"])
    def test_a_signal_at_the_very_start_of_a_stage_is_not_lost(self, moment, workplace):
        stages = Stages(CHAIN)
        before = getattr(stages.scheduler, f"_{moment}")

        def interrupted(*arguments: Any) -> Any:
            found = before(*arguments)
            signal.raise_signal(signal.SIGINT)
            return found

        setattr(stages.scheduler, f"_{moment}", interrupted)
        stages.codes = {"a": 99}  # the exit code without the signal
        assert stages.run()["a"] == {"find_status": "waiting", "launch": "stopped"}[moment]
        assert [process.signals for process in stages.processes.values()] == [[signal.SIGINT]] * (moment == "launch")

    def test_times_add_up_over_attempts_until_a_stage_starts_from_scratch(self, workplace):
        timings = StageTimings(Path("chain.json"), every=0)
        timings.start("a", from_scratch=True)
        timings.update("a", 100)  # followed by a kill
        again = StageTimings(Path("chain.json"))
        again.start("a", from_scratch=False)
        again.update("a", 20, ended=True)
        assert (again.seconds("a"), again.attempts("a"), again.seconds("b")) == (120, 2, None)
        again.start("a", from_scratch=True)
        assert StageTimings(Path("chain.json")).seconds("a") == 0
        Path("chain.json").write_text("[1]")
        with pytest.raises(UserError, match="does not hold the times"):
            StageTimings(Path("chain.json"))


def test_a_child_ends_with_its_parent():
    program = "import time; from omni.pipeline.child import follow_parent; follow_parent(); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(30) == -signal.SIGTERM


class TestThreads:
    program = """
import sys, time, torch
from omni.pipeline.child import follow_parent
torch.set_num_threads(1)
if "ranks" in sys.argv:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
follow_parent()
ends = time.monotonic() + 20
while torch.get_num_threads() == 1 and time.monotonic() < ends:
    time.sleep(0.01)
raise SystemExit(torch.get_num_threads() != 3)
"""

    def start(self, *command: str, shares_cores: bool = True) -> StageProcess:
        return StageProcess(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, shares_cores=shares_cores)

    def test_a_stage_takes_all_cores_while_it_runs(self, monkeypatch):
        monkeypatch.setattr("omni.pipeline.launcher.usable_cores", lambda: 3)
        with self.start(sys.executable, "-c", self.program) as process:
            process.use_all_cores()
            assert process.stdout is not None
            assert process.stdout.read() == b"threads: 3, as no other stage runs\n"
            assert process.wait(30) == 0
            process.use_all_cores()  # it has ended: nothing happens

    def test_one_of_several_ranks_keeps_its_threads(self, monkeypatch):
        monkeypatch.setattr("omni.pipeline.launcher.usable_cores", lambda: 3)
        program = self.program.replace("+ 20", "+ 2")
        with self.start(sys.executable, "-c", program, "ranks") as process:
            process.use_all_cores()
            assert process.stdout is not None
            assert process.stdout.read() == b""
            assert process.wait(30) == 1

    def test_one_that_has_them_or_was_given_a_number_of_threads_is_not_told(self, monkeypatch, workplace):
        with self.start("cat", shares_cores=False) as process:
            process.use_all_cores()
            assert process.communicate() == (b"", None)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert Launcher(Path(), 0, threads=1).shares_cores
        assert not Launcher(Path(), 0).shares_cores
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert not Launcher(Path(), 0, threads=1).shares_cores


# ---------------------------------------------------------------------- the display


class Terminal(io.StringIO):
    """Keeps what is written to a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines on the screen, where each cursor movement starts at the top again."""
        return re.split(r"\x1b\[\d*A|\x1b\[\?25.", self.getvalue())[-2].replace("\x1b[2K", "").splitlines()


class TestTable:
    @pytest.fixture
    def running(self, workplace):
        """A running stage, and one that waits for it."""
        stages = Stages({"thinker": "", "omni": ["thinker"]})  # pyright: ignore
        for name, stage in stages.scheduler.stages.items():
            stage.folder, stage.target = Path(name), Target("val/wer", below=0.2)  # pyright: ignore
            stage.expected_loss = {0.2: 3.0}  # pyright: ignore
        stages.timings.start("thinker", from_scratch=True)
        stages.timings.update("thinker", 65)
        run = stages.scheduler.runs["thinker"]
        run.state, run.status, run.started = "running", StageStatus("new"), time.monotonic() - 65
        Path("thinker").mkdir()
        progress = {"step": 30, "steps": 120, "first_step": 10, "seconds": 40, "metrics": {"val/wer": 0.25}}
        Path("thinker/progress.json").write_text(json.dumps(progress))
        return stages

    def test_a_live_table_in_a_terminal(self, running):
        terminal = Terminal()
        console = Console(file=terminal, force_terminal=True, color_system=None, width=100)
        with PipelineTable(running.scheduler.stages, running.timings, console=console) as table:
            for _ in range(3):
                table.show(running.scheduler.runs)
        assert len(terminal.screen) == 3
        assert terminal.getvalue().count("\x1b[1A") >= 6  # back to the first line for each of the other two
        assert terminal.screen[1].split("  ")[0] == "thinker"
        assert "30 of 120" in terminal.screen[1]
        assert "3:00 left" in terminal.screen[1]  # 20 steps took 40 s, and 90 are left
        assert "val/wer 0.25 (< 0.2 ✗)" in terminal.screen[1]
        assert "waiting for thinker" in terminal.screen[2]

    def test_a_line_for_each_change_elsewhere(self, running, capsys):
        table = PipelineTable(running.scheduler.stages, running.timings)
        for _ in range(3):
            table.show(running.scheduler.runs)
        running.scheduler.runs["thinker"].state = "done"
        table.show(running.scheduler.runs)
        assert [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()] == [
            ["thinker", "training"],
            ["thinker", "done"],
        ]

    def test_a_loss_far_off_is_reported_once(self, running, capsys):
        progress = {"step": 30, "steps": 120, "first_step": 10, "seconds": 40, "metrics": {"train/loss": 5.0}}
        table = PipelineTable(running.scheduler.stages, running.timings)
        for step in (10, 20, 30, 40):
            Path("thinker/progress.json").write_text(json.dumps({**progress, "step": step}))
            table.show(running.scheduler.runs)
        assert capsys.readouterr().out.count("thinker: train/loss is 5 at 20% of the steps, 3 was expected") == 1

    def test_progress_of_an_earlier_attempt_is_not_shown(self, running, capsys):
        running.scheduler.runs["thinker"].started = time.monotonic()
        PipelineTable(running.scheduler.stages, running.timings).show(running.scheduler.runs)
        assert "30 of 120" not in capsys.readouterr().out

    def test_durations(self):
        assert [format_duration(seconds) for seconds in (4.6, 65, 3723)] == ["0:05", "1:05", "1:02:03"]
