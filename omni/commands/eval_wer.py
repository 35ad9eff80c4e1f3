"""`omni eval wer`: word error rates of speech recognisers, and comparisons between them."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omni.data.speech.manifests import Utterance, Utterances
from omni.data.speech.opening import open_utterances
from omni.decoding.fusion_options import FusionOptions
from omni.errors import UserError
from omni.evaluation.hypotheses import References, read_hypotheses
from omni.evaluation.repetition import remove_loops
from omni.evaluation.wer_report import markdown_report, terminal_report
from omni.evaluation.word_errors import Row, bootstrap, count_errors, grouped, interval, worst_rows
from omni.files import write_text
from omni.inference.recognizer import load_recognizer
from omni.text.normalization import WhisperNormalization

Normalizer = Literal["omni", "whisper", "whisper-basic"]


class _System(NamedTuple):
    """The scored rows of a system, and their figures."""

    rows: list[Row]
    figures: dict[str, Any]


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
    greedy: bool = False,
    device: str = "auto",
    fusion: FusionOptions = FusionOptions(),  # noqa: B008  immutable
) -> None:
    """Count word and character errors, by speaker and length, print the worst rows, and compare systems.

    All texts are normalised alike: lower case, no punctuation, numbers spelled out; with a checkpoint, as it was
    trained; or as for Whisper. Rates have 95 % intervals from a bootstrap over utterances, with the same draws for all
    systems. Malformed rows, and recordings that a system cannot read, are left out for all and named at the end, and
    the exit code is 2.

    Example:
        omni eval wer --reference test.jsonl --hypothesis lightning_logs/audio/best.ckpt --worst 10

    Args:
        reference: A manifest (.jsonl, .csv), a folder of LibriSpeech or LJSpeech, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        hypothesis: A system: a checkpoint of stage B or E; hf: and the name or folder of a speech recogniser of
            transformers; a .jsonl file with `text` and `audio` or `id`, as `omni transcribe --format json` writes it;
            or a .txt file with a line for each row.
        other: More systems, each compared with the first.
        normalizer: omni: as the first system's checkpoint; whisper: the English one of Whisper's paper; whisper-basic:
            its other one, for all languages.
        repetition_guard: Cut repetition loops from hypotheses ("thank you thank you thank you ...").
        align: A checkpoint whose forced alignment adds the times of the first system's words to `json_file`.
        worst: Number of worst rows to print.
        text_column: Column of the reference texts.
        json_file: Write all figures, and every row, to this file.
        markdown_file: Write tables and the worst rows to this file.
        beam: Beam size of recognisers of stage B; 1: greedy decoding.
        greedy: Compare with greedy decoding by the first system, too, without language model and hotwords.
        device: cpu, cuda, or auto.
        fusion: A language model and hotwords, for the first system only: `other` may name its checkpoint again.
    """
    (source,) = open_utterances([reference], text_column=text_column, split="test")
    references, specs = References.of(source), [hypothesis, *(other or [])]
    unreadable = dict(references.malformed)
    if unreadable and not references.utterances:
        raise next(iter(unreadable.values()))
    found = [
        read_hypotheses(spec, references, device=device, beam=beam, fusion=None if number else fusion)
        for number, spec in enumerate(specs)
    ]
    if greedy:
        found.append(read_hypotheses(hypothesis, references, device=device, beam=1))
        specs.append(f"{hypothesis}, greedy")
    if fusion.used:
        specs[0] += f" with {fusion.summary}"
    normalize = found[0].normalize if normalizer == "omni" else WhisperNormalization(normalizer == "whisper")
    for hypotheses in found:
        unreadable |= hypotheses.unreadable
    rows = references.utterances.items()
    scored = {number: row for number, row in rows if normalize(row.text) and number not in unreadable}
    if not scored and unreadable:
        raise next(iter(unreadable.values()))
    if not scored:
        raise UserError("the reference has no words: there is nothing to score")
    systems = [_score(scored, hypotheses.texts, normalize, guard=repetition_guard) for hypotheses in found]
    report = {"reference": reference, "normalization": normalize.state(), **_figures(specs, systems)}
    left_out = len(references.utterances) + len(references.malformed) - len(scored)
    report |= {"left_out": left_out, "repetition_guard": repetition_guard}
    report |= {"unreadable": [str(unreadable[number]) for number in sorted(unreadable)]} if unreadable else {}
    worst_utterances = worst_rows(systems[0].rows, worst)
    print(terminal_report(report, worst_utterances))
    report["worst"] = [row.name for row in worst_utterances]
    report["rows"] = [row._asdict() for row in systems[0].rows]
    if align is not None:
        _add_times(report["rows"], source, scored, found[0].texts, align, device)
    if json_file is not None:
        write_text(json_file, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if markdown_file is not None:
        write_text(markdown_file, markdown_report(report, worst_utterances))
    if unreadable:
        for number in sorted(unreadable):
            print(f"omni: {unreadable[number]}", file=sys.stderr)
        raise SystemExit(2)


def _score(
    scored: Mapping[int, Utterance], texts: Mapping[int, str], normalize: Callable[[str], str], *, guard: bool
) -> _System:
    kept = {number: remove_loops(texts[number]) if guard else texts[number] for number in scored}
    rows = [Row(one.where, one.speaker, normalize(one.text), normalize(kept[number])) for number, one in scored.items()]
    figures: dict[str, Any] = count_errors(rows).figures()
    if guard:
        figures["loops"] = sum(kept[number] != texts[number] for number in scored)
    for kind, groups in grouped(rows).items():
        figures[f"by_{kind}"] = {name: count_errors(group).figures() for name, group in groups.items()}
    return _System(rows, figures)


def _figures(specs: Sequence[str], systems: Sequence[_System]) -> dict[str, Any]:
    """The first system's figures, and as `others` those of the other systems with their differences from it."""
    wers = bootstrap([system.rows for system in systems])
    figures = [
        {"hypothesis": spec, **system.figures, "interval": interval(wers[:, number])}
        for number, (spec, system) in enumerate(zip(specs, systems, strict=True))
    ]
    first, *others = figures
    for number, other in enumerate(others, start=1):
        low, high = interval(wers[:, 0] - wers[:, number])
        other["difference"] = {"wer": first["wer"] - other["wer"], "low": low, "high": high}
    return {**first, "others": others}


def _add_times(
    rows: Sequence[dict[str, Any]],
    source: Utterances,
    scored: Mapping[int, Utterance],
    texts: Mapping[int, str],
    checkpoint: str,
    device: str,
) -> None:
    """Adds `words` to the rows, each with start, end and score; None where a hypothesis cannot be aligned."""
    recognizer, failed = load_recognizer(checkpoint, device=device), []
    for row, (number, utterance) in zip(rows, scored.items(), strict=True):
        try:
            words = recognizer.align(source.audio(number, utterance), texts[number])
            row["words"] = [
                {"text": word.text, **{name: round(getattr(word, name), 3) for name in ("start", "end", "score")}}
                for word in words
            ]
        except UserError as error:
            row["words"] = None
            failed.append(f"{utterance.where}: {error}")
    if failed:
        print(f"\n{len(failed)} of {len(rows)} hypotheses cannot be aligned; the first: {failed[0]}")
