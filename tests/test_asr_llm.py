"""The second recipe by the command: projector, then LoRA, then both, between models from elsewhere at toy size."""

import json
import os
from pathlib import Path

import pytest
import torch
import toy_pretrained as toy
from conftest import CONFIGS

from omni import checkpoint as checkpoints
from omni.checkpoint import from_checkpoint
from omni.cli import main
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.projector import Projector

PART = "model.init_args.{}.init_args."
FROZEN = "model__init_args__frozen"
THINKER = "model__init_args__thinker__init_args__"
TOY = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "4",
    "trainer.val_check_interval": "4",
    "trainer.log_every_n_steps": "1",
    "trainer.accumulate_grad_batches": "1",
    PART.format("audio_projector") + "in_dim": "16",
    PART.format("audio_projector") + "out_dim": "32",
    PART.format("audio_projector") + "hidden_dim": "24",
    PART.format("audio_encoder") + "source": "encoder",
    PART.format("audio_encoder") + "dtype": "float32",
    PART.format("thinker") + "source": "llm",
    PART.format("thinker") + "dtype": "float32",
    "model.init_args.lr": "3e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.answer_tokens": "6",
    "model.init_args.samples": "1",
    "data.init_args.train": "speech/train.jsonl",
    "data.init_args.val": "speech/val.jsonl",
    "data.init_args.tokenizer": "pretrained:llm",
    "data.init_args.max_tokens": "128",
    "data.init_args.batch_tokens": "512",
}


@pytest.fixture(autouse=True)
def quiet():
    """No progress bars of weights that load."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.fixture
def fit_llm(speech: Path):
    """Runs `omni fit` on one of the recipe's configurations; `llm` and `encoder` are made unless they are there."""
    made = {"llm": toy.llm, "encoder": toy.encoder}
    for name, make in made.items():
        if not Path(name).exists():
            make(Path(name))

    def run(config="asr_llm", *extra, verb="fit", **overrides):
        options = {**TOY, **{name.replace("__", "."): str(value) for name, value in overrides.items()}}
        pairs = [f"--{name}={value}" for name, value in options.items()]
        return main([verb, "--config", str(CONFIGS / f"{config}.yaml"), *pairs, *extra])

    return run


def weights_of(cli):
    """All weights of a run by part."""
    return {name: {key: w.clone() for key, w in part.state_dict().items()} for name, part in cli.model.parts.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def metric(cli, name):
    return float(cli.trainer.callback_metrics[name])


@pytest.mark.parametrize(("llm", "encoder"), [("qwen3", "whisper"), ("llama", "hubert"), ("gpt2", "w2v-bert")])
def test_projector_then_lora_then_both(fit_llm, llm, encoder):
    """What is frozen stays to the bit, gradients reach what is trained alone, and loss falls."""
    for name, make, kind in (("llm", toy.llm, llm), ("encoder", toy.encoder, encoder)):
        Path(name).rename(f"{name}-before")
        make(Path(name), kind)
    targets = {f"{THINKER}lora_targets": '["c_attn"]' if llm == "gpt2" else '["q_proj", "v_proj"]'}
    lively = {"model__init_args__lr": "1e-2", "trainer__max_steps": 12, "trainer__val_check_interval": 12}
    begun = fit_llm(trainer__max_steps=1, trainer__val_check_interval=1)
    before = weights_of(begun)
    cli = fit_llm(**lively)
    after = weights_of(cli)
    assert same(before["thinker"], after["thinker"])
    assert same(before["audio_encoder"], after["audio_encoder"])
    assert not same(before["audio_projector"], after["audio_projector"])
    held = {p for group in cli.trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {*cli.model.audio_projector.parameters()}
    assert all(p.grad is None for name in ("thinker", "audio_encoder") for p in cli.model.part(name).parameters())
    modes = {name: {module.training for module in part.modules()} for name, part in cli.model.parts.items()}
    assert modes == {"thinker": {False}, "audio_encoder": {False}, "audio_projector": {True}}

    second = fit_llm("asr_llm_lora", **targets, **lively)
    assert same(after["audio_projector"], weights_of(second)["audio_projector"])
    trained = {name for name, p in second.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("thinker.") and "lora_" in name for name in trained)
    stayed = {name: w for name, w in weights_of(second)["thinker"].items() if "lora_" not in name}
    stayed = {name.replace(".base_layer", ""): w for name, w in stayed.items()}
    assert same(stayed, before["thinker"])
    assert {module.training for module in second.model.thinker.modules()} == {True}

    third = fit_llm("asr_llm_tune", **targets, **lively)
    trained = {name.split(".")[0] for name, p in third.model.named_parameters() if p.requires_grad}
    assert trained == {"thinker", "audio_projector"}
    assert not same(after["audio_projector"], weights_of(third)["audio_projector"])
    losses = [metric(one, "val/loss") for one in (begun, cli, second, third)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.9 * losses[0]
    assert third.model.ancestors["thinker"]["ancestors"]["audio_projector"]["stage"] == "OmniTuning"


def test_a_checkpoint_holds_what_was_trained_and_names_the_rest(fit_llm):
    cli = fit_llm()
    path = "lightning_logs/asr_llm/last.ckpt"
    held = checkpoints.read(path)
    assert {key.split(".")[0] for key in held["state_dict"]} == {"audio_projector"}
    assert held["origins"]["thinker"]["source"] == "llm"
    assert held["tokenizer"]["source"] == "llm"
    assert Path(path).stat().st_size < Path("llm/model.safetensors").stat().st_size
    projector, tokenizer = from_checkpoint(path, "audio_projector", Projector)
    thinker, _ = from_checkpoint(path, "thinker", PretrainedThinker)
    assert same(projector.state_dict(), cli.model.audio_projector.state_dict())
    assert same(thinker.state_dict(), cli.model.thinker.state_dict())
    assert tokenizer.fingerprint == cli.datamodule.tokenizer.fingerprint


def test_lora_survives_resuming_and_comes_back_with_the_same_logits(fit_llm):
    fit_llm()
    run = {"model__init_args__schedule": "constant", f"{THINKER}lora_targets": '["q_proj"]'}
    whole = weights_of(fit_llm("asr_llm_lora", trainer__val_check_interval=2, **run))
    fit_llm("asr_llm_lora", trainer__max_steps=2, trainer__val_check_interval=2, **run)
    again = fit_llm("asr_llm_lora", "--ckpt_path", "last", trainer__val_check_interval=2, **run)
    assert again.trainer.global_step == 4
    assert same(weights_of(again)["thinker"], whole["thinker"])
    thinker, _ = from_checkpoint("lightning_logs/asr_llm_lora/last.ckpt", "thinker", PretrainedThinker)
    tokens = torch.arange(40, 50)[None]
    with torch.no_grad():
        there, here = (one.logits(one.encode(tokens).hidden) for one in (again.model.thinker.eval(), thinker))
    assert torch.equal(there, here)
    assert any("lora_" in key for key in checkpoints.read("lightning_logs/asr_llm_lora/last.ckpt")["state_dict"])


def test_another_base_model_is_refused(fit_llm, fails):
    fit_llm()
    toy.llm(Path("other"), seed=1)
    other = {f"{THINKER}source": "other", "data__init_args__tokenizer": "pretrained:other"}
    complaint = fails(fit_llm, "asr_llm", "--ckpt_path", "last", **other)
    assert "thinker of lightning_logs/asr_llm/last.ckpt was trained on top of llm, which is another model" in complaint
    toy.llm(Path("llm"), seed=1)  # the same name, with other weights in it
    assert "another model than llm" in fails(fit_llm, "asr_llm", "--ckpt_path", "last")


def test_what_is_trained_whole_is_kept_whole(fit_llm):
    cli = fit_llm(model__init_args__frozen='["audio_encoder"]', model__init_args__rates='{"thinker": 1.0e-4}')
    held = checkpoints.read("lightning_logs/asr_llm/last.ckpt")["state_dict"]
    own = {f"thinker.{key}": weight for key, weight in cli.model.thinker.state_dict().items()}
    assert same({key: weight for key, weight in held.items() if key.startswith("thinker.")}, own)
    # frozen afterwards, it still is not the one that its name stands for
    init = '{"thinker": "lightning_logs/asr_llm/last.ckpt"}'
    again = fit_llm(trainer__logger__init_args__name="again", init_from=init)
    assert same(again.model.thinker.state_dict(), cli.model.thinker.state_dict())
    held = checkpoints.read("lightning_logs/again/last.ckpt")["state_dict"]
    assert same({key: weight for key, weight in held.items() if key.startswith("thinker.")}, own)


def test_features_that_are_kept_change_nothing(fit_llm):
    run = {"model__init_args__frame_dropout": 0.0, "data__init_args__silence": 0.2, "trainer__max_steps": 6}
    plain = weights_of(fit_llm(**run))
    for _ in range(2):  # heard, then read
        kept = weights_of(fit_llm(**run, model__init_args__feature_cache="kept"))
        for key, weight in plain["audio_projector"].items():
            torch.testing.assert_close(kept["audio_projector"][key], weight, rtol=1e-3, atol=1e-4)
    [folder] = Path("kept").iterdir()
    assert folder.name.endswith("-float32")
    assert len([*folder.rglob("*.pt")]) > 24


def test_an_encoder_hears_a_recording_once_where_features_are_kept(fit_llm, monkeypatch):
    from omni.models.omni import Omni

    heard = []
    hear = Omni.hear
    monkeypatch.setattr(Omni, "hear", lambda self, mels, lengths: heard.append(len(mels)) or hear(self, mels, lengths))
    fit_llm(trainer__max_steps=20, model__init_args__feature_cache="kept", data__init_args__silence=0)
    assert sum(heard) == 24 + 8


def test_routers_are_held_to_balance(fit_llm):
    cli = fit_llm(model__init_args__audio_projector__init_args__kind="moe")
    metrics = cli.trainer.callback_metrics
    assert metrics["train/loss/balance"] >= 0.99
    assert metrics["train/loss/router_z"] > 0


def test_frames_are_dropped_in_training_alone(fit_llm):
    model = fit_llm(trainer__max_steps=1, model__init_args__frame_dropout=0.5).model
    model.trainer.datamodule.silence = 0
    batch = next(iter(model.trainer.datamodule.val_dataloader()))
    with torch.no_grad():
        assert not torch.equal(model.train().embed(batch), model.embed(batch))
        assert torch.equal(model.eval().embed(batch), model.embed(batch))


def test_a_frozen_model_computes_its_layers_again_in_training(fit_llm, monkeypatch):
    """In eval mode, in which the library's own way is off without a word."""
    import transformers

    calls = []
    forward = transformers.models.qwen3.modeling_qwen3.Qwen3Attention.forward

    def counted(self, *args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(transformers.models.qwen3.modeling_qwen3.Qwen3Attention, "forward", counted)
    fit_llm(trainer__max_steps=3, trainer__limit_val_batches=0)
    assert calls.count(True) == 2 * 2 * 3  # layers, forward and again, steps


def test_streamed_speech_resumes_in_mid_epoch(fit_llm):
    streamed = {"streaming": "true", "shuffle_buffer": 5, "batch_tokens": 200, "max_tokens": 100, "silence": 0.25}
    run = {f"data__init_args__{name}": value for name, value in streamed.items()}
    run |= {"model__init_args__schedule": "constant", "trainer__val_check_interval": 3}
    whole = weights_of(fit_llm(trainer__max_steps=9, **run))
    fit_llm(trainer__max_steps=6, **run)
    again = weights_of(fit_llm("asr_llm", "--ckpt_path", "last", trainer__max_steps=9, **run))
    assert same(whole["audio_projector"], again["audio_projector"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({f"{THINKER}dtype": "bfloat16", FROZEN: '["audio_encoder"]'}, "thinker is trained in bfloat16"),
        ({"model__init_args__feature_cache": "kept", FROZEN: '["thinker"]'}, "add audio_encoder to frozen"),
        ({"data__init_args__num_mels": 80}, "data.init_args.num_mels is 80 and the encoder's 0"),
        ({f"{THINKER}source": "speech"}, "speech: holds no model, for config.json is missing"),
        ({"model__init_args__audio_encoder__init_args__source": "llm"}, "llm: cannot be loaded"),
        ({f"{THINKER}lora_rank": 2, f"{THINKER}lora_targets": '["query"]'}, "match nothing in llm"),
        ({"data__init_args__tokenizer": "pretrained:encoder"}, "encoder: holds no tokenizer"),
        ({"data__init_args__tokenizer": "bytes"}, "set data.init_args.tokenizer to pretrained:llm"),
        ({"model__init_args__audio_projector__init_args__in_dim": 8}, "in_dim must be 16"),
        ({"model__init_args__frame_dropout": 1.0}, "frame_dropout must be 0 or more and under 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fit_llm, fails, options, complaint):
    assert complaint in fails(fit_llm, **options)


def test_a_name_without_network_is_told_in_one_line(fit_llm, fails, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    complaint = fails(fit_llm, **{f"{THINKER}source": "nobody/nothing"})
    assert "nobody/nothing: cannot be had from the Hub" in complaint
    assert "give the folder" in complaint


def test_plan_counts_it_without_its_weights(fit_llm):
    pairs = [f"--{name}={value}" for name, value in TOY.items()]
    plan = main(["plan", "--config", str(CONFIGS / "asr_llm.yaml"), *pairs])
    assert plan.trained_parameters == plan.parameters["audio_projector"]
    assert plan.parameters["thinker"] > 10_000


@pytest.mark.skipif("OMNI_DATA" not in os.environ, reason="real data: set OMNI_DATA to a folder that holds manifests/")
def test_real_recordings_are_chained_through_all_three(fit_llm):
    """AN4 as its manifests have it: cut to a few rows, in capitals as they are, lower-cased by the configuration."""
    manifests = Path(os.environ["OMNI_DATA"]) / "manifests"
    for split, name, count in (("train", "an4_train", 48), ("val", "an4_test", 12)):
        lines = (manifests / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        rows = [json.loads(line) for line in lines]
        rows = [{**row, "audio": str(manifests / row["audio"])} for row in rows]
        Path(f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = {"data__init_args__train": "train.jsonl", "data__init_args__val": "val.jsonl"}
    run |= {"data__init_args__max_tokens": 512, "data__init_args__batch_tokens": 1024}
    begun = fit_llm(trainer__max_steps=1, trainer__val_check_interval=1, **run)
    assert all(answer == answer.lower() for batch in begun.datamodule.val_dataloader() for answer in batch.answers)
    run |= {"model__init_args__lr": "1e-2", "trainer__max_steps": 12, "trainer__val_check_interval": 12}
    chain = [metric(fit_llm(config, **run), "val/loss") for config in ("asr_llm", "asr_llm_lora", "asr_llm_tune")]
    losses = [metric(begun, "val/loss"), *chain]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.9 * losses[0]
