"""A Talker that is conditioned on a Thinker's hidden states, one for each character: training, checkpoints, errors."""

import json
from pathlib import Path

import pytest
import torch
from toy_speech import save
from toy_talker import TOY, batch_of

import omni
from omni.batch import CodesBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.inference.synthesizer import load_synthesizer
from omni.inference.talker_conditioning import Conditioner
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.stages.talker import TalkerTraining
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.tokenizer import ByteTokenizer
from omni.training.memory_plan import fake_tensors, measure

UNITS = CharacterVocabulary(" abcdé")
RUN = Path("lightning_logs/talker")
THINKER = {"vocab_size": 320, "dim": 24, "num_layers": 2, "num_heads": 2, "ffn_dim": 32}
CONDITIONED = {
    "model__init_args__thinker": json.dumps({"class_path": "omni.models.thinker.Thinker", "init_args": THINKER}),
    "model__init_args__talker__init_args__thinker_dim": THINKER["dim"],
}
BEGUN = f"--init_from={json.dumps({'thinker': 'thinker.ckpt'})}"


def thinker_of(seed: int = 0) -> Thinker:
    torch.manual_seed(seed)
    return Thinker(**THINKER).eval()


def pieces():
    return train_sentencepiece(["abc dab abc abc dab cab é"] * 20, vocab_size=308)


@pytest.fixture
def thinker(workplace: Path) -> str:
    return save(workplace / "thinker.ckpt", "thinker", thinker_of(), ByteTokenizer())


def weights() -> dict[str, torch.Tensor]:
    return Checkpoint(RUN / "last.ckpt").weights


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), pieces()], ids=["bytes", "pieces"])
def test_each_character_gets_the_state_of_the_token_that_it_ends_in(tokenizer):
    thinker, texts = thinker_of(), ["abc dab", "é", "dab é cab"]
    hidden = Conditioner(thinker, tokenizer, UNITS)([UNITS.encode(text) for text in texts])
    assert hidden.shape == (3, 9, THINKER["dim"])
    assert not hidden.requires_grad
    shared = 0
    for row, text in zip(hidden, texts, strict=True):
        ids = tokenizer.encode(tokenizer.lead + text)
        states = thinker.encode(torch.tensor([[tokenizer.bos, *ids]])).hidden[0, 1:]
        read = b"".join(tokenizer._pieces[token] for token in ids)
        owners = [token for token, i in enumerate(ids) for _ in tokenizer._pieces[i]]  # for each byte
        assert read.decode() == tokenizer.lead + text
        place = len(tokenizer.lead.encode())
        for number, character in enumerate(text):
            place += len(character.encode())
            torch.testing.assert_close(row[number], states[owners[place - 1]], rtol=1e-4, atol=1e-5)
        shared += len(text) - len(row[: len(text)].unique(dim=0))
        assert not row[len(text) :].any()
    assert (shared > 0) == (tokenizer.lead == " ")  # a piece holds several characters, a byte none


# ---------------------------------------------------------------- training


def test_training_with_a_frozen_thinker_and_speaking_without_ancestors(fit_talker, thinker, workplace):
    fit_talker("fit", BEGUN, **CONDITIONED)
    held, before = Checkpoint(RUN / "last.ckpt").content, thinker_of().state_dict()
    assert set(held["parts"]) == {"talker", "thinker", "codec", "audio_encoder"}
    assert held["lineage"]["ancestors"]["thinker"]["stage"] == "thinker training"
    after = {name.removeprefix("thinker."): weight for name, weight in weights().items() if "thinker." in name}
    assert all(torch.equal(before[name], weight) for name, weight in after.items())
    assert after.keys() == before.keys()
    Path(thinker).unlink()
    voice = load_synthesizer(RUN / "last.ckpt", device="cpu")
    assert isinstance(voice.conditioner, Conditioner)
    texts = ["abc", "cab abc", "bcb", "bbbb", "acb cab abc"]
    whole, *others = voice.speak(texts)
    voice.conditioner = None  # in training, half of all rows have no condition
    without = voice.speak(texts)
    assert [one.codes.tolist() for one in (whole, *others)] != [one.codes.tolist() for one in without]
    (again,) = omni.speak(texts[:1], RUN / "last.ckpt")
    assert torch.equal(again.codes, whole.codes)
    streamed = torch.cat([torch.zeros(0), *load_synthesizer(RUN / "last.ckpt").stream(texts[0])])
    assert torch.equal(streamed, whole.audio)


def test_a_run_resumes_with_the_thinker_of_its_checkpoint(fit_talker, thinker):
    fit_talker("fit", BEGUN, **CONDITIONED)
    first = weights()["talker.condition.weight"]
    Path(thinker).unlink()
    fit_talker("fit", "--ckpt_path", str(RUN / "last.ckpt"), trainer__max_steps=8, **CONDITIONED)
    assert Checkpoint(RUN / "last.ckpt").lineage["step"] == 8
    assert not torch.equal(first, weights()["talker.condition.weight"])
    fit_talker("validate", "--ckpt_path", str(RUN / "last.ckpt"), **CONDITIONED)


def test_it_starts_from_a_talker_trained_without_a_thinker(tmp_path):
    torch.manual_seed(0)
    plain = Talker(**TOY)
    path = save(tmp_path / "talker.ckpt", "talker", plain, CharacterVocabulary(" abcd"))
    torch.manual_seed(1)
    stage = TalkerTraining(Talker(**TOY, thinker_dim=THINKER["dim"]), thinker_of())
    stage.init_part("talker", Checkpoint(path))
    assert stage.ancestors["talker"]["stage"] == "talker training"
    hidden = torch.randn(2, 3, THINKER["dim"])
    batch = CodesBatch(
        **batch_of([[1, 2, 3], [4, 5]]), speakers=torch.zeros(2), rows=torch.arange(2), seconds=0.5, hidden=hidden
    )
    stage.eval()
    with torch.no_grad():
        first = stage.loss(batch).total
        torch.testing.assert_close(first, TalkerTraining(plain).eval().loss(batch._replace(hidden=None)).total)
    loss = stage.loss(batch).total
    loss.backward()
    assert stage.talker.condition.weight.grad.abs().sum() > 0
    with torch.no_grad():
        stage.talker.condition.weight.normal_()
        assert stage.loss(batch).total != first


def test_plan_counts_it():
    data = {"max_duration": 2.0, "silence": 0.25, "max_batch_rows": 4, "batch_seconds": 10.0}
    with fake_tensors():
        plan = measure(TalkerTraining(Talker(**TOY, thinker_dim=THINKER["dim"]), Thinker(**THINKER)), data)
    assert plan.batch["hidden"] == (4, 38, THINKER["dim"])


# ---------------------------------------------------------------- refused


def test_what_does_not_fit_is_refused(fit_talker, fails, thinker):
    dim = "model__init_args__talker__init_args__thinker_dim"
    assert "thinker_dim is 24, and there is no model.init_args.thinker" in fails(fit_talker, **{dim: 24})
    assert "thinker_dim is 8, and the Thinker's dim 24" in fails(fit_talker, "fit", BEGUN, **{**CONDITIONED, dim: 8})
    assert "give its checkpoint as init_from.thinker" in fails(fit_talker, **CONDITIONED)
    fit_talker()
    (RUN / "last.ckpt").rename("plain.ckpt")
    line = fails(fit_talker, "fit", BEGUN, "--ckpt_path", "plain.ckpt", **CONDITIONED)
    assert "plain.ckpt" in line
