"""What a sweep leaves in its folder: best.yaml, trials.csv, report.md, figures, and HParams for TensorBoard."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from omni.cores import usable_cores
from omni.files import write_text
from omni.pipeline.definition import StageSpec
from omni.pipeline.timings import format_duration
from omni.sweeps.confirmation import Confirmed
from omni.sweeps.definition import Sweep
from omni.sweeps.display import format_one, format_value, short_names
from omni.sweeps.figures import save_figures
from omni.sweeps.parameters import label
from omni.sweeps.ranking import best_first, mean_of_folds, table_rows
from omni.sweeps.scaling import ScalingLaw, fit_sweep
from omni.sweeps.stages import TrialStages, loggers_in
from omni.sweeps.study import SweepStudy, Trial

SHOWN = 10  # trials in the report


def write_results(study: SweepStudy, confirmed: Sequence[Confirmed] = ()) -> Path:
    """Writes all results.

    Args:
        study: The study.
        confirmed: The best trials that were trained again with other seeds.

    Returns:
        The report.
    """
    sweep, trials = study.sweep, study.trials()
    _write_table(sweep, trials)
    best = best_first(sweep, trials)
    if best:
        _write_best(study, trials, best[0])
        _write_hparams(sweep, best)
    law = fit_sweep(sweep, best) if sweep.file.scaling else None
    figures = save_figures(study, law)
    path = sweep.folder / "report.md"
    write_text(path, "\n".join(_report(sweep, trials, best, figures, confirmed, law)) + "\n")
    return path


def _write_table(sweep: Sweep, trials: Sequence[Trial]) -> None:
    rows = table_rows(trials, sweep.folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(sweep.folder / "trials.csv", text.getvalue())


def stages_of(study: SweepStudy, trials: Sequence[Trial], trial: Trial) -> list[StageSpec]:
    """The stages of a trial, as they were trained."""
    earlier = [each.values for each in trials[: trial.index]]
    return TrialStages(study.sweep).of(trial.index, trial.values, earlier)


def _write_best(study: SweepStudy, trials: Sequence[Trial], trial: Trial) -> None:
    """Writes `best.yaml`: the whole configuration of a stage, or a chain of those of its stages."""
    sweep = study.sweep
    stages = stages_of(study, trials, trial)
    configs = {stage.name: yaml.safe_load((stage.folder / "config.yaml").read_text("utf-8")) for stage in stages}
    run = f"sweeps/{sweep.name}/best"
    for name, config in configs.items():
        for key in config.keys() - {"seed_everything", "trainer", "model", "data", "init_from"}:
            del config[key]  # options of one command, such as ckpt_path
        folder = Path("lightning_logs", run, name if sweep.is_chain else "")
        config["trainer"]["logger"] = loggers_in(folder, config["trainer"]["logger"])
    head = f"# Trial {trial.index} of the sweep {sweep.name}: {sweep.file.metric} {format_value(trial.value)}.\n"
    if not sweep.is_chain:
        content = configs[sweep.stage]
        head += f"#   omni fit --config {sweep.folder / 'best.yaml'}\n"
    else:
        head += f"#   omni train {sweep.folder / 'best.yaml'}\n"
        content = {"name": run, "stages": {}}
        renamed = {os.path.abspath(stage.folder): Path("lightning_logs", run, stage.name) for stage in stages}
        for stage in stages:
            path = sweep.folder / "best" / f"{stage.name}.yaml"
            write_text(path, yaml.safe_dump(_redirected(configs[stage.name], renamed), sort_keys=False))
            limits = {"below": stage.target.below, "above": stage.target.above}
            metric = sweep.metric if stage.name == sweep.stage else stage.target.metric
            entry = {"config": f"best/{stage.name}.yaml", "metric": metric, "after": list(stage.needs)}
            content["stages"][stage.name] = entry | {key: each for key, each in limits.items() if each is not None}
    write_text(sweep.folder / "best.yaml", head + yaml.safe_dump(content, sort_keys=False))


def _redirected(value: Any, folders: dict[str, Path]) -> Any:
    """A configuration in which the checkpoints of some folders are those of others."""
    if isinstance(value, dict):
        return {key: _redirected(each, folders) for key, each in value.items()}
    if isinstance(value, list):
        return [_redirected(each, folders) for each in value]
    if isinstance(value, str) and value.endswith(".ckpt"):
        folder = folders.get(os.path.dirname(os.path.abspath(value)))
        return value if folder is None else str(folder / Path(value).name)
    return value


def _write_hparams(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Writes the values and the metric of each complete trial for TensorBoard's HParams page, once."""
    from torch.utils.tensorboard import SummaryWriter

    folder, names = sweep.folder / "hparams", short_names(sweep.parameters.names)
    for trial in trials:
        name = f"{trial.index:04d}"
        if (folder / name).exists():
            continue
        values = {names[key]: label(value) for key, value in trial.values.items() if value is not None}
        with SummaryWriter(str(folder)) as writer:
            writer.add_hparams(values, {sweep.file.metric: float(trial.value or 0.0)}, run_name=name)


def _report(
    sweep: Sweep,
    trials: Sequence[Trial],
    best: Sequence[Trial],
    figures: Sequence[Path],
    confirmed: Sequence[Confirmed],
    law: ScalingLaw | None,
) -> list[str]:
    counts = Counter(trial.state for trial in trials)
    steps = sum(trial.facts.get("steps", 0) for trial in trials)
    seconds = sum(trial.facts.get("seconds", 0.0) for trial in trials)
    lines = [
        f"# Sweep {sweep.name}",
        "",
        f"{len(trials)} trials ({', '.join(f'{count} {state}' for state, count in counts.items())}), "
        f"{steps:,} optimizer steps and {format_duration(seconds)} of training in all; sampler {sweep.file.sampler}, "
        f"pruner {sweep.pruner.kind}, seed {sweep.file.seed}. `{sweep.file.metric}` is {sweep.direction}d; it is that "
        "of a run's best checkpoint" + (f", the mean over {sweep.file.seeds} seeds." if sweep.file.seeds > 1 else "."),
        "",
        *([f"**{mean_of_folds(sweep, trials)}**", ""] if sweep.file.folds else []),
        *_best_table(sweep, best),
        *([] if sweep.file.folds else _curse(sweep, counts["complete"] + counts["pruned"], confirmed)),
        *_stage_counts(sweep, trials),
    ]
    failures = [trial for trial in trials if trial.state in ("failed", "infeasible")]
    if failures:
        lines += ["## Trials without a result", ""]
        lines += [f"- {each.index}: {each.facts.get('error') or each.facts['infeasible']}" for each in failures] + [""]
    if law is not None:
        lines += ["## Scaling law", "", *law.report(), ""]
    lines += [f"![{path.stem.replace('_', ' ')}]({path.name})\n" for path in figures]
    return lines


def _best_table(sweep: Sweep, best: Sequence[Trial]) -> list[str]:
    if not best:
        return ["No trial is complete.", ""]
    names = short_names(sweep.parameters.names)
    head = ["trial", f"`{sweep.file.metric}`", *(f"`{name}`" for name in names.values()), "steps", "time"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for trial in best[:SHOWN]:
        values = [format_one(trial.values[key]) if key in trial.values else "" for key in names]
        cells = [str(trial.index), f"{trial.value:.4g}", *values]
        cells += [f"{trial.facts.get('steps', 0):,}", format_duration(trial.facts.get("seconds", 0.0))]
        lines.append(f"| {' | '.join(cells)} |")
    if sweep.file.folds:
        return [*lines, ""]
    command = "train" if sweep.is_chain else "fit --config"
    repeat = f"`{_threads(sweep)}omni {command} {sweep.folder / 'best.yaml'}` trains the best trial once more"
    return [*lines, "", f"{repeat}; on a CPU with the same result, bit for bit.", ""]


def _threads(sweep: Sweep) -> str:
    """The variable that sets the number of threads of each trial; sums of floats depend on it."""
    return f"OMP_NUM_THREADS={max(1, usable_cores() // sweep.file.jobs)} " if sweep.file.jobs > 1 else ""


def _curse(sweep: Sweep, compared: int, confirmed: Sequence[Confirmed]) -> list[str]:
    """What the winner's value is worth: the best of many trials owes some of its lead to its seed.

    Args:
        sweep: The sweep.
        compared: Number of trials among which the best was chosen, pruned ones included.
        confirmed: The best trials that were trained again.
    """
    if compared < 2:
        return []
    if not confirmed:
        return [
            f"The best of {compared} trials owes part of its lead to chance (the winner's curse), as it was chosen by "
            f"the value that is shown here. `omni sweep {sweep.path} --confirm 3 --seeds 3` trains the best three "
            "again with other seeds.",
            "",
        ]
    lines = [
        "## Confirmed with other seeds",
        "",
        "The sweep's own value of a trial that was chosen as the best is too good on average (the winner's curse). The "
        "runs below were not chosen by anything; the interval is the mean's, by Student's t.",
        "",
        f"| trial | in the sweep | mean of {len(confirmed[0].values)} seeds | 95 % interval | each |",
        "|---|---|---|---|---|",
    ]
    for each in confirmed:
        low, high = each.interval
        interval = "" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
        runs = ", ".join(f"{value:.4g}" for value in each.values)
        lines.append(f"| {each.index} | {each.in_sweep:.4g} | **{each.mean:.4g}** | {interval} | {runs} |")
    return [*lines, ""]


def _stage_counts(sweep: Sweep, trials: Sequence[Trial]) -> list[str]:
    """How often each stage of a chain was trained, and how often a trial used another's."""
    if not sweep.is_chain:
        return []
    trained, reused = (Counter(name for t in trials for name in t.facts.get(key, ())) for key in ("trained", "reused"))
    rows = [f"| {name} | {trained[name]} | {reused[name]} |" for name in sweep.stages]
    return ["| stage | trained | reused by a trial |", "|---|---|---|", *rows, ""]
