"""`omni train`: trains all stages of a pipeline."""

import sys
import time
from functools import partial
from pathlib import Path

from omni.cores import usable_cores
from omni.errors import UserError
from omni.pipeline.definition import Pipeline, read_pipeline
from omni.pipeline.launcher import Launcher, exclusive
from omni.pipeline.scheduler import Scheduler
from omni.pipeline.status import stage_status
from omni.pipeline.table import PipelineTable
from omni.pipeline.timings import StageTimings, format_duration
from omni.training.memory import parse_size


def train(
    pipeline: Path, *, jobs: int = 1, report: bool = True, dry_run: bool = False, gpu_memory: str = "12GB"
) -> None:
    """Train all stages of a pipeline, each by `omni fit` with its own configuration, in order of their dependencies.

    Finished stages are kept unless their configuration, data or ancestors have changed; interrupted ones are resumed.
    The same command therefore starts a pipeline, resumes it, and brings it up to date. Ctrl-C stops the running stages,
    which save first. At the end lightning_logs/NAME/report.md compares each stage with its target.

    Example:
        omni train configs/world/chain.yaml --jobs 2

    Args:
        pipeline: The pipeline's YAML file, such as configs/world/chain.yaml.
        jobs: Most stages that run at the same time. They share the GPU and the CPU's cores, of which a stage that
            runs alone gets all.
        report: Whether to write the report.
        dry_run: Train nothing: read every configuration and print parameters, memory, and hours on some GPUs.
        gpu_memory: Of the GPU that a dry run is for, such as 12GB or 24GiB.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}: give 1 or more")
    started = time.monotonic()
    read = read_pipeline(pipeline)
    if dry_run:
        from omni.pipeline.forecast import forecast, forecast_table

        print(forecast_table(forecast(read, gpu_memory=parse_size(gpu_memory)), gpu_memory=gpu_memory))
        return
    timings = run_pipeline(read, jobs=jobs)
    if report:
        from omni.pipeline.report import write_report

        print(f"report: {write_report(read, timings)}")
    print(f"all {len(read.stages)} stages are done, after {format_duration(time.monotonic() - started)}")


def run_pipeline(pipeline: Pipeline, *, jobs: int) -> StageTimings:
    """Trains the stages of a pipeline, and shows a table; exits unless all are done.

    Args:
        pipeline: The pipeline.
        jobs: Most stages that run at the same time.

    Returns:
        The times of the stages.
    """
    waiting = f"waiting: another command, or a stage that it has started, is running in {pipeline.folder}"
    unlocked = f"{pipeline.folder} is on a file system without locks: do not run the same command twice"
    say = partial(print, flush=True)
    with exclusive(pipeline, waiting=partial(say, waiting), unlocked=partial(say, unlocked)) as lock:
        timings = StageTimings(pipeline.folder / "chain.json")
        threads = max(1, usable_cores() // jobs) if jobs > 1 else None
        launcher = Launcher(pipeline.folder, lock, threads=threads)
        with PipelineTable(pipeline.stages, timings) as table:
            scheduler = Scheduler(
                pipeline.stages,
                find_status=stage_status,
                launch=launcher,
                timings=timings,
                show=lambda: table.show(scheduler.runs),
                jobs=jobs,
            )
            scheduler.run()
    _exit_unless_done(scheduler, launcher)
    return timings


def _exit_unless_done(scheduler: Scheduler, launcher: Launcher) -> None:
    """Prints what has failed or was stopped, and exits with its code."""
    failed = {name: run for name, run in scheduler.runs.items() if run.state == "failed"}
    blocked = [name for name, run in scheduler.runs.items() if run.state == "blocked"]
    for name, run in failed.items():
        print(f"omni: stage {name} failed: {launcher.failure(name, run)}", file=sys.stderr)
    if blocked:
        print(f"  not trained because of it: {', '.join(blocked)}", file=sys.stderr)
    if scheduler.signum is not None:
        print("stopped and saved; run the same command to resume")
        raise SystemExit(128 + scheduler.signum)
    if failed:
        code = next(iter(failed.values())).code or 1
        raise SystemExit(code if code > 0 else 128 - code)
