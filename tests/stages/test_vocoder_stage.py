"""Stage D3 by the command: losses of both sides, learning, metrics, resuming, and errors."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from toy_runs import callback, same, scalars, weights
from toy_speech import save

from omni.batch import SpeechBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.inference.codec_files import Coded
from omni.losses import discriminator_hinge_loss, feature_matching_loss, generator_hinge_loss, spectral_distance
from omni.media.audio import HOP_LENGTH, LogMel, read_audio
from omni.metrics import Intelligibility
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec
from omni.models.discriminators import Discriminators
from omni.models.vocoder import Vocos
from omni.stages.vocoder import VocoderTraining, VocoderWeights
from omni.text.ctc_vocabulary import CharacterVocabulary

RUN = Path("lightning_logs/vocoder")
CODEC = {"num_mels": 16, "dim": 16, "num_layers": 1, "codebook_size": 8, "codebook_dim": 4, "num_codebooks": 2}


def stage_of(**options: Any) -> VocoderTraining:
    torch.manual_seed(0)
    judges = Discriminators(periods=[2, 3], period_channels=[2, 4], resolutions=[128], resolution_channels=2)
    return VocoderTraining(Vocos(num_mels=16, dim=24, num_layers=1), judges, **options)


def batch_of(*lengths: int) -> SpeechBatch:
    """Noise of growing amplitude."""
    torch.manual_seed(1)
    frames = torch.tensor(lengths)
    audio = torch.zeros(len(lengths), max(lengths) * HOP_LENGTH)
    for row, length in zip(audio, lengths, strict=True):
        row[: length * HOP_LENGTH] = torch.randn(length * HOP_LENGTH) * torch.linspace(0, 0.3, length * HOP_LENGTH)
    none = torch.zeros(len(lengths), 0, dtype=torch.long)
    return SpeechBatch(LogMel(16)(audio), frames, none, frames * 0, torch.arange(len(lengths)), 1.0, audio)


class Perfect(torch.nn.Module):
    """A vocoder that returns the recording."""

    def __init__(self, audio: Tensor) -> None:
        super().__init__()
        self.audio = audio

    def forward(self, mels: Tensor, lengths: Tensor) -> Tensor:
        return self.audio


@pytest.fixture
def ancestors(workplace) -> tuple[list[str], dict[str, object]]:
    """Options that give stage D3 a codec and a recognizer: checkpoints `codec.ckpt` and `audio_encoder.ckpt`."""
    torch.manual_seed(0)
    heads = {"num_heads": 1, "ffn_dim": 16, "conv_channels": 2}
    parts = {
        "codec": Codec(**CODEC),
        "audio_encoder": AudioEncoder(vocab_size=5, num_mels=16, dim=16, num_layers=1, **heads),
    }
    overrides: dict[str, object] = {}
    for name, part in parts.items():
        save(Path(f"{name}.ckpt"), name, part, CharacterVocabulary(" abc"))
        Path(f"{name}.yaml").write_text(json.dumps(part.recipe["init_args"]), encoding="utf-8")
        overrides[f"model__init_args__{name}"] = f"{name}.yaml"
    return [f"--init_from.{name}={name}.ckpt" for name in parts], overrides


# ---------------------------------------------------------------------- losses and gradients


def test_a_perfect_vocoder_has_no_distance():
    stage, batch = stage_of(adversarial_start=10**9).eval(), batch_of(40, 23)
    assert stage._distance(stage.vocoder(batch.mels, batch.mel_lengths), batch.audio, batch.mel_lengths)[0] > 1
    stage.vocoder = Perfect(batch.audio)
    total, terms = stage._distance(stage.vocoder(batch.mels, batch.mel_lengths), batch.audio, batch.mel_lengths)
    assert total == terms["mel"] == terms["spectral"] == 0


def test_losses_by_hand():
    real, made = [torch.tensor([[2.0, 0.0]])], [torch.tensor([[-3.0, 1.0]])]
    assert discriminator_hinge_loss(real, made) == pytest.approx(0.5 + 1.0)
    assert generator_hinge_loss(made) == pytest.approx(2.0)
    assert feature_matching_loss([[torch.ones(2), torch.ones(3)]], [[torch.zeros(2), torch.ones(3)]]) == pytest.approx(
        0.5
    )
    sound = torch.randn(2, 4000)
    louder = spectral_distance(sound * math.e, sound)  # each logarithm is larger by 1, each magnitude by a factor of e
    assert louder == pytest.approx(1 + (math.e - 1), rel=0.01)


@pytest.mark.parametrize("loss", ["discriminators", "adversarial", "feature_matching"])
def test_each_loss_reaches_only_the_weights_of_its_side(loss):
    stage, batch = stage_of().train(), batch_of(30, 30)
    made = stage.vocoder(batch.mels, batch.mel_lengths)
    stage._adversarial_loss(made, batch.audio)[1][loss].backward()
    own, other = stage.vocoder, stage.discriminators
    if loss == "discriminators":
        own, other = other, own
    assert all(weight.grad is None for weight in other.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in own.parameters())
    assert all(weight.requires_grad for weight in stage.parameters())


def test_every_weight_gets_a_gradient():
    stage, batch = stage_of().train(), batch_of(40, 40, 25)
    stage.loss(batch).total.backward()
    for name, weight in stage.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any(), name


def test_discriminators_alone_learn_to_separate():
    nothing = VocoderWeights(mel=0, spectral=0, adversarial=0, feature_matching=0)
    stage, batch = stage_of(weights=nothing), batch_of(20, 20)
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-2)
    before = [weight.clone() for weight in stage.vocoder.parameters()]
    curve = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = stage.loss(batch)
        loss.mean.backward()
        optimizer.step()
        curve.append(loss.terms["discriminators"].item())
    assert curve[-1] < 0.95 * curve[0]
    assert loss.stats["score_real"] > loss.stats["score_made"] + 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, stage.vocoder.parameters(), strict=True))


def test_gradients_of_each_side_are_clipped_separately():
    stage = stage_of()
    for number, weight in enumerate(stage.parameters()):
        weight.grad = torch.full_like(weight, 1e-6 if number < len(list(stage.vocoder.parameters())) else 5.0)
    small = [weight.grad.clone() for weight in stage.vocoder.parameters()]
    stage.configure_gradient_clipping(torch.optim.SGD(stage.parameters()), 1.0, "norm")
    assert all(torch.equal(a, b.grad) for a, b in zip(small, stage.vocoder.parameters(), strict=True))
    norm = torch.stack([weight.grad.norm() for weight in stage.discriminators.parameters()]).norm()
    assert norm == pytest.approx(1.0, rel=1e-4)


def test_some_training_rows_are_reconstructed_by_the_codec():
    torch.manual_seed(0)
    codec = Codec(**CODEC)
    batch = batch_of(*[40] * 40)
    codec(batch.mels)
    for share, least, most in ((0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)):
        stage = stage_of(codec=codec, codec_share=share).train()
        changed = (stage._training_mels(batch.mels, batch.mel_lengths) != batch.mels).any(2).any(1)
        assert least <= changed.sum() <= most
        assert not (stage.eval()._training_mels(batch.mels, batch.mel_lengths) != batch.mels).any()


def test_intelligibility_of_identical_audio_is_one_and_short_audio_is_skipped():
    batch = batch_of(150, 150, 20)
    metric = Intelligibility()
    metric.update(batch.audio, batch.audio, batch.mel_lengths * HOP_LENGTH)
    assert metric.items == 2
    assert metric.compute() == pytest.approx(1.0, abs=1e-4)
    metric.update(torch.randn_like(batch.audio), batch.audio, batch.mel_lengths * HOP_LENGTH)
    assert metric.compute() < 0.9


# ---------------------------------------------------------------------- runs


def test_a_run_logs_its_metrics_and_keeps_the_lowest_distance(fit_vocoder):
    fit_vocoder(model__init_args__shown=1)
    assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    for name in ("loss", "mel_distance", "mel_distance_griffin_lim"):
        assert all(math.isfinite(value) for value in scalars(RUN, f"val/{name}").values())
    floors = scalars(RUN, "val/mel_distance_griffin_lim")
    assert len(floors) == 2
    assert len(set(floors.values())) == 1
    assert {"val/stoi", "val/stoi_griffin_lim"} <= set(events().Tags()["scalars"])
    for name, count in {"mel": 6, "spectral": 6, "discriminators": 3, "adversarial": 3, "feature_matching": 3}.items():
        assert len(scalars(RUN, f"train/loss/{name}")) == count  # discriminators are trained from step 3
    assert not [tag for tag in events().Tags()["scalars"] if "wer" in tag or "rebuilt" in tag]
    assert "val/mel_distance" in str(Checkpoint(RUN / "best.ckpt").content["callbacks"])
    image = events().Images("val/spectrogram/0")[-1]
    assert image.width > image.height > 100
    for name in ("recording", "vocoder", "griffin_lim"):
        assert events().Audio(f"val/{name}/0")[-1].length_frames > 1600


def events() -> EventAccumulator:
    accumulator = EventAccumulator(str(RUN))
    accumulator.Reload()
    return accumulator


def test_steps_are_counted_once_and_discriminators_start_later(fit_vocoder):
    cli = fit_vocoder(trainer__max_steps=3)
    assert cli.trainer.global_step == 3
    assert all(not cli.trainer.optimizers[0].state[w] for w in cli.model.discriminators.parameters())
    cli = fit_vocoder("fit", "--ckpt_path=last", trainer__max_steps=5)
    assert cli.trainer.global_step == 5
    steps = {int(cli.trainer.optimizers[0].state[w]["step"]) for w in cli.model.discriminators.parameters()}
    assert steps == {2}


def test_stopping_and_resuming_changes_nothing(fit_vocoder, ancestors):
    start, parts = ancestors
    options = {"trainer__max_steps": 9, "trainer__val_check_interval": 4, "model__init_args__codec_share": 0.5, **parts}
    fit_vocoder("fit", *start, **options)
    whole, curve = Checkpoint(RUN / "last.ckpt").content, scalars(RUN, "train/loss")
    for stop in (2, 6):  # before and after the discriminators start
        with pytest.raises(SystemExit):
            fit_vocoder("fit", *start, callback("toy_runs.SignalAt", step=stop, signum=15), **options)
        assert Checkpoint(RUN / "last.ckpt").lineage["step"] < 9
        for part in ("codec", "audio_encoder"):
            Path(f"{part}.ckpt").rename(f"{part}.away")  # resuming does not need them
        fit_vocoder("fit", "--ckpt_path=last", **options)
        again = Checkpoint(RUN / "last.ckpt").content
        assert same(whole["state_dict"], again["state_dict"])
        states = [list(run["optimizer_states"][0]["state"].values()) for run in (whole, again)]
        assert len(states[0]) == len([name for name in whole["state_dict"] if name.startswith(("vocoder", "discrim"))])
        assert all(same(a, b) for a, b in zip(*states, strict=True))
        assert scalars(RUN, "train/loss").items() <= curve.items()
        for part in ("codec", "audio_encoder"):
            Path(f"{part}.away").rename(f"{part}.ckpt")


def test_codec_and_recognizer_are_used_and_never_trained(fit_vocoder, ancestors):
    start, parts = ancestors
    cli = fit_vocoder("fit", *start, **parts)
    for name in ("wer", "wer_griffin_lim", "wer_rebuilt", "wer_rebuilt_griffin_lim", "mel_distance_rebuilt"):
        assert len(scalars(RUN, f"val/{name}")) == 2
    after = weights(RUN / "last.ckpt")
    for part in ("codec", "audio_encoder"):
        before = {name: w for name, w in weights(Path(f"{part}.ckpt")).items() if name.startswith(f"{part}.")}
        assert same(before, {name: after[name] for name in before})
        assert not cli.model.part(part).training
        assert not any(weight.requires_grad for weight in cli.model.part(part).parameters())


def test_refined_waveforms_are_measured_beside_the_vocoders(fit_vocoder, ancestors):
    start, parts = ancestors
    cli = fit_vocoder("fit", *start, model__init_args__refine=4, **parts)
    refined, plain = (scalars(RUN, f"val/{name}").values() for name in ("mel_distance_refined", "mel_distance"))
    assert len(refined) == 2
    assert all(one < other for one, other in zip(refined, plain, strict=True))
    names = {"val/stoi_refined", "val/wer_refined", "val/mel_distance_rebuilt_refined"}
    assert names <= set(events().Tags()["scalars"])
    assert not any("refine" in name for name in cli.model.state_dict())


def test_a_vocoder_is_rebuilt_from_its_checkpoint_alone(fit_vocoder, monkeypatch):
    cli = fit_vocoder()
    monkeypatch.delattr("omni.models.discriminators.Discriminators")
    vocoder = Checkpoint(RUN / "last.ckpt").part("vocoder", Vocos)
    mels = torch.randn(1, 20, 16)
    assert torch.equal(vocoder(mels), cli.model.vocoder(mels))
    assert not vocoder.training


def test_it_overfits_one_recording(fit_vocoder, speech):
    row = (speech / "train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (speech / "one.jsonl").write_text(row, encoding="utf-8")
    fit_vocoder(
        data__init_args__train=speech / "one.jsonl",
        data__init_args__val=speech / "one.jsonl",
        data__init_args__augmentation__silence=0,
        trainer__max_steps=80,
        trainer__val_check_interval=80,
        model__init_args__adversarial_start=70,
        model__init_args__quality_utterances=1,
        model__init_args__lr=5e-3,
    )
    curve = list(scalars(RUN, "train/loss/mel").values())
    assert sum(curve[-10:]) < 0.8 * sum(curve[:10])


def test_predictions_are_the_audio_of_each_row(fit_vocoder, speech):
    fit_vocoder()
    options = {"data__init_args__test": speech / "val.jsonl"}
    cli = fit_vocoder("predict", "--ckpt_path", str(RUN / "last.ckpt"), **options)
    sounds = [sound for batch in cli.trainer.predict_loop.predictions for sound in batch]
    recorded = [read_audio(speech / f"val-{number}.wav") for number in range(8)]
    assert [len(sound) for sound in sounds] == [-(-len(audio) // HOP_LENGTH) * HOP_LENGTH for audio in recorded]
    fit_vocoder("test", "--ckpt_path", str(RUN / "last.ckpt"), **options)


def test_the_vocoder_decodes_codes(ancestors, speech, fails):
    torch.manual_seed(0)
    codec = Checkpoint("codec.ckpt").part("codec", Codec)
    vocoder = Vocos(num_mels=16, dim=24, num_layers=1).eval()
    save(Path("vocoder.ckpt"), "vocoder", vocoder, CharacterVocabulary(" abc"))
    main(["codec", "encode", str(speech / "val-0.wav"), "--checkpoint", "codec.ckpt", "--out", "x.npz"])
    decode = ["codec", "decode", "x.npz", "--checkpoint", "codec.ckpt", "--out", "made.wav"]
    main([*decode, "--vocoder", "vocoder.ckpt"])
    made = read_audio(Path("made.wav"))
    with torch.no_grad():
        wanted = vocoder(codec.decode(torch.from_numpy(Coded.load(Path("x.npz")).codes).long()[None]))[0, : len(made)]
    assert wanted.abs().max() > 3e-4
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=0)
    assert len(made) == len(read_audio(speech / "val-0.wav"))
    assert "holds no part 'vocoder'" in fails(main, [*decode, "--vocoder", "codec.ckpt"])
    save(Path("other.ckpt"), "vocoder", Vocos(num_mels=20, dim=24, num_layers=1), CharacterVocabulary(" abc"))
    message = fails(main, [*decode, "--vocoder", "other.ckpt"])
    assert "other.ckpt reads 20 mel filters and the codec outputs 16" in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data__init_args__num_mels": 20}, "make them equal"),
        ({"data__init_args__audio": "none"}, "set it to all"),
        ({"data__init_args__augmentation__time_masks": 1}, "waveforms must fit their spectrograms"),
        ({"model__init_args__vocoder__init_args__n_fft": 500}, "n_fft must be a multiple of 160"),
        (
            {"model__init_args__vocoder__init_args__sample_rate": 22050},
            "must be 16000 or 24000 Hz, not 22050",
        ),
        ({"model__init_args__codec_share": 1.5}, "codec_share is 1.5"),
        ({"model__init_args__refine": -1}, "refine is -1"),
        ({"model__init_args__frozen": '["vocoder", "discriminators"]'}, "leaves nothing to train"),
    ],
)
def test_what_does_not_fit_is_refused(fit_vocoder, fails, overrides, words):
    assert words in fails(fit_vocoder, **overrides)


def test_untrained_parts_are_refused(fit_vocoder, fails):
    Path("codec.yaml").write_text(json.dumps(CODEC), encoding="utf-8")
    assert "init_from.codec" in fails(fit_vocoder, model__init_args__codec="codec.yaml")
