"""Runs `omni data check` and compares its output, its report and its exit code."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from omni.commands.data_check import SourceOptions, SpeechOptions, check


def checked(*manifests: str, **options: Any) -> None:
    """Runs the check, with options of the command."""
    for name, group in {"speech": SpeechOptions, "sources": SourceOptions}.items():
        given = {field.name: options.pop(field.name) for field in fields(group) if field.name in options}
        options[name] = group(**given)
    check(list(manifests), **options)


def findings(capsys: Any, *manifests: str, **options: Any) -> dict[str, list[tuple[str, str]]]:
    """The findings: {kind: [(where, what)]}. The report stays in report.json."""
    code = 0
    try:
        checked(*manifests, json=Path("report.json"), **options)
    except SystemExit as stop:
        code = stop.code
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    kinds = {}
    for finding in report["findings"]:
        kinds.setdefault(finding["kind"], []).append((finding["where"], finding["what"]))
    errors = [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert code == (1 if errors else 0)
    assert report["counts"]["error"] == len(errors)
    printed = capsys.readouterr().out
    for finding in report["findings"]:
        assert f"{finding['severity']}: {finding['kind']}: {len(kinds[finding['kind']])}" in printed
    for places in kinds.values():
        for where, what in places[:3]:
            assert f"    {where}: {what}" in printed
    assert printed.rstrip().endswith("this would hurt training" if errors else "nothing here would hurt training")
    return kinds
