"""`omni export --to hf`: stock transformers computes what the Thinker computes, and omni starts from it again."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from any_text import ALPHABETS
from toy_assistant import save_omni
from toy_export import WORDS, pieces, save, toy_thinker
from toy_pretrained import llm

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.errors import UserError
from omni.export import hf
from omni.export.hf_tokenizer import fast_tokenizer
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.thinker import Thinker
from omni.text.chat_template import encode_chat
from omni.text.tokenizer import SPECIALS, ByteTokenizer

transformers = pytest.importorskip("transformers")

KINDS: dict[str, dict[str, Any]] = {
    "dense": {"num_kv_heads": 4, "rope_axes": 3},
    "grouped, tied": {"shared_qk_scales": True},
    "untied, wide heads": {"tied": False, "head_dim": 10, "dim": 40},
    "experts": {"num_experts": 4, "experts_per_token": 2},
    "experts, untied": {"num_experts": 3, "experts_per_token": 1, "tied": False, "shared_qk_scales": True},
}


def any_text(seed: int) -> str:
    """A few characters of hard alphabets, without lone surrogates, which no tokenizer encodes."""
    draw = random.Random(seed)
    letters = "".join(ALPHABETS).replace("\ud800", "▁\n\t").replace("\udfff", "  ")
    return "".join(draw.choices(letters, k=draw.randint(1, 40)))


@pytest.fixture(autouse=True)
def no_progress_bars():
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def rows(workplace: Path) -> str:
    (workplace / "rows.txt").write_text("\n".join(WORDS[:6]), encoding="utf-8")
    return "rows.txt"


def export(*args: str) -> None:
    main(["export", *args])


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_computes_the_same_and_omni_reads_it_back(kind: str, rows: str):
    thinker = toy_thinker(**KINDS[kind])
    export(save(Path("a.ckpt"), thinker, pieces()), "--to", "hf", "--out", "out", "--rows", rows)
    model = transformers.AutoModelForCausalLM.from_pretrained("out").eval()
    assert type(model).__name__ == ("Qwen3MoeForCausalLM" if "experts" in kind else "Qwen3ForCausalLM")
    assert model.config.tie_word_embeddings == ("untied" not in kind)
    assert model.config.head_dim == thinker.transformer.head_dim * (1 if KINDS[kind].get("shared_qk_scales") else 2)
    tokens = torch.randint(32, 340, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = thinker(tokens).logits
        torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=0)
        again = Checkpoint("hf:out").part("thinker", Thinker)
        torch.testing.assert_close(again(tokens).logits, expected, atol=1e-4, rtol=0)
    assert again.recipe["init_args"]["head_dim"] == thinker.transformer.head_dim
    assert {name: w.shape for name, w in again.state_dict().items()} == {
        name: w.shape for name, w in thinker.state_dict().items()
    }
    parity = json.loads(Path("out/manifest.json").read_text())["parity"]
    assert parity["max_abs_logit_difference"] < 1e-4
    assert parity["rows"]["count"] >= 4


@pytest.mark.parametrize("make", [pieces, ByteTokenizer])
def test_the_tokenizer_gives_the_same_ids(make: Any, tmp_path: Path):
    tokenizer = make()
    fast_tokenizer(tokenizer, template="chat", context=4096).save_pretrained(tmp_path)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [any_text(number) for number in range(200)] + [" " * n for n in range(60)] + [*WORDS, *SPECIALS, "▁a▁ b"]
    for text in texts:
        ids = own(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(text), repr(text)
        assert own.decode(ids) == text
    assert own("a")["input_ids"] == [1, *tokenizer.encode("a")]
    assert [own.convert_tokens_to_ids(name) for name in SPECIALS] == [*range(len(SPECIALS))]


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("make", [pieces, ByteTokenizer])
def test_the_chat_template_gives_the_same_prompt(make: Any, prompt: bool):
    tokenizer = make()
    own = fast_tokenizer(tokenizer, template="chat", context=4096)
    messages = [
        {"role": "system", "content": "the cat"},
        {"role": "user", "content": [{"type": "text", "text": " two  spaces\n"}]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "the"}, {"type": "text", "text": " cat"}]},
        {"role": "assistant", "content": [{"type": "audio"}, {"type": "text", "text": "sat"}]},
        {"role": "user", "content": "naïve <b>"},
    ]
    expected = encode_chat(tokenizer, messages, add_generation_prompt=prompt).tokens
    found = own.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True, return_dict=False)
    assert found == expected
    for message in ({"role": "user", "content": [{"type": "image"}]}, {"role": "critic", "content": "a"}):
        with pytest.raises(Exception, match=r"of type image|role critic"):
            own.apply_chat_template([message])


def test_stage_e_answers_alike(workplace: Path):
    export(save_omni(Path("e.ckpt"), template="chat"), "--to", "hf", "--out", "out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["parity"]["rows"]["source"].startswith("random tokens")
    assert manifest["parts"]["thinker"]["config"]["model_type"] == "qwen3"
    own = transformers.AutoTokenizer.from_pretrained("out")
    assert own.chat_template
    assert transformers.GenerationConfig.from_pretrained("out").eos_token_id == own.eos_token_id == 7
    assert Checkpoint("hf:out").content["template"] == "chat"


def test_a_run_starts_from_the_folder(fit, trained: str, fails):
    export(trained, "--to", "hf", "--out", "out")
    parity = json.loads(Path("out/manifest.json").read_text())["parity"]
    assert parity["rows"]["source"] == "corpus.txt"  # the end of it, which the run holds out
    fit("fit", "--init_from.thinker", "hf:out", trainer__max_steps=1, data__init_args__tokenizer="hf:out")
    started = Checkpoint("lightning_logs/thinker/last.ckpt")
    assert started.lineage["ancestors"]["thinker"]["stage"] == "ThinkerPretraining"
    pieces().save("other.model")
    line = fails(fit, "fit", "--init_from.thinker", "hf:out", data__init_args__tokenizer="other.model")
    assert "another tokenizer" in line


def test_what_qwen3_cannot_represent_is_refused_by_name(tmp_path: Path):
    thinker = toy_thinker()
    thinker._arguments["logit_softcap"] = 30.0
    with pytest.raises(UserError, match="logit_softcap, which Qwen3"):
        hf.to_qwen3(thinker)
    with pytest.raises(UserError, match="PretrainedThinker, already a model of transformers"):
        hf.to_qwen3(PretrainedThinker(source=llm(tmp_path)))


class TestBadInput:
    @pytest.fixture
    def saved(self, workplace: Path) -> str:
        return save(Path("a.ckpt"), toy_thinker(), pieces())

    def test_a_difference_fails_and_leaves_nothing(self, saved: str, rows: str, fails, monkeypatch):
        right = hf.to_qwen3

        def wrong(thinker: Any) -> Any:
            model = right(thinker)
            model.weights["model.layers.1.self_attn.q_norm.weight"].mul_(1.05)
            return model

        monkeypatch.setattr(hf, "to_qwen3", wrong)
        assert "a logit by" in fails(export, saved, "--to", "hf", "--out", "out", "--rows", rows)
        assert {path.name for path in Path().iterdir()} == {"a.ckpt", "rows.txt", "corpus.txt"}

    def test_another_tokenizer_fails(self, saved: str, rows: str, fails, monkeypatch):
        other = hf.fast_tokenizer
        monkeypatch.setattr(hf, "fast_tokenizer", lambda _, **options: other(ByteTokenizer(), **options))
        assert "tokenizer differs" in fails(export, saved, "--to", "hf", "--out", "out", "--rows", rows)
        assert not Path("out").exists()

    def test_without_a_thinker(self, fit_audio, fails):
        fit_audio(trainer__max_steps=1)
        line = fails(export, "lightning_logs/audio/last.ckpt", "--to", "hf")
        assert "holds no Thinker" in line
        assert "audio_encoder" in line

    def test_without_transformers(self, saved: str, fails, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        assert "[hf]" in fails(export, saved, "--to", "hf")

    def test_options_that_do_not_fit(self, saved: str, workplace: Path, fails):
        assert "--int8 is of --to onnx and web" in fails(export, saved, "--to", "hf", "--int8")
        assert "does not exist" in fails(export, saved, "--to", "hf", "--rows", "none.txt")
        (workplace / "mine").mkdir()
        (workplace / "mine/notes.txt").touch()
        assert "give another folder" in fails(export, saved, "--to", "hf", "--out", "mine")

    def test_folders_that_omni_cannot_start_from(self, saved: str, rows: str, fails):
        export(saved, "--to", "hf", "--out", "out", "--rows", rows)

        def line() -> str:
            return fails(main, ["generate", "--checkpoint", "hf:out", "--text", "the"])

        weights = Path("out/model.safetensors")
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1000])
        assert "out: cannot be loaded" in line()
        weights.write_bytes(whole)
        model = Path("out/tokenizer.model").read_bytes()
        Path("out/tokenizer.model").unlink()
        assert "tokenizer.model is missing" in line()
        from omni.text.sentencepiece_training import train_sentencepiece

        train_sentencepiece([text.upper() for text in WORDS], vocab_size=330).save("out/tokenizer.model")
        assert "another tokenizer" in line()
        Path("out/tokenizer.model").write_bytes(model)
        config = json.loads(Path("out/config.json").read_text())
        for change, expected in (
            ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_theta"),
            ({"attention_bias": True}, "attention_bias"),
            ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "architecture 'llama'"),
        ):
            Path("out/config.json").write_text(json.dumps({**config, **change}))
            assert expected in line()
        Path("out/config.json").unlink()
        assert "config.json is missing" in line()
        assert "is not a folder" in fails(main, ["generate", "--checkpoint", "hf:nowhere/at/all", "--text", "the"])
