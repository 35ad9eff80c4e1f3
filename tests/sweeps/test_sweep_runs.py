"""Sweeps of toy stages: trained, pruned, failed, stopped, confirmed; and what they leave."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Callback
from stage_process import launch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from toy_chain import stage, two, written
from toy_sweep import LR, write_sweep

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.commands.sweep import sweep as run_sweep
from omni.pipeline.definition import StageSpec
from omni.pipeline.launcher import Launcher
from omni.sweeps.definition import read_sweep
from omni.sweeps.figures import brief
from omni.sweeps.study import SweepStudy
from omni.sweeps.supervisor import Supervisor, make_slots
from omni.training.history import read_validations

FOLDER = Path("lightning_logs/sweeps/toy")
GRID = {LR: {"values": [1e-3, 1e-2, 1e-5]}}


class FailsAbove(Callback):
    """Fails if the learning rate is above a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        from omni.errors import UserError

        if pl_module.lr > self.limit:
            raise UserError(f"learning rate {pl_module.lr} is too high")


@pytest.fixture(autouse=True)
def fast_stages(monkeypatch):
    """Stages run in processes that have everything imported."""
    monkeypatch.setattr(Launcher, "__call__", launch)


def trials(path):
    return SweepStudy(read_sweep(path)).trials()


def grid(**content):
    return write_sweep(**{"sampler": "grid", "budget": None, "parameters": GRID, **content})


def hparams_of(trial: int) -> dict[str, float]:
    """What TensorBoard's HParams page shows of a trial."""
    events = EventAccumulator(str(FOLDER / f"hparams/{trial:04d}")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    return {key: value.number_value for key, value in start.hparams.items()}


def test_folds_have_a_mean_and_no_best(workplace, capfd, fails):
    path = grid(folds=True, parameters={"seed_everything": {"values": [1, 2]}})
    main(["sweep", str(path)])
    out = capfd.readouterr().out
    values = [float(row["value"]) for row in csv.DictReader((FOLDER / "trials.csv").read_text().splitlines())]
    line = f"mean val/loss of 2 folds: {sum(values) / 2:.4g} ({min(values):.4g} to {max(values):.4g})"
    assert line in out.splitlines()
    assert "best" not in out
    report = (FOLDER / "report.md").read_text()
    assert f"**{line}**" in report
    assert "winner's curse" not in report
    assert "none is the best" in fails(main, ["sweep", str(path), "--confirm", "1"])
    assert "give `sampler: grid`" in fails(main, ["sweep", str(write_sweep("random", folds=True))])


def test_a_sweep_from_end_to_end(workplace, capsys):
    path = grid()
    main(["sweep", str(path)])
    out = capsys.readouterr().out
    assert "trial 0  complete" in out
    assert "3 of 3 trials, best val/loss" in out
    table = list(csv.DictReader((FOLDER / "trials.csv").read_text().splitlines()))
    values = [float(row["value"]) for row in table]
    assert [float(row[LR]) for row in table] == GRID[LR]["values"]
    assert all(row["steps"] == "6" for row in table)
    best = min(range(3), key=values.__getitem__)
    checkpoint = Checkpoint(FOLDER / f"trials/{best:04d}/best.ckpt")
    assert values[best] == checkpoint.content["metrics"]["val/loss"]
    report = (FOLDER / "report.md").read_text()
    assert f"| {best} | {values[best]:.4g} |" in report
    assert "winner's curse" in report
    assert {path.stem for path in FOLDER.glob("*.png")} == {"history", "curves", "slices", "parallel"}
    assert [hparams_of(index) for index in range(3)] == [{"lr": value} for value in GRID[LR]["values"]]
    main(["fit", "--config", str(FOLDER / "best.yaml")])
    again = read_validations(FOLDER / "best")
    assert min(record["metrics"]["val/loss"] for record in again) == values[best]
    before = (FOLDER / "journal.log").read_bytes()
    main(["sweep", str(path)])
    assert (FOLDER / "journal.log").read_bytes().count(b"\n") <= before.count(b"\n") + 1  # opened, nothing trained


def test_the_budget_may_grow(workplace):
    main(["sweep", str(write_sweep(budget={"trials": 1}))])
    main(["sweep", str(path := write_sweep(budget={"trials": 2}))])
    assert [trial.state for trial in trials(path)] == ["complete", "complete"]


def test_steps_and_hours_end_a_sweep(workplace):
    main(["sweep", str(path := write_sweep(budget={"steps": 7}))])
    assert len(trials(path)) == 2
    main(["sweep", str(path := write_sweep(file="short", budget={"hours": 1e-9}))])
    assert len(trials(path)) == 1


def test_a_pruned_trial_keeps_its_checkpoint(workplace):
    overrides = {"trainer.max_steps": 400, "trainer.val_check_interval": 4}
    path = grid(parameters={LR: {"values": [1e-2, 1e-6]}}, pruner={"kind": "asha", "min_steps": 4, "factor": 2},
                overrides=overrides)  # fmt: skip
    main(["sweep", str(path)])
    first, second = trials(path)
    assert (first.state, second.state) == ("complete", "pruned")
    assert max(second.curve) == 4
    step = Checkpoint(FOLDER / "trials/0001/last.ckpt").lineage["step"]
    assert 4 <= step < 400
    assert second.facts["steps"] == step
    assert "The best of 2 trials owes" in (FOLDER / "report.md").read_text()  # it was chosen among pruned ones too


def test_a_failed_trial_does_not_end_the_sweep(workplace, capsys):
    limit = {"trainer.callbacks+": [{"class_path": "test_sweep_runs.FailsAbove", "init_args": {"limit": 5e-3}}]}
    path = grid(overrides=limit)
    main(["sweep", str(path)])
    assert [trial.state for trial in trials(path)] == ["complete", "failed", "complete"]
    assert trials(path)[1].facts["error"] == "learning rate 0.01 is too high"
    assert "- 1: learning rate 0.01 is too high" in (FOLDER / "report.md").read_text()


def test_three_equal_failures_in_a_row_do(workplace, capsys):
    limit = {"trainer.callbacks+": [{"class_path": "test_sweep_runs.FailsAbove", "init_args": {"limit": 0}}]}
    path = grid(parameters={LR: {"log": [1e-4, 1e-2], "points": 5}}, overrides=limit)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "3 trials in a row have failed with the same error: learning rate 0.001 is too high" in error
    assert error.count("\n") == 1
    assert len(trials(path)) == 3


def launch_to_the_end(*arguments):
    """A stage that has ended before anybody looks at it."""
    process = launch(*arguments)
    process.process.join()
    return process


@pytest.mark.parametrize("launcher", [launch, launch_to_the_end])
def test_a_metric_that_is_never_logged_ends_the_sweep_at_the_first_validation(workplace, capsys, monkeypatch, launcher):
    monkeypatch.setattr(Launcher, "__call__", launcher)
    path = write_sweep(metric="val/lost", direction="minimize")
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "metric val/lost is never logged: give one of " in error
    assert "val/loss" in error
    path = write_sweep()  # mended
    main(["sweep", str(path)])
    assert [trial.state for trial in trials(path)] == ["complete"] * 4


def test_a_stopped_sweep_is_resumed_inside_its_trial(workplace):
    overrides = {"trainer.max_steps": 150, "trainer.val_check_interval": 75, "trainer.log_every_n_steps": 5}
    path = grid(parameters={LR: {"values": [1e-3, 1e-4]}}, overrides=overrides)
    sweep = read_sweep(path)
    study = SweepStudy(sweep)
    supervisor: Any = None

    def interrupt():
        progress = FOLDER / "trials/0000/progress.json"
        if progress.is_file() and yaml.safe_load(progress.read_text())["step"] >= 5:
            supervisor.signum = signal.SIGINT

    supervisor = Supervisor(study, make_slots(sweep, 1), show=interrupt)
    supervisor.run()
    (trial,) = study.trials()
    assert trial.state == "running"
    step = Checkpoint(FOLDER / "trials/0000/last.ckpt").lineage["step"]
    assert 5 <= step < 150
    main(["sweep", str(path)])
    assert (
        f"resume with --ckpt_path {FOLDER}/trials/0000/last.ckpt"
        in (FOLDER / "logs/0000/seed0/thinker.log").read_text()
    )
    values = [trial.value for trial in trials(path)]
    main(["sweep", str(whole := grid(file="whole", parameters={LR: {"values": [1e-3, 1e-4]}}, overrides=overrides))])
    assert [trial.value for trial in trials(whole)] == values


class EndsByItself:
    """A process that ends with code 0 at the moment at which it is told to stop."""

    started = 0

    def __init__(self, *_: Any) -> None:
        EndsByItself.started += 1
        self.code = None if EndsByItself.started == 1 else 0

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, sig: int) -> None:
        self.code = 0


def test_no_run_is_started_after_a_stop(workplace, monkeypatch):
    monkeypatch.setattr(Launcher, "__call__", EndsByItself)
    sweep = read_sweep(grid(seeds=2))
    study = SweepStudy(sweep)
    supervisor: Any = None

    def interrupt():
        supervisor.signum = signal.SIGINT if EndsByItself.started else None

    supervisor = Supervisor(study, make_slots(sweep, 1), show=interrupt)
    supervisor.run()
    assert EndsByItself.started == 1
    assert [trial.state for trial in study.trials()] == ["running"]


class FullDisk:
    """A process that cannot write its checkpoint."""

    def __init__(self, launcher: Launcher, stage: StageSpec) -> None:
        log = launcher.log(stage.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"omni: {stage.folder}/last.ckpt: No space left on device\n")

    def poll(self) -> int:
        return 2

    def send_signal(self, sig: int) -> None:
        pass


def test_a_full_disk_ends_the_sweep_and_loses_no_trial(workplace, capsys, monkeypatch):
    path = grid()
    with monkeypatch.context() as patch:
        patch.setattr(Launcher, "__call__", lambda launcher, stage, _: FullDisk(launcher, stage))
        with pytest.raises(SystemExit) as stop:
            main(["sweep", str(path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "trials/0000/last.ckpt: No space left on device: make room, and run the same command again" in line
    assert [trial.state for trial in trials(path)] == ["running"]
    main(["sweep", str(path)])
    assert [trial.state for trial in trials(path)] == ["complete"] * 3


def test_labels_of_values_are_short():
    assert brief(["models/a.yaml", "models/b.yaml"]) == ["a.yaml", "b.yaml"]
    assert brief([{"dim": 64, "num_layers": 2}, {"dim": 64, "num_layers": 3}]) == ["num_layers=2", "num_layers=3"]
    assert brief([{"class_path": "A", "init_args": {}}, {"class_path": "B", "init_args": {}}]) == ["A", "B"]


def test_several_seeds_are_averaged(workplace):
    path = grid(parameters={LR: {"values": [1e-3, 1e-2]}}, seeds=2)
    main(["sweep", str(path)])
    for trial in trials(path):
        assert len(set(trial.facts["by_seed"])) == 2
        assert trial.value == pytest.approx(sum(trial.facts["by_seed"]) / 2)
        assert trial.facts["steps"] == 12
    assert Checkpoint(FOLDER / "trials/0001/seed1/best.ckpt")


def test_the_best_are_confirmed_with_other_seeds(workplace, capsys):
    path = grid()
    main(["sweep", str(path)])
    run_sweep(path, confirm=2, seeds=3)
    report = (FOLDER / "report.md").read_text()
    assert "## Confirmed with other seeds" in report
    out = capsys.readouterr().out
    assert "with 3 other seeds" in out
    runs = sorted(FOLDER.glob("confirm/*/seed*/best.ckpt"))
    assert len(runs) == 6
    assert len({Checkpoint(run).content["metrics"]["val/loss"] for run in runs}) == 6


def chain(**content):
    first = stage(overrides={"trainer.max_steps": 4})
    written({"thinker": first, "again": two()["again"]})
    fields = {
        "config": "chain.yaml",
        "metric": "again.val/loss",
        "sampler": "grid",
        "budget": None,
        "parameters": {
            f"thinker.{LR}": {"values": [1e-3, 1e-2]},
            f"again.{LR}": {"values": [1e-3, 2e-3, 3e-3]},
        },
        **content,
    }
    return write_sweep(**fields)


def test_a_chain_trains_a_stage_as_often_as_its_parameters_differ(workplace):
    path = chain()
    main(["sweep", str(path)])
    found = trials(path)
    assert [trial.state for trial in found] == ["complete"] * 6
    assert [trial.facts["trained"] for trial in found] == [["thinker", "again"], ["again"], ["again"]] * 2
    assert [trial.facts["reused"] for trial in found] == [[], ["thinker"], ["thinker"]] * 2
    assert "| thinker | 2 | 4 |" in (FOLDER / "report.md").read_text()
    for index, owner in enumerate((0, 0, 0, 3, 3, 3)):
        lineage = Checkpoint(FOLDER / f"trials/{index:04d}/again/best.ckpt").lineage
        thinker = Checkpoint(FOLDER / f"trials/{owner:04d}/thinker/best.ckpt").lineage
        assert lineage["ancestors"]["thinker"] == thinker
    best = min(found, key=lambda trial: trial.value)
    main(["train", str(FOLDER / "best.yaml"), "--report", "false"])
    values = [record["metrics"]["val/loss"] for record in read_validations(FOLDER / "best/again")]
    assert min(values) == best.value


def test_two_trials_at_once_train_a_shared_stage_once(workplace):
    path = chain(parameters={f"again.{LR}": {"values": [1e-3, 2e-3]}}, jobs=2)
    main(["sweep", str(path)])
    found = trials(path)
    assert sorted(trial.facts["trained"] for trial in found) == [["again"], ["thinker", "again"]]
    assert (FOLDER / "shared/thinker/best.ckpt").is_file()


def test_a_stage_that_no_parameter_touches_is_the_original_if_that_is_done(workplace):
    path = chain(parameters={f"again.{LR}": {"values": [1e-3, 2e-3]}})
    main(["train", "chain.yaml", "--report", "false"])
    main(["sweep", str(path)])
    assert [trial.facts["trained"] for trial in trials(path)] == [["again"], ["again"]]
    assert [trial.facts["reused"] for trial in trials(path)] == [["thinker"], ["thinker"]]
    assert not (FOLDER / "shared").exists()


def test_parameters_of_a_file(workplace):
    for dim in (32, 64):
        thinker = {
            "class_path": "Thinker",
            "init_args": {"vocab_size": 288, "dim": dim, "num_layers": 1, "ffn_dim": 48},
        }
        Path(f"size{dim}.yaml").write_text(yaml.safe_dump(thinker))
    path = grid(parameters={"model.init_args.thinker": {"values": ["size32.yaml", "size64.yaml"]}})
    main(["sweep", str(path)])
    sizes = [Checkpoint(FOLDER / f"trials/000{n}/best.ckpt").content["parts"]["thinker"] for n in (0, 1)]
    assert [recipe["init_args"]["dim"] for recipe in sizes] == [32, 64]


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(2, 1, None), (8, 2, 4), (2, 4, 1)])
def test_cores_are_divided(workplace, monkeypatch, cores, jobs, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)
    assert [slot.threads for slot in make_slots(read_sweep(write_sweep()), jobs)] == [threads] * jobs


def test_each_gpu_has_one_trial(workplace, monkeypatch):
    from omni.errors import UserError

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    sweep = read_sweep(write_sweep(overrides={"trainer.accelerator": "auto"}))
    assert [slot.gpu for slot in make_slots(sweep, 2)] == ["0", "1"]
    with pytest.raises(UserError, match="each trial takes one of 3 GPUs: give --jobs 3"):
        make_slots(sweep, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot.gpu for slot in make_slots(sweep, 2)] == ["5", "7"]
