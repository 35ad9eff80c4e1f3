"""Stage D1 by the command: learning, metrics, resuming, and errors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_runs import callback, same, scalars, weights

from omni.batch import SpeechBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.models.codec import Codec
from omni.stages.codec import CodecTraining

RUN = Path("lightning_logs/codec")
AUDIO = Path("lightning_logs/audio")


@pytest.fixture
def recogniser(fit_audio) -> dict[str, object]:
    """Options that give stage D1 a recognizer, and the recognizer's checkpoint."""
    fit_audio(trainer__max_steps=2, trainer__val_check_interval=2)
    AUDIO.joinpath("last.ckpt").rename("recogniser.ckpt")
    recipe = Checkpoint("recogniser.ckpt").content["parts"]["audio_encoder"]["init_args"]
    Path("encoder.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return {"model__init_args__audio_encoder": "encoder.yaml"}


def test_a_run_logs_its_metrics_and_keeps_the_lowest_error(fit_codec):
    fit_codec()
    assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    for name in ("loss", "reconstruction_error", "gain/1", "gain/2"):
        assert all(math.isfinite(value) for value in scalars(RUN, f"val/{name}").values())
    for level in (1, 2):
        assert 0 < scalars(RUN, f"val/use/{level}")[5] <= 1
        assert 1 <= scalars(RUN, f"val/perplexity/{level}")[5] <= 16
    for name in ("dead_codes", "revived_codes", "loss/commitment", "padding"):
        assert len(scalars(RUN, f"train/{name}")) == 6
    assert 0 < scalars(RUN, "train/mfu")[5] < 1
    assert not [tag for tag in events().Tags()["scalars"] if "wer" in tag]
    assert "val/reconstruction_error" in str(Checkpoint(RUN / "best.ckpt").content["callbacks"])


def events() -> EventAccumulator:
    accumulator = EventAccumulator(str(RUN))
    accumulator.Reload()
    return accumulator


def test_validation_logs_figures_and_audio(fit_codec):
    fit_codec(model__init_args__shown=1)
    found = events()
    image = found.Images("val/reconstruction/0")[-1]
    assert image.width > image.height > 100
    for name in ("original", "rebuilt"):
        audio = found.Audio(f"val/{name}/0")[-1]
        assert audio.sample_rate == 16_000
        assert audio.length_frames > 1600


def test_intelligibility_is_measured_against_the_recordings(fit_codec, speech):
    """On noise in the rhythm of words, seconds long: tones have too few third-octave bands to compare."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        loudness = np.repeat(rng.uniform(0.02, 0.3, 20), 1600)
        soundfile.write(speech / f"noise{number}.wav", rng.normal(size=32_000) * loudness, 16_000)
        rows.append(json.dumps({"audio": f"noise{number}.wav", "text": "ab", "duration": 2.0}))
    (speech / "noise.jsonl").write_text("\n".join(rows), encoding="utf-8")
    fit_codec(data__init_args__val=speech / "noise.jsonl", model__init_args__quality_utterances=2)
    original, rebuilt = (scalars(RUN, f"val/stoi_{name}")[5] for name in ("original", "rebuilt"))
    assert 0.3 < original <= 1
    assert rebuilt < original
    fit_codec(data__init_args__audio="none")
    assert not [tag for tag in events().Tags()["scalars"] if "stoi" in tag]


def test_four_utterances_are_overfitted(fit_codec, speech):
    rows = (speech / "train.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    (speech / "few.jsonl").write_text("\n".join(rows), encoding="utf-8")
    few = speech / "few.jsonl"
    fit_codec(
        data__init_args__train=few,
        data__init_args__val=few,
        data__init_args__augmentation__silence=0,
        trainer__max_steps=180,
        trainer__val_check_interval=180,
        model__init_args__lr=8e-3,
    )
    errors = scalars(RUN, "val/reconstruction_error")
    assert errors[179] < 0.05


def test_the_error_is_relative_to_the_variance_of_the_training_spectrograms():
    torch.manual_seed(0)
    stage = CodecTraining(Codec(num_mels=4, dim=8, codebook_size=4, codebook_dim=8))
    mels = torch.randn(6, 64, 4) * 3 + 1
    lengths = torch.tensor([64, 64, 50, 40, 10, 1])
    stats = stage.loss(batch_of(mels, lengths)).stats
    valid = torch.cat([row[:length] for row, length in zip(mels, lengths, strict=True)])
    assert stage.mel_variance == pytest.approx(valid.var(0, correction=0).mean().item(), rel=1e-5)
    stage.eval()
    rebuilt = stage.codec(mels, lengths).mels
    error = torch.cat([(a - b)[:n] for a, b, n in zip(rebuilt, mels, lengths, strict=True)]).square().mean()
    assert stage.loss(batch_of(mels, lengths)).stats["reconstruction_error"] == pytest.approx(
        (error / valid.var(0, correction=0).mean()).item(), rel=1e-4
    )
    assert stats["padding"] == pytest.approx(1 - 229 / 384)


def test_a_checkpoint_with_statistics_of_float64_is_loaded():
    stage = CodecTraining(Codec(num_mels=4, dim=8, codebook_size=4, codebook_dim=8))
    stage.loss(batch_of(torch.randn(2, 8, 4), torch.tensor([8, 5])))
    names = ("mel_frames", "mel_sums", "mel_squares")
    old = {name: value.double() if name in names else value for name, value in stage.state_dict().items()}
    fresh = CodecTraining(Codec(num_mels=4, dim=8, codebook_size=4, codebook_dim=8))
    fresh.load_state_dict(old)
    assert fresh.mel_variance == stage.mel_variance
    assert fresh.mel_frames == 13


def batch_of(mels: torch.Tensor, lengths: torch.Tensor) -> SpeechBatch:
    none = torch.zeros(len(mels), 0, dtype=torch.long)
    return SpeechBatch(mels, lengths, none, torch.zeros(len(mels), dtype=torch.long), torch.arange(len(mels)), 1.0)


def test_padding_changes_no_loss():
    torch.manual_seed(0)
    stage = CodecTraining(Codec(num_mels=4, dim=8, codebook_size=4)).eval()
    mels, lengths = torch.randn(3, 40, 4), torch.tensor([40, 33, 5])
    loss = stage.loss(batch_of(mels, lengths))
    wider = torch.nn.functional.pad(mels, (0, 0, 0, 24), value=7.0)
    for row, length in enumerate(lengths):
        wider[row, length:] = 7.0
    assert stage.loss(batch_of(wider, lengths)).total.item() == pytest.approx(loss.total.item(), rel=1e-5)
    assert loss.num_items == 78
    alone = sum(
        stage.loss(batch_of(mels[i : i + 1, :n], lengths[i : i + 1])).total.item() for i, n in enumerate(lengths)
    )
    assert loss.total.item() == pytest.approx(alone, rel=1e-5)


def test_stopping_and_resuming_changes_nothing(fit_codec):
    options = {"trainer__max_steps": 20, "trainer__val_check_interval": 5}
    fit_codec(**options)
    whole, curve = weights(RUN / "last.ckpt"), scalars(RUN, "train/loss")
    with pytest.raises(SystemExit):
        fit_codec("fit", callback("toy_runs.SignalAt", step=10, signum=15), **options)
    assert 10 <= Checkpoint(RUN / "last.ckpt").lineage["step"] <= 11
    fit_codec("fit", "--ckpt_path=last", **options)
    assert {"codec.quantizer.codebooks", "mel_sums"} <= whole.keys()
    assert same(whole, weights(RUN / "last.ckpt"))
    assert scalars(RUN, "train/loss").items() <= curve.items()


def test_the_recognizer_is_used_and_never_trained(fit_codec, recogniser):
    cli = fit_codec("fit", "--init_from.audio_encoder=recogniser.ckpt", **recogniser)
    for name in ("wer_original", "wer_rebuilt"):
        assert len(scalars(RUN, f"val/{name}")) == 2
    before, after = weights(Path("recogniser.ckpt")), weights(RUN / "last.ckpt")
    heard = {name: weight for name, weight in after.items() if name.startswith("audio_encoder.")}
    assert same(heard, {name: before[name] for name in heard})
    assert not cli.model.audio_encoder.training
    assert not any(parameter.requires_grad for parameter in cli.model.audio_encoder.parameters())
    assert Checkpoint(RUN / "last.ckpt").lineage["ancestors"]["audio_encoder"]["stage"] == "SpeechRecognition"
    Path("recogniser.ckpt").unlink()  # resuming does not need it
    cli = fit_codec("fit", "--ckpt_path=last", trainer__max_steps=8, trainer__val_check_interval=1, **recogniser)
    assert cli.trainer.global_step == 8


def test_the_decoder_alone_is_trained_and_the_codes_stay(fit_codec, fails, speech):
    fit_codec()
    RUN.joinpath("last.ckpt").rename("codec.ckpt")
    before = Checkpoint("codec.ckpt").part("codec", Codec)
    fit_codec(init_from__codec="codec.ckpt", model__init_args__decoder_only=True)
    after = Checkpoint(RUN / "last.ckpt").part("codec", Codec)
    mels = torch.randn(2, 40, before.num_mels, generator=torch.Generator().manual_seed(0))
    assert after.fingerprint == before.fingerprint
    assert torch.equal(codes := before.encode(mels), after.encode(mels))
    assert not torch.equal(before.decode(codes), after.decode(codes))
    assert "give its checkpoint as init_from.codec" in fails(fit_codec, model__init_args__decoder_only=True)


def test_predictions_are_the_codes_of_each_row(fit_codec, speech):
    fit_codec()
    options = {"data__init_args__test": speech / "val.jsonl"}
    cli = fit_codec("predict", "--ckpt_path", str(RUN / "last.ckpt"), **options)
    predictions = [codes for batch in cli.trainer.predict_loop.predictions for codes in batch]
    assert len(predictions) == 8
    assert all(codes.shape[1] == 2 and codes.dtype == torch.long for codes in predictions)
    fit_codec("test", "--ckpt_path", str(RUN / "last.ckpt"), **options)


def test_a_step_never_waits_for_the_device(fit_codec):
    """On the meta device tensors have no values: anything that makes the host wait for a value raises."""
    stage = fit_codec().model
    batch = next(iter(stage.trainer.datamodule.train_dataloader()))
    optimizer = stage.trainer.optimizers[0]
    stage.to("meta").train()
    stage.trainer.log_every_n_steps = 50  # Lightning does not log at this step
    stage.log = stage.log_dict = lambda *args, **kwargs: None
    tensors = [value.to("meta") if isinstance(value, torch.Tensor) else value for value in batch]
    stage.training_step(SpeechBatch(*tensors), 0).backward()
    stage.on_before_optimizer_step(optimizer)
    assert all(parameter.grad is not None for parameter in stage.parameters())


def test_accumulation_equals_the_large_batch_except_for_codebooks():
    torch.manual_seed(0)
    stage = CodecTraining(Codec(num_mels=4, dim=8, codebook_size=4, quantizer_dropout=0.0)).eval()
    mels, lengths = torch.randn(4, 32, 4), torch.tensor([32, 20, 8, 30])
    big = stage.loss(batch_of(mels, lengths))
    small = [stage.loss(batch_of(mels[rows], lengths[rows])) for rows in (slice(0, 1), slice(1, 4))]
    assert sum(loss.total for loss in small).item() == pytest.approx(big.total.item(), rel=1e-5)
    assert sum(loss.num_items for loss in small) == big.num_items


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data__init_args__num_mels": 20}, "make them equal"),
        ({"data__init_args__crop": 0.05}, "data.crop is 0.05 s"),
        ({"data__init_args__crop": 100}, "data.crop is 100.0 s"),
        ({"model__init_args__codec__init_args__downsampling": 3}, "downsampling"),
        ({"model__init_args__codec__init_args__codebook_size": 1}, "at least 1 of at least 2"),
        ({"model__init_args__codec__init_args__decay": 1.5}, "decay is 1.5"),
        ({"model__init_args__frozen": '["codec"]'}, "leaves nothing to train"),
    ],
)
def test_what_does_not_fit_is_refused(fit_codec, fails, overrides, words):
    assert words in fails(fit_codec, **overrides)


def test_invalid_arguments_are_refused(fit_codec, fit_audio, fails, recogniser):
    assert "init_from.audio_encoder" in fails(fit_codec, **recogniser)
    start = ("fit", "--init_from.audio_encoder=recogniser.ckpt")
    assert "units" in fails(fit_codec, *start, data__init_args__characters=" abcd", **recogniser)
    assert "has no part 'audio_encoder'" in fails(fit_codec, *start)
    assert "crop" in fails(fit_audio, data__init_args__crop=0.5)
