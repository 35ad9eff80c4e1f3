"""The report of a chain: what each stage was to reach and has reached, for people (Markdown) and programs (JSON)."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.recipe import build
from omni.errors import UserError
from omni.pipeline.definition import Pipeline, StageSpec
from omni.pipeline.samples import sample
from omni.pipeline.status import read_progress
from omni.pipeline.table import clock
from omni.pipeline.timings import StageTimings
from omni.training.memory import format_count


def write_report(chain: Pipeline, journal: StageTimings) -> Path:
    """Writes `report.md` and `report.json` into a chain's folder, and samples beside them.

    Args:
        chain: All of its stages are done.
        journal: How long each took.

    Returns:
        The Markdown file.
    """
    stages = [_stage(link, journal, chain.folder / "samples") for link in chain.links.values()]
    content = {
        "chain": chain.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": _hardware(),
        "versions": {name: version(name) for name in ("torch", "lightning")},
        "seconds": sum(stage["seconds"] or 0.0 for stage in stages),
        "stages": stages,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (chain.folder / "report.json").write_text(text, encoding="utf-8")
    path = chain.folder / "report.md"
    path.write_text(_markdown(content), encoding="utf-8")
    return path


def _stage(link: StageSpec, journal: StageTimings, samples: Path) -> dict[str, Any]:
    """What is known of a stage."""
    best, last = link.folder / "best.ckpt", link.folder / "last.ckpt"
    held = Checkpoint(best).content
    metrics = held.get("metrics", {})
    seconds, attempts = journal.seconds(link.name), journal.attempts(link.name)
    return {
        "name": link.name,
        "stage": held["lineage"]["stage"],
        "metric": link.goal.metric,
        "value": metrics.get(link.goal.metric),
        "target": str(link.goal),
        "reached": link.goal.reached(metrics),
        "step": held["lineage"]["step"],
        "steps": Checkpoint(last).lineage["step"],
        "seconds": read_progress(link.folder).get("seconds") if seconds is None else seconds,
        "attempts": attempts,
        "parameters": _parameters(held),
        "metrics": metrics,
        "lineage": held["lineage"],
        "checkpoint": str(best),
        "sample": _sample(link, best, samples),
    }


def _parameters(held: Mapping[str, Any]) -> dict[str, int]:
    """The number of parameters of each part in a checkpoint."""
    with torch.device("meta"):
        return {name: build(recipe).num_parameters for name, recipe in held["parts"].items()}


def _sample(link: StageSpec, checkpoint: Path, samples: Path) -> dict[str, Any]:
    try:
        lines, files = sample(link.configuration, checkpoint, samples / link.name)
    except UserError as error:
        return {"none": str(error)}
    return {**lines, "files": [str(path.relative_to(samples.parent)) for path in files]}


def _commit() -> str | None:
    """The commit that the code is at, with a `+` where files differ from it; None outside a repository."""
    try:
        commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _markdown(content: Mapping[str, Any]) -> str:
    hardware, stages = content["hardware"], content["stages"]
    devices = ", ".join([*hardware["gpus"], f"{hardware['cores']} cores of {hardware['processor']}"])
    lines = [
        f"# {content['chain']}",
        "",
        f"All stages together took {clock(content['seconds'])} on {devices}, {hardware['memory_gib']} GiB; "
        f"{hardware['system']}, PyTorch {content['versions']['torch']}, Lightning {content['versions']['lightning']}; "
        f"commit {content['commit'] or 'unknown'}, {content['date']}.",
        "",
        "| stage | metric | target | reached | best at step | time | parameters |",
        "|---|---|---|---|---|---|---|",
        *map(_row, stages),
        "",
    ]
    for stage in stages:
        lines += [f"## {stage['name']}", "", *_shown(stage["sample"]), ""]
    return "\n".join(lines)


def _row(stage: Mapping[str, Any]) -> str:
    value = "not measured" if stage["value"] is None else f"{stage['value']:.4g}"
    mark = {True: " ✓", False: " ✗", None: ""}[stage["reached"]]
    seconds = "unknown" if stage["seconds"] is None else clock(stage["seconds"])
    attempts = f" in {stage['attempts']} attempts" if (stage["attempts"] or 1) > 1 else ""
    cells = (
        f"{stage['name']} (`{stage['stage']}`)",
        f"`{stage['metric']}`",
        stage["target"],
        f"**{value}**{mark}",
        f"{stage['step']:,} of {stage['steps']:,}",
        seconds + attempts,
        format_count(sum(stage["parameters"].values())),
    )
    return f"| {' | '.join(cells)} |"


def _shown(found: Mapping[str, Any]) -> list[str]:
    lines = [f"- {name}: {' '.join(str(text).split())}" for name, text in found.items() if name != "files"]
    files = found.get("files", ())
    return lines + [f"- {'!' if file.endswith('.png') else ''}[{Path(file).name}]({file})" for file in files]
