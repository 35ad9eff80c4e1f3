"""Stage D2 by the command: learning, its speech transcribed, resuming, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_speech import ToneCodec, ToneEncoder, save

import omni
from omni.batch import IGNORE, CodesBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.models.audio_encoder import AudioEncoder
from omni.models.part import Part
from omni.models.talker import Talker
from omni.stages.talker import TalkerTraining
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.training.memory_plan import fake_tensors, measure

RUN = Path("lightning_logs/talker")


def scalars(tag: str) -> list[float]:
    events = EventAccumulator(str(RUN), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(path).weights


def test_a_run_logs_its_metrics(fit_talker):
    fit_talker(model__init_args__shown=1)
    assert sorted(path.name for path in RUN.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    for name in ("loss", "perplexity", "loss/advance", "loss/codebook_1", "round_trip_wer"):
        assert len(scalars(f"val/{name}")) == 2
    assert scalars("val/recording_wer") == scalars("val/codec_wer") == [0, 0]
    assert min(scalars("val/round_trip_wer")) > 0.5  # hardly trained
    parts = [scalars(f"train/loss/{name}") for name in ("codebook_0", "codebook_1", "advance")]
    assert [sum(step) for step in zip(*parts, strict=True)] == pytest.approx(scalars("train/loss"), rel=1e-5)
    assert scalars("train/loss/codebook_0")[0] == pytest.approx(torch.tensor(17.0).log().item(), rel=0.1)
    assert min(scalars("train/audio_seconds_per_second")) > 0
    assert 0 < scalars("train/mfu")[-1] < 1
    events = EventAccumulator(str(RUN))
    events.Reload()
    text = events.Tensors("val/spoken/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.startswith("| reference | transcript |")
    assert events.Images("val/spoken/0")
    audio = events.Audio("val/spoken/0")[-1]
    assert audio.sample_rate == 16_000
    assert audio.length_frames >= 640


def test_it_learns_to_speak_unseen_words(fit_talker):
    fit_talker(
        trainer__max_steps=180,
        trainer__val_check_interval=180,
        model__init_args__lr=8e-3,
        model__init_args__weight_decay=0,
        model__init_args__warmup_steps=10,
        model__init_args__sentences=8,
        model__init_args__schedule="linear",
    )
    assert scalars("val/perplexity")[-1] < 1.5
    assert scalars("val/round_trip_wer")[-1] <= 0.25
    assert scalars("val/recording_wer")[-1] == 0
    texts = ["Abc, b!", "Cab.", "Ba. Ac.", "Bcb?"]
    certain = Sampling(temperature=0)
    sampling = SpeechSampling(first=certain, rest=certain, pace=certain)
    spoken = omni.speak(texts, RUN / "last.ckpt", speaker="y", sampling=sampling)
    heard = omni.transcribe([speech.audio for speech in spoken], RUN / "last.ckpt")
    said = ["".join(filter(str.isalpha, text.lower())) for text in texts]
    assert sum(one.text == other for one, other in zip(heard, said, strict=True)) >= 3


def test_a_checkpoint_holds_all_that_speaking_needs(fit_talker, workplace):
    fit_talker()
    opened = Checkpoint(RUN / "last.ckpt")
    checkpoint = opened.content
    assert set(checkpoint["parts"]) == {"talker", "codec", "audio_encoder"}
    assert checkpoint["speakers"] == ["x", "y"]
    assert checkpoint["lineage"]["ancestors"]["codec"]["stage"] == "codec training"
    assert checkpoint["lineage"]["ancestors"]["audio_encoder"]["stage"] == "audio_encoder training"
    for name, kind in {"talker": Talker, "codec": Part, "audio_encoder": AudioEncoder}.items():
        assert not opened.part(name, kind).training
    assert isinstance(opened.ctc_vocabulary, CharacterVocabulary)
    for path in ("codec.ckpt", "recognizer.ckpt"):
        (workplace / path).unlink()
    last = str(RUN / "last.ckpt")
    ancestors = {"data__init_args__codec": last, "data__init_args__recognizer": last}
    fit_talker("fit", "--ckpt_path", last, trainer__max_steps=8, **ancestors)
    lineage = Checkpoint(RUN / "last.ckpt").lineage
    assert lineage["step"] == 8
    assert lineage["ancestors"]["codec"]["stage"] == "codec training"


def test_codec_and_recognizer_are_not_trained(fit_talker):
    cli = fit_talker()
    assert not any(p.requires_grad for p in cli.model.audio_encoder.parameters())
    assert not cli.model.audio_encoder.training
    assert weights(RUN / "last.ckpt")["codec.level"] == 3
    state = Checkpoint(RUN / "last.ckpt").content["optimizer_states"][0]["state"]
    assert len(state) == len(list(cli.model.talker.parameters()))


class Spy(Callback):
    """Records the batches of training."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((batch.rows.tolist(), int(batch.codes.sum())))


def test_a_stopped_run_resumes_exactly(fit_talker, monkeypatch):
    def spied(*extra: str, **overrides: Any) -> list[tuple[list[int], int]]:
        spy = Spy()
        monkeypatch.setattr("omni.training.callbacks.Throughput.on_train_batch_start", spy.on_train_batch_start)
        fit_talker("fit", *extra, trainer__val_check_interval=4, model__init_args__schedule="constant", **overrides)
        return spy.seen

    monkeypatch.setattr("omni.training.callbacks.Throughput.on_train_batch_end", lambda *args: None)
    whole = spied(trainer__max_steps=8)
    expected = weights(RUN / "last.ckpt")
    first = spied(trainer__max_steps=4)
    rest = spied("--ckpt_path", str(RUN / "last.ckpt"), trainer__max_steps=8)
    assert first + rest == whole
    assert len(whole) == 8
    resumed = weights(RUN / "last.ckpt")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)  # the noise was the same, too


def test_another_codec_is_refused(fit_talker, fails, workplace):
    fit_talker()
    (RUN / "last.ckpt").rename("first.ckpt")
    save(workplace / "codec.ckpt", "codec", ToneCodec(2.5), CharacterVocabulary(" abc"))
    assert "trained on the codes of another codec" in fails(fit_talker, "fit", "--ckpt_path", "first.ckpt")
    assert "trained on the codes of another codec" in fails(fit_talker, "validate", "--ckpt_path", "first.ckpt")
    line = fails(fit_talker, "fit", f"--init_from={json.dumps({'talker': 'first.ckpt'})}")
    assert "init_from.talker was trained on the codes of another codec" in line
    fit_talker("fit", f"--init_from={json.dumps({'talker': 'first.ckpt'})}", data__init_args__codec="first.ckpt")
    assert set(Checkpoint(RUN / "last.ckpt").lineage["ancestors"]) == {"talker", "codec", "audio_encoder"}


def test_a_codec_that_was_trained_further_is_taken(fit_talker, workplace):
    fit_talker()
    (RUN / "last.ckpt").rename("first.ckpt")
    before = Checkpoint("codec.ckpt").lineage
    save(workplace / "codec.ckpt", "codec", ToneCodec(2.5), CharacterVocabulary(" abc"))
    later = torch.load("codec.ckpt")
    later["lineage"]["ancestors"] = {"codec": before}
    torch.save(later, "codec.ckpt")
    fit_talker("fit", f"--init_from={json.dumps({'talker': 'first.ckpt'})}")
    assert weights(RUN / "last.ckpt")["codec.level"] == 2.5


def test_another_recognizer_may_score(fit_talker, workplace):
    fit_talker()
    save(workplace / "recognizer.ckpt", "audio_encoder", ToneEncoder(), CharacterVocabulary(" abc"))
    cli = fit_talker("validate", "--ckpt_path", str(RUN / "last.ckpt"))
    own = Checkpoint("recognizer.ckpt").part("audio_encoder", AudioEncoder).state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in cli.model.audio_encoder.state_dict().items())


def test_other_voices_are_refused(fit_talker, fails):
    fit_talker()
    line = fails(fit_talker, "fit", "--ckpt_path", str(RUN / "last.ckpt"), data__init_args__speakers='["y"]')
    assert "speakers are not those of this checkpoint" in line


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"vocab_size": 29}, "vocab_size is 29, which does not fit the recogniser's characters"),
        ({"num_codebooks": 3}, "talker.init_args.num_codebooks to 2"),
        ({"codebook_size": 16}, "talker.init_args.codebook_size to 17"),
        ({"frame_rate": 12.5}, "talker.init_args.frame_rate to 25"),
        ({"num_speakers": 1}, "talker.init_args.num_speakers to 2"),
        ({"code_noise": 1.5}, "code_noise must be 0 or more"),
    ],
)
def test_a_talker_that_does_not_fit_is_refused(fit_talker, fails, overrides, complaint):
    named = {f"model__init_args__talker__init_args__{name}": value for name, value in overrides.items()}
    assert complaint in fails(fit_talker, **named)


def test_invalid_arguments_are_refused(fit_talker, fails):
    assert "1 codebook_weights, for 2 codebooks" in fails(fit_talker, model__init_args__codebook_weights="[1.0]")
    assert "leaves nothing to train" in fails(fit_talker, model__init_args__frozen='["talker"]')


def test_several_voices_for_a_talker_of_one_give_a_warning(fit_talker):
    with pytest.warns(UserWarning, match="2 speakers and the Talker a single voice"):
        fit_talker(model__init_args__talker__init_args__num_speakers=0)
    assert Checkpoint(RUN / "last.ckpt").content["speakers"] == []


def test_the_table_of_test_is_logged(fit_talker, capfd):
    fit_talker(data__init_args__test="words.jsonl")
    fit_talker("test", "--ckpt_path", str(RUN / "last.ckpt"), data__init_args__test="words.jsonl")
    printed = capfd.readouterr().out
    assert "test/perplexity" in printed
    assert "test/round_trip_wer" in printed


TOY = {"vocab_size": 5, "num_codebooks": 3, "codebook_size": 9, "dim": 32, "num_layers": 1, "num_heads": 2}
TOY |= {"ffn_dim": 48, "text_layers": 1, "text_ffn_dim": 32, "code_noise": 0.0}


def batch() -> CodesBatch:
    torch.manual_seed(0)
    codes = torch.randint(9, (2, 6, 3))
    codes[1, 4:] = IGNORE
    return CodesBatch(
        text=torch.tensor([[1, 2, 3], [4, 0, 0]]),
        text_lengths=torch.tensor([3, 1]),
        codes=codes,
        advances=torch.tensor([[0, 1, 1, 1, 1, 1], [1, 0, 1, 1, IGNORE, IGNORE]]),
        speakers=torch.zeros(2, dtype=torch.long),
        rows=torch.arange(2),
        seconds=0.4,
    )


def test_the_loss_is_a_weighted_sum_over_frames_without_padding():
    torch.manual_seed(0)
    stage = TalkerTraining(Talker(**TOY), codebook_weights=[2.0, 1.0, 0.5], advance_weight=3.0)
    whole, loss = batch(), stage.loss(batch())
    assert loss.num_items == 10
    terms = [loss.terms[name] for name in ("codebook_0", "codebook_1", "codebook_2", "advance")]
    expected = 2 * terms[0] + terms[1] + 0.5 * terms[2] + 3 * terms[3]
    assert loss.mean.item() == pytest.approx(expected.item(), rel=1e-5)
    rows = [CodesBatch(*(part[i : i + 1] for part in whole[:6]), seconds=0.2) for i in (0, 1)]
    apart = sum(stage.loss(row).total for row in rows)
    assert loss.total.item() == pytest.approx(apart.item(), rel=1e-5)


def test_plan_counts_it():
    data = {"max_duration": 2.0, "silence": 0.25, "max_batch_rows": 4, "batch_seconds": 10.0}
    with fake_tensors():
        plan = measure(TalkerTraining(Talker(**TOY, num_speakers=2)), data)
    assert plan.batch["codes"] == (4, 63, 3)
    assert plan.total_parameters == Talker(**TOY, num_speakers=2).num_parameters
    assert plan.activations > 0


def test_codec_and_recognizer_come_from_the_data_and_are_not_in_the_configuration(fit_talker, fails, workplace):
    cli = fit_talker()
    assert cli.model.codec is cli.datamodule.encoder.codec
    assert cli.model.audio_encoder is cli.datamodule.encoder.audio_encoder
    saved = (RUN / "config.yaml").read_text(encoding="utf-8")
    assert "speech_codec" not in saved
    assert "recognizer: recognizer.ckpt" in saved
    (workplace / "codec.ckpt").unlink()
    assert "codec.ckpt does not exist" in fails(fit_talker)


def test_data_without_a_codec_is_refused():
    with pytest.raises(UserError, match=r"give data\.init_args\.codec and recognizer"):
        TalkerTraining(Talker(**TOY)).setup("fit")
