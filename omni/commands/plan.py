"""`omni plan`: prints the parameters and the memory of a configuration."""

from typing import Any

from omni.errors import parser_errors
from omni.training.configuration import Configuration
from omni.training.memory import format_count, format_size, parse_size
from omni.training.memory_plan import Plan, plan_of


def run(argv: list[str]) -> Plan:
    """Counts the parameters and the memory of a configuration, and prints both.

    Only the configuration is read: no data, no GPU, no memory for weights. The stage is built with fake tensors, which
    have shapes but no storage, and makes a training step while allocations are counted; gradient checkpointing,
    precision, experts and frozen parts are therefore included. Not counted: a device's libraries (CUDA's context,
    cuBLAS's workspace), fragmentation, memory inside kernels, and communication buffers.

    Args:
        argv: The arguments of `omni fit`, `--gpu_memory`, `--devices` and `--strategy`.

    Raises:
        UserError: If the configuration is invalid.
    """
    with parser_errors("plan"):
        cli = _PlanCLI(argv)
    print(_report(cli.plan, chosen=cli.config["trainer"]["precision"] is None, gpu_memory=cli.config["gpu_memory"]))
    return cli.plan


class _PlanCLI(Configuration):
    """Builds the stage only: no trainer, no data."""

    def init_parser(self, **kwargs: Any) -> Any:
        description = (
            "Count a configuration's parameters and memory. Takes the options of `omni fit`, and three of its own."
        )
        return super().init_parser(**kwargs, prog="omni plan", description=description)

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--gpu_memory",
            type=str | None,
            default=None,
            help="Memory of the GPU, such as 12GB or 24GiB: does training fit?",
        )
        parser.add_argument("--devices", type=int, default=1, help="Number of devices.")
        parser.add_argument(
            "--strategy", type=str, default="ddp", help="Strategy on several devices: ddp or model_parallel."
        )
        # `ckpt_path` and other options of `fit`, which stand in a run's config.yaml and have no effect here.
        parser.add_method_arguments(self.trainer_class, "fit", skip=self.subcommands()["fit"])

    def instantiate_classes(self) -> None:
        gpu_memory = self.config["gpu_memory"]
        self.plan = plan_of(
            self,
            gpu_memory=None if gpu_memory is None else parse_size(gpu_memory),
            devices=self.config["devices"],
            strategy=self.config["strategy"],
        )


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


def _report(plan: Plan, *, chosen: bool, gpu_memory: str | None) -> str:
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
