"""Chains: what they are made of, what is kept, gone on with and begun anew, and in which order."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIGS, TOY
from lightning import Callback

from omni import checkpoint as checkpoints
from omni.chain import train as training
from omni.chain.description import Goal, Link, read_chain
from omni.chain.journal import Journal
from omni.chain.scheduler import Scheduler
from omni.chain.standing import Standing, standing
from omni.chain.table import Table, clock
from omni.cli import main
from omni.errors import UserError

FIRST = "lightning_logs/thinker/best.ckpt"
NAME = "trainer.logger.init_args.name"
SECOND = {NAME: "again", "init_from.thinker": FIRST, "data.init_args.tokenizer": FIRST}


def stage(**changes: Any) -> dict[str, Any]:
    """A toy stage A; `overrides` are added to those that make it a toy, and None takes a key out."""
    overrides = {**TOY, **changes.pop("overrides", {})}
    content = {"config": str(CONFIGS / "thinker.yaml"), "metric": "val/perplexity", "overrides": overrides, **changes}
    return {key: value for key, value in content.items() if value is not None}


def written(stages: dict[str, Any], **content: Any) -> Path:
    path = Path("chain.yaml")
    path.write_text(yaml.safe_dump({"name": "toy", "stages": stages, **content}), encoding="utf-8")
    return path


def two(**overrides: Any) -> dict[str, Any]:
    """A stage that begins with what the other learns; the wrong way round."""
    return {"again": stage(overrides={**SECOND, **overrides}), "thinker": stage(below=1000, overrides=overrides)}


class TestDescription:
    def test_order_follows_from_the_checkpoints_that_are_named(self, workplace):
        chain = read_chain(written({"third": stage(after=["again"], overrides={NAME: "third"}), **two()}))
        assert list(chain.links) == ["thinker", "again", "third"]
        assert [link.needs for link in chain.links.values()] == [(), ("thinker",), ("again",)]
        assert chain.links["again"].folder == Path("lightning_logs/again")

    @pytest.mark.parametrize("name", ["chain.yaml", "world/chain.yaml", "world/smoke.yaml"])
    def test_chains_that_are_shipped_hold_together(self, name, workplace):
        chain = read_chain(CONFIGS / name)
        needs = {name: set(link.needs) for name, link in chain.links.items()}
        assert needs["talker"] == {"codec", "audio"}
        assert needs["omni"] == {"thinker", "audio", "vision"}
        assert needs["thinker"] == needs["audio"] == needs["vision"] == set()
        assert list(chain.links)[-1] == "omni"

    def test_goal(self):
        assert Goal("a", below=0.2).reached({"a": 0.1}) is True
        assert Goal("a", above=0.2).reached({"a": 0.1}) is False
        assert Goal("a", below="b").reached({"a": 0.1, "b": 0.05}) is False
        assert Goal("a").reached({"a": 0.1}) is Goal("a", below=1).reached({}) is None


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ({}, "has no stages"),
        ({"a": "thinker.yaml"}, "stage a is 'thinker.yaml'"),
        ({"a": stage(metric=None)}, "stage a has no 'metric'"),
        ({"a": stage(befor=["b"])}, "stage a has 'befor', which means nothing"),
        ({"a": stage(below=[3])}, "below is [3]: give a number"),
        ({"a": stage(after="b")}, "after is 'b': give a list"),
        ({"a": stage(config="nowhere.yaml")}, "stage a: its config nowhere.yaml does not exist"),
        ({"a": stage(overrides={"trainer.max_stepz": 3})}, "stage a: "),
        ({"a": stage(after=["b"])}, "stage a comes after b, and there is no such stage"),
        ({"a": stage(overrides=SECOND)}, f"stage a: init_from.thinker is {FIRST}, which is not there"),
        ({"a": stage(), "b": stage()}, "stage b: writes to lightning_logs/thinker, as a does"),
        ({"a": stage(after=["a"])}, "goes round in a circle: a after a"),
        (
            {"again": two()["again"], "thinker": stage(after=["again"])},
            "goes round in a circle: again after thinker after again",
        ),
        (
            {**two(), "again": stage(overrides={**SECOND, "data.init_args.tokenizer": "bpe"})},
            "stage again begins with the Thinker of stage thinker, which is trained on the tokens of bytes, and its "
            "data has those of its own (again)",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_mistakes_are_told_before_anything_runs(stages, complaint, workplace, fails):
    assert complaint in fails(main, ["train", str(written(stages))])
    assert not Path("lightning_logs/thinker").exists()


def test_files_that_are_no_chain(workplace, fails):
    assert "cannot be read" in fails(main, ["train", "nowhere.yaml"])
    Path("odd.yaml").write_text("a: [", encoding="utf-8")
    assert "is no YAML" in fails(main, ["train", "odd.yaml"])
    assert "--jobs is 0" in fails(main, ["train", "odd.yaml", "--jobs", "0"])


# ---------------------------------------------------------------------- what is kept


class TestStanding:
    @pytest.fixture
    def chain(self, fit):
        """A chain whose first stage is done."""
        path = written(two())
        fit()
        return path

    def find(self, name: str = "thinker", **overrides: Any) -> Standing:
        return standing(read_chain(written(two(**overrides))).links[name])

    def test_done_even_where_the_repository_has_moved(self, chain, monkeypatch, workplace):
        assert self.find() == Standing("done")
        assert self.find("again") == Standing("new")
        (workplace / "sub").mkdir()
        monkeypatch.chdir("sub")
        for name in ("lightning_logs", "corpus.txt"):
            Path(name).symlink_to(workplace / name)
        assert self.find().state == "done"

    def test_another_configuration_or_more_steps(self, chain):
        assert self.find(**{"model.init_args.lr": 2e-3}).reason == "its configuration has changed"
        assert self.find(**{"trainer.max_steps": 12}).reason == "its configuration has changed"
        assert self.find(**{"trainer.log_every_n_steps": 2}).state == "done"

    def test_other_data(self, chain):
        with Path("corpus.txt").open("a") as file:
            file.write("one more sentence.\n")
        assert self.find() == Standing("new", "its data has changed")
        Path("corpus.txt").unlink()
        with pytest.raises(UserError, match="does not exist"):
            self.find()

    def test_another_ancestor(self, chain, fit):
        fit("fit", f"--init_from.thinker={FIRST}", **{key.replace(".", "__"): v for key, v in SECOND.items()})
        assert self.find("again").state == "done"
        fit(trainer__max_steps=3)
        assert self.find("again") == Standing("new", "thinker, which it begins with, has changed")

    def test_cut(self, chain):
        folder = Path("lightning_logs/thinker")
        progress = json.loads((folder / "progress.json").read_text())
        assert progress["finished"]
        assert (progress["step"], progress["steps"], progress["first_step"]) == (6, 6, 0)
        measured = checkpoints.read(folder / "last.ckpt")["metrics"]
        assert measured.items() <= progress["metrics"].items()
        (folder / "progress.json").write_text(json.dumps(progress | {"finished": False, "step": 3}))
        assert self.find() == Standing("new", "it was cut in its only validation")  # best is of step 6: of that one
        checkpoint = checkpoints.read(folder / "best.ckpt")
        checkpoint["lineage"]["step"] = 3
        torch.save(checkpoint, folder / "best.ckpt")
        assert self.find() == Standing("cut", resume="best")
        torch.save(checkpoint, folder / "last.ckpt")
        assert self.find() == Standing("cut", resume="last")
        (folder / "progress.json").unlink()
        assert self.find() == Standing("cut", resume="last")

    def test_damaged_or_gone(self, chain):
        Path("lightning_logs/thinker/best.ckpt").unlink()
        assert self.find() == Standing("new", "its best.ckpt is gone")
        Path("lightning_logs/thinker/last.ckpt").write_bytes(b"cut off")
        assert self.find() == Standing("new")


# ---------------------------------------------------------------------- in which order


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
        self.journal = Journal(Path("chain.json"))
        self.scheduler = Scheduler(
            links, find=self.find, launch=self.launch, journal=self.journal, show=self.show, jobs=jobs, pause=0
        )

    def find(self, link: Link) -> Standing:
        found = self.found.get(link.name, Standing("new"))
        if isinstance(found, UserError):
            raise found
        return found

    def launch(self, link: Link, found: Standing) -> Fake:
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
        stages = Stages(CHAIN, a=Standing("done"), b=Standing("cut", resume="last"))
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

    def test_times_add_up_over_attempts_until_a_stage_begins_anew(self, workplace):
        journal = Journal(Path("chain.json"), every=0)
        journal.begin("a", anew=True)
        journal.tick("a", 100)  # and then a kill
        again = Journal(Path("chain.json"))
        again.begin("a", anew=False)
        again.tick("a", 20, ended=True)
        assert (again.seconds("a"), again.attempts("a"), again.seconds("b")) == (120, 2, None)
        again.begin("a", anew=True)
        assert Journal(Path("chain.json")).seconds("a") == 0
        Path("chain.json").write_text("[1]")
        with pytest.raises(UserError, match="is no journal"):
            Journal(Path("chain.json"))


def test_a_child_ends_with_its_parent():
    program = "import time; from omni.chain.child import end_with_parent; end_with_parent(); time.sleep(60)"
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
            link.folder, link.goal = Path(name), Goal("val/wer", below=0.2)  # pyright: ignore
        stages.journal.begin("thinker", anew=True)
        stages.journal.tick("thinker", 65)
        status = stages.scheduler.statuses["thinker"]
        status.state, status.standing, status.began = "running", Standing("new"), time.monotonic() - 65
        Path("thinker").mkdir()
        progress = {"step": 30, "steps": 120, "first_step": 10, "seconds": 40, "metrics": {"val/wer": 0.25}}
        Path("thinker/progress.json").write_text(json.dumps(progress))
        return stages

    def test_a_terminal_is_written_anew(self, running):
        terminal: Any = Terminal()
        table = Table(running.scheduler.links, running.journal, stream=terminal)
        for _ in range(3):
            table._shown = 0
            table.show(running.scheduler.statuses)
        assert len(terminal.lines) == 3
        assert terminal.lines[1].split("  ")[0] == "thinker"
        assert "30 of 120" in terminal.lines[1]
        assert "3:00 left" in terminal.lines[1]  # 20 steps took 40 s, and 90 are left
        assert "val/wer 0.25 (< 0.2 is not reached)" in terminal.lines[1]
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


# ---------------------------------------------------------------------- end to end


class KillOnce(Callback):
    """Kills its process in the middle of training, if a file is there, which it takes away."""

    def __init__(self, step: int, file: str) -> None:
        self.step, self.file = step, Path(file)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step and self.file.exists():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class Fork:
    """A stage in a copy of this process, which has everything imported."""

    def __init__(self, command: list[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        code = 1
        try:
            main(command)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, sig: int) -> None:
        os.kill(self.pid, sig)


@pytest.fixture
def forks(monkeypatch):
    """Stages are forked, not started."""

    def launch(self: Any, link: Link, found: Standing) -> Fork:
        resume = ["--ckpt_path", found.resume] if found.resume else []
        return Fork(["fit", *link.arguments, *resume], self.log(link.name))

    monkeypatch.setattr(training.Launcher, "__call__", launch)


def report(folder: str = "lightning_logs") -> dict[str, Any]:
    """The report, but for what may differ between two trainings."""
    content = json.loads(Path(folder, "toy/report.json").read_text(encoding="utf-8"))
    del content["date"], content["seconds"]
    for each in content["stages"]:
        assert each.pop("seconds") > 0
        del each["attempts"]
    return content


def test_killed_and_begun_again_ends_with_the_same_report(forks, workplace, capfd):
    kill = {"class_path": "test_chain.KillOnce", "init_args": {"step": 7, "file": "kill"}}
    often = {"filename": "last", "every_n_train_steps": 2}
    every = {"class_path": "omni.callbacks.StageCheckpoint", "init_args": often}
    options = {"trainer.max_steps": 12, "trainer.callbacks+": [kill, every]}
    path = str(written(two(**options)))
    main(["train", path])
    whole = report()
    weights = checkpoints.read("lightning_logs/again/last.ckpt")["state_dict"]
    weights = {name: weight.clone() for name, weight in weights.items()}
    assert [(each["name"], each["reached"]) for each in whole["stages"]] == [("thinker", True), ("again", None)]
    Path("lightning_logs").rename("whole")

    main(["train", str(written({"thinker": two(**options)["thinker"]}))])  # and now in the second stage:
    Path("kill").touch()
    written(two(**options))
    with pytest.raises(SystemExit) as stop:
        main(["train", path])
    assert stop.value.code == 128 + signal.SIGKILL
    output = capfd.readouterr()
    assert "killed by SIGKILL; lightning_logs/toy/again.log" in output.err
    cut = checkpoints.read("lightning_logs/again/last.ckpt")["lineage"]["step"]
    assert 2 < cut < 8

    main(["train", path])
    output = capfd.readouterr().out
    assert "thinker  done before" in output
    assert "again  goes on" in output
    assert report() == whole
    resumed = checkpoints.read("lightning_logs/again/last.ckpt")["state_dict"]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert Journal(Path("lightning_logs/toy/chain.json")).attempts("again") == 2
    text = Path("lightning_logs/toy/report.md").read_text(encoding="utf-8")
    assert "| thinker (`ThinkerPretraining`) | `val/perplexity` | < 1000 | **" in text
    assert " in 2 attempts | " in text

    main(["train", path])
    assert capfd.readouterr().out.count("done before") == 2


def test_a_failed_stage_is_told_with_its_line_its_log_and_its_exit_code(forks, workplace, fails):
    stages = two(**{"model.init_args.thinker.init_args.vocab_size": 100})
    stages["other"] = stage(overrides={NAME: "other"})
    message = fails(main, ["train", str(written(stages))])
    assert message.startswith("omni: stage thinker failed: the tokenizer has 288 tokens and the Thinker 100: set ")
    assert message.endswith("(exit code 2; lightning_logs/toy/thinker.log)")
    assert Path("lightning_logs/other/best.ckpt").exists()
    assert not Path("lightning_logs/toy/report.md").exists()


@pytest.mark.slow
def test_processes_save_at_ctrl_c_and_when_their_chain_is_killed(workplace):
    options = {"trainer.max_steps": 4000, "trainer.val_check_interval": 4000}
    path = str(written({"thinker": stage(overrides=options)}))
    progress, last = Path("lightning_logs/thinker/progress.json"), Path("lightning_logs/thinker/last.ckpt")
    for signum, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        progress.unlink(missing_ok=True)
        before = checkpoints.read(last)["lineage"]["step"] if last.exists() else 0
        chain = subprocess.Popen([sys.executable, "-m", "omni.cli", "train", path], stdout=subprocess.PIPE, text=True)
        while not progress.exists() or json.loads(progress.read_text())["step"] <= before + 20:
            time.sleep(0.1)
        chain.send_signal(signum)
        output, _ = chain.communicate(timeout=120)
        assert chain.returncode == code
        if signum == signal.SIGINT:
            assert "stopped, and saved; the same command goes on" in output
        with training._alone(read_chain(Path(path))):  # the stage has ended, too
            assert before + 20 < checkpoints.read(last)["lineage"]["step"] < 4000
