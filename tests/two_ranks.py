"""Compares a run on two ranks, each with a part of every batch, with the same run in one process."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from processes import Ranks
from torch import Tensor
from torch.distributed.tensor import DTensor

from omni.batch import IGNORE, CodesBatch, ConversationBatch, SpeechBatch
from omni.data.loading.resumable import ResumableData
from omni.media.audio import HOP_LENGTH
from omni.stages.stage import Stage
from omni.text.tokenizer import PAD

TWO = {"trainer__devices": 2, "trainer__strategy": "ddp"}


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """Some rows of a batch with their media, padded only to their own length."""
    if not isinstance(batch, ConversationBatch):
        size = len(batch.rows)
        parts = {k: v[rows] for k, v in batch._asdict().items() if isinstance(v, Tensor) and len(v) == size}
        return trimmed(batch._replace(**parts))
    if not rows:  # a batch of one row: the other rank has it
        first = rows_of(batch, [0])
        return with_targets(first, torch.full_like(first.targets, IGNORE))
    images, audios = (
        [number for number, row in enumerate(owners) if row in rows] for owners in (batch.image_rows, batch.audio_rows)
    )
    time = int((batch.tokens[rows] != PAD).sum(1).max())
    frames = int(batch.mel_lengths[audios].max()) if audios else 0
    batch = with_targets(batch, batch.targets[rows, :time])
    return batch._replace(
        tokens=batch.tokens[rows, :time],
        positions=batch.positions[:, rows, :time],
        rows=batch.rows[rows],
        images=batch.images[images] if images else None,
        image_rows=tuple(rows.index(batch.image_rows[number]) for number in images),
        mels=batch.mels[audios, :frames] if audios else None,
        mel_lengths=batch.mel_lengths[audios] if audios else None,
        audio_rows=tuple(rows.index(batch.audio_rows[number]) for number in audios),
        audio_keys=tuple(batch.audio_keys[number] for number in audios) if batch.audio_keys else (),
    )


def with_targets(batch: ConversationBatch, targets: Tensor) -> ConversationBatch:
    """A batch with other targets."""
    return batch._replace(targets=targets, scored=(targets.flatten() != IGNORE).nonzero()[:, 0])


def trimmed(batch: Any) -> Any:
    """A batch of speech or codes without excess padding."""
    if isinstance(batch, SpeechBatch):
        frames, units = int(batch.mel_lengths.max()), int(batch.target_lengths.max())
        audio = None if batch.audio is None else batch.audio[:, : frames * HOP_LENGTH]
        others = None if batch.other_mels is None else batch.other_mels[:, :frames]
        mels, targets = batch.mels[:, :frames], batch.targets[:, :units]
        return batch._replace(mels=mels, targets=targets, audio=audio, other_mels=others)
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
    """A full weight, sharded or not."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def share_batches(parts: Callable[[Any], list[list[int]]], rank: int) -> None:
    """Makes this process train on its rank's rows of each batch of a single process."""
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
    patch: Callable[[pytest.MonkeyPatch], None] | None = None,
) -> Found:
    """Runs one process and two ranks, and compares weights and metrics.

    Args:
        run: Runs the command; as `parts` and `patch`, a function of a module or a `partial` of one.
        options: Options of both runs.
        parts: Which rows of a batch each rank gets.
        alone: Further options of the one process.
        each: Further options of each rank.
        tolerance: Largest difference of weights.
        extra: Further arguments.
        patch: Changes code in all processes.
    """
    with pytest.MonkeyPatch.context() as here:
        if patch is not None:
            patch(here)
        one = found(run("fit", *extra, **options, **(alone or {})))
    share = partial(run, "fit", *extra, **{**options, **TWO, **(each or {})})
    with Ranks(partial(run_share, share, parts, patch)) as ranks:
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


def run_share(
    run: Callable[[], Any],
    parts: Callable[[Any], list[list[int]]],
    patch: Callable[[pytest.MonkeyPatch], None] | None,
) -> None:
    """On one of the ranks: trains on its part of each batch, and saves what `found` returns."""
    if patch is not None:
        patch(pytest.MonkeyPatch())
    rank = int(os.environ["RANK"])
    share_batches(parts, rank)
    shutil.rmtree("lightning_logs", ignore_errors=True)
    torch.save(tuple(found(run())), f"found-{rank}.pt")


STEPS = {"trainer__max_steps": 5, "trainer__val_check_interval": 5}
STILL = {"model__init_args__optimizer": "adamw", "model__init_args__warmup_steps": 0}
