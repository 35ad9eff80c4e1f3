"""Metrics, synchronised over ranks by torchmetrics."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility
from torchmetrics.utilities import dim_zero_cat

from omni.batch import Attribute

_PAIRS = ("images", "rows", "texts", "text_rows", "text_ids")  # states of `Retrieval`


def _zero_sum(shape: tuple[int, ...] = ()) -> Tensor:
    """An empty sum for `_add`: (2, *shape), fp32."""
    return torch.zeros(2, *shape)


def _add(total: Tensor, value: Tensor) -> Tensor:
    """Adds to a compensated sum.

    Not every device has float64 (Apple's GPUs do not), and a plain fp32 sum of millions of tokens rounds away parts of
    each batch. (`torchmetrics.MeanMetric` is such a sum: after 20,000 batches of 8,192 tokens its mean is off by
    3e-6, this one by 1.5e-8; and its weight, fp32 too, stops growing at 16.8 million for batches of one item.) Here a
    second number holds the rounding errors so far (TwoSum, Knuth, TAOCP 2, 4.2.2).

    Args:
        total: (2, ...), fp32: the sum and its error, which are added in the end, also over ranks.
        value: (...).

    Returns:
        The new pair.
    """
    before, error = total.unbind()
    value = value.detach().to(before.dtype)
    after = before + value
    added = after - before
    return torch.stack((after, error + ((before - (after - added)) + (value - added))))


class TokenLoss(Metric):
    """Next-token loss, perplexity and bits per byte over a whole data set.

    Losses are summed over tokens, so that the result does not depend on the batch size. Bits per byte of text can be
    compared between tokenizers.
    """

    full_state_update = False
    total: Tensor
    tokens: Tensor
    bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", _zero_sum(), dist_reduce_fx="sum")
        for name in ("tokens", "bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, nll: Tensor, scored: Tensor, num_bytes: Tensor) -> None:
        """Adds a batch.

        Args:
            nll: Loss of each position in nats, 0 where not scored; any shape.
            scored: Which positions are scored; bool.
            num_bytes: UTF-8 bytes of each target; 0 where not scored.
        """
        self.total = _add(self.total, nll.float().sum())
        self.tokens += scored.sum()
        self.bytes += num_bytes.sum()

    def compute(self) -> dict[str, Tensor]:
        """`loss` (nats per token), `perplexity`, `bits_per_byte`."""
        total = self.total.sum(0)
        loss = total / self.tokens
        return {"loss": loss, "perplexity": loss.exp(), "bits_per_byte": total / math.log(2) / self.bytes}


class MeanOfItems(Metric):
    """The mean over all items of a data set, from sums over batches: independent of the batch size."""

    full_state_update = False
    total: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", _zero_sum(), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, total: Tensor, num_items: Tensor | int) -> None:
        """Adds a batch: its sum, a scalar, and its number of items."""
        self.total = _add(self.total, total.to(self.total.device))
        self.items += num_items

    def compute(self) -> Tensor:
        """The mean per item."""
        return self.total.sum(0) / self.items


class Intelligibility(MeanOfItems):
    """The mean short-time objective intelligibility (Taal et al. 2011) of sounds over a whole data set: at most 1.

    Sounds with less than 0.4 s of speech have none and are left out. The mean of no sounds is `nan`.
    """

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, audio: Tensor, originals: Tensor, lengths: Tensor
    ) -> None:
        """Adds a batch.

        Args:
            audio: (batch, samples), 16 kHz.
            originals: (batch, samples), 16 kHz.
            lengths: (batch,): samples of each row.
        """
        rows = zip(audio.float().cpu(), originals.float().cpu(), lengths.tolist(), strict=True)
        for sound, original, length in rows:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # of too little speech
                try:
                    value = short_time_objective_intelligibility(sound[:length], original[:length], 16_000)
                except RuntimeWarning:
                    continue
            super().update(value.float(), 1)


class Classification(Metric):
    """Accuracy of classification by attributes, over a whole data set.

    An attribute of several values is correct where every one of them is. Images with an unknown label do not count.
    (torchmetrics' accuracies fail on a batch without any known label.)

    Args:
        attributes: The attributes, in the order of the scores.
    """

    full_state_update = False
    correct: Tensor
    correct_top5: Tensor
    total: Tensor
    class_correct: Tensor
    class_total: Tensor

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        super().__init__()
        self.attributes = tuple(attributes)
        self.sizes = [len(attribute.values) for attribute in attributes]
        for name in ("correct", "correct_top5", "total"):
            self.add_state(name, torch.zeros(len(self.sizes), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("class_correct", "class_total"):
            self.add_state(name, torch.zeros(sum(self.sizes), dtype=torch.long), dist_reduce_fx="sum")
        for number, attribute in enumerate(self.attributes):
            size = (len(attribute.values),) * 2
            if not attribute.several:
                self.add_state(f"confusion{number}", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: scores (batch, classes), and labels as in `omni.batch.ImageBatch`."""
        parts = zip(self.attributes, logits.split(self.sizes, 1), labels.split(self.sizes, 1), strict=True)
        correct, totals = [], []  # by class
        for number, (attribute, scores, target) in enumerate(parts):
            known = target[:, 0] >= 0
            scores, target = scores[known], target[known]
            self.total[number] += len(target)
            if attribute.several:
                same = (scores > 0) == (target > 0.5)
                self.correct[number] += same.all(1).sum()
                correct.append(same.sum(0))
                totals.append(torch.full_like(correct[-1], len(target)))
                continue
            label, prediction = target.argmax(1), scores.argmax(1)
            self.correct[number] += (label == prediction).sum()
            best = scores.topk(min(5, scores.shape[1]), dim=1).indices
            self.correct_top5[number] += (best == label[:, None]).sum()
            size = len(attribute.values)
            counts = torch.bincount(label * size + prediction, minlength=size**2).view(size, size)
            getattr(self, f"confusion{number}").add_(counts)
            correct.append(counts.diagonal())
            totals.append(counts.sum(1))
        self.class_correct += torch.cat(correct)
        self.class_total += torch.cat(totals)

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, the mean over attributes; of several, `accuracy/NAME`; of more than five classes, `top5/NAME`."""
        total = self.total.clamp(min=1)
        accuracy, top5 = (self.correct / total).float(), (self.correct_top5 / total).float()
        shares = {"accuracy": accuracy.mean()}
        for number, attribute in enumerate(self.attributes):
            if len(self.attributes) > 1:
                shares[f"accuracy/{attribute.name}"] = accuracy[number]
            if not attribute.several and len(attribute.values) > 5:
                shares[f"top5/{attribute.name}"] = top5[number]
        return shares

    def per_class(self) -> list[tuple[str, str, int, float]]:
        """For each class: attribute, value, number of images, and the share that is correct."""
        names = [(attribute.name, value) for attribute in self.attributes for value in attribute.values]
        counts = zip(names, self.class_total.tolist(), self.class_correct.tolist(), strict=True)
        return [(*name, total, correct / total if total else float("nan")) for name, total, correct in counts]

    def confusion(self) -> dict[str, Tensor]:
        """For each attribute of single values, the number of images by true (row) and predicted class (column)."""
        return {
            a.name: getattr(self, f"confusion{number}") for number, a in enumerate(self.attributes) if not a.several
        }


class AccuracyByTask(Metric):
    """Accuracy of answers by task, over a whole data set.

    Args:
        tasks: Names of the tasks.
        excluded: Those that do not count in the overall accuracy, unless there are no others.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, tasks: Sequence[str], *, excluded: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        included = [number for number, task in enumerate(self.tasks) if task not in excluded]
        self.included = included or [*range(len(self.tasks))]
        for name in ("correct", "total"):
            self.add_state(name, torch.zeros(len(self.tasks), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, tasks: Sequence[str], correct: Sequence[bool]) -> None:
        """Adds answers: the task of each, and whether it is correct."""
        for task, one in zip(tasks, correct, strict=True):
            number = self.tasks.index(task)
            self.correct[number] += one
            self.total[number] += 1

    def compute(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """The accuracy of each task with answers, and the overall one; None if no included task has any."""
        counts = zip(self.tasks, self.correct, self.total, strict=True)
        total = self.total[self.included].sum()
        overall = (self.correct[self.included].sum() / total).float() if total else None
        return {task: (correct / n).float() for task, correct, n in counts if n}, overall


class Retrieval(Metric):
    """Recall of images by caption and of captions by image, among all of a data set.

    Ties count as wrong, so that a constant model has a recall of 0. Where captions are equal, the image of each of them
    is a right one. (torchmetrics' `RetrievalRecall` knows neither rule.)

    Args:
        ranks: The values of K in recall@K.
    """

    full_state_update = False

    def __init__(self, ranks: Sequence[int] = (1, 5)) -> None:
        super().__init__()
        self.ranks = tuple(ranks)
        for name in _PAIRS:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, images: Tensor, rows: Tensor, texts: Tensor, text_rows: Tensor, text_ids: Tensor) -> None:
        """Adds a batch.

        Args:
            images: (images, dim), unit vectors.
            rows: (images,), numbers of the images.
            texts: (texts, dim), unit vectors.
            text_rows: (texts,), the number of the image of each text.
            text_ids: (texts,), equal for equal texts.
        """
        for name, value in zip(_PAIRS, (images, rows, texts, text_rows, text_ids), strict=True):
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Tensor]:
        """`image_recall@K` (of images by caption), `text_recall@K` (of captions by image), `recall@K` (their mean)."""
        images, rows, texts, text_rows, text_ids = (dim_zero_cat(getattr(self, name)) for name in _PAIRS)
        scores = texts @ images.T
        matches = text_rows[:, None] == rows  # (texts, images)
        for number in text_ids.unique():
            same = text_ids == number
            matches[same] = matches[same].any(0)
        positives = scores.masked_fill(~matches, -torch.inf)
        negatives = scores.masked_fill(matches, -torch.inf)
        # Number of negatives that score at least as high as the best positive, by text and by image.
        image_ranks = (negatives >= positives.amax(1, keepdim=True)).sum(1)
        text_ranks = (negatives >= positives.amax(0, keepdim=True)).sum(0)[matches.any(0)]
        shares = {}
        for rank in self.ranks:
            of_images, of_texts = (image_ranks < rank).float().mean(), (text_ranks < rank).float().mean()
            shares |= {f"image_recall@{rank}": of_images, f"text_recall@{rank}": of_texts}
            shares[f"recall@{rank}"] = (of_images + of_texts) / 2
        return shares


class CodebookUse(Metric):
    """Use of a quantizer's codebooks over a whole data set.

    Args:
        num_codebooks: Number of codebooks.
        codebook_size: Entries per codebook.
    """

    full_state_update = False
    counts: Tensor
    energies: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_codebooks, codebook_size, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("energies", _zero_sum((num_codebooks + 1,)), dist_reduce_fx="sum")

    def update(self, codes: Tensor, energies: Tensor) -> None:
        """Adds a batch.

        Args:
            codes: (frames, num_codebooks), int64, without padding.
            energies: (num_codebooks + 1,): squared norm of the residual, before the first and after each codebook.
        """
        found = torch.zeros(self.counts.shape, device=codes.device)  # not every device adds integers in place
        self.counts += found.scatter_add_(1, codes.T, torch.ones_like(codes.T, dtype=found.dtype)).long()
        self.energies = _add(self.energies, energies)

    def compute(self) -> dict[str, Tensor]:
        """Each (num_codebooks,): `use`, the share of entries that occur; `perplexity` of the codes; `gain`, in dB."""
        shares = self.counts / self.counts.sum(1, keepdim=True)
        energies = self.energies.sum(0)
        return {
            "use": (self.counts > 0).float().mean(1),
            "perplexity": torch.special.entr(shares).sum(1).exp(),
            "gain": 10 * (energies[:-1] / energies[1:].clamp(min=1e-12)).log10(),
        }
