"""The report of a pipeline: each stage's target, result and sample outputs, in Markdown and JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.recipe import build
from omni.cores import usable_cores
from omni.curves.event_files import read_curves
from omni.errors import UserError
from omni.pipeline.definition import Pipeline, StageSpec
from omni.pipeline.expected_loss import LOSS, format_share, loss_at
from omni.pipeline.samples import sample
from omni.pipeline.status import read_progress
from omni.pipeline.timings import StageTimings, format_duration
from omni.training.memory import format_count

_SHARES = (0.01, 0.1, 0.5, 1.0)  # of the steps, whose training losses are reported


def write_report(pipeline: Pipeline, timings: StageTimings) -> Path:
    """Writes `report.md`, `report.json` and sample files into the folder of a pipeline.

    Args:
        pipeline: A pipeline whose stages are all done.
        timings: The times of its stages.

    Returns:
        The Markdown file.
    """
    stages = [_stage(stage, timings, pipeline.folder / "samples") for stage in pipeline.stages.values()]
    content = {
        "chain": pipeline.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": _hardware(),
        "versions": {name: version(name) for name in ("torch", "lightning")},
        "seconds": sum(stage["seconds"] or 0.0 for stage in stages),
        "stages": stages,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (pipeline.folder / "report.json").write_text(text, encoding="utf-8")
    path = pipeline.folder / "report.md"
    path.write_text(_markdown(content), encoding="utf-8")
    return path


def _stage(stage: StageSpec, timings: StageTimings, samples: Path) -> dict[str, Any]:
    """The report of one stage."""
    best, last = Checkpoint(stage.folder / "best.ckpt"), Checkpoint(stage.folder / "last.ckpt")
    metrics = best.content.get("metrics", {})
    seconds = timings.seconds(stage.name)
    return {
        "name": stage.name,
        "stage": best.lineage["stage"],
        "metric": stage.target.metric,
        "value": metrics.get(stage.target.metric),
        "target": str(stage.target),
        "reached": stage.target.reached(metrics),
        "step": best.lineage["step"],
        "steps": last.lineage["step"],
        "losses": _losses(stage, last.lineage["step"]),
        "seconds": read_progress(stage.folder).get("seconds") if seconds is None else seconds,
        "attempts": timings.attempts(stage.name),
        "parameters": _parameters(best),
        "metrics": metrics,
        "lineage": best.lineage,
        "checkpoint": str(best),
        "sample": _sample(stage, best.path, samples),
    }


def _losses(stage: StageSpec, steps: int) -> dict[str, dict[str, float | None]]:
    """Training loss at shares of the steps, and the loss that was expected there."""
    curve = read_curves(stage.folder).get(LOSS, {})
    shares = sorted({*_SHARES, *stage.expected_loss})
    return {
        format_share(share): {"loss": loss_at(curve, share * steps), "expected": stage.expected_loss.get(share)}
        for share in shares
    }


def _parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """Number of parameters by part."""
    with torch.device("meta"):
        return {name: build(recipe).num_parameters for name, recipe in checkpoint.content["parts"].items()}


def _sample(stage: StageSpec, checkpoint: Path, folder: Path) -> dict[str, Any]:
    try:
        found = sample(stage.configuration, checkpoint, folder / stage.name)
    except UserError as error:
        return {"none": str(error)}
    files = [str(each.relative_to(folder.parent)) for each in found.values() if isinstance(each, Path)]
    return {**{name: text for name, text in found.items() if isinstance(text, str)}, "files": files}


def _commit() -> str | None:
    """The commit of the code, with a `+` where files differ from it; None outside of omni's own repository."""
    try:
        _git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))  # not installed in another one's folder
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
        "cores": usable_cores(),
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
    cores = "1 core" if hardware["cores"] == 1 else f"{hardware['cores']} cores"
    devices = ", ".join([*hardware["gpus"], f"{cores} of {hardware['processor']}"])
    lines = [
        f"# {content['chain']}",
        "",
        f"All stages together took {format_duration(content['seconds'])} on {devices}, {hardware['memory_gib']} GiB; "
        f"{hardware['system']}, PyTorch {content['versions']['torch']}, Lightning {content['versions']['lightning']}; "
        f"commit {content['commit'] or 'unknown'}, {content['date']}.",
        "",
        "| stage | metric | target | reached | best at step | time | parameters |",
        "|---|---|---|---|---|---|---|",
        *map(_row, stages),
        "",
        *_loss_table(stages),
        "",
    ]
    for stage in stages:
        lines += [f"## {stage['name']}", "", *_shown(stage["sample"]), ""]
    return "\n".join(lines)


def _row(stage: Mapping[str, Any]) -> str:
    value = "not measured" if stage["value"] is None else f"{stage['value']:.4g}"
    mark = {True: " ✓", False: " ✗", None: ""}[stage["reached"]]
    seconds = "unknown" if stage["seconds"] is None else format_duration(stage["seconds"])
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


def _loss_table(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Training losses by share of the steps, with the expected ones in parentheses."""
    shares = sorted({share for stage in stages for share in stage["losses"]}, key=lambda share: float(share[:-1]))
    lines = [f"| training loss at | {' | '.join(shares)} of the steps |", "|---|" + "---|" * len(shares)]
    for stage in stages:
        cells = [_loss_cell(stage["losses"].get(share)) for share in shares]
        lines.append(f"| {stage['name']} | {' | '.join(cells)} |")
    return lines


def _loss_cell(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["loss"] is None:
        return ""
    expected = found["expected"]
    return f"{found['loss']:.3g}" + ("" if expected is None else f" ({expected:.3g} expected)")


def _shown(found: Mapping[str, Any]) -> list[str]:
    lines = [f"- {name}: {' '.join(str(text).split())}" for name, text in found.items() if name != "files"]
    files = found.get("files", ())
    return lines + [f"- {'!' if file.endswith('.png') else ''}[{Path(file).name}]({file})" for file in files]
