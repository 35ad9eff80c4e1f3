"""Accuracy and word error rate of generated answers, with and without their images and audio."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torchmetrics.text import WordErrorRate

from omni.batch import TRANSCRIPTION, ConversationBatch
from omni.media.images import GREY
from omni.media.mel_scale import SILENCE
from omni.metrics import AccuracyByTask
from omni.text.normalization import TextNormalization

MEDIA = ("image", "audio")


@final
class AnswerMetrics(nn.Module):
    """Compares answers with their references, both normalised.

    Args:
        tasks: Tasks of the questions.
        excluded: Tasks that the overall accuracy leaves out.
        normalize_transcript: Normalises transcriptions for the word error rate; as answers if not given.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        excluded: Sequence[str] = (),
        normalize_transcript: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__()
        self.normalize = TextNormalization()
        self.normalize_transcript = normalize_transcript or self.normalize
        self.wer = WordErrorRate() if TRANSCRIPTION in tasks else None
        names = ("accuracy", *(f"accuracy_{medium}" for medium in MEDIA), *(f"accuracy_blank_{m}" for m in MEDIA))
        self.accuracies = nn.ModuleDict({name: AccuracyByTask(tasks, excluded=excluded) for name in names})

    def update(self, batch: ConversationBatch, answers: Sequence[str]) -> list[bool]:
        """Adds the answers to all rows.

        Returns:
            Whether each is correct.
        """
        correct = self._update("accuracy", batch, range(len(answers)), answers)
        for medium in MEDIA:
            rows = rows_with(batch, medium)
            self._update(f"accuracy_{medium}", batch, rows, [answers[row] for row in rows])
        if self.wer is not None:
            rows = [row for row, task in enumerate(batch.tasks) if task == TRANSCRIPTION]
            hypotheses, references = (
                [self.normalize_transcript(texts[row]) for row in rows] for texts in (answers, batch.answers)
            )
            self.wer.update(hypotheses, references)
        return correct

    def update_blank(self, medium: str, batch: ConversationBatch, answers: Sequence[str]) -> None:
        """Adds the answers to the rows with a medium, which was blank (see `blank`)."""
        self._update(f"accuracy_blank_{medium}", batch, rows_with(batch, medium), answers)

    def compute(self, *, with_blank: bool) -> dict[str, Tensor]:
        """`accuracy`, `accuracy/TASK`, `accuracy_image`, `accuracy_blank_image/TASK` and so on, and `wer`."""
        values = {}
        for name in self.accuracies:
            if "blank" in name and not with_blank:
                continue
            by_task, overall = self._accuracy(name).compute()
            if name == "accuracy" or "blank" in name:  # of the others, the accuracies by task are those of `accuracy`
                values |= {f"{name}/{task}": share for task, share in by_task.items()}
            if overall is not None:
                values[name] = overall
        return values if self.wer is None else {**values, "wer": self.wer.compute()}

    def _update(self, name: str, batch: ConversationBatch, rows: Sequence[int], answers: Sequence[str]) -> list[bool]:
        pairs = [(answer, batch.answers[row]) for row, answer in zip(rows, answers, strict=True)]
        correct = [self.normalize(answer) == self.normalize(reference) for answer, reference in pairs]
        self._accuracy(name).update([batch.tasks[row] for row in rows], correct)
        return correct

    def _accuracy(self, name: str) -> AccuracyByTask:
        return self.accuracies[name]  # pyright: ignore[reportReturnType]


def rows_with(batch: ConversationBatch, medium: str) -> list[int]:
    """The rows that hold an `image` or `audio`."""
    return sorted(set(batch.image_rows if medium == "image" else batch.audio_rows))


def blank(batch: ConversationBatch, medium: str, silence: float = SILENCE) -> ConversationBatch:
    """The batch with every image grey (`image`), or with all audio silent and of the same length (`audio`)."""
    if medium == "image" and batch.images is not None:
        return batch._replace(images=torch.full_like(batch.images, GREY))
    if medium == "audio" and batch.mels is not None:
        return batch._replace(mels=torch.full_like(batch.mels, silence), audio_keys=())
    return batch
