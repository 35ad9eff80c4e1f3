"""A hook of MkDocs: a table of the training losses that shipped chains expect of their stages."""

from pathlib import Path
from typing import Any

import yaml

MARKER = "<!-- expected losses -->"
CONFIGS = Path(__file__).parents[1] / "configs"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the table in the place of its marker."""
    return markdown.replace(MARKER, table()) if MARKER in markdown else markdown


def table() -> str:
    """A row for each stage of each chain with `expected_loss`, in Markdown."""
    stages = [
        (path.relative_to(CONFIGS), name, stage["expected_loss"])
        for path in sorted(CONFIGS.rglob("*.yaml"))
        for name, stage in ((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages") or {}).items()
        if "expected_loss" in stage
    ]
    shares = sorted({share for *_, losses in stages for share in losses}, key=lambda share: float(share[:-1]))
    lines = [f"| chain | stage | {' | '.join(shares)} of the steps |", "|---|---|" + "---|" * len(shares)]
    for chain, name, losses in stages:
        cells = [f"{losses[share]:g}" if share in losses else "" for share in shares]
        lines.append(f"| `{chain}` | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
