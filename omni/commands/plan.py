"""`omni plan`: the parameters and the memory of a configuration, and one that fits its data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from omni.errors import UserError, parser_errors
from omni.pipeline.definition import Pipeline, StageSpec, read_pipeline
from omni.pipeline.forecast import StageForecast, forecast, forecast_table
from omni.pipeline.rewriting import with_configs
from omni.training.configuration import Configuration
from omni.training.memory import format_count, format_size, parse_size
from omni.training.memory_plan import Plan, plan_of
from omni.training.overlay import HEADER, overlay, write_overlay
from omni.training.preflight import Check, preflight
from omni.training.process_memory import process_bytes, resident_bytes
from omni.training.suggestion import Suggestion, suggest

_FLAGS = ("suggest", "check", "dry_run")
_OWN = ("gpu_memory", "devices", "strategy", "write", *_FLAGS)


def run(argv: list[str]) -> Plan | list[Suggestion] | list[Check] | list[StageForecast]:
    """Counts the parameters and the memory of a configuration, or suggests one that fits its data, and prints it.

    To count, only the configuration is read: no data, no GPU, no memory for weights. The stage is built with fake
    tensors, which have shapes but no storage, and makes a training step while allocations are counted; gradient
    checkpointing, precision, experts and frozen parts are therefore included. Not counted: a device's libraries (CUDA's
    context, cuBLAS's workspace), fragmentation, memory inside kernels, and communication buffers.

    With `--chain` alone, every stage is counted for a GPU of `--gpu_memory`, 12GB by default, with hours on some GPUs.

    With `--suggest` the data is read, see `omni.training.suggestion.suggest`.

    Args:
        argv: The arguments of `omni fit`, and those of `omni plan`; or `--chain` with a pipeline, and those.

    Raises:
        UserError: If the configuration is invalid.
    """
    if any(argument.partition("=")[0] == "--chain" for argument in argv):
        return _plan_chain(argv)
    with parser_errors("plan"):
        cli = _PlanCLI(argv)
    options = cli.options
    _check_options(options)
    if options["check"]:
        return _check(cli, options)
    if options["suggest"]:
        suggestion = suggest(cli, gpu_memory=_bytes(options), devices=options["devices"], strategy=options["strategy"])
        print(_suggested(suggestion))
        _write(cli, _without_own(argv), suggestion, options["write"], options["dry_run"])
        return [suggestion]
    resident = resident_bytes()
    plan = plan_of(
        cli,
        gpu_memory=_bytes(options),
        devices=1 if options["devices"] is None else options["devices"],
        strategy=options["strategy"],
    )
    process = process_bytes(plan, resident=resident) if resident else None
    print(_report(plan, process, chosen=cli.config["trainer"]["precision"] is None, gpu_memory=options["gpu_memory"]))
    return plan


class _PlanCLI(Configuration):
    """A configuration with the options of `omni plan`."""

    def init_parser(self, **kwargs: Any) -> Any:
        description = (
            "Count a configuration's parameters and memory, or with --suggest fit it to its data and a GPU. Takes the "
            "options of `omni fit`, and these of its own; or --chain with a pipeline instead of --config, whose stages "
            "are counted, with hours on some GPUs."
        )
        return super().init_parser(**kwargs, prog="omni plan", description=description)

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        add_options(parser)
        # `ckpt_path` and other options of `fit`, which stand in a run's config.yaml and have no effect here.
        parser.add_method_arguments(self.trainer_class, "fit", skip=self.subcommands()["fit"])

    @property
    def fit_arguments(self) -> list[str]:
        return _without_own(self.argv)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `omni plan`."""
        return {name: self.config[name] for name in _OWN}


def add_options(parser: ArgumentParser) -> None:
    """Adds the options of `omni plan`."""
    memory = "Memory of the GPU, such as 12GB or 24GiB: does training fit? With --suggest: the batch that fits."
    parser.add_argument("--gpu_memory", type=str | None, default=None, help=memory)
    devices = "Number of devices; by default 1, with --suggest as configured."
    parser.add_argument("--devices", type=int | None, default=None, help=devices)
    strategy = "Strategy on several devices: ddp or model_parallel."
    parser.add_argument("--strategy", type=str, default="ddp", help=strategy)
    suggested = (
        "Read the data, and print changes of steps, warm-up, intervals, batch and learning rate, with reasons. The "
        "learning rate is that of the shipped configuration × sqrt(its width / width): arXiv:2310.17813, 2203.03466."
    )
    parser.add_argument("--suggest", action="store_true", help=suggested)
    checked = (
        "Pre-flight: check that data, disk, memory and loggers are as a run needs them, train and evaluate for a few "
        "batches in a temporary folder and resume there; exit code 0 or 2."
    )
    parser.add_argument("--check", action="store_true", help=checked)
    written = "With --suggest: write the changes to this file (of a chain: folder), for `omni fit --config FILE`."
    parser.add_argument("--write", type=Path | None, default=None, help=written)
    dry = "With --suggest: write nothing, print what --write would write. The default without --write."
    parser.add_argument("--dry_run", action="store_true", help=dry)


def _plan_chain(argv: list[str]) -> list[Any]:
    """A forecast or suggestions for all stages of a pipeline, or checks of those that can be trained now."""
    parser = ArgumentParser(exit_on_error=False, prog="omni plan")
    parser.add_argument("--chain", type=Path, help="The pipeline's YAML file, such as configs/world/chain.yaml.")
    add_options(parser)
    with parser_errors("plan"):
        options = parser.parse_args(argv).as_dict()
    _check_options(options)
    if options["suggest"]:
        _check_folder(options["write"])
        return _suggest_chain(read_pipeline(options["chain"]), options)
    if options["check"]:
        return _check_chain(read_pipeline(options["chain"]), options)
    gpu_memory = options["gpu_memory"] or "12GB"
    stages = forecast(read_pipeline(options["chain"]), gpu_memory=parse_size(gpu_memory))
    print(forecast_table(stages, gpu_memory=gpu_memory))
    return stages


def _check_chain(pipeline: Pipeline, options: dict[str, Any]) -> list[Check]:
    checks: list[Check] = []
    failed = False
    for stage in pipeline.stages.values():
        if missing := _missing(stage, "init_from.", "data.", "model."):
            print(f"{stage.name}: not checked: {missing}\n")
            continue
        print(f"{stage.name}:")
        try:
            checks += _check(stage.configuration, options)
        except SystemExit:
            failed = True
        print()
    if failed:
        raise SystemExit(2)
    return checks


def _suggest_chain(pipeline: Pipeline, options: dict[str, Any]) -> list[Suggestion]:
    folder, files, keys, suggestions = options["write"], {}, {}, []
    for stage in pipeline.stages.values():
        suggestion = suggest(
            stage.configuration,
            gpu_memory=_bytes(options),
            devices=options["devices"],
            strategy=options["strategy"],
            missing=_missing(stage, "data."),
        )
        print(f"{stage.name}: {_suggested(suggestion)}\n", flush=True)
        suggestions.append(suggestion)
        if folder is not None and suggestion.changes:
            file, keys[stage.name] = folder / f"{stage.name}.yaml", suggestion.values.keys()
            configs = stage.arguments[: 2 * stage.arguments.count("--config")]
            _write(stage.configuration, list(configs), suggestion, file, options["dry_run"])
            files[stage.name] = file
    if folder is not None:
        chain = folder / "chain.yaml"
        text = f"{HEADER} omni train {chain}\n{with_configs(options['chain'], files, keys, chain)}"
        _put(text, chain, options["dry_run"], f"omni train {chain}")
    return suggestions


def _check_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--write {folder} is a file: a chain takes a folder")


def _missing(stage: StageSpec, *prefixes: str) -> str | None:
    """Why a stage cannot be read before another one of its pipeline is trained; None if it can."""
    for key, value in stage.configuration.strings.items():
        if key.startswith(prefixes) and value.endswith(".ckpt") and not Path(value).expanduser().is_file():
            return f"{key} is {value}, which is not trained yet; run this again once it is"
    return None


def _bytes(options: dict[str, Any]) -> int | None:
    return None if options["gpu_memory"] is None else parse_size(options["gpu_memory"])


def _without_own(argv: Sequence[str]) -> list[str]:
    """The arguments of `omni fit` among those of `omni plan`."""
    kept, skip = [], False
    for argument in argv:
        name, equals, _ = argument.removeprefix("--").partition("=")
        if skip:
            skip = False
        elif argument.startswith("--") and name in _OWN:
            skip = not equals and name not in _FLAGS
        else:
            kept.append(argument)
    return kept


def _check_options(options: dict[str, Any]) -> None:
    if options["suggest"] and options["check"]:
        raise UserError("--suggest and --check: give one of them")
    if options["suggest"] and options["devices"] is not None and options["devices"] < 1:
        raise UserError(f"--devices is {options['devices']}: give 1 or more")
    if not options["suggest"] and (options["write"] is not None or options["dry_run"]):
        raise UserError("--write and --dry_run belong to --suggest: give it too")


def _check(configuration: Configuration, options: dict[str, Any]) -> list[Check]:
    """Prints the checks of a stage as they are done.

    Raises:
        SystemExit: With 2 if one fails.
    """
    checks = []
    for check in preflight(configuration, gpu_memory=_bytes(options)):
        print(f"{'✓' if check.passed else '✗'} {check.name}: {check.reason}", flush=True)
        checks.append(check)
    if not all(check.passed for check in checks):
        raise SystemExit(2)
    return checks


def _write(
    configuration: Configuration, argv: list[str], suggestion: Suggestion, file: Path | None, dry_run: bool
) -> None:
    if file is not None:
        changes = {change.key: (change.value, change.reason) for change in suggestion.changes}
        _put(overlay(configuration, argv, changes, file), file, dry_run, f"omni fit --config {file}")


def _put(text: str, file: Path, dry_run: bool, command: str) -> None:
    """Writes a suggested file, or prints it."""
    if dry_run:
        print(f"{file}:\n{text}")
    else:
        write_overlay(text, file)
        print(f"written to {file}: {command}\n")


def _suggested(suggestion: Suggestion) -> str:
    """A suggestion as lines."""
    lines = [suggestion.stage]
    if suggestion.statistics is not None:
        lines += [f"  {split}: {text}" for split, text in suggestion.statistics.described().items()]
    lines += [
        f"  {change.key}: {_shown(change.old)} -> {_shown(change.new)}  ({change.reason})"
        for change in suggestion.changes
    ]
    if not suggestion.changes:
        lines.append("  no change")
    return "\n".join([*lines, *(f"  {note}" for note in suggestion.notes)])


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def _share_table(plan: Plan) -> dict[tuple[str, str], dict[str, str]]:
    share = plan.share
    if share is None:
        return {}
    rows = {
        "weights": share.weights,
        "gradients": share.gradients,
        "optimizer state": share.optimizer_state,
        "gathered and exchanged": share.exchange,
        "activations, workspace": plan.activations + plan.workspace,
        "gathered in validation": share.validation,
        "total": plan.per_device,
    }
    return {("training, each device", "memory"): {name: format_size(size) for name, size in rows.items()}}


def _report(plan: Plan, process: int | None, *, chosen: bool, gpu_memory: str | None) -> str:
    """The plan as aligned tables."""
    frozen = plan.total_parameters - plan.trained_parameters
    remark = f", {format_count(frozen)} of them frozen" if frozen else ""
    batch = ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in plan.batch.items())
    tables = {
        ("parameters", ""): {
            **{name: format_count(count) for name, count in plan.parameters.items()},
            "total": format_count(plan.total_parameters) + remark,
        },
        ("training", "memory"): {
            "weights": format_size(plan.weights),
            "gradients": format_size(plan.gradients),
            f"optimizer state ({plan.optimizer})": format_size(plan.optimizer_state),
            "activations": format_size(plan.activations),
            "workspace": format_size(plan.workspace),
            "total": format_size(plan.training),
            **({"process on a CPU, without data": format_size(process)} if process else {}),
        },
        **_share_table(plan),
        ("inference, one row", "memory"): {
            "weights": format_size(plan.inference_weights),
            **({"KV cache": format_size(plan.cache)} if plan.cache else {}),
            "total": format_size(plan.inference),
        },
    }
    width = max(len(name) for table in tables.values() for name in table)
    lines = [
        f"{plan.stage}: {batch}",
        f"precision {plan.precision}" + (" (the fastest here; trainer.precision sets another)" if chosen else ""),
    ]
    for (title, unit), rows in tables.items():
        lines += ["", f"{title:<{width}}  {unit:>12}".rstrip()]
        lines += [f"{name:<{width}}  {value:>12}" for name, value in rows.items()]
    if plan.fits is not None:
        answer = "yes" if plan.fits else "no"
        lines += ["", f"fits {gpu_memory}: {answer} (uses {format_size(plan.per_device)})"]
    return "\n".join(lines)
