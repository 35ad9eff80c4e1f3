"""The benchmark of the audio encoder: equal sizes, equal frame rates, and both models learn."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from omni.batch import SpeechBatch
from omni.bench.audio import AudioRace, build_model, ctc_loss
from omni.bench.race import count_parameters, training_step
from omni.cli import main
from omni.optim.optimizers import adamw

TOY = {"num_mels": 16, "dim": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 128, "conv_channels": 4, "vocab_size": 5}


def test_both_models_have_equal_size_and_frame_rate():
    for options in (
        TOY,
        yaml.safe_load((Path(__file__).parents[2] / "configs/models/tiny/audio_encoder.yaml").read_text()),
    ):
        models = [build_model(name, options).eval() for name in ("omni", "conformer")]
        sizes = [count_parameters(model) for model in models]
        assert abs(sizes[0] - sizes[1]) <= 0.02 * sizes[0]
    mels, lengths = torch.randn(2, 64, options["num_mels"]), torch.tensor([64, 40])
    with torch.no_grad():
        first, second = (model(mels, lengths) for model in models)
    assert first.log_probs.shape == second.log_probs.shape
    assert torch.equal(first.lengths, second.lengths)


@pytest.mark.parametrize("name", ["omni", "conformer"])
def test_both_models_learn(name):
    torch.manual_seed(0)
    model = build_model(name, TOY)
    optimizer = adamw(model, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    batch = SpeechBatch(
        mels=torch.randn(2, 48, 16),
        mel_lengths=torch.tensor([48, 48]),
        targets=torch.tensor([[1, 2, 3], [4, 1, 2]]),
        target_lengths=torch.tensor([3, 3]),
        rows=torch.arange(2),
        seconds=0.96,
    )

    def likelihood() -> float:
        with torch.no_grad():
            return float(model.eval()(batch.mels, batch.mel_lengths).log_probs[:, :, 1:].logsumexp(2).exp().mean())

    before = likelihood()
    for _ in range(30):
        training_step(model.train(), lambda: ctc_loss(model, batch), optimizer)()
    assert likelihood() != pytest.approx(before, abs=1e-3)
    nll = torch.nn.functional.ctc_loss(
        model.eval()(batch.mels, batch.mel_lengths).log_probs.transpose(0, 1),
        batch.targets,
        torch.tensor([24, 24]),
        batch.target_lengths,
        reduction="sum",
    )
    assert nll < 6


def test_the_race_prints_and_writes_its_table(workplace, capsys):
    Path("toy.yaml").write_text(yaml.safe_dump(TOY))
    options = "--size toy.yaml --repeats 1 --steps 1 --rows 2 --utterance 0.5 --world null --json r.json"
    report = main(["bench", "audio", *options.split()])
    assert [len(result.ratios["conformer"]) for result in report.results] == [1, 1, 1]
    assert all(all(result.values.values()) for result in report.results)
    assert "transcription, batch 8" in capsys.readouterr().out
    assert len(json.loads(Path("r.json").read_text())["results"]) == 3


def test_learning_counts_steps_until_wer_is_one_half(workplace, speech, monkeypatch):
    options = {**TOY, "vocab_size": 29}
    Path("toy.yaml").write_text(yaml.safe_dump(options))
    wers = iter([0.9, 0.4, 0.9, 0.9])
    monkeypatch.setattr("omni.bench.audio._wer", lambda model, data: next(wers))
    race = AudioRace(
        size="toy.yaml", repeats=1, steps=1, rows=1, utterance=0.3, world=speech, max_steps=40, learning_rates=(1e-3,)
    )
    report = race.run()
    assert report.results[-2].values == {"omni": 40, "conformer": None}
    assert "never" in report.table()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "huge", "--world", "null"], "neither"),
        (["--repeats", "0"], "repeats is 0"),
        (["--world", "nowhere"], "omni data world"),
    ],
)
def test_bad_arguments_end_in_one_line(fails, workplace, arguments, words):
    assert words in fails(main, ["bench", "audio", *arguments])
