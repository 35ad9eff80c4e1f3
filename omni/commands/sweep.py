"""`omni sweep`: trains a configuration with many values, and finds the best."""

import time
from contextlib import closing
from pathlib import Path

from omni.commands.train import run_pipeline
from omni.errors import UserError
from omni.pipeline.timings import format_duration
from omni.sweeps.checks import check_values
from omni.sweeps.confirmation import Confirmation, Confirmed
from omni.sweeps.definition import Sweep, read_sweep
from omni.sweeps.display import SweepTable, format_value, format_values
from omni.sweeps.preview import preview
from omni.sweeps.ranking import best_first, mean_of_folds
from omni.sweeps.results import write_results
from omni.sweeps.study import SweepStudy, storage_errors
from omni.sweeps.supervisor import Supervisor, make_slots


def sweep(
    file: Path,
    *,
    jobs: int | None = None,
    storage: str | None = None,
    dry_run: bool = False,
    confirm: int | None = None,
    seeds: int = 3,
) -> None:
    """Train a configuration with many values of its parameters, and find the best.

    The YAML file names the configuration, the parameters, a metric and a budget. Each trial is an `omni fit`, or the
    stages of a chain that its parameters touch. The same command starts a sweep, resumes it after any stop or kill, and
    extends it if its budget has grown; started on other machines with the same --storage, it joins. Ctrl-C stops the
    running trials, which save first. Results are in lightning_logs/sweeps/NAME: report.md, best.yaml, trials.csv and
    figures.

    Example:
        omni sweep configs/sweeps/learning_rate.yaml --jobs 2

    Args:
        file: The sweep's YAML file, such as configs/sweeps/learning_rate.yaml.
        jobs: Trials that run at the same time, instead of those in the file. Each has a GPU, or a share of the cores.
        storage: Database of several machines: postgresql://USER:PASSWORD@HOST/DATABASE, or grpc://HOST:PORT of Optuna's
            storage proxy. A journal file in the sweep's folder by default.
        dry_run: Print the trials, or a sample of them, and train nothing.
        confirm: Train this many of the best trials again with other seeds, and report the mean and its interval.
        seeds: Number of other seeds.
    """
    for name, value in {"jobs": jobs, "confirm": confirm, "seeds": seeds}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: give 1 or more")
    read = read_sweep(file)
    if confirm is not None and read.file.folds:
        raise UserError(f"sweep {file}: its trials are folds, of which none is the best: leave --confirm out")
    check_values(read)
    if dry_run:
        for number, values in enumerate(preview(read)):
            print(f"trial {number}  {format_values(values)}")
        print(f"{read.trials or 'any number of'} trials; nothing is trained in a dry run")
        return
    with storage_errors(read, storage), closing(SweepStudy(read, storage)) as study:
        confirmed: list[Confirmed] = []
        if confirm is None:
            _run(study, jobs or read.file.jobs)
        else:
            confirmation = Confirmation(study, confirm, seeds)
            run_pipeline(confirmation.pipeline, jobs=jobs or read.file.jobs)
            confirmed = confirmation.results()
        _print_results(read, study, confirmed)


def _run(study: SweepStudy, jobs: int) -> None:
    """Runs trials until the budget is spent."""
    with SweepTable(study.sweep, study.trials) as table:
        supervisor = Supervisor(
            study,
            make_slots(study.sweep, jobs),
            show=lambda: table.show(supervisor.running, supervisor.ended),
        )
        supervisor.run()
    if supervisor.signum is not None:
        write_results(study)
        print("stopped and saved; run the same command to resume")
        raise SystemExit(128 + supervisor.signum)


def _print_results(read: Sweep, study: SweepStudy, confirmed: list[Confirmed]) -> None:
    started = time.monotonic()
    report = write_results(study, confirmed)
    trials = study.trials()
    if others := sum(trial.state == "running" for trial in trials):
        print(f"{others} trials are still running in other workers; the last one to end completes the report")
    for each in confirmed:
        low, high = each.interval
        print(f"trial {each.index}: {format_value(each.in_sweep)} in the sweep, {format_value(each.mean)} "
              f"({format_value(low)} to {format_value(high)}) with {len(each.values)} other seeds")  # fmt: skip
    best = next(iter(best_first(read, trials)), None)
    if best is None:
        raise UserError(f"sweep {read.path}: none of {len(trials)} trials is complete; {report} says why")
    if read.file.folds:
        print(mean_of_folds(read, trials))
    else:
        print(f"best: trial {best.index}, {read.file.metric} {format_value(best.value)}: {format_values(best.values)}")
    print(f"report: {report} ({format_duration(time.monotonic() - started)} to write)")
