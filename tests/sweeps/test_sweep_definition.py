"""Files of sweeps: what they say, and what is refused before anything runs."""

from pathlib import Path

import pytest
from toy_chain import NAME, two, written
from toy_sweep import LR, WIDTH, write_sweep

from omni.cli import main
from omni.errors import UserError
from omni.sweeps.checks import check_values
from omni.sweeps.definition import Budget, read_sweep


def test_a_sweep_is_read(workplace):
    sweep = read_sweep(write_sweep(budget={"trials": 9, "hours": 1.5}, pruner={"kind": "asha", "factor": 4}))
    assert (sweep.name, sweep.metric, sweep.direction, sweep.steps) == ("toy", "val/loss", "minimize", 6)
    assert sweep.file.budget == Budget(trials=9, hours=1.5)
    assert (sweep.pruner.kind, sweep.pruner.factor) == ("asha", 4)
    assert sweep.parameters.names == [LR, WIDTH]
    check_values(sweep)


def test_a_chain_is_reduced_to_what_the_metric_needs(workplace):
    written({**two(), "other": two(**{NAME: "other"})["thinker"]})
    path = write_sweep(
        config="chain.yaml",
        metric="again.val/loss",
        parameters={f"thinker.{LR}": {"values": [1e-3, 2e-3]}},
        overrides={"thinker.trainer.max_steps": 3},
    )
    sweep = read_sweep(path)
    assert sweep.is_chain
    assert list(sweep.stages) == ["thinker", "again"]
    assert (sweep.stage, sweep.metric) == ("again", "val/loss")
    assert sweep.stages["thinker"].configuration.config["trainer"]["max_steps"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"parameters": {"model.init_args.lrr": {"values": [1]}}}, "lrr"),
        ({"parameters": {WIDTH: {"values": ["wide"]}}}, f"with {WIDTH}=wide"),
        ({"parameters": {WIDTH: {"range": [8, 16]}}}, f"with {WIDTH}=8.0"),
        ({"parameters": {LR: {"log": [1e-4, 1e-2]}}, "sampler": "grid"}, "add `points: 5`"),
        ({"budget": None}, "no budget"),
        ({"budget": {"trials": 0}}, "trials is too small"),
        ({"budget": {"trial": 3}}, "budget"),
        ({"sampler": "genetic"}, "sampler"),
        ({"pruner": "often"}, "pruner"),
        ({"pruner": {"kind": "asha", "factor": 1}}, "factor is too small"),
        ({"jobs": 0}, "jobs is too small"),
        ({"metric": "val/accuracy"}, "add `direction: minimize` or `maximize`"),
        ({"direction": "maximize"}, "direction is maximize, but the stage says to minimize val/loss"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml does not exist"),
        ({"name": "../out"}, "give the name of a folder"),
        ({"colour": "red"}, "colour"),
        ({"constraints": {"parameters": "many"}}, "'many' is not a number of parameters"),
        ({"constraints": {"memory": "12"}}, "'12' is not an amount of memory"),
        ({"parameters": None}, "it has no parameters"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_runs(workplace, capsys, content, message):
    path = write_sweep(**content)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.startswith("omni: sweep toy.yaml: ")
    assert error.count("\n") == 1
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "it has no parameters"), (None, "cannot be read")]
)
def test_files_that_are_no_sweeps(workplace, text, message):
    if text is not None:
        Path("toy.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sweep(Path("toy.yaml"))


@pytest.mark.parametrize("changes", [{"metric": "val/loss"}, {"parameters": {LR: {"values": [1, 2]}}}])
def test_keys_of_a_chain_begin_with_a_stage(workplace, changes):
    written(two())
    fields = {"metric": "again.val/loss", "parameters": {f"again.{LR}": {"values": [1, 2]}}, **changes}
    with pytest.raises(UserError, match=r"in a chain give STAGE\."):
        read_sweep(write_sweep(config="chain.yaml", **fields))


def test_a_dry_run_prints_the_grid_and_trains_nothing(workplace, capsys):
    parameters = {LR: {"log": [1e-4, 1e-2], "points": 3}, WIDTH: {"values": [48, 64]}}
    path = write_sweep(parameters=parameters, sampler="grid", budget=None)
    main(["sweep", str(path), "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial 0  lr=0.0001 ffn_dim=48"
    assert len(lines) == 7
    assert lines[-1].startswith("6 trials")
    assert not Path("lightning_logs").exists()
