"""Stage B by the command: learning, metrics, resuming, and errors."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from two_ranks import rows_of

from omni.batch import SpeechBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.models.audio_encoder import AudioEncoder
from omni.stages.audio import SpeechRecognition

RUN = Path("lightning_logs/audio")


def scalars(tag: str) -> list[float]:
    events = EventAccumulator(str(RUN), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(path).weights


def test_a_run_logs_its_metrics_and_keeps_the_lowest_wer(fit_audio):
    fit_audio()
    assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    assert len(scalars("val/loss")) == len(scalars("val/cer")) == len(scalars("val/wer")) == 2
    assert all(0 <= share <= 1 for share in scalars("train/blank_share") + scalars("train/padding"))
    assert all(entropy > 0 for entropy in scalars("train/entropy"))
    assert set(scalars("train/infeasible_rows")) == {0.0}
    assert min(scalars("train/audio_seconds_per_second")) > 0
    assert 0 < scalars("train/mfu")[-1] < 1
    checkpoint = Checkpoint(RUN / "best.ckpt").content
    assert checkpoint["tokenizer"]["kind"] == "characters"
    assert "val/wer" in str(checkpoint["callbacks"])


def test_validation_shows_transcripts_and_spectrograms(fit_audio):
    fit_audio(model__init_args__shown=2)
    events = EventAccumulator(str(RUN))
    events.Reload()
    text = events.Tensors("val/transcripts/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.startswith("| reference | transcript |")
    assert len(text.splitlines()) == 4
    images = events.Images("val/spectrogram/1")
    assert images[-1].width > images[-1].height > 100


def test_four_utterances_are_overfitted(fit_audio, speech):
    rows = (speech / "train.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    (speech / "few.jsonl").write_text("\n".join(rows), encoding="utf-8")
    few = speech / "few.jsonl"
    fit_audio(
        data__init_args__train=few,
        data__init_args__val=few,
        data__init_args__augmentation__silence=0,
        trainer__max_steps=150,
        trainer__val_check_interval=150,
        model__init_args__lr=3e-3,
        model__init_args__schedule="constant",
    )
    assert scalars("val/wer")[-1] == 0
    assert scalars("val/loss")[-1] < 0.1


def test_the_table_of_test_and_validate_shows_the_logged_values(fit_audio, speech, capfd):
    fit_audio(data__init_args__test=speech / "val.jsonl")
    capfd.readouterr()
    fit_audio("test", "--ckpt_path", str(RUN / "last.ckpt"), data__init_args__test=speech / "val.jsonl")
    printed = capfd.readouterr().out
    assert "test/wer" in printed
    assert f"{scalars('val/cer')[-1]:.4f}"[:5] in printed


def test_predictions_are_transcripts_of_each_row(fit_audio, speech):
    fit_audio(data__init_args__test=speech / "val.jsonl")
    cli = fit_audio("predict", "--ckpt_path", str(RUN / "last.ckpt"), data__init_args__test=speech / "val.jsonl")
    rows = (speech / "val.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = cli.trainer.predict_loop.predictions
    assert sum(len(batch) for batch in predictions) == len(rows)
    assert all(isinstance(text, str) for batch in predictions for text in batch)


def test_stopping_and_resuming_changes_nothing(fit_audio):
    fit_audio(trainer__max_steps=6)
    whole = weights(RUN / "last.ckpt")
    fit_audio("fit", trainer__max_steps=6, trainer__limit_train_batches=1.0)  # the same again, from the start
    again = weights(RUN / "last.ckpt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_frozen_encoder_leaves_nothing_to_train(fit_audio, fails):
    line = fails(fit_audio, model__init_args__frozen='["audio_encoder"]')
    assert "leaves nothing to train" in line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model__init_args__audio_encoder__init_args__vocab_size": 40}, "vocab_size to"),
        ({"data__init_args__num_mels": 20}, "num_mels"),
    ],
)
def test_what_does_not_fit_is_refused(fit_audio, fails, overrides, words):
    assert words in fails(fit_audio, **overrides)


def test_an_earlier_encoder_initialises_a_run(fit_audio, fit, fails):
    fit_audio()
    first = weights(RUN / "last.ckpt")
    path = RUN.parent / "first.ckpt"
    (RUN / "last.ckpt").rename(path)
    fit_audio("fit", f"--init_from={json.dumps({'audio_encoder': str(path)})}", model__init_args__lr=1e-12)
    second = weights(RUN / "last.ckpt")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    lineage = Checkpoint(RUN / "last.ckpt").lineage
    assert lineage["ancestors"]["audio_encoder"]["stage"] == "SpeechRecognition"
    assert "cannot continue" in fails(fit, "fit", "--ckpt_path", str(path))


def stage_and_batch() -> tuple[SpeechRecognition, SpeechBatch]:
    torch.manual_seed(0)
    encoder = AudioEncoder(
        num_mels=16, dim=32, num_layers=1, num_heads=2, ffn_dim=48, conv_channels=4, vocab_size=5, subframes=2
    )
    batch = SpeechBatch(
        mels=torch.randn(3, 48, 16),
        mel_lengths=torch.tensor([48, 40, 8]),
        targets=torch.tensor([[1, 2, 3], [4, 4, 0], [1, 1, 1]]),
        target_lengths=torch.tensor([3, 2, 3]),
        rows=torch.arange(3),
        seconds=0.96,
    )
    return SpeechRecognition(encoder), batch


def test_infeasible_rows_are_excluded_from_the_loss_and_its_count():
    stage, batch = stage_and_batch()
    loss = stage.loss(batch)  # the last row has two sub-frames for three equal units
    assert loss.stats["infeasible_rows"] == 1
    assert loss.num_items == 5
    without = SpeechBatch(*(part[:2] for part in batch[:5]), seconds=0.88)
    assert loss.total.item() == pytest.approx(stage.loss(without).total.item(), rel=1e-5)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.parameters() if p.grad is not None)


def test_statistics_exclude_padding():
    stage, batch = stage_and_batch()
    stats = stage.loss(batch).stats
    assert stats["padding"] == pytest.approx(1 - 96 / 144)
    wider = batch._replace(mels=torch.nn.functional.pad(batch.mels, (0, 0, 0, 48)))
    for name in ("blank_share", "entropy"):
        assert stage.loss(wider).stats[name] == pytest.approx(stats[name].item(), abs=1e-5)


def test_the_intermediate_ctc_loss_has_its_weight():
    _, batch = stage_and_batch()
    torch.manual_seed(0)
    encoder = AudioEncoder(
        num_mels=16, dim=32, num_layers=2, num_heads=2, ffn_dim=48, conv_channels=4, intermediate_ctc_block=1
    )
    stage = SpeechRecognition(encoder, intermediate_ctc_weight=0.25)
    loss = stage.loss(batch)
    first, last = loss.terms["intermediate_ctc"], loss.terms["ctc"]
    assert first != last
    assert loss.mean.item() == pytest.approx((0.25 * first + 0.75 * last).item(), rel=1e-5)
    assert last.item() == pytest.approx(
        SpeechRecognition(encoder, intermediate_ctc_weight=0.0).loss(batch).mean.item(), rel=1e-5
    )
    with pytest.raises(ValueError, match="intermediate_ctc_weight is 1"):
        SpeechRecognition(encoder, intermediate_ctc_weight=1)


CONSISTENT = {
    "model__init_args__consistency": 0.5,
    "data__init_args__augmentation__time_masks": 3,
    "data__init_args__augmentation__freq_masks": 1,
}


def test_consistency_is_added_to_the_mean_of_both_views():
    stage, batch = stage_and_batch()
    other = torch.randn(batch.mels.shape, generator=torch.Generator().manual_seed(1))
    pair = batch._replace(other_mels=other)
    loss = stage.loss(pair)
    first, second = stage.loss(batch), stage.loss(batch._replace(mels=other))
    assert loss.num_items == 2 * first.num_items
    assert loss.total.item() == pytest.approx((first.total + second.total).item(), rel=1e-5)
    assert loss.terms["ctc"].item() == pytest.approx(loss.mean.item(), rel=1e-5)
    consistent = SpeechRecognition(stage.audio_encoder, consistency=0.5).loss(pair)
    assert loss.terms["consistency"] > 0
    expected = loss.mean + 0.5 * loss.terms["consistency"]
    assert consistent.mean.item() == pytest.approx(expected.item(), rel=1e-5)
    same = SpeechRecognition(stage.audio_encoder, consistency=0.5).loss(batch._replace(other_mels=batch.mels))
    assert same.terms["consistency"].item() == pytest.approx(0, abs=1e-6)
    assert same.mean.item() == pytest.approx(first.mean.item(), rel=1e-5)
    with pytest.raises(ValueError, match="consistency is -1"):
        SpeechRecognition(stage.audio_encoder, consistency=-1)


def test_micro_batches_of_two_views_add_up_to_the_batch():
    stage, batch = stage_and_batch()
    stage.consistency = 0.5
    batch = batch._replace(other_mels=batch.mels.roll(1, 2))
    parts = [rows_of(batch, rows) for rows in ([0], [1, 2])]
    whole, losses = stage.loss(batch), [stage.loss(part) for part in parts]
    assert whole.num_items == sum(loss.num_items for loss in losses)
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss in losses), rel=1e-5)


@pytest.mark.parametrize("streaming", [False, True])
def test_two_views_are_trained_and_one_is_validated(fit_audio, streaming):
    stage = fit_audio(**CONSISTENT, data__init_args__streaming=streaming).model
    assert all(value > 0 for value in scalars("train/loss/consistency"))
    data = stage.trainer.datamodule
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert val.other_mels is None
    assert train.other_mels.shape == train.mels.shape
    assert not torch.equal(train.other_mels, train.mels)
    masked = (train.mels == 0) | (train.other_mels == 0)
    assert torch.equal(train.mels[~masked], train.other_mels[~masked])
    assert 2 * train.mels.shape[0] * train.mels.shape[1] <= 100 * data.batch_seconds + 2 * 100


def test_a_run_with_two_views_is_resumed_exactly(fit_audio):
    still = {**CONSISTENT, "model__init_args__schedule": "constant", "trainer__val_check_interval": 6}
    still["model__init_args__audio_encoder__init_args__dropout"] = 0.1
    whole = fit_audio(**still, trainer__max_steps=6).model.state_dict()
    fit_audio(**still, trainer__max_steps=2)
    resumed = fit_audio("fit", "--ckpt_path", str(RUN / "last.ckpt"), **still, trainer__max_steps=6).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"data__init_args__augmentation__time_masks": 0, "data__init_args__augmentation__freq_masks": 0},
            "time_masks",
        ),
        ({"data__init_args__batch_seconds": 30, "data__init_args__max_duration": 20}, "twice with model.consistency"),
    ],
)
def test_two_views_need_masks_and_room(fit_audio, fails, overrides, words):
    assert words in fails(fit_audio, **{**CONSISTENT, **overrides})


def test_word_pieces_are_learned_and_decoded_with_a_language_model(fit_audio, fails):
    pieces = {"data__init_args__units": "pieces", "data__init_args__vocab_size": 34}
    assert "vocab_size to 34" in fails(fit_audio, **pieces)
    fit_audio(**pieces, model__init_args__audio_encoder__init_args__vocab_size=34)
    units = Checkpoint(RUN / "last.ckpt").ctc_vocabulary
    assert units.vocab_size == 34
    assert len(units.encode("abc aa")) < len("abc aa")
    assert units.decode(units.encode("it's abc")) == "it's abc"  # letters of no transcript
    Path("words.txt").write_text("ab ca\n")
    main(["data", "ngram", "words.txt", "--out", "lm.arpa"])
    wer = ["eval", "wer", "--reference", "speech/val.jsonl", "--hypothesis", str(RUN / "last.ckpt"), "--greedy"]
    main([*wer, "--lm", "lm.arpa", "--lm_weight", "0.5", "--json_file", "report.json"])
    report = json.loads(Path("report.json").read_text())
    assert report["hypothesis"].endswith("last.ckpt with lm lm.arpa, lm_weight 0.5")
    (greedy,) = report["others"]
    assert greedy["hypothesis"].endswith("last.ckpt, greedy")
    assert greedy["interval"][0] <= greedy["wer"] <= greedy["interval"][1]
