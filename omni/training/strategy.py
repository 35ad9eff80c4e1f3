"""Strategies: which of Lightning's can train a stage, and what they need to do so."""

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from omni.errors import UserError
from omni.stages.stage import Stage


def checked_strategy(config: Any, stage: Stage) -> Any:
    """The strategy for a Trainer, refused if the stage cannot be trained with it.

    Args:
        config: Arguments of the trainer: `strategy`, `devices`, `num_nodes` and `precision`.
        stage: The stage.

    Raises:
        UserError: If it cannot.
    """
    given = config["strategy"]
    name = given if isinstance(given, str) else type(given).__name__
    if name == "model_parallel":
        return _sharded_strategy(config, stage)
    if not (name == "auto" or name.startswith("ddp") or isinstance(given, DDPStrategy | SingleDeviceStrategy)):
        raise UserError(
            f"trainer.strategy {name} is not supported: give auto, ddp or model_parallel (FSDP2)",
            page="explanation/ranks.md",
        )
    return given


def _sharded_strategy(config: Any, stage: Stage) -> Any:
    kind, wrong = type(stage).__name__, "trainer.strategy model_parallel"
    if str(config["devices"]) == "1" and str(config["num_nodes"]) == "1":
        raise UserError(
            f"{wrong} needs several devices: set trainer.devices, or give auto", page="explanation/ranks.md"
        )
    if not stage.sharded_parts:
        raise UserError(f"{wrong} cannot shard the parts of {kind}: give ddp", page="explanation/ranks.md")
    if config["precision"] not in ("32-true", "bf16-mixed"):
        raise UserError(f"{wrong} does not support trainer.precision {config['precision']}: give bf16-mixed or 32-true")
    if stage.compiled is True:
        raise UserError(f"{wrong} does not support compilation: set model.init_args.compile to false")
    from omni.training.sharding import TAKES_UNUSED, ShardedStrategy  # takes 0.5 s, only needed here

    if stage.has_unused_parameters and not TAKES_UNUSED:
        raise UserError(
            f"{wrong} cannot train {kind} with PyTorch {torch.__version__}, whose FSDP needs a gradient of every "
            "weight on every device: install PyTorch 2.13 or newer, or give ddp"
        )
    return ShardedStrategy()


def prepare_strategy(trainer: Trainer, stage: Stage) -> None:
    """Lets batches leave parameters unused under DDP, and keeps gathered weights trainable under FSDP.

    Raises:
        UserError: If DDP is set to expect a gradient of every parameter and the stage may leave some out.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and stage.has_unused_parameters:
        if strategy._ddp_kwargs.setdefault("find_unused_parameters", True) is False:
            raise UserError(
                f"trainer.strategy has find_unused_parameters false, but batches of {type(stage).__name__} may leave "
                "parameters unused (no image, no recording): give ddp"
            )
    elif isinstance(strategy, ModelParallelStrategy):
        validation = trainer.fit_loop.epoch_loop.val_loop
        for loop in (validation, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False  # weights that are gathered in inference mode cannot be trained afterwards
