"""What is found when data is checked: findings of some kinds, gathered in a report."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omni.errors import UserError
from omni.files import write_text

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_SHOWN = 3  # findings of a kind that are named in the table
_PLACE = re.compile(r"(.+?(?:: (?:row|annotation) \d+[^:]*)?): (.*)", re.DOTALL)
_CLEAN = str.maketrans({"\n": " ", "\r": " ", "\t": " "})


class Finding(NamedTuple):
    """Something that a person should know of.

    Attributes:
        kind: One word or two, the same for all that are alike.
        severity: `error`: it would hurt training; `warning`: it may; `note`: good to know.
        where: File and row, or the split.
        what: What was found there.
    """

    kind: str
    severity: Severity
    where: str
    what: str


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        severity: Of every such finding.
        advice: What to do about it.
        of_rows: Whether each is about a row.
    """

    severity: Severity
    advice: str
    of_rows: bool = True


@dataclass
class Report:
    """All findings about some data, and its figures.

    Args:
        kinds: What can be found, by name.
    """

    kinds: Mapping[str, Kind]
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # split -> name -> value
    rows: int = 0

    def add(self, kind: str, where: str, what: str) -> None:
        """Adds a finding."""
        self.findings.append(Finding(kind, self.kinds[kind].severity, where, what.translate(_CLEAN)))

    def add_error(self, kind: str, error: UserError) -> None:
        """Adds a finding whose message begins with where it is."""
        match = _PLACE.fullmatch(str(error))
        self.add(kind, *(match.groups() if match else ("", str(error))))

    @property
    def counts(self) -> dict[Severity, int]:
        """Findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def lines(self) -> list[str]:
        """Figures and findings, for people."""
        lines = []
        for split, figures in self.figures.items():
            lines += [f"{split}:", *(f"  {name}: {_shown(value)}" for name, value in figures.items()), ""]
        by_kind: dict[str, list[Finding]] = {}
        for finding in self.findings:
            by_kind.setdefault(finding.kind, []).append(finding)
        order = sorted(by_kind, key=lambda kind: (SEVERITIES.index(self.kinds[kind].severity), -len(by_kind[kind])))
        for kind in order:
            found = by_kind[kind]
            share = f", {len(found) / self.rows:.1%} of all rows" if self.kinds[kind].of_rows else ""
            lines.append(f"{self.kinds[kind].severity}: {kind}: {len(found):,}{share}. {self.kinds[kind].advice}")
            lines += [f"    {where}: {what}" for _, _, where, what in found[:_SHOWN]]
            lines += [f"    and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
        counts = self.counts
        total = ", ".join(f"{counts[name]:,} {name}{'s' * (counts[name] != 1)}" for name in SEVERITIES)
        verdict = "this would hurt training" if counts["error"] else "nothing here would hurt training"
        return [*lines, *([""] if order else []), f"{self.rows:,} rows checked: {total}: {verdict}"]

    def write(self, path: Path) -> None:
        """Writes everything as JSON; the file appears when it is whole."""
        content = {
            "rows": self.rows,
            "counts": self.counts,
            "figures": self.figures,
            "findings": [finding._asdict() for finding in self.findings],
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def named(names: Iterable[str], most: int = 8) -> str:
    """The first few of some names in order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value))
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
