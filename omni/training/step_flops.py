"""Floating-point operations of a training step, counted with fake tensors."""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from omni.training.configuration import Configuration
from omni.training.memory import MemoryTracker
from omni.training.memory_plan import example_batch, fake_tensors


def _product_flops(total: Sequence[int], left: Sequence[int], right: Sequence[int], **_: object) -> int:
    """Operations of `total.addmm_(left, right)`, from the shapes."""
    return 2 * left[0] * left[1] * right[1]


_IN_PLACE: dict[object, object] = {torch.ops.aten.addmm_: _product_flops}  # of omni.losses.linear_cross_entropy


def step_flops(configuration: Configuration) -> int:
    """Operations of matrix products and convolutions in an optimizer step, forward and backward.

    The batch is the largest that the data module makes, as for the memory of a plan: an upper bound. Frozen parts are
    counted forward only; accumulated batches are counted together.

    Args:
        configuration: The configuration of a stage; no file of data is opened.

    Raises:
        UserError: If the data does not define the size of a batch.
    """
    data = configuration.config["data"]["init_args"].as_dict()
    with fake_tensors():
        stage = configuration.make("model")
        for name in stage.frozen:
            stage.part(name).requires_grad_(False)
        stage.train()
        batch = example_batch(stage, data)
        # The tracker replaces operations that fake tensors lack.
        with MemoryTracker(), FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
            stage.loss(batch).total.backward()
    return counter.get_total_flops() * configuration.config["trainer"]["accumulate_grad_batches"]
