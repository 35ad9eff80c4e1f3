"""The second recipe by the command: contents of checkpoints, cached features, resuming, streaming and errors."""

from pathlib import Path

import pytest
import torch
import toy_pretrained as toy
from safetensors.torch import load_file, save_file
from toy_asr_llm import same, weights_of

from omni.checkpoints.checkpoint import Checkpoint
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.projector import Projector

THINKER = "model__init_args__thinker__init_args__"
ENCODER = "model__init_args__audio_encoder__init_args__"
FROZEN = "model__init_args__frozen"


def test_a_checkpoint_holds_trained_weights_and_names_the_frozen_models(fit_llm):
    cli = fit_llm()
    path = "lightning_logs/asr_llm/last.ckpt"
    opened = Checkpoint(path)
    held = opened.content
    assert {key.split(".")[0] for key in held["state_dict"]} == {"audio_projector"}
    assert held["origins"]["thinker"]["source"] == "llm"
    assert held["tokenizer"]["source"] == "llm"
    assert Path(path).stat().st_size < Path("llm/model.safetensors").stat().st_size
    projector, thinker = opened.part("audio_projector", Projector), opened.part("thinker", PretrainedThinker)
    assert same(projector.state_dict(), cli.model.audio_projector.state_dict())
    assert same(thinker.state_dict(), cli.model.thinker.state_dict())
    assert opened.tokenizer.fingerprint == cli.datamodule.tokenizer.fingerprint


def test_lora_survives_resuming_and_comes_back_with_the_same_logits(fit_llm):
    fit_llm()
    run = {"model__init_args__schedule": "constant", f"{THINKER}lora_targets": '["q_proj"]'}
    whole = weights_of(fit_llm("asr_llm_lora", trainer__val_check_interval=2, **run))
    fit_llm("asr_llm_lora", trainer__max_steps=2, trainer__val_check_interval=2, **run)
    again = fit_llm("asr_llm_lora", "--ckpt_path", "last", trainer__val_check_interval=2, **run)
    assert again.trainer.global_step == 4
    assert same(weights_of(again)["thinker"], whole["thinker"])
    thinker = Checkpoint("lightning_logs/asr_llm_lora/last.ckpt").part("thinker", PretrainedThinker)
    tokens = torch.arange(40, 50)[None]
    with torch.no_grad():
        there, here = (one.logits(one.encode(tokens).hidden) for one in (again.model.thinker.eval(), thinker))
    assert torch.equal(there, here)
    assert any("lora_" in key for key in Checkpoint("lightning_logs/asr_llm_lora/last.ckpt").weights)


def test_another_base_model_is_refused(fit_llm, fails):
    fit_llm()
    toy.llm(Path("other"), seed=1)
    other = {f"{THINKER}source": "other", "data__init_args__tokenizer": "pretrained:other"}
    complaint = fails(fit_llm, "asr_llm", "--ckpt_path", "last", **other)
    assert "thinker of lightning_logs/asr_llm/last.ckpt was trained on top of llm, which is another model" in complaint
    toy.llm(Path("llm"), seed=1)  # the same name with other weights
    assert "another model than llm" in fails(fit_llm, "asr_llm", "--ckpt_path", "last")


def test_a_fully_trained_model_is_saved_completely(fit_llm):
    cli = fit_llm(model__init_args__frozen='["audio_encoder"]', model__init_args__rates='{"thinker": 1.0e-4}')
    held = Checkpoint("lightning_logs/asr_llm/last.ckpt").weights
    own = {f"thinker.{key}": weight for key, weight in cli.model.thinker.state_dict().items()}
    assert same({key: weight for key, weight in held.items() if key.startswith("thinker.")}, own)
    # frozen later, its weights are still not those of the named model
    init = '{"thinker": "lightning_logs/asr_llm/last.ckpt"}'
    again = fit_llm(trainer__logger__init_args__name="again", init_from=init)
    assert same(again.model.thinker.state_dict(), cli.model.thinker.state_dict())
    held = Checkpoint("lightning_logs/again/last.ckpt").weights
    assert same({key: weight for key, weight in held.items() if key.startswith("thinker.")}, own)


def test_cached_features_change_no_result(fit_llm):
    run = {"model__init_args__frame_dropout": 0.0, "data__init_args__noise_share": 0.2, "trainer__max_steps": 6}
    plain = weights_of(fit_llm(**run))
    for _ in range(2):  # computed, then read
        kept = weights_of(fit_llm(**run, model__init_args__feature_cache="kept"))
        for key, weight in plain["audio_projector"].items():
            torch.testing.assert_close(kept["audio_projector"][key], weight, rtol=1e-3, atol=1e-4)
    [folder] = Path("kept").iterdir()
    assert folder.name.endswith("-float32")
    assert len([*folder.rglob("*.pt")]) > 24


def test_the_encoder_runs_once_per_recording_when_features_are_cached(fit_llm, monkeypatch):
    from omni.models.omni import Omni

    heard = []
    encode = Omni.encode_audio
    monkeypatch.setattr(Omni, "encode_audio", lambda *args: heard.append(len(args[1])) or encode(*args))
    fit_llm(trainer__max_steps=20, model__init_args__feature_cache="kept", data__init_args__noise_share=0)
    assert sum(heard) == 24 + 8


def test_the_balance_loss_of_routers_is_added(fit_llm):
    cli = fit_llm(model__init_args__audio_projector="MoEProjector")
    metrics = cli.trainer.callback_metrics
    assert metrics["train/loss/balance"] >= 0.99
    assert metrics["train/loss/router_z"] > 0


def test_frames_are_dropped_in_training_only(fit_llm):
    model = fit_llm(trainer__max_steps=1, model__init_args__frame_dropout=0.5).model
    model.trainer.datamodule.noise_share = 0
    batch = next(iter(model.trainer.datamodule.val_dataloader()))
    with torch.no_grad():
        assert not torch.equal(model.train().embed(batch).embeddings, model.embed(batch).embeddings)
        assert torch.equal(model.eval().embed(batch).embeddings, model.embed(batch).embeddings)


def test_gradient_checkpointing_works_for_a_frozen_model(fit_llm, monkeypatch):
    """The model is in eval mode, in which the library silently disables its own gradient checkpointing."""
    import transformers

    calls = []
    forward = transformers.models.qwen3.modeling_qwen3.Qwen3Attention.forward

    def counted(self, *args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(transformers.models.qwen3.modeling_qwen3.Qwen3Attention, "forward", counted)
    fit_llm(trainer__max_steps=3, trainer__limit_val_batches=0)
    assert calls.count(True) == 2 * 2 * 3  # layers, twice (forward and recomputed), steps


def test_streamed_speech_resumes_within_an_epoch(fit_llm):
    streamed = {"streaming": "true", "shuffle_buffer": 5, "batch_tokens": 200, "max_tokens": 100, "noise_share": 0.25}
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
        ({f"{THINKER}source": "speech"}, "speech: config.json is missing: give the folder of a downloaded model"),
        ({f"{THINKER}source": "./nowhere"}, "./nowhere: is not a folder: give the folder of a model"),
        ({f"{THINKER}source": "empty"}, "empty: cannot be loaded (Error no file named model.safetensors"),
        ({f"{THINKER}source": "cut"}, "cut: cannot be loaded (Error while deserializing header"),
        ({f"{THINKER}source": "half"}, "weights of a Qwen3ForCausalLM are missing, such as model.layers.1."),
        ({f"{ENCODER}source": "llm"}, "llm: cannot be loaded (Can't load feature extractor for 'llm')"),
        ({f"{ENCODER}source": "telephone"}, "source telephone: its sampling rate is 8,000 Hz and omni's 16,000 Hz"),
        (
            {f"{THINKER}source": "bare", "data__init_args__tokenizer": "pretrained:bare"},
            "bare has no chat template",
        ),
        ({f"{THINKER}lora_rank": -1}, "lora_rank must be 0 or more, not -1"),
        ({f"{THINKER}lora_rank": 2, f"{THINKER}lora_targets": '["query"]'}, "match nothing in llm"),
        ({"data__init_args__tokenizer": "pretrained:encoder"}, "encoder: holds no tokenizer"),
        ({"data__init_args__tokenizer": "bytes"}, "set data.init_args.tokenizer to pretrained:llm"),
        ({"model__init_args__audio_projector__init_args__in_dim": 8}, "in_dim must be 16"),
        ({"model__init_args__frame_dropout": 1.0}, "frame_dropout must be 0 or more and under 1"),
        ({"model__init_args__prompt_weight": 1.5}, "prompt_weight must be from 0 to 1, not 1.5"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(fit_llm, fails, options, complaint):
    damaged(options.get(f"{THINKER}source", ""))
    if options.get(f"{ENCODER}source") == "telephone":
        toy.encoder(Path("telephone"), "hubert", sampling_rate=8_000)
    assert complaint in fails(fit_llm, **options)


def damaged(name):
    """Makes a folder with a model that lacks something, and returns its name."""
    if name not in ("empty", "cut", "half", "bare"):
        return
    toy.llm(Path(name), template=None if name == "bare" else toy.TEMPLATE)
    file = Path(name) / "model.safetensors"
    if name == "empty":
        file.unlink()
    if name == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    if name == "half":
        save_file({key: w for key, w in load_file(file).items() if ".1." not in key}, file, {"format": "pt"})


def test_a_model_without_pad_token_and_chat_template_is_trained_on_plain_text(fit_llm):
    damaged("bare")
    bare = {f"{THINKER}source": "bare", "data__init_args__tokenizer": "pretrained:bare"}
    assert fit_llm(**bare, data__init_args__template="plain").trainer.global_step == 4


def test_a_hub_name_without_network_is_reported_in_one_line(fit_llm, fails, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    complaint = fails(fit_llm, **{f"{THINKER}source": "nobody/nothing"})
    assert "nobody/nothing: cannot be loaded from the Hub" in complaint
    assert "give the folder" in complaint


def test_plan_counts_it_without_loading_weights(fit_llm):
    plan = fit_llm(verb="plan")
    assert plan.trained_parameters == plan.parameters["audio_projector"]
    assert plan.parameters["thinker"] > 10_000
