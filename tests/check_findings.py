"""Runs `omni data check` and compares what it prints, what it writes and how it ends with each other."""

import json
from pathlib import Path
from typing import Any

from omni.commands.data_check import check


def findings(capsys: Any, *manifests: str, **options: Any) -> dict[str, list[tuple[str, str]]]:
    """What is found: {kind: [(where, what)]}. The report stays in report.json."""
    code = 0
    try:
        check(list(manifests), json=Path("report.json"), **options)
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
