"""Accuracy on conversations: a model answers the last question of each, also with its images or audio blanked."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from omni.batch import EXCLUDED_FROM_ACCURACY
from omni.data.conversations.sources import Conversation
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.inference.prompt import Message, Prompt
from omni.text.normalization import TextNormalization

T = TypeVar("T")

MEDIA = ("image", "audio")  # what is blanked, one kind at a time
_normalize = TextNormalization()


class AnsweredQuestion(NamedTuple):
    """A question and the model's answer.

    Attributes:
        where: The conversation's file and row.
        task: The conversation's task.
        reference: The right answer.
        answer: The model's answer.
        blank: The model's answer with grey images (`image`) or silent audio (`audio`), where the question has any.
        truncated: Whether the first exchanges did not fit into the context.
    """

    where: str
    task: str
    reference: str
    answer: str
    blank: dict[str, str]
    truncated: bool

    def correct(self, blanked: str | None = None) -> bool:
        """Whether the answer, or the one with a kind of media blanked, equals the reference, both normalised."""
        answer = self.answer if blanked is None else self.blank[blanked]
        return _normalize(answer) == _normalize(self.reference)


def answer_questions(
    assistant: Assistant,
    rows: Sequence[Conversation],
    *,
    modality_ablation: bool,
    max_tokens: int,
    batch_size: int,
    errors: list[UserError] | None = None,
) -> list[AnsweredQuestion]:
    """Answers the last question of each conversation.

    Args:
        assistant: The model.
        rows: The conversations; each has an assistant's message.
        modality_ablation: Whether to answer again with images and audio blanked.
        max_tokens: Most tokens of an answer.
        batch_size: Questions per batch.
        errors: Gets the error of each row that has no answer, is too long, or has unreadable media; None: the first is
            raised.

    Raises:
        UserError: If there are no rows, or none can be answered.
    """
    if not rows:
        raise UserError("the data holds no conversations: there is nothing to answer")
    answered = []
    with tqdm(total=len(rows), desc="answering", leave=False, disable=None) as bar:
        for first in range(0, len(rows), batch_size):
            bar.update(len(rows[first : first + batch_size]))
            batch, prompts, references = [], [], []
            for row in rows[first : first + batch_size]:
                try:
                    prompt, reference = _last_question(assistant, row, max_tokens)
                except UserError as error:
                    if errors is None:
                        raise
                    errors.append(error)
                    continue
                batch.append(row)
                prompts.append(prompt)
                references.append(reference)
            if not batch:
                continue
            answers = assistant.answer(prompts, max_tokens=max_tokens)
            blank: list[dict[str, str]] = [{} for _ in batch]
            for kind in MEDIA if modality_ablation else ():
                numbers = [number for number, prompt in enumerate(prompts) if kind in prompt.kinds]
                blanked = [prompts[number]._replace(blank=kind) for number in numbers]
                for number, text in zip(numbers, assistant.answer(blanked, max_tokens=max_tokens), strict=True):
                    blank[number][kind] = text
            answered += [
                AnsweredQuestion(row.where, row.task, reference, answer, without, prompt.forgotten > 0)
                for row, prompt, reference, answer, without in zip(
                    batch, prompts, references, answers, blank, strict=True
                )
            ]
    if errors and not answered:
        raise errors[0]
    return answered


def _last_question(assistant: Assistant, row: Conversation, max_tokens: int) -> tuple[Prompt, str]:
    """A conversation up to its last answer, and that answer."""
    messages, reference = question_of(row)
    try:
        return assistant.prompt(messages, max_tokens=max_tokens), reference
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error


def question_of(row: Conversation) -> tuple[list[Message], str]:
    """The messages of a conversation before its last answer, with their media, and that answer.

    Raises:
        UserError: If it has no message of the assistant.
    """
    ends = [n for n, one in enumerate(row.messages) if isinstance(one, dict) and one.get("role") == "assistant"]
    if not ends:
        raise UserError(f"{row.where}: the conversation has no message of the assistant: there is nothing to answer")
    media, content = iter(row.media), row.messages[ends[-1]]["content"]
    messages = [_with_media(message, media) for message in row.messages[: ends[-1]]]
    return messages, content if isinstance(content, str) else "".join(part["text"] for part in content)


def _with_media(message: Any, media: Iterator[Any]) -> Any:
    """The message, its parts with the files that the conversation's source found for them."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "video":
            medium = next(media)
            parts.append({"type": kind, "frames": list(medium.files), "times": list(medium.times)})
        elif kind in MEDIA:
            parts.append({"type": kind, kind: next(media).sound})
        else:
            parts.append(part)
    return {**message, "content": parts}


def accuracy_report(answered: Sequence[AnsweredQuestion]) -> dict[str, Any]:
    """Accuracies by task, of all questions, and of those with images or audio.

    Returns:
        `tasks`: the figures of each task; `all`: of all but the tasks in `excluded`; `with_image`, `with_audio`: of
        those of `all` that were also answered with this kind of media blanked.
    """
    tasks = sorted({one.task for one in answered})
    excluded = [task for task in tasks if task in EXCLUDED_FROM_ACCURACY]
    excluded = [] if excluded == tasks else excluded
    counted = [one for one in answered if one.task not in excluded]
    report = {
        "tasks": {task: _figures([one for one in answered if one.task == task]) for task in tasks},
        "excluded": excluded,
        "all": _figures(counted),
    }
    for kind in MEDIA:
        if blanked := [one for one in counted if kind in one.blank]:
            report[f"with_{kind}"] = _figures(blanked)
    return report


def _figures(answered: Sequence[AnsweredQuestion]) -> dict[str, Any]:
    figures = accuracy(sum(one.correct() for one in answered), len(answered))
    for kind in MEDIA:
        if blanked := [one for one in answered if kind in one.blank]:
            figures[f"blank_{kind}"] = sum(one.correct(kind) for one in blanked) / len(blanked)
            figures[f"asked_with_{kind}"] = len(blanked)
    return figures


def accuracy(right: int, asked: int) -> dict[str, Any]:
    """The accuracy, and its 95 % confidence interval (Wilson, JASA 1927)."""
    from scipy.stats import binomtest  # 0.9 s

    interval = binomtest(right, asked).proportion_ci(method="wilson")
    low, high = float(interval.low), float(interval.high)
    return {"asked": asked, "right": right, "accuracy": right / asked, "low": low, "high": high}


def take_evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly spaced."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]
