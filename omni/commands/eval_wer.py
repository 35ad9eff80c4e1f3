"""The verb `eval wer`: how many words a recogniser gets wrong, where, and whether another does better."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omni.data.speech.manifests import Utterance, Utterances, open_utterances
from omni.errors import UserError
from omni.evaluation.hypotheses import understood
from omni.evaluation.repetition import remove_loops
from omni.evaluation.wer_report import markdown, show, show_rivals, show_worst
from omni.evaluation.word_errors import Row, bootstrap, count_errors, grouped, interval, worst_rows
from omni.files import write_text
from omni.inference.recognizer import load_recognizer
from omni.text.normalization import WhisperNormalization

Normalizer = Literal["omni", "whisper", "whisper-basic"]


class _System(NamedTuple):
    """What a system understood of the utterances that are scored, and the figures of that."""

    rows: list[Row]
    report: dict[str, Any]


def evaluate(
    reference: str,
    hypothesis: str,
    *,
    other: list[str] | None = None,
    normalizer: Normalizer = "omni",
    repetition_guard: bool = False,
    align: str | None = None,
    worst: int = 5,
    text_column: str = "text",
    json_file: Path | None = None,
    markdown_file: Path | None = None,
    beam: int = 8,
    device: str = "auto",
) -> None:
    """Count word and character errors, by speaker and by length, show the worst rows, and compare systems.

    All sides are normalised alike: lower case, no punctuation, numbers spelled out; with a checkpoint, as it was
    trained; or as Whisper is scored. Rates have 95 % intervals from a bootstrap over utterances, the same draws for all
    systems.

    Args:
        reference: A manifest (.jsonl, .csv), a folder of LibriSpeech or LJSpeech, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        hypothesis: A checkpoint, of stage B or of stage E, which then transcribes the audio; `hf:` and the name or
            folder of a speech recogniser of transformers, which does so too; a .jsonl file with `text` and, to find its
            row, `audio` or `id`, as `omni transcribe --format json` writes it; or a .txt file with a line for each row.
        other: Further systems, each of which the first is compared with.
        normalizer: `omni`: of the first system's checkpoint; `whisper`: the English one of Whisper's paper;
            `whisper-basic`: its other one, for all languages.
        repetition_guard: Loops in what a system understood, such as "thank you thank you thank you ...", are said once.
        align: A checkpoint that tells in `json_file` when each word of the first system's hypotheses is said, by forced
            alignment.
        worst: How many of the worst rows are shown.
        text_column: Where the text is in the reference.
        json_file: Write all figures, and every row, to this file.
        markdown_file: Write tables and the worst rows to this file.
        beam: Of a recogniser's checkpoint: prefixes that the search for a transcript keeps; 1: the likeliest unit of
            each sub-frame.
        device: Of a model: cpu, cuda, or auto.
    """
    (source,) = open_utterances([reference], text_column=text_column, hub_split="test")
    said = list(source.rows())
    specs = [hypothesis, *(other or [])]
    own, first = understood(hypothesis, source, said, device=device, beam=beam)
    texts = [first, *(understood(spec, source, said, device=device, beam=beam)[1] for spec in specs[1:])]
    normalize = own if normalizer == "omni" else WhisperNormalization(normalizer == "whisper")
    scored = [number for number, row in enumerate(said) if normalize(row.text)]
    if not scored:
        raise UserError("the reference has no words: there is nothing to score")
    systems = [
        _score(spec, said, found, scored, normalize, repetition_guard) for spec, found in zip(specs, texts, strict=True)
    ]
    _add_intervals(systems)
    report: dict[str, Any] = {"reference": reference, "normalization": normalize.state(), **systems[0].report}
    report |= {"left_out": len(said) - len(scored), "repetition_guard": repetition_guard}
    report["others"] = [system.report for system in systems[1:]]
    bad = worst_rows(systems[0].rows, worst)
    show(report)
    show_worst(bad)
    show_rivals(report)
    report["worst"] = [row.name for row in bad]
    report["rows"] = [row._asdict() for row in systems[0].rows]
    if align is not None:
        _add_times(report["rows"], source, said, scored, first, align, device)
    if json_file is not None:
        write_text(json_file, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if markdown_file is not None:
        write_text(markdown_file, markdown(report, bad))


def _score(
    spec: str,
    said: Sequence[Utterance],
    texts: Sequence[str],
    scored: Sequence[int],
    normalize: Callable[[str], str],
    guard: bool,
) -> _System:
    kept = [remove_loops(text) for text in texts] if guard else list(texts)
    rows = [Row(said[i].where, said[i].speaker, normalize(said[i].text), normalize(kept[i])) for i in scored]
    report: dict[str, Any] = {"hypothesis": spec, **count_errors(rows).figures()}
    if guard:
        report["loops"] = sum(kept[i] != texts[i] for i in scored)
    for kind, groups in grouped(rows).items():
        report[f"by_{kind}"] = {name: count_errors(group).figures() for name, group in groups.items()}
    return _System(rows, report)


def _add_intervals(systems: Sequence[_System]) -> None:
    """Tells how sure each WER is, and how sure that each further system differs from the first."""
    drawn = bootstrap([system.rows for system in systems])
    for i, (_, report) in enumerate(systems):
        report["interval"] = interval(drawn[:, i])
        if i:
            low, high = interval(drawn[:, 0] - drawn[:, i])
            report["difference"] = {"wer": systems[0].report["wer"] - report["wer"], "low": low, "high": high}


def _add_times(
    rows: Sequence[dict[str, Any]],
    source: Utterances,
    said: Sequence[Utterance],
    scored: Sequence[int],
    texts: Sequence[str],
    checkpoint: str,
    device: str,
) -> None:
    """Adds `words` to the rows, each with start, end and score; None where a hypothesis does not fit its audio."""
    recognizer, failed = load_recognizer(checkpoint, device=device), []
    for row, i in zip(rows, scored, strict=True):
        try:
            words = recognizer.align(source.audio(i, said[i]), texts[i])
            row["words"] = [
                {"text": word.text, **{name: round(getattr(word, name), 3) for name in ("start", "end", "score")}}
                for word in words
            ]
        except UserError as error:
            row["words"] = None
            failed.append(f"{said[i].where}: {error}")
    if failed:
        print(f"\n{len(failed)} of {len(rows)} hypotheses cannot be aligned; the first: {failed[0]}")
