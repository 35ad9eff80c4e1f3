"""The report of `omni eval wer`, as text and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omni.evaluation.word_errors import DRAWS, Row, aligned


def terminal_report(report: dict[str, Any], worst: Sequence[Row]) -> str:
    """The first system's errors in all, by speaker and by length, its worst rows, and the other systems.

    Args:
        report: The figures, as in `--json_file`.
        worst: The rows to show.
    """
    lines = [report["reference"], f"  as {report['hypothesis']} has it; {_normalization(report)}", ""]
    if left_out := _left_out(report):
        lines += [f"not scored: {left_out}", ""]
    lines += [f"{'':24}{'WER':>8}{'CER':>8}{'utt.':>7}{'words':>8}{'subst.':>8}{'deleted':>9}{'inserted':>10}"]
    for label, errors in _groups(report):
        lines.append(
            f"{label[:23]:24}{errors['wer']:8.2%}{errors['cer']:8.2%}{errors['utterances']:7,}{errors['words']:8,}"
            f"{errors['substitutions']:8,}{errors['deletions']:9,}{errors['insertions']:10,}"
        )
    lines += ["", f"WER {_rate(report)} (95 % interval, bootstrap over utterances, {DRAWS:,} draws)"]
    if report["repetition_guard"]:
        lines.append(f"repetition loops cut in {report['loops']} of {report['utterances']} hypotheses")
    if worst:
        lines += ["", "most word errors:"]
    for row in worst:
        lines += [f"  {row.name}", *(f"    {line}" for line in aligned(row))]
    for other in report["others"]:
        lines += ["", f"{other['hypothesis']}: WER {_rate(other)}"]
        lines.append(f"WER of the first minus this one: {_difference(other)}")
    return "\n".join(lines)


def markdown_report(report: dict[str, Any], worst: Sequence[Row]) -> str:
    """The same as a document; arguments as in `terminal_report`."""
    systems = (report, *report["others"])
    left_out = f" Not scored: {found}." if (found := _left_out(report)) else ""
    lines = [
        f"# Word errors on {report['reference']}",
        "",
        f"{report['utterances']:,} utterances, {report['words']:,} words; {_normalization(report)}. Intervals: 95 %, "
        f"bootstrap over utterances, {DRAWS:,} draws, the same for all systems.{left_out}",
        "",
        "| system | WER | CER | substituted | deleted | inserted | the first minus this one |",
        "|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        difference = _difference(system) if "difference" in system else ""
        lines.append(
            f"| {_cell(system['hypothesis'])} | {_rate(system)} | {system['cer']:.2%} | {system['substitutions']:,} "
            f"| {system['deletions']:,} | {system['insertions']:,} | {difference} |"
        )
    if report["repetition_guard"]:
        cut = ", ".join(f"{system['loops']} of {system['hypothesis']}" for system in systems)
        lines += ["", f"Hypotheses with repetition loops cut: {cut}."]
    lines += ["", f"## {report['hypothesis']}", "", "| | WER | CER | utterances | words |", "|---|---|---|---|---|"]
    for label, errors in _groups(report):
        rates = f"{errors['wer']:.2%} | {errors['cer']:.2%}"
        lines.append(f"| {_cell(label)} | {rates} | {errors['utterances']:,} | {errors['words']:,} |")
    if worst:
        lines += ["", "## Most word errors"]
    for row in worst:
        lines += ["", row.name, "", *(f"    {line}" for line in aligned(row))]
    return "\n".join(lines) + "\n"


def _left_out(report: Mapping[str, Any]) -> str:
    """The numbers of rows that are not scored, by reason; empty without any."""
    unusable = len(report.get("unreadable", ()))
    reasons = {"without words in the reference": report["left_out"] - unusable, "that cannot be read": unusable}
    return ", ".join(f"{count} rows {reason}" for reason, count in reasons.items() if count)


def _groups(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "all", report
    for kind in ("speaker", "words"):
        for name, errors in report[f"by_{kind}"].items():
            yield f"{kind} {name}", errors


def _normalization(report: dict[str, Any]) -> str:
    return "normalised: " + ", ".join(f"{name}: {value}" for name, value in report["normalization"].items())


def _rate(system: dict[str, Any]) -> str:
    low, high = system["interval"]
    return f"{system['wer']:.2%} ({100 * low:.2f} to {100 * high:.2f})"


def _difference(system: dict[str, Any]) -> str:
    difference, low, high = (100 * system["difference"][key] for key in ("wer", "low", "high"))
    verdict = "not significant" if low <= 0 <= high else "significant"
    return f"{difference:+.2f} points ({low:+.2f} to {high:+.2f}): {verdict}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
