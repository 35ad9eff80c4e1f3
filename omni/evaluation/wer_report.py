"""What `omni eval wer` found, for the terminal and as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from omni.evaluation.word_errors import DRAWS, Row, aligned


def show(report: dict[str, Any]) -> None:
    """Prints the first system's errors in all, by speaker and by length."""
    print(f"{report['reference']}\n  as {report['hypothesis']} has it; {_normalized(report)}\n")
    if report["left_out"]:
        print(f"{report['left_out']} rows without words in the reference are not scored\n")
    print(f"{'':24}{'WER':>8}{'CER':>8}{'utt.':>7}{'words':>8}{'subst.':>8}{'deleted':>9}{'inserted':>10}")
    for label, errors in _groups(report):
        print(
            f"{label[:23]:24}{errors['wer']:8.2%}{errors['cer']:8.2%}{errors['utterances']:7,}{errors['words']:8,}"
            f"{errors['substitutions']:8,}{errors['deletions']:9,}{errors['insertions']:10,}"
        )
    print(f"\nWER {_rate(report)} (95 % interval, bootstrap over utterances, {DRAWS:,} draws)")
    if report["repetition_guard"]:
        print(f"loops that were cut: in {report['loops']} of {report['utterances']} hypotheses")


def show_worst(rows: Sequence[Row]) -> None:
    """Prints utterances, reference over hypothesis."""
    if rows:
        print("\nmost word errors:")
    for row in rows:
        print("\n".join([f"  {row.name}", *(f"    {line}" for line in aligned(row))]))


def show_rivals(report: dict[str, Any]) -> None:
    """Prints how the first system compares with each other one."""
    for rival in report["others"]:
        print(f"\n{rival['hypothesis']}: WER {_rate(rival)}")
        print(f"WER of the first minus this one: {_difference(rival)}: {_verdict(rival)}")


def markdown(report: dict[str, Any], worst: Sequence[Row]) -> str:
    """All of it as a document.

    Args:
        report: The figures, as `--json_file` has them.
        worst: The rows to show.
    """
    lines = [f"# Word errors on {report['reference']}", "", f"{report['utterances']:,} utterances, ", ""]
    lines[2] += f"{report['words']:,} words; {_normalized(report)}. Intervals: 95 %, bootstrap over utterances, "
    lines[2] += f"{DRAWS:,} draws, the same for all systems."
    if report["left_out"]:
        lines[2] += f" {report['left_out']} rows without words in the reference are not scored."
    lines += ["| system | WER | CER | substituted | deleted | inserted | the first minus this one |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for system in (report, *report["others"]):
        than = f"{_difference(system)}: {_verdict(system)}" if "difference" in system else ""
        lines.append(
            f"| {_cell(system['hypothesis'])} | {_rate(system)} | {system['cer']:.2%} | {system['substitutions']:,} "
            f"| {system['deletions']:,} | {system['insertions']:,} | {than} |"
        )
    if report["repetition_guard"]:
        cut = ", ".join(f"{system['loops']} of {system['hypothesis']}" for system in (report, *report["others"]))
        lines += ["", f"Hypotheses whose loops were cut: {cut}."]
    lines += ["", f"## {report['hypothesis']}", "", "| | WER | CER | utterances | words |", "|---|---|---|---|---|"]
    for label, errors in _groups(report):
        rates = f"{errors['wer']:.2%} | {errors['cer']:.2%}"
        lines.append(f"| {_cell(label)} | {rates} | {errors['utterances']:,} | {errors['words']:,} |")
    if worst:
        lines += ["", "## Most word errors"]
    for row in worst:
        lines += ["", row.name, "", *(f"    {line}" for line in aligned(row))]
    return "\n".join(lines) + "\n"


def _groups(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "all", report
    for kind in ("speaker", "words"):
        for name, errors in report[f"by_{kind}"].items():
            yield f"{kind} {name}", errors


def _normalized(report: dict[str, Any]) -> str:
    return "normalised: " + ", ".join(f"{name}: {value}" for name, value in report["normalization"].items())


def _rate(system: dict[str, Any]) -> str:
    low, high = system["interval"]
    return f"{system['wer']:.2%} ({100 * low:.2f} to {100 * high:.2f})"


def _difference(rival: dict[str, Any]) -> str:
    difference, low, high = (100 * rival["difference"][key] for key in ("wer", "low", "high"))
    return f"{difference:+.2f} points ({low:+.2f} to {high:+.2f})"


def _verdict(rival: dict[str, Any]) -> str:
    chance = rival["difference"]["low"] <= 0 <= rival["difference"]["high"]
    return "may be chance" if chance else "is no chance"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
