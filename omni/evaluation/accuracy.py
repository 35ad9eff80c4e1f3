"""The verb `eval omni`: how often a model answers rightly, whether it looks and listens, and how well it is heard."""

from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from omni.batch import EXCLUDED_FROM_ACCURACY
from omni.data.conversations.sources import Conversation
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.inference.prompt import Prompt
from omni.text.normalization import TextNormalization

T = TypeVar("T")

_MEDIA = {"image": "images grey", "audio": "audio silent"}
_NORMAL = 1.96  # standard deviations on either side that hold 95 %


class Question(NamedTuple):
    """A question that was answered.

    Attributes:
        where: Its row.
        task: What it asks for.
        truth: The right answer.
        said: The model's answer.
        blank: What the model says without looking (`image`) or listening (`audio`), where there is anything.
    """

    where: str
    task: str
    truth: str
    said: str
    blank: dict[str, str]


def ask(
    assistant: Assistant, rows: Sequence[Conversation], *, modality_ablation: bool, max_tokens: int, batch_size: int
) -> list[Question]:
    """Asks the last question of each conversation.

    Args:
        assistant: Answers.
        rows: The conversations; each has an answer of the assistant's.
        modality_ablation: Whether to ask again with images and audio blanked.
        max_tokens: Most tokens of an answer.
        batch_size: Questions at a time.

    Raises:
        UserError: If a row has no answer, is too long, or names media that cannot be read.
    """
    found, forgotten = [], 0
    with tqdm(total=len(rows), desc="asked", leave=False, disable=None) as bar:
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            pairs = [_read(assistant, row, max_tokens) for row in some]
            prompts = [prompt for prompt, _ in pairs]
            forgotten += sum(prompt.forgotten > 0 for prompt in prompts)
            said = assistant.answer(prompts, max_tokens=max_tokens)
            blank: list[dict[str, str]] = [{} for _ in some]
            for kind in _MEDIA if modality_ablation else ():
                numbers = [number for number, prompt in enumerate(prompts) if kind in prompt.kinds]
                blanked = assistant.answer(
                    [prompts[number]._replace(blank=kind) for number in numbers], max_tokens=max_tokens
                )
                for number, text in zip(numbers, blanked, strict=True):
                    blank[number][kind] = text
            for row, (_, truth), text, without in zip(some, pairs, said, blank, strict=True):
                found.append(Question(row.where, row.task, truth, text, without))
            bar.update(len(some))
    if not found:
        raise UserError("the data holds no conversations: there is nothing to ask")
    if forgotten:
        print(f"{forgotten} conversations do not fit into the context: their first exchanges were left out\n")
    return found


def _read(assistant: Assistant, row: Conversation, max_tokens: int) -> tuple[Prompt, str]:
    """A conversation up to its last answer, and that answer."""
    ends = [n for n, one in enumerate(row.messages) if isinstance(one, dict) and one.get("role") == "assistant"]
    if not ends:
        raise UserError(f"{row.where}: the assistant says nothing, so there is nothing to ask")
    messages, media = row.messages[: ends[-1]], iter(row.media)
    try:
        filled = [_filled(message, media) for message in messages]
        answer = row.messages[ends[-1]]["content"]
        truth = answer if isinstance(answer, str) else "".join(part["text"] for part in answer)
        return assistant.prompt(filled, max_tokens=max_tokens), truth
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error


def _filled(message: Any, media: Iterator[Any]) -> Any:
    """The message, with the files that its source found for its parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "video":
            medium = next(media)
            parts.append({"type": kind, "frames": list(medium.files), "times": list(medium.times)})
        elif kind in _MEDIA:
            parts.append({"type": kind, kind: next(media).sound})
        else:
            parts.append(part)
    return {**message, "content": parts}


# ---------------------------------------------------------------------- figures


def accuracies(questions: Sequence[Question]) -> dict[str, Any]:
    """Prints and returns the accuracy by task, over all, and of the blank controls."""
    normalize = TextNormalization()

    def right(one: Question, said: str) -> bool:
        return normalize(said) == normalize(one.truth)

    tasks = sorted({one.task for one in questions})
    mixed = [task for task in tasks if task not in EXCLUDED_FROM_ACCURACY] or tasks
    groups: dict[str, Callable[[Question], bool]] = {task: _of({task}) for task in tasks}
    left_out = [task for task in tasks if task not in mixed]
    together = "all" + (f" but {', '.join(left_out)}" if left_out else "")
    groups[together] = _of(set(mixed))
    for kind in _MEDIA:
        if any(kind in one.blank for one in questions):
            groups[f"of these, with {kind}"] = lambda one, kind=kind: one.task in mixed and kind in one.blank
    width = max(16, *map(len, groups))
    print(f"{'':{width}}{'asked':>7}{'right':>8}{'95 % interval':>17}{'images grey':>14}{'audio silent':>14}")
    report: dict[str, Any] = {"tasks": {}}
    for name, belongs in groups.items():
        some = [one for one in questions if belongs(one)]
        if not some:
            continue
        figures = share([right(one, one.said) for one in some])
        cells = []
        for kind in _MEDIA:
            asked = [one for one in some if kind in one.blank]
            if asked:
                figures[f"blank_{kind}"] = share([right(one, one.blank[kind]) for one in asked])["accuracy"]
                figures[f"asked_with_{kind}"] = len(asked)
            cells.append(f"{figures[f'blank_{kind}']:14.1%}" if asked else f"{'–':>14}")
        between = f"{figures['low']:.1%} – {figures['high']:.1%}"
        print(f"{name:{width}}{len(some):7,}{figures['accuracy']:8.1%}{between:>17}{''.join(cells)}")
        if name in tasks:
            report["tasks"][name] = figures
        else:
            report["all" if name == together else name.removeprefix("of these, ").replace(" ", "_")] = figures
    print()
    return report


def _of(tasks: set[str]) -> Callable[[Question], bool]:
    return lambda one: one.task in tasks


def share(right: Sequence[bool]) -> dict[str, Any]:
    """The share of right answers, and the borders of its 95 % interval (Wilson, JASA 1927)."""
    number, part = len(right), sum(right) / len(right)
    spread = _NORMAL**2 / number
    middle = (part + spread / 2) / (1 + spread)
    half = _NORMAL * sqrt(part * (1 - part) / number + spread / (4 * number)) / (1 + spread)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"asked": number, "right": sum(right), "accuracy": part, "low": low, "high": high}


def evenly(some: Sequence[T], most: int) -> list[T]:
    """So many of them at most, evenly taken."""
    if len(some) <= most:
        return list(some)
    return [some[number * len(some) // most] for number in range(most)]
