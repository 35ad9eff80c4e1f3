"""`omni plan`: prints what a configuration will need, its parameters and its memory."""

from typing import Any

from omni.errors import parser_errors
from omni.optim.precision import best_precision
from omni.training.configuration import Configuration
from omni.training.memory import format_count, format_size, parse_size
from omni.training.memory_plan import Plan, fake_tensors, measure


def run(argv: list[str]) -> Plan:
    """Counts the parameters and the memory of a configuration, and prints both.

    Nothing is read but the configuration: no data, no GPU, no memory for weights. The stage is built of fake tensors,
    which know their shapes only, and makes a whole training step with them while every tensor that comes and goes is
    counted. So checkpointing, precision, experts and frozen parts show as they will be. Not counted: what a device's
    libraries take (CUDA's context, cuBLAS's workspace), fragmentation, memory that a kernel takes for itself, and the
    copies that several devices exchange.

    Args:
        argv: What `omni fit` takes, and `--gpu_memory`.

    Raises:
        UserError: If the configuration is wrong; the message is one line.
    """
    with parser_errors("plan"):
        cli = _PlanCLI(argv)
    print(_report(cli.plan, chosen=cli.config["trainer"]["precision"] is None, told=cli.config["gpu_memory"]))
    return cli.plan


class _PlanCLI(Configuration):
    """Makes the stage alone: no trainer, no data."""

    def init_parser(self, **kwargs: Any) -> Any:
        description = "Count a configuration's parameters and memory. Takes what `omni fit` takes, and --gpu_memory."
        return super().init_parser(**kwargs, prog="omni plan", description=description)

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--gpu_memory", type=str | None, default=None, help="Memory to fit, such as 12GB or 24GiB.")
        parser.add_argument("--devices", type=int, default=1, help="Devices to plan for.")
        parser.add_argument("--strategy", type=str, default="ddp", help="How they share: ddp or model_parallel.")
        # `ckpt_path` and whatever else `fit` takes and writes into a run's config.yaml; nothing here depends on it.
        parser.add_method_arguments(self.trainer_class, "fit", skip=self.subcommands()["fit"])

    def instantiate_classes(self) -> None:
        told, trainer = self.config["gpu_memory"], self.config["trainer"]
        gpu_memory = None if told is None else parse_size(told)
        self.make("data")  # refuses wrong arguments; it opens no file before it is set up
        with fake_tensors():
            self.plan = measure(
                self.make("model"),
                self.config["data"]["init_args"].as_dict(),
                precision=trainer["precision"] or best_precision(trainer["accelerator"]),
                accumulating=trainer["accumulate_grad_batches"] > 1,
                gpu_memory=gpu_memory,
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


def _report(plan: Plan, *, chosen: bool, told: str | None) -> str:
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
        f"precision {plan.precision}" + (" (the best here; trainer.precision sets another)" if chosen else ""),
    ]
    for (title, unit), rows in tables.items():
        lines += ["", f"{title:<{width}}  {unit:>12}".rstrip()]
        lines += [f"{name:<{width}}  {value:>12}" for name, value in rows.items()]
    if plan.fits is not None:
        answer = "yes" if plan.fits else "no"
        lines += ["", f"fits {told}: {answer} (uses {format_size(plan.per_device)})"]
    return "\n".join(lines)
