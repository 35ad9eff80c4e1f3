"""The verb `eval wer`: how many words a recogniser gets wrong, where, and whether another does better."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
from tqdm import tqdm

from omni.data.speech.utterances import Utterance, Utterances, open_utterances
from omni.errors import UserError
from omni.media.audio import AUDIO_SUFFIXES
from omni.normalization import TextNormalization
from omni.recognition import load_recognizer

_DRAWS = 10_000  # of the bootstrap
_LENGTHS = (5, 10, 20)  # words: borders of the classes of length


class Row(NamedTuple):
    """An utterance, normalised.

    Attributes:
        name: Where it stands.
        speaker: Who says it, if known.
        reference: What is said.
        hypothesis: What was understood.
    """

    name: str
    speaker: str | None
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Errors:
    """Word and character errors of some utterances.

    Attributes:
        utterances: How many.
        words: In the references.
        substitutions: Words taken for others.
        deletions: Words missed.
        insertions: Words that were not said.
        characters: In the references.
        character_errors: Substituted, missed or added.
    """

    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    characters: int
    character_errors: int

    @property
    def wer(self) -> float:
        """Word errors for each word of the references."""
        return (self.substitutions + self.deletions + self.insertions) / self.words

    @property
    def cer(self) -> float:
        """Character errors for each character of the references."""
        return self.character_errors / self.characters


def count_errors(rows: Iterable[Row]) -> Errors:
    """Counts the errors of utterances whose references are not empty.

    Args:
        rows: The utterances.
    """
    rows = list(rows)
    references, hypotheses = [row.reference for row in rows], [row.hypothesis for row in rows]
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    return Errors(
        utterances=len(rows),
        words=words.hits + words.substitutions + words.deletions,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        characters=characters.hits + characters.substitutions + characters.deletions,
        character_errors=characters.substitutions + characters.deletions + characters.insertions,
    )


def interval(rows: Sequence[Row], *, seed: int = 0) -> tuple[float, float]:
    """The borders of the word error rate's 95 % interval: utterances are drawn anew, 10,000 times (see `compare`)."""
    errors = np.array([_word_errors(row) for row in rows], dtype=float)
    words = np.array([len(row.reference.split()) for row in rows], dtype=float)
    rng, drawn = np.random.default_rng(seed), np.empty(_DRAWS)
    for i in range(_DRAWS):
        some = rng.integers(0, len(words), len(words))
        drawn[i] = errors[some].sum() / words[some].sum()
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def compare(one: Sequence[Row], other: Sequence[Row], *, seed: int = 0) -> tuple[float, float, float]:
    """How much higher the WER of `one` is, with its interval: utterances are drawn anew, the same for both systems.

    The paired bootstrap of Bisani and Ney (ICASSP 2004), 10,000 draws.

    Args:
        one: The utterances as one system understood them.
        other: The same as the other did.
        seed: Of the draws.

    Returns:
        WER of `one` minus WER of `other`, and the borders of its 95 % interval.
    """
    errors = np.array([[_word_errors(a), _word_errors(b)] for a, b in zip(one, other, strict=True)], dtype=float)
    words = np.array([len(row.reference.split()) for row in one], dtype=float)
    difference, rng = errors[:, 0] - errors[:, 1], np.random.default_rng(seed)
    drawn = np.empty(_DRAWS)
    for i in range(_DRAWS):
        rows = rng.integers(0, len(words), len(words))
        drawn[i] = difference[rows].sum() / words[rows].sum()
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(difference.sum() / words.sum()), float(low), float(high)


def evaluate(
    reference: str,
    hypothesis: str,
    *,
    other: str | None = None,
    worst: int = 5,
    text_column: str = "text",
    json_file: Path | None = None,
    beam: int = 8,
    device: str = "auto",
) -> None:
    """Count word and character errors, by speaker and by length, and show the worst rows.

    Both sides are normalised alike: lower case, no punctuation, numbers spelled out; with a checkpoint, as it was
    trained.

    Args:
        reference: A manifest (.jsonl, .csv), a folder of LibriSpeech or LJSpeech, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        hypothesis: A checkpoint, which then transcribes the audio; a .jsonl file with `text` and, to find its row,
            `audio` or `id`, as `omni transcribe --format json` writes it; or a .txt file with a line for each row.
        other: A second system, to be compared.
        worst: How many of the worst rows are shown.
        text_column: Where the text is in the reference.
        json_file: Write all figures, and every row, to this file.
        beam: Of a checkpoint: prefixes that the search for a transcript keeps; 1: the likeliest unit of each sub-frame.
        device: Of a checkpoint: cpu, cuda, or auto.
    """
    (source,) = open_utterances([reference], text_column=text_column, hub_split="test")
    said = list(source.rows())
    normalize, understood = _hypotheses(hypothesis, source, said, device, beam)
    rows = _rows(said, understood, normalize)
    report: dict[str, Any] = {"reference": reference, "hypothesis": hypothesis, "normalization": normalize.state()}
    print(f"{reference}\n  as {hypothesis} has it; {_stated(normalize)}\n")
    left_out = len(said) - len(rows)
    if left_out:
        print(f"{left_out} rows without words in the reference are not scored\n")
    report |= _tables(rows)
    _show_worst(rows, worst)
    if other is not None:
        _, understood = _hypotheses(other, source, said, device, beam)
        rivals = _rows(said, understood, normalize)
        difference, low, high = compare(rows, rivals)
        verdict = "the difference may be chance" if low <= 0 <= high else "the difference is no chance"
        print(f"\n{other}: WER {count_errors(rivals).wer:.2%}")
        print(f"WER of the first minus the second: {100 * difference:+.2f} points, 95 % interval {100 * low:+.2f} to")
        print(f"{100 * high:+.2f} (paired bootstrap over utterances, {_DRAWS:,} draws): {verdict}")
        report["other"] = {"hypothesis": other, **_figures(count_errors(rivals))}
        report["difference"] = {"wer": difference, "low": low, "high": high, "draws": _DRAWS}
    if json_file is not None:
        report["rows"] = [row._asdict() for row in rows]
        json_file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rows(said: Sequence[Utterance], understood: Sequence[str], normalize: TextNormalization) -> list[Row]:
    pairs = zip(said, understood, strict=True)
    rows = [Row(row.where, row.speaker, normalize(row.text), normalize(text)) for row, text in pairs]
    rows = [row for row in rows if row.reference]
    if not rows:
        raise UserError("the reference has no words: there is nothing to score")
    return rows


def _hypotheses(
    spec: str, source: Utterances, said: Sequence[Utterance], device: str, beam: int
) -> tuple[TextNormalization, list[str]]:
    """What a system understood of each row, and how its text is to be normalised."""
    path = Path(spec).expanduser()
    if path.suffix == ".ckpt":
        recognizer = load_recognizer(path, device=device, beam=beam)
        audio = [source.audio(number, row) for number, row in enumerate(said)]
        found = [""] * len(said)
        for number, transcript in tqdm(
            recognizer.stream(audio), total=len(said), desc="transcribing", leave=False, disable=None
        ):
            if isinstance(transcript, UserError):
                raise transcript
            found[number] = transcript.text
        return recognizer.units.normalize, found
    if not path.is_file():
        raise UserError(f"{spec}: is no file: give a .ckpt checkpoint, or hypotheses as .jsonl or .txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".jsonl":
        return TextNormalization(), _matched(path, lines, said)
    if len(lines) != len(said):
        raise UserError(f"{spec}: has {len(lines)} lines, and the reference {len(said)} rows: give a line for each")
    return TextNormalization(), lines


def _matched(path: Path, lines: Sequence[str], said: Sequence[Utterance]) -> list[str]:
    """The text for each row, found by its file's name, with as many of its folders as tell all files apart."""
    longest = max(len(_trail(row.audio)) for row in said)
    files = {_trail(row.audio) for row in said}
    parts = next(n for n in range(1, longest + 1) if len({file[-n:] for file in files}) == len(files))
    texts: dict[tuple[str, ...], str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, text = row.get("audio") or row["id"], row["text"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} row {number}: is no JSON object with `text` and `audio` or `id`") from None
        if not isinstance(text, str):
            raise UserError(f'{path} row {number}: `text` is {text!r}, no text: write "" where nothing was understood')
        name = _trail(str(key))[-parts:]
        if texts.setdefault(name, text) != text:
            raise UserError(f"{path} row {number}: {key} has two different texts: keep one of them")
    missing = next((row for row in said if _trail(row.audio)[-parts:] not in texts), None)
    if missing is not None:
        folders = f", told apart by the last {parts} parts of its path" if parts > 1 else ""
        raise UserError(f"{path}: has no row for {missing.audio} ({missing.where}){folders}")
    return [texts[_trail(row.audio)[-parts:]] for row in said]


def _trail(file: str) -> tuple[str, ...]:
    """A file's folders and its name, without the ending of audio."""
    path = Path(file)
    return (path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path).parts


def _stated(normalize: TextNormalization) -> str:
    return f"case: {normalize.case}, punctuation: {normalize.punctuation}, digits: {normalize.digits}"


def _figures(errors: Errors) -> dict[str, Any]:
    return {"wer": errors.wer, "cer": errors.cer, **asdict(errors)}


def _tables(rows: Sequence[Row]) -> dict[str, Any]:
    """Prints errors in all, by speaker and by length; returns them."""
    groups: dict[str, dict[str, list[Row]]] = {"all": {"": list(rows)}, "speaker": {}, "words": {}}
    speakers: dict[str, list[Row]] = defaultdict(list)
    lengths: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.speaker is not None:
            speakers[row.speaker].append(row)
        lengths[_length_class(len(row.reference.split()))].append(row)
    groups["speaker"] = dict(sorted(speakers.items()))
    groups["words"] = {name: lengths[name] for name in map(_length_class, (1, 6, 11, 21)) if name in lengths}
    print(f"{'':24}{'WER':>8}{'CER':>8}{'utt.':>7}{'words':>8}{'subst.':>8}{'deleted':>9}{'inserted':>10}")
    report: dict[str, Any] = {}
    for kind, parts in groups.items():
        for name, part in parts.items():
            errors = count_errors(part)
            label = "all" if kind == "all" else f"{kind} {name}"
            print(
                f"{label[:23]:24}{errors.wer:8.2%}{errors.cer:8.2%}{errors.utterances:7,}{errors.words:8,}"
                f"{errors.substitutions:8,}{errors.deletions:9,}{errors.insertions:10,}"
            )
            if kind == "all":
                report |= _figures(errors)
            else:
                report.setdefault(f"by_{kind}", {})[name] = _figures(errors)
    return report


def _length_class(words: int) -> str:
    below = [border for border in _LENGTHS if border < words]
    above = [border for border in _LENGTHS if border >= words]
    return f"{below[-1] + 1 if below else 1}–{above[0]}" if above else f"over {_LENGTHS[-1]}"


def _show_worst(rows: Sequence[Row], worst: int) -> None:
    ranked = sorted(rows, key=_word_errors, reverse=True)[:worst]
    ranked = [row for row in ranked if _word_errors(row)]
    if ranked:
        print("\nmost word errors:")
    for row in ranked:
        aligned = jiwer.visualize_alignment(
            jiwer.process_words(row.reference, row.hypothesis), show_measures=False, skip_correct=False
        )
        lines = [line for line in aligned.splitlines() if line.startswith(("REF:", "HYP:", "    "))]
        print("\n".join([f"  {row.name}", *(f"    {line}" for line in lines)]))


def _word_errors(row: Row) -> int:
    counts = jiwer.process_words(row.reference, row.hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions
