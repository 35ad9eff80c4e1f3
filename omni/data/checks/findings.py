"""Findings of the checks of data, and their report."""

import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from tqdm import tqdm

from omni.errors import UserError
from omni.files import write_text

Item = TypeVar("Item")
Result = TypeVar("Result")

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_SHOWN = 3  # findings of a kind that are listed
_PENDING = 256  # rows that wait to be read
_PLACE = re.compile(r"(.+?(?:: (?:row|line|annotation) \d+[^:]*)?): (.*)", re.DOTALL)
_CLEAN = str.maketrans({"\n": " ", "\r": " ", "\t": " "})


class Finding(NamedTuple):
    """A problem of a row or a split.

    Attributes:
        kind: Name of its kind.
        severity: `error`: it would hurt training; `warning`: it may; `note`: information.
        where: File and row, or the split.
        what: Description.
    """

    kind: str
    severity: Severity
    where: str
    what: str


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        severity: Of its findings.
        advice: What to do about them.
        of_rows: Whether each finding is about a row.
    """

    severity: Severity
    advice: str
    of_rows: bool = True


@dataclass
class Report:
    """All findings about some data, and its statistics.

    Args:
        kinds: The kinds of findings, by name.
    """

    kinds: Mapping[str, Kind]
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # split -> name -> value
    rows: int = 0

    def add(self, kind: str, where: str, what: str) -> None:
        what = what.removeprefix(f"{where}: ")  # a recording in a folder is its own row
        self.findings.append(Finding(kind, self.kinds[kind].severity, where, what.translate(_CLEAN)))

    def add_error(self, kind: str, error: UserError) -> None:
        """Adds an error as a finding; its message starts with the place."""
        match = _PLACE.fullmatch(str(error))
        self.add(kind, *(match.groups() if match else ("", str(error))))

    @property
    def counts(self) -> dict[Severity, int]:
        """Number of findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def lines(self) -> list[str]:
        """Statistics and findings as text."""
        lines = []
        for split, figures in self.figures.items():
            lines += [f"{split}:", *(f"  {name}: {_shown(value)}" for name, value in figures.items()), ""]
        by_kind: dict[str, list[Finding]] = {}
        for finding in self.findings:
            by_kind.setdefault(finding.kind, []).append(finding)
        order = sorted(by_kind, key=lambda kind: (SEVERITIES.index(self.kinds[kind].severity), -len(by_kind[kind])))
        for kind in order:
            found = by_kind[kind]
            share = f", {len(found) / self.rows:.1%} of all rows" if self.kinds[kind].of_rows and self.rows else ""
            lines.append(f"{self.kinds[kind].severity}: {kind}: {len(found):,}{share}. {self.kinds[kind].advice}")
            lines += [f"    {where}: {what}" for _, _, where, what in found[:_SHOWN]]
            lines += [f"    and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
        counts = self.counts
        total = ", ".join(f"{counts[name]:,} {name}{'s' * (counts[name] != 1)}" for name in SEVERITIES)
        verdict = "this would hurt training" if counts["error"] else "nothing here would hurt training"
        return [*lines, *([""] if order else []), f"{self.rows:,} rows checked: {total}: {verdict}"]

    def write(self, path: Path) -> None:
        """Writes everything as JSON."""
        content = {
            "rows": self.rows,
            "counts": self.counts,
            "figures": self.figures,
            "findings": [finding._asdict() for finding in self.findings],
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def first_names(names: Iterable[str], limit: int = 8) -> str:
    """The first names in order, and the number of the others."""
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": type(values[0])(statistics.median(values)), "max": max(values)}


def map_threads(function: Callable[[Item], Result], items: Iterable[Item], split: str, unit: str) -> Iterator[Result]:
    """Calls a function for all items in several threads, in order, with a bounded number of pending items.

    Args:
        function: Reads an item.
        items: The items.
        split: Name of the split, for the progress bar.
        unit: Name of the items, for the progress bar.
    """
    remaining = iter(items)
    progress = tqdm(desc=f"reading {split}", unit=f" {unit}", leave=False, disable=None)
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress:
        while some := list(islice(remaining, _PENDING)):
            for result in pool.map(function, some):
                progress.update()
                yield result


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_shown, value))
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
