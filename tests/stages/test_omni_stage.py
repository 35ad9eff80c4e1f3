"""Stage E by the command at toy size: trained and frozen parts, metrics, checkpoints, resuming and errors."""

import json
from io import BytesIO
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from any_text import HARD, random_texts
from PIL import Image
from toy_commands import CONFIGS, TOY_OMNI, arguments
from toy_omni import toy_omni

from omni.batch import IGNORE, ConversationBatch
from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.metrics import AccuracyByTask
from omni.models.omni import Omni
from omni.models.projector import Projector
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.pipeline.samples import sample
from omni.stages.answer_metrics import blank
from omni.stages.omni import OmniTuning
from omni.stages.reporting.conversations import conversation_figure
from omni.text.tokenizer import NUM_SPECIALS, ByteTokenizer
from omni.training.configuration import Configuration


def test_a_report_shows_an_answer_about_a_picture(fit_omni):
    fit_omni()
    configuration = Configuration(["--config", str(CONFIGS / "omni.yaml"), *arguments(TOY_OMNI, {})])
    found = sample(configuration, configuration.folder / "best.ckpt", Path("samples/omni"))
    assert found["question"] == "?"
    assert found["reference"] in "rgb"
    assert "answer" in found
    with Image.open(found["image"]) as image:
        assert image.size == (16, 16)


def parts_of(path="lightning_logs/omni/last.ckpt"):
    """Weights of a checkpoint by part."""
    weights = torch.load(path, weights_only=True)["state_dict"]
    names = {key.split(".")[0] for key in weights}
    return {name: {k: w for k, w in weights.items() if k.startswith(f"{name}.")} for name in names}


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_fit_logs_accuracy_by_task_and_the_blank_controls(fit_omni):
    cli = fit_omni(model__init_args__shown=2, model__init_args__modality_ablation=True)
    metrics = cli.trainer.callback_metrics
    tasks = {"colour", "transcription", "both", "text"}
    assert {f"val/accuracy/{task}" for task in tasks} <= metrics.keys()
    assert {name for name in metrics if name.startswith("val/accuracy_blank_image/")} == {
        "val/accuracy_blank_image/colour",
        "val/accuracy_blank_image/both",
    }
    assert {f"val/accuracy_{one}" for one in ("blank_image", "blank_audio", "image", "audio")} <= metrics.keys()
    assert metrics["val/perplexity"] == pytest.approx(float(metrics["val/loss"].exp()), rel=1e-4)
    assert metrics["val/wer"] >= 0
    shares = [float(metrics[f"val/accuracy/{task}"]) for task in ("colour", "both", "text")]
    assert float(metrics["val/accuracy"]) == pytest.approx(np.mean(shares), abs=1e-6)  # transcription is excluded
    assert cli.model.omni.vision_encoder is cli.model.vision_encoder


def test_it_learns_to_use_images_and_audio_and_blanking_lowers_accuracy(fit_omni):
    cli = fit_omni(
        trainer__max_steps=60,
        trainer__val_check_interval=60,
        model__init_args__lr=8e-3,
        model__init_args__warmup_steps=10,
        model__init_args__modality_ablation=True,
        data__init_args__batch_tokens=2048,
    )
    metrics = cli.trainer.callback_metrics
    assert metrics["val/accuracy"] > 0.9
    assert metrics["val/wer"] < 0.2
    assert metrics["val/accuracy_blank_image"] < metrics["val/accuracy_image"] - 0.3
    assert metrics["val/accuracy_blank_audio/transcription"] < metrics["val/accuracy/transcription"] - 0.3
    options = ["--checkpoint", "lightning_logs/omni/last.ckpt", "--data", "val.jsonl", "--max_tokens", "6"]
    main(["eval", "omni", *options, "--json_file", "report.json"])
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))  # equal to the figures of validation
    assert report["all"]["accuracy"] == pytest.approx(float(metrics["val/accuracy"]))
    assert report["wer"]["wer"] == pytest.approx(float(metrics["val/wer"]))
    for task, figures in report["tasks"].items():
        assert figures["accuracy"] == pytest.approx(float(metrics[f"val/accuracy/{task}"]))
        for kind in ("image", "audio"):
            blank = metrics.get(f"val/accuracy_blank_{kind}/{task}")
            assert figures.get(f"blank_{kind}") == (None if blank is None else pytest.approx(float(blank)))


def test_frozen_parts_stay_bit_for_bit_and_all_others_change(fit_omni):
    stay = ["thinker", "audio_encoder"]
    cli = fit_omni(trainer__max_steps=0)
    before = {
        name: {k: v.clone() for k, v in part.state_dict(prefix=f"{name}.").items()}
        for name, part in cli.model.parts.items()
    }
    fit_omni(model__init_args__frozen=json.dumps(stay), trainer__val_check_interval=6, trainer__limit_val_batches=1)
    after = parts_of()
    assert {name for name in before if same(before[name], after[name])} == set(stay)


def test_only_projectors_are_trained_at_first(fit_omni):
    cli = fit_omni(trainer__max_steps=0)
    before = {
        name: {k: v.clone() for k, v in part.state_dict(prefix=f"{name}.").items()}
        for name, part in cli.model.parts.items()
    }
    moved, gathered = [], []
    for steps in (3, 8):  # the last five steps have every modality
        cli = fit_omni(trainer__max_steps=8, model__init_args__projector_steps=3, trainer__limit_train_batches=steps,
                 trainer__max_epochs=1, trainer__val_check_interval=steps,
                 trainer__limit_val_batches=1, data__init_args__batch_tokens=96)  # fmt: skip
        after = parts_of()
        moved.append({name for name in before if not same(before[name], after[name])})
        groups, state = cli.trainer.optimizers[0].param_groups, cli.trainer.optimizers[0].state
        gathered.append({group["part"] for group in groups if any(one in state for one in group["params"])})
    assert gathered == moved
    assert moved[0] == {"vision_projector", "audio_projector"}
    assert moved[1] == set(before)


def test_parts_have_their_own_learning_rates(fit_omni):
    cli = fit_omni(trainer__max_steps=1, model__init_args__rates=json.dumps({"thinker": 1e-4}))
    peaks = {group["part"]: group["initial_lr"] for group in cli.trainer.optimizers[0].param_groups}
    assert peaks == {**dict.fromkeys(cli.model.parts, 3e-3), "thinker": 1e-4}


def test_muon_uses_the_rates_of_parts(fit_omni):
    cli = fit_omni(
        trainer__max_steps=2, model__init_args__optimizer="muon", model__init_args__rates='{"thinker": 1e-4}'
    )
    optimizer = cli.trainer.optimizers[0]
    peaks = {(group["part"], group["initial_lr"]) for group in optimizer.param_groups}
    assert peaks == {(name, 1e-4 if name == "thinker" else 3e-3) for name in cli.model.parts}
    assert {id(group) for group in optimizer.param_groups} == {
        id(group) for one in optimizer.optimizers for group in one.param_groups
    }


def test_resumed_equals_never_stopped_and_ancestors_are_not_needed(fit_omni, conversations):
    torch.manual_seed(3)
    omni = toy_omni(seed=5)
    ancestor = conversations / "thinker.ckpt"
    lineage = {"stage": "ThinkerPretraining", "step": 7, "config": "c", "data": "d", "ancestors": {}}
    from omni.text.tokenizer import ByteTokenizer

    tokenizer = ByteTokenizer()
    content = {
        "state_dict": {f"thinker.{key}": value for key, value in omni.thinker.state_dict().items()},
        "parts": {"thinker": omni.thinker.recipe},
        "tokenizer": tokenizer.state(),
        "lineage": {**lineage, "tokenizer": tokenizer.fingerprint},
    }
    torch.save(content, ancestor)
    init = json.dumps({"thinker": str(ancestor)})
    run = {"init_from": init, "model__init_args__schedule": "constant"}
    whole = fit_omni(**run)
    assert float(whole.model.vision_projector.scale) == pytest.approx(omni.thinker.embedding_rms)
    straight = parts_of()
    fit_omni(**run, trainer__max_epochs=2)  # 4 steps
    ancestor.unlink()
    fit_omni("fit", "--ckpt_path", "last", **run)
    resumed = parts_of()
    assert all(same(straight[name], resumed[name]) for name in straight)
    held = Checkpoint("lightning_logs/omni/last.ckpt").content
    assert held["lineage"]["ancestors"]["thinker"]["step"] == 7
    assert held["images"] == {"size": 16, "fit": "crop"}
    assert held["context"] == 64
    assert held["audio"]


def test_parts_are_rebuilt_from_a_checkpoint(fit_omni):
    cli = fit_omni(trainer__max_steps=2, trainer__val_check_interval=2)
    path = "lightning_logs/omni/last.ckpt"
    thinker = Checkpoint(path).part("thinker", Thinker)
    vision = Checkpoint(path).part("vision_encoder", VisionEncoder)
    projector = Checkpoint(path).part("vision_projector", Projector)
    omni = Omni(thinker, vision_encoder=vision, vision_projector=projector)
    batch = next(iter(cli.datamodule.val_dataloader()))
    batch = next(batch for batch in cli.datamodule.val_dataloader() if batch.images is not None)
    with torch.no_grad():
        there = cli.model.eval().omni.embed(batch.tokens, images=batch.images).embeddings
        here = omni.embed(batch.tokens, images=batch.images).embeddings
    assert torch.equal(here, there)


def test_loss_does_not_depend_on_how_a_batch_is_divided(fit_omni):
    """The mean is over all of the assistant's tokens, whether accumulated over small batches or in one batch."""
    cli = fit_omni(trainer__max_steps=1, trainer__val_check_interval=1)
    losses = []
    for tokens in (64, 2048):
        again = fit_omni("validate", data__init_args__batch_tokens=tokens, trainer__max_steps=1, ckpt_path="last")
        losses.append(float(again.trainer.callback_metrics["val/loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] == pytest.approx(float(cli.trainer.callback_metrics["val/loss"]), rel=1e-4)


@pytest.mark.parametrize("num_experts", [0, 4])
def test_only_what_the_assistant_says_is_computed_and_the_loss_is_equal(fit_omni, num_experts):
    options = {"model__init_args__thinker__init_args__num_experts": num_experts}
    model = fit_omni(trainer__max_steps=1, trainer__limit_val_batches=0, **options).model.train()
    batch = next(iter(model.trainer.datamodule.train_dataloader()))
    assert torch.equal(batch.scored, (batch.targets.flatten() != IGNORE).nonzero()[:, 0])
    assert 0 < len(batch.scored) < batch.targets.numel()
    found = []
    for given in (batch, batch._replace(scored=None)):
        model.zero_grad()
        loss = model.loss(given)
        loss.total.backward()
        found.append((loss.total, loss.num_items, *(p.grad for p in model.thinker.parameters())))
    for scored, every in zip(*found, strict=True):
        torch.testing.assert_close(scored, every, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scored", [True, False])
def test_in_training_the_text_of_prompts_counts_with_its_weight(fit_omni, scored):
    options = {"model__init_args__prompt_weight": 0.25, "trainer__limit_val_batches": 0}
    model = fit_omni(trainer__max_steps=1, **options).model
    batch = next(iter(model.trainer.datamodule.train_dataloader()))
    batch = batch if scored else batch._replace(scored=None)
    answers = batch.targets != IGNORE
    assert model.eval().loss(batch).num_items == answers.sum()
    with torch.no_grad():
        loss = model.train().loss(batch)
        hidden = model.omni.encode(model.embed(batch).embeddings, positions=batch.positions).hidden
        nll = model.thinker.nll(hidden[:, :-1], batch.tokens[:, 1:])
    prompts = (batch.tokens[:, 1:] >= NUM_SPECIALS) & ~answers[:, :-1]
    assert prompts.any()
    expected = nll[answers[:, :-1]].sum() + 0.25 * nll[prompts].sum()
    torch.testing.assert_close(loss.total, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(loss.num_items, answers.sum() + 0.25 * prompts.sum())


def test_the_balance_loss_of_the_thinkers_experts_is_added(fit_omni):
    part = "model__init_args__thinker__init_args__"
    model = fit_omni(trainer__max_steps=1, trainer__limit_val_batches=0, **{part + "num_experts": 4}).model.train()
    batch = next(iter(model.trainer.datamodule.train_dataloader()))
    held = model.loss(batch)
    model.balance = 0.0
    free = model.loss(batch)
    assert held.terms["thinker_balance"] >= 0.99
    torch.testing.assert_close(
        held.total - free.total, 0.01 * held.terms["thinker_balance"] * held.num_items, rtol=1e-4, atol=1e-5
    )
    router = model.thinker.transformer.blocks[0].ffn.router.weight
    assert torch.autograd.grad(held.terms["thinker_balance"], router)[0].norm() > 0
    model.frozen = ("thinker",)
    assert "thinker_balance" not in model.train().loss(batch).terms


def test_blanks_are_grey_and_silent_and_nothing_else_changes():
    tokens = torch.zeros(1, 3, dtype=torch.long)
    batch = ConversationBatch(tokens, tokens, torch.zeros(3, 1, 3), tokens[0], 3, images=torch.rand(2, 3, 4, 4))
    batch = batch._replace(mels=torch.rand(1, 5, 2), mel_lengths=torch.tensor([5]))
    grey, silent = blank(batch, "image"), blank(batch, "audio")
    assert (grey.images == 0.5).all()
    assert grey.mels is batch.mels
    assert silent.images is batch.images
    assert silent.mels.unique().numel() == 1
    assert silent.mels.shape == batch.mels.shape


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"data__init_args__image_size": 24}, "data.init_args.image_size is 24 and the encoder's 16"),
        ({"data__init_args__num_mels": 80}, "data.init_args.num_mels is 80 and the encoder's 16"),
        ({"model__init_args__thinker__init_args__vocab_size": 100}, "the tokenizer has 288 tokens and the Thinker 100"),
        ({"model__init_args__rates": '{"talker": 1e-3}'}, "no part 'talker'"),
        ({"model__init_args__rates": '{"thinker": 0}'}, "must be over 0"),
        ({"model__init_args__projector_steps": -1}, "projector_steps must be 0 or more"),
        ({"model__init_args__audio_projector": "null"}, "audio_encoder and audio_projector belong together"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(fit_omni, fails, options, complaint):
    assert complaint in fails(fit_omni, **options)


def test_another_tokenizer_is_refused(fit_omni, conversations, fails):
    omni = toy_omni()
    content = {
        "state_dict": {f"thinker.{key}": value for key, value in omni.thinker.state_dict().items()},
        "parts": {"thinker": omni.thinker.recipe},
        "tokenizer": {"kind": "bytes"},
        "lineage": {"stage": "S", "step": 1, "config": "", "data": "", "tokenizer": "another", "ancestors": {}},
    }
    torch.save(content, "thinker.ckpt")
    complaint = fails(fit_omni, init_from='{"thinker": "thinker.ckpt"}')
    assert "init_from.thinker was trained with another tokenizer" in complaint


def test_plan_counts_it(conversations):
    plan = main(["plan", "--config", str(CONFIGS / "omni.yaml"), *arguments(TOY_OMNI, {})])
    assert plan.stage == OmniTuning.__name__
    assert set(plan.parameters) == {"thinker", "vision_encoder", "vision_projector", "audio_encoder", "audio_projector"}
    assert plan.training > 0


def test_figures_show_any_output_of_a_model():
    said = "a $ b_$ \x1b \U0001f600 \u4e2d"
    figure = conversation_figure([torch.rand(3, 8, 8)], [torch.randn(20, 4)], title=f"{said}\nmore", correct=False)
    figure.savefig(BytesIO())
    assert len(figure.axes) == 2
    conversation_figure([], [], title="text", correct=True).savefig(BytesIO())


def test_validation_survives_any_answer(fit_omni, monkeypatch):
    answers = cycle([*HARD, *random_texts(20)])
    monkeypatch.setattr(ByteTokenizer, "decode_turn", lambda *_: next(answers))
    cli = fit_omni(model__init_args__shown=30, model__init_args__modality_ablation=True, trainer__max_steps=4)
    assert cli.trainer.global_step == 4
    assert cli.trainer.callback_metrics["val/accuracy"] == 0
    assert cli.trainer.callback_metrics["val/wer"] > 0


def test_excluded_tasks_count_where_there_are_no_others():
    metric = AccuracyByTask(["transcription", "composition"], excluded=["transcription", "composition"])
    metric.update(["transcription", "composition", "composition"], [True, False, True])
    assert float(metric.compute()[1]) == pytest.approx(2 / 3)
