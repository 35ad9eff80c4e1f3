"""The race to nanoGPT's loss."""

import json
from pathlib import Path

import pytest
import torch

from omni.bench.nanogpt import NanoGPT, NanoGPTRace, Recipe, held_out_loss, read_text
from omni.bench.race import count_parameters
from omni.cli import main

TEXT = "to be, or not to be: that is the question. " * 60


@pytest.fixture
def text(workplace: Path) -> Path:
    path = workplace / "input.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_model_is_causal_and_has_the_published_size():
    torch.manual_seed(0)
    model = NanoGPT(65)
    assert count_parameters(model) - 64 * 128 == 795_904  # nanoGPT prints 0.80 M, without positions
    tokens = torch.randint(65, (2, 10))
    changed = tokens.clone()
    changed[:, 6] += 1 - 2 * (changed[:, 6] > 0).long()
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.isclose(before[:, 6:], after[:, 6:]).all(-1).any()
    assert before.abs().max() < 2  # all characters are nearly as likely


def test_the_held_out_loss_is_the_mean_over_all_whole_rows(text):
    read = read_text(text)
    assert read.num_characters == len(set(TEXT))
    assert len(read.train) + len(read.held_out) == len(TEXT)
    scored = []

    def loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert torch.equal(tokens[:, 1:], targets[:, :-1])
        scored.append(targets.numel())
        return 2.0 * torch.ones_like(targets).sum()

    model = torch.nn.Linear(1, 1)
    found = held_out_loss(Recipe(model, loss, torch.optim.SGD(model.parameters()), lambda step: 1.0, 1), read)
    assert found == pytest.approx(2)
    assert sum(scored) == (len(read.held_out) - 1) // 64 * 64


def test_both_learn_and_the_time_is_that_of_the_same_loss(text, capsys):
    options = ["--steps", "2", "--thinker_steps", "40", "--evaluate_every", "4", "--repeats", "2"]
    main(["bench", "nanogpt", "--file", str(text), *options, "--json", "found.json"])
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    times, losses = found["results"]
    assert len(times["ratios"]["nanoGPT"]) == 2
    assert min(times["ratios"]["nanoGPT"]) > 0
    assert all(0 < value < 1000 * 3.2 for value in losses["values"].values())  # ln 18 is 2.9: both started above it
    assert "time to nanoGPT's last loss, s" in capsys.readouterr().out


def test_a_loss_that_is_not_reached_is_never(text):
    report = NanoGPTRace(file=text, steps=30, thinker_steps=1, repeats=1).run()
    assert report.results[0].values["omni"] is None
    assert "never" in report.table()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read: No such file"), ("short", "has 5 characters: give a text of 1280")]
)
def test_wrong_texts(workplace, content, message, capsys):
    if content is not None:
        Path("input.txt").write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "nanogpt"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
