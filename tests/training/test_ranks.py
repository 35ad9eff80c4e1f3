"""Two ranks with half of each batch take the same steps and compute the same metrics as one process."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from forks import Ranks
from test_omni_stage import fit_omni, talks  # noqa: F401  fixtures of the tests below
from test_vision_stage import CAPTIONS, NO_CLASSES, part
from torch import Tensor
from torch.distributed.tensor import DTensor

from omni.batch import IGNORE, CodesBatch, ConversationBatch, SpeechBatch
from omni.data.loading.resumable import ResumableData
from omni.media.audio import HOP_LENGTH
from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder
from omni.stages.reporting.images import ImageReporter
from omni.stages.stage import Stage
from omni.stages.vocoder import VocoderTraining
from omni.text.tokenizer import PAD

TWO = {"trainer__devices": 2, "trainer__strategy": "ddp"}
MEASURED = {"model__init_args__quality_utterances": 4}  # of the vocoder's validation: some rows on each rank


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """Some rows of a batch with their media, padded only to their own length."""
    if not isinstance(batch, ConversationBatch):
        size = len(batch.rows)
        parts = {k: v[rows] for k, v in batch._asdict().items() if isinstance(v, Tensor) and len(v) == size}
        return trimmed(batch._replace(**parts))
    if not rows:  # a batch of one row: it counts on the other rank
        return rows_of(batch, [0])._replace(targets=torch.full_like(batch.targets[:1], IGNORE))
    images, audios = (
        [number for number, row in enumerate(owners) if row in rows] for owners in (batch.image_rows, batch.audio_rows)
    )
    time = int((batch.tokens[rows] != PAD).sum(1).max())
    frames = int(batch.mel_lengths[audios].max()) if audios else 0
    return batch._replace(
        tokens=batch.tokens[rows, :time],
        targets=batch.targets[rows, :time],
        positions=batch.positions[:, rows, :time],
        rows=batch.rows[rows],
        images=batch.images[images] if images else None,
        image_rows=tuple(rows.index(batch.image_rows[number]) for number in images),
        mels=batch.mels[audios, :frames] if audios else None,
        mel_lengths=batch.mel_lengths[audios] if audios else None,
        audio_rows=tuple(rows.index(batch.audio_rows[number]) for number in audios),
        audio_keys=tuple(batch.audio_keys[number] for number in audios) if batch.audio_keys else (),
    )


def trimmed(batch: Any) -> Any:
    """A batch of speech or codes without excess padding."""
    if isinstance(batch, SpeechBatch):
        frames, units = int(batch.mel_lengths.max()), int(batch.target_lengths.max())
        audio = None if batch.audio is None else batch.audio[:, : frames * HOP_LENGTH]
        return batch._replace(mels=batch.mels[:, :frames], targets=batch.targets[:, :units], audio=audio)
    if isinstance(batch, CodesBatch):
        characters, frames = int(batch.text_lengths.max()), int((batch.advances != IGNORE).sum(1).max())
        text, codes, advances = batch.text[:, :characters], batch.codes[:, :frames], batch.advances[:, :frames]
        return batch._replace(text=text, codes=codes, advances=advances)
    return batch


def shares(batch: Any) -> list[list[int]]:
    """The first two thirds of the rows on rank 0, the others on rank 1."""
    rows = list(range(len(batch.rows)))
    others = rows[2::3] or rows[-1:]
    return [[row for row in rows if row not in others], others]


def halves(batch: Any) -> list[list[int]]:
    """Every other row, the same number on both ranks."""
    return [list(range(len(batch.rows)))[rank::2] for rank in (0, 1)]


def media_apart(batch: Any) -> list[list[int]]:
    """Rows with images or audio on rank 0, those of text only on rank 1."""
    media = {*batch.image_rows, *batch.audio_rows}
    alone = [row for row in range(len(batch.rows)) if row not in media] or [max(media)]
    return [[row for row in range(len(batch.rows)) if row not in alone], alone]


class Found(NamedTuple):
    """The result of a run: weights, and metrics of validation."""

    weights: dict[str, Tensor]
    metrics: dict[str, Tensor]


def found(cli: Any) -> Found:
    metrics = {name: value for name, value in cli.trainer.callback_metrics.items() if name.startswith("val/")}
    return Found({k: whole(v).clone() for k, v in cli.model.state_dict().items()}, metrics)


def whole(weight: Tensor) -> Tensor:
    """A whole weight, sharded or not."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def share_batches(parts: Callable[[Any], list[list[int]]], rank: int) -> None:
    """Trains in a process of its own on this rank's rows of each batch of a single process."""
    share = ResumableData.rank
    ResumableData.rank = lambda self: {"rank": 0, "world_size": 1} if TRAINS[0] else share(self)
    for stage in Stage.__subclasses__():
        loss = stage.loss

        def part(self: Any, batch: Any, loss: Any = loss) -> Any:
            return loss(self, rows_of(batch, parts(batch)[rank]) if self.training else batch)

        stage.loss = part
    for data in ResumableData.__subclasses__() + [
        d for c in ResumableData.__subclasses__() for d in c.__subclasses__()
    ]:
        for name in ("train_dataloader", "train_batches"):
            if name in vars(data):
                setattr(data, name, as_one(vars(data)[name]))


TRAINS = [0]


def as_one(method: Any) -> Any:
    def wrapped(self: Any) -> Any:
        TRAINS[0] += 1
        try:
            return method(self)
        finally:
            TRAINS[0] -= 1

    return wrapped


def compare(
    run: Callable[..., Any],
    options: dict[str, Any],
    parts: Callable[[Any], list[list[int]]] = halves,
    *,
    alone: dict[str, Any] | None = None,
    each: dict[str, Any] | None = None,
    tolerance: float = 1e-5,
    extra: Sequence[str] = (),
) -> Found:
    """Runs one process and two ranks, and compares weights and metrics.

    Args:
        run: Calls the command.
        options: Of both runs.
        parts: Which rows of a batch each rank gets.
        alone: Further options of the one process.
        each: Further options of each rank.
        tolerance: Of the weights.
        extra: Further arguments.
    """
    one = found(run("fit", *extra, **options, **(alone or {})))

    def as_rank(rank: int) -> None:
        share_batches(parts, rank)
        shutil.rmtree("lightning_logs", ignore_errors=True)
        torch.save(tuple(found(run("fit", *extra, **{**options, **TWO, **(each or {})}))), f"found-{rank}.pt")

    with Ranks(as_rank) as ranks:
        assert ranks.wait(120) == [0, 0], ranks.output(0) + ranks.output(1)
    two, other = (Found(*torch.load(f"found-{rank}.pt")) for rank in (0, 1))
    for name, weight in two.weights.items():
        torch.testing.assert_close(
            other.weights[name], weight, rtol=0, atol=0, msg=lambda text, name=name: f"ranks differ in {name}: {text}"
        )
        torch.testing.assert_close(
            weight, one.weights[name], rtol=1e-6, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert two.metrics.keys() == one.metrics.keys()
    for name, value in two.metrics.items():
        torch.testing.assert_close(
            value, one.metrics[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    return one


STEPS = {"trainer__max_steps": 5, "trainer__val_check_interval": 5}
STILL = {"model__init_args__optimizer": "adamw", "model__init_args__warmup_steps": 0}
BALANCED = {"model__init_args__balance": 1.0}  # so that it is seen


class TestThinker:
    def test_dense_with_a_batch_shared_unevenly_and_accumulated(self, fit):
        accumulated = {"trainer__accumulate_grad_batches": 2, "trainer__val_check_interval": 10}
        compare(fit, {**STEPS, **STILL, **accumulated}, shares)

    def test_experts(self, fit):
        part = "model__init_args__thinker__init_args__"
        compare(fit, {**STEPS, **STILL, part + "num_experts": 4, part + "experts_per_token": 2, **BALANCED}, shares)


def one_row_less(path: str) -> None:
    """An odd number of rows: one rank validates one row more than the other."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    Path(path).write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


def test_audio(fit_audio):
    one_row_less("speech/val.jsonl")
    data = {"data__init_args__augmentation__silence": 0, "data__init_args__batch_seconds": 20}
    compare(fit_audio, {**STEPS, **STILL, **data}, shares)


class TestVision:
    def test_classes(self, fit_vision, monkeypatch):
        tables = []

        def write(self: Any, *_: Any) -> None:
            tables.append((self.classes, self.confusion["label"].tolist()))
            torch.save(tables, "shown.pt")

        monkeypatch.setattr(ImageReporter, "write", write)
        compare(fit_vision, {**STEPS, **STILL, "data__init_args__augmentation": "null"}, shares)
        (of_one,), (*_, of_two) = tables, torch.load("shown.pt")  # which rank 0 has written
        assert of_two == of_one
        assert [count for _, _, count, _ in of_two[0]] == [4, 4, 4]

    @pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
    def test_contrast_sees_the_negatives_of_all_ranks(self, fit_vision, loss):
        contrast = {**CAPTIONS, "model__init_args__contrast": part(ContrastHead, image_dim=32, text_dim=32, loss=loss)}
        tower = {"vocab_size": 288, "dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}
        contrast |= {"model__init_args__text_encoder": part(TextEncoder, **tower), **NO_CLASSES}
        # A validation batch of each rank's together holds the pairs that one process compares.
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


def test_vocoder(fit_vocoder, monkeypatch):
    # Plain gradient descent: AdamW makes steps of gradients that are rounding errors, of which many phases have some.
    monkeypatch.setattr(VocoderTraining, "make_optimizer", lambda self: torch.optim.SGD(self.parameters(), lr=self.lr))
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
    )


def test_discriminators_rest_until_they_take_part(fit_vocoder):
    def as_rank(rank: int) -> None:
        cli = fit_vocoder(model__init_args__adversarial_start=10, **MEASURED, **STEPS, **TWO)
        states = cli.trainer.optimizers[0].state
        assert not any(weight in states for weight in cli.model.discriminators.parameters())
        assert all(weight in states for weight in cli.model.vocoder.parameters())

    with Ranks(as_rank) as ranks:
        assert ranks.wait(60) == [0, 0], ranks.output(0)


def test_talker(fit_talker):
    noise = {"model__init_args__talker__init_args__code_noise": 0}
    compare(fit_talker, {**STEPS, **noise}, shares)


class TestOmni:
    def test_one_rank_without_images_and_audio(self, fit_omni):  # noqa: F811
        compare(fit_omni, STEPS, media_apart, each={"trainer__strategy": "auto"})  # which is DDP here, too

    def test_a_strategy_that_would_fail_in_the_middle_of_a_run_is_refused(self, fit_omni, fails):  # noqa: F811
        strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy"}
        strategy |= {"init_args": {"find_unused_parameters": False}}
        said = fails(fit_omni, trainer__devices=2, trainer__strategy=json.dumps(strategy))
        assert "trainer.strategy has find_unused_parameters false" in said

    def test_mixtures_of_experts_are_balanced_over_ranks(self, fit_omni):  # noqa: F811
        """Of the Thinker and both projectors; gradients of media that only an earlier micro-batch had are kept."""
        init = "model__init_args__{}__init_args__{}".format
        mixed = {f"model__init_args__{name}_projector": "MoEProjector" for name in ("vision", "audio")}
        mixed |= {init("thinker", "num_experts"): 4, init("thinker", "experts_per_token"): 2, **BALANCED}
        accumulated = {"trainer__accumulate_grad_batches": 2, "trainer__val_check_interval": 10}
        compare(fit_omni, {**STEPS, **accumulated, **mixed, "data__init_args__batch_tokens": 256}, media_apart)


def test_frozen_llm(fit_llm):
    options = {**STEPS, "model__init_args__frame_dropout": 0}
    compare(lambda verb, *extra, **overrides: fit_llm("asr_llm", *extra, verb=verb, **overrides), options)
