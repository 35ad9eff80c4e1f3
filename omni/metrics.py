"""Metrics, synchronised over ranks by torchmetrics."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

from omni.batch import Attribute


def _sum_of(shape: tuple[int, ...] = ()) -> Tensor:
    """An empty sum for `_added`: (2, *shape), fp32."""
    return torch.zeros(2, *shape)


def _added(total: Tensor, value: Tensor) -> Tensor:
    """Adds to a compensated sum, which no number of items makes coarse.

    Not every device has float64 (Apple's GPUs do not), and a plain fp32 sum of millions of tokens rounds away parts of
    each batch. Here a second number holds what rounding has lost so far (TwoSum, Knuth, TAOCP 2, 4.2.2).

    Args:
        total: (2, ...), fp32: the sum and what it has lost. Adding both gives the sum; sums of several ranks add up.
        value: (...): what is added.

    Returns:
        The new pair.
    """
    before, lost = total.unbind()
    value = value.detach().to(before.dtype)
    after = before + value
    taken = after - before
    return torch.stack((after, lost + ((before - (after - taken)) + (value - taken))))


class TokenLoss(Metric):
    """Next-token loss over a whole data set, and what follows from it.

    Losses are summed over tokens, not averaged over batches, so the result does not depend on the batch size.
    `compute` returns the loss in nats per token, its perplexity, and the bits per byte of text, which also counts what
    a tokenizer's longer or shorter tokens hide.
    """

    full_state_update = False
    total: Tensor
    tokens: Tensor
    bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", _sum_of(), dist_reduce_fx="sum")
        for name in ("tokens", "bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, nll: Tensor, scored: Tensor, num_bytes: Tensor) -> None:
        """Adds a batch.

        Args:
            nll: Loss of each position in nats, 0 where not scored; any shape.
            scored: Which positions are scored; bool.
            num_bytes: UTF-8 bytes that each target stands for; 0 where not scored.
        """
        self.total = _added(self.total, nll.float().sum())
        self.tokens += scored.sum()
        self.bytes += num_bytes.sum()

    def compute(self) -> dict[str, Tensor]:
        """`loss` (nats per token), `perplexity`, `bits_per_byte`."""
        total = self.total.sum(0)
        loss = total / self.tokens
        return {"loss": loss, "perplexity": loss.exp(), "bits_per_byte": total / math.log(2) / self.bytes}


class MeanOfItems(Metric):
    """A sum over the number of items it is a sum of, over a whole data set: independent of the batch size."""

    full_state_update = False
    total: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", _sum_of(), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, total: Tensor, num_items: Tensor) -> None:
        """Adds a batch: its sum and its number of items, both scalars."""
        self.total = _added(self.total, total)
        self.items += num_items

    def compute(self) -> Tensor:
        """The mean of an item."""
        return self.total.sum(0) / self.items


class Intelligibility(Metric):
    """The short-time objective intelligibility of sounds (Taal et al. 2011), over a whole data set: 1 at best.

    Sounds of less than 0.4 s of speech have none; they are left out, and `nan` is what is left where all were.
    """

    full_state_update = False
    total: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", _sum_of(), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, audio: Tensor, originals: Tensor, lengths: Tensor) -> None:
        """Adds a batch, (batch, samples) at 16 kHz each, of rows so long."""
        pairs = zip(audio.float().cpu(), originals.float().cpu(), lengths.tolist(), strict=True)
        for sound, original, length in pairs:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # so it tells that there is too little speech
                try:
                    value = short_time_objective_intelligibility(sound[:length], original[:length], 16_000)
                except RuntimeWarning:
                    continue
            self.total = _added(self.total, value.float().to(self.total.device))
            self.items += 1

    def compute(self) -> Tensor:
        """The mean of a sound."""
        return self.total.sum(0) / self.items


class Classification(Metric):
    """How often images are classified rightly, over a whole data set.

    `compute` returns the share of images that are right in each attribute (`accuracy/NAME`), the mean over attributes
    (`accuracy`), and with more than five values whether the right one is among the five likeliest (`top5/NAME`). An
    attribute of several values is right where every one of them is.

    Args:
        attributes: What images are classified by.
    """

    full_state_update = False
    right: Tensor
    near: Tensor
    total: Tensor
    hits: Tensor
    shown: Tensor

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        super().__init__()
        self.attributes = tuple(attributes)
        self.sizes = [len(attribute.values) for attribute in attributes]
        for name in ("right", "near", "total"):
            self.add_state(name, torch.zeros(len(self.sizes), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("hits", "shown"):
            self.add_state(name, torch.zeros(sum(self.sizes), dtype=torch.long), dist_reduce_fx="sum")
        for number, attribute in enumerate(self.attributes):
            size = (len(attribute.values),) * 2
            if not attribute.several:
                self.add_state(f"confusion{number}", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: scores (batch, classes), and labels as in `omni.batch.ImageBatch`."""
        parts = zip(self.attributes, logits.split(self.sizes, 1), labels.split(self.sizes, 1), strict=True)
        hits, shown = [], []
        for number, (attribute, scores, target) in enumerate(parts):
            known = target[:, 0] >= 0
            scores, target = scores[known], target[known]
            self.total[number] += len(target)
            if attribute.several:
                fits = (scores > 0) == (target > 0.5)
                self.right[number] += fits.all(1).sum()
                hits.append(fits.sum(0))
                shown.append(torch.full_like(hits[-1], len(target)))
                continue
            truth, guess = target.argmax(1), scores.argmax(1)
            self.right[number] += (truth == guess).sum()
            best = scores.topk(min(5, scores.shape[1]), dim=1).indices
            self.near[number] += (best == truth[:, None]).sum()
            size = len(attribute.values)
            table = torch.bincount(truth * size + guess, minlength=size**2).view(size, size)
            getattr(self, f"confusion{number}").add_(table)
            hits.append(table.diagonal())
            shown.append(table.sum(1))
        self.hits += torch.cat(hits)
        self.shown += torch.cat(shown)

    def compute(self) -> dict[str, Tensor]:
        """Shares by name."""
        right, near = self.right / self.total.clamp(min=1), self.near / self.total.clamp(min=1)
        shares = {"accuracy": right.float().mean()}
        for number, attribute in enumerate(self.attributes):
            if len(self.attributes) > 1:
                shares[f"accuracy/{attribute.name}"] = right[number].float()
            if not attribute.several and len(attribute.values) > 5:
                shares[f"top5/{attribute.name}"] = near[number].float()
        return shares

    def per_class(self) -> list[tuple[str, str, int, float]]:
        """For each class: attribute, value, images it was looked for in, and the share that was found right."""
        names = [(a.name, value) for a in self.attributes for value in a.values]
        pairs = zip(names, self.shown.tolist(), self.hits.tolist(), strict=True)
        return [(name, value, shown, hit / shown if shown else float("nan")) for (name, value), shown, hit in pairs]

    def confusion(self) -> dict[str, Tensor]:
        """For each attribute of single values, how many images of a class (row) were taken for another (column)."""
        return {
            a.name: getattr(self, f"confusion{number}") for number, a in enumerate(self.attributes) if not a.several
        }


class AccuracyByTask(Metric):
    """How often answers are right, by task, over a whole data set.

    Args:
        tasks: Names of the tasks.
        excluded: Those that do not count in the share over all, unless there are no others.
    """

    full_state_update = False
    right: Tensor
    asked: Tensor

    def __init__(self, tasks: Sequence[str], *, excluded: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        mixed = [number for number, task in enumerate(self.tasks) if task not in excluded]
        self.mixed = mixed or [*range(len(self.tasks))]
        for name in ("right", "asked"):
            self.add_state(name, torch.zeros(len(self.tasks), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, tasks: Sequence[str], right: Sequence[bool]) -> None:
        """Adds answers: the task of each, and whether it is right."""
        for task, fits in zip(tasks, right, strict=True):
            number = self.tasks.index(task)
            self.right[number] += fits
            self.asked[number] += 1

    def compute(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """The share of right answers of each task that was asked for, and over all questions; None without any."""
        shares = zip(self.tasks, self.right, self.asked, strict=True)
        asked = self.asked[self.mixed].sum()
        mixed = (self.right[self.mixed].sum() / asked).float() if asked else None
        return {task: (right / asked).float() for task, right, asked in shares if asked}, mixed


class Retrieval(Metric):
    """How often the right image is found by a caption, and the right caption by an image, among all of a data set.

    Ties count as wrong: a model that says the same of everything finds nothing. Where captions are equal, each image
    of one of them is right.

    Args:
        ranks: The right one must be among so many best.
    """

    full_state_update = False
    images: list[Tensor]
    rows: list[Tensor]
    texts: list[Tensor]
    text_rows: list[Tensor]
    text_ids: list[Tensor]

    def __init__(self, ranks: Sequence[int] = (1, 5)) -> None:
        super().__init__()
        self.ranks = tuple(ranks)
        for name in ("images", "rows", "texts", "text_rows", "text_ids"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, images: Tensor, rows: Tensor, texts: Tensor, text_rows: Tensor, text_ids: Tensor) -> None:
        """Adds a batch.

        Args:
            images: (images, dim), unit vectors.
            rows: (images,), their numbers.
            texts: (texts, dim), unit vectors.
            text_rows: (texts,), the number of the image that each describes.
            text_ids: (texts,), equal for equal texts.
        """
        for name, value in zip(
            ("images", "rows", "texts", "text_rows", "text_ids"),
            (images, rows, texts, text_rows, text_ids),
            strict=True,
        ):
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Tensor]:
        """`image_recall@K` (of images, by a caption), `text_recall@K` (of captions, by an image), `recall@K` (mean)."""
        states = (self.images, self.rows, self.texts, self.text_rows, self.text_ids)
        images, rows, texts, text_rows, text_ids = (
            torch.cat(list(state)) if isinstance(state, list) else state for state in states
        )
        scores = texts @ images.T
        right = text_rows[:, None] == rows  # (texts, images)
        for number in text_ids.unique():
            same = text_ids == number
            right[same] = right[same].any(0)
        own = scores.masked_fill(~right, -torch.inf)
        wrong = scores.masked_fill(right, -torch.inf)
        found = (wrong >= own.amax(1, keepdim=True)).sum(1)
        best = (wrong >= own.amax(0, keepdim=True)).sum(0)[right.any(0)]
        shares = {}
        for rank in self.ranks:
            of_images, of_texts = (found < rank).float().mean(), (best < rank).float().mean()
            shares |= {f"image_recall@{rank}": of_images, f"text_recall@{rank}": of_texts}
            shares[f"recall@{rank}"] = (of_images + of_texts) / 2
        return shares


class CodebookUse(Metric):
    """How a quantizer's codebooks are used, over a whole data set.

    Args:
        num_codebooks: Codebooks.
        codebook_size: Entries of each.
    """

    full_state_update = False
    counts: Tensor
    energies: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_codebooks, codebook_size, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("energies", _sum_of((num_codebooks + 1,)), dist_reduce_fx="sum")

    def update(self, codes: Tensor, energies: Tensor) -> None:
        """Adds a batch.

        Args:
            codes: (frames, num_codebooks), int64, padding left out.
            energies: (num_codebooks + 1,): what is left before the first and behind each codebook, as a sum of squares.
        """
        found = torch.zeros(self.counts.shape, device=codes.device)  # not every device adds integers in place
        self.counts += found.scatter_add_(1, codes.T, torch.ones_like(codes.T, dtype=found.dtype)).long()
        self.energies = _added(self.energies, energies)

    def compute(self) -> dict[str, Tensor]:
        """Each (num_codebooks,): `use` (share of entries that occur), `perplexity` of the codes, `gain` (in dB)."""
        shares = self.counts / self.counts.sum(1, keepdim=True)
        energies = self.energies.sum(0)
        return {
            "use": (self.counts > 0).float().mean(1),
            "perplexity": torch.special.entr(shares).sum(1).exp(),
            "gain": 10 * (energies[:-1] / energies[1:].clamp(min=1e-12)).log10(),
        }
