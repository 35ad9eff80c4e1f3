"""Two ranks with half of each batch take the same steps and compute the same metrics as one process."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Ranks
from toy_asr_llm import run as run_asr_llm
from toy_commands import CAPTIONS, NO_CLASSES, part
from two_ranks import STEPS, STILL, TWO, compare, media_apart, shares

from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder
from omni.stages.reporting.images import ImageReporter
from omni.stages.vocoder import VocoderTraining

MEASURED = {"model__init_args__quality_utterances": 4}  # rows for the vocoder's metrics of quality, some on each rank
BALANCED = {"model__init_args__balance": 1.0}  # large, so that it matters


class TestThinker:
    def test_dense_with_a_batch_shared_unevenly_and_accumulated(self, fit):
        accumulated = {"trainer__accumulate_grad_batches": 2, "trainer__val_check_interval": 10}
        compare(fit, {**STEPS, **STILL, **accumulated}, shares)

    def test_experts(self, fit):
        part = "model__init_args__thinker__init_args__"
        compare(fit, {**STEPS, **STILL, part + "num_experts": 4, part + "experts_per_token": 2, **BALANCED}, shares)


def one_row_less(path: str) -> None:
    """Removes the last row, so that one rank validates one row more than the other."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    Path(path).write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("consistency", [0.0, 0.2])
def test_audio(fit_audio, consistency):
    one_row_less("speech/val.jsonl")
    seconds = 40 if consistency else 20  # two views are counted
    data = {"data__init_args__augmentation__silence": 0, "data__init_args__batch_seconds": seconds}
    compare(fit_audio, {**STEPS, **STILL, **data, "model__init_args__consistency": consistency}, shares)


def record_reports(patch: pytest.MonkeyPatch) -> None:
    """Saves what each report of images counts, in a file of the rank."""
    tables, path = [], f"reports-{os.environ.get('RANK', 'alone')}.pt"

    def write(self: Any, *_: Any) -> None:
        tables.append((self.classes, self.confusion["label"].tolist()))
        torch.save(tables, path)

    patch.setattr(ImageReporter, "write", write)


class TestVision:
    def test_classes(self, fit_vision):
        options = {**STEPS, **STILL, "data__init_args__augmentation": "null"}
        compare(fit_vision, options, shares, patch=record_reports)
        (of_one,), (of_two,) = torch.load("reports-alone.pt"), torch.load("reports-0.pt")
        assert of_two == of_one
        assert [count for _, _, count, _ in of_two[0]] == [4, 4, 4]
        assert not Path("reports-1.pt").exists()

    @pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
    def test_the_contrastive_loss_uses_the_negatives_of_all_ranks(self, fit_vision, loss):
        contrast = {**CAPTIONS, "model__init_args__contrast": part(ContrastHead, image_dim=32, text_dim=32, loss=loss)}
        tower = {"vocab_size": 288, "dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}
        contrast |= {"model__init_args__text_encoder": part(TextEncoder, **tower), **NO_CLASSES}
        # Together the two ranks' validation batches hold the pairs that one process compares.
        options = {**STEPS, **STILL, **contrast, "data__init_args__batch_size": 6}
        options["trainer__callbacks"] = "null"
        one_row_less("pictures/val.jsonl")
        compare(
            fit_vision,
            options,
            shares,
            alone={"data__init_args__val_batch_size": 6},
            each={"data__init_args__val_batch_size": 3},
        )


def test_codec(fit_codec):
    part = "model__init_args__codec__init_args__"
    still = {**STEPS, part + "quantizer_dropout": 0, part + "revive_below": 0, "data__init_args__batch_seconds": 20}
    fit_codec("fit", **{**still, "trainer__max_steps": 1, "trainer__val_check_interval": 1})
    Path("lightning_logs/codec/last.ckpt").rename("start.ckpt")
    compare(fit_codec, still, shares, extra=["--init_from.codec=start.ckpt"])


def use_sgd(patch: pytest.MonkeyPatch) -> None:
    """Plain gradient descent: gradients of many phases are rounding errors, which AdamW scales to full steps."""
    patch.setattr(VocoderTraining, "make_optimizer", lambda self: torch.optim.SGD(self.parameters(), lr=self.lr))


def test_vocoder(fit_vocoder):
    compare(
        fit_vocoder,
        {
            **STEPS,
            **MEASURED,
            "model__init_args__lr": 0.03,
            "data__init_args__crop": 0.1,
            "data__init_args__batch_seconds": 4,
        },
        shares,
        patch=use_sgd,
    )


def optimized_parts(run: Any) -> dict[str, set[bool]]:
    """Whether the weights of each part have an optimizer state after a run."""
    cli = run()
    states = cli.trainer.optimizers[0].state
    parts = {"vocoder": cli.model.vocoder, "discriminators": cli.model.discriminators}
    return {name: {weight in states for weight in part.parameters()} for name, part in parts.items()}


def test_discriminators_are_not_optimized_before_they_start(fit_vocoder):
    run = partial(fit_vocoder, model__init_args__adversarial_start=10, **MEASURED, **STEPS, **TWO)
    with Ranks(partial(optimized_parts, run), results=True) as ranks:
        assert ranks.results() == [{"vocoder": {True}, "discriminators": {False}}] * 2


def test_talker(fit_talker):
    noise = {"model__init_args__talker__init_args__code_noise": 0}
    compare(fit_talker, {**STEPS, **noise}, shares)


class TestOmni:
    @pytest.mark.parametrize("prompt_weight", [0, 0.3])
    def test_one_rank_without_images_and_audio(self, fit_omni, prompt_weight):
        options = {**STEPS, "model__init_args__prompt_weight": prompt_weight}
        compare(fit_omni, options, media_apart, each={"trainer__strategy": "auto"})  # resolves to DDP here

    def test_a_strategy_without_unused_parameters_is_refused(self, fit_omni, fails):
        strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy"}
        strategy |= {"init_args": {"find_unused_parameters": False}}
        said = fails(fit_omni, trainer__devices=2, trainer__strategy=json.dumps(strategy))
        assert "trainer.strategy has find_unused_parameters false" in said

    def test_mixtures_of_experts_are_balanced_over_ranks(self, fit_omni):
        """In the Thinker and both projectors. Gradients of media that only an earlier micro-batch had are kept."""
        init = "model__init_args__{}__init_args__{}".format
        mixed = {f"model__init_args__{name}_projector": "MoEProjector" for name in ("vision", "audio")}
        mixed |= {init("thinker", "num_experts"): 4, init("thinker", "experts_per_token"): 2, **BALANCED}
        accumulated = {"trainer__accumulate_grad_batches": 2, "trainer__val_check_interval": 10}
        compare(fit_omni, {**STEPS, **accumulated, **mixed, "data__init_args__batch_tokens": 256}, media_apart)


def fit_frozen_llm(verb: str, *extra: str, **overrides: Any) -> Any:
    return run_asr_llm("asr_llm", *extra, verb=verb, **overrides)


@pytest.mark.usefixtures("fit_llm")
def test_frozen_llm():
    options = {**STEPS, "model__init_args__frame_dropout": 0}
    compare(fit_frozen_llm, options)
