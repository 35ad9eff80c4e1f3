"""Sharded training (ZeRO-3, arXiv:1910.02054): weights, gradients and optimizer states are split over the devices."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from omni.distributed import sum_over_ranks
from omni.layers.transformer import Block
from omni.models.part import Part


class Root(nn.Module):
    """Holds the trained parts for FSDP, which would change the stage's class and weight names if it wrapped the stage.

    Args:
        parts: The trained parts. Their parameters outside of blocks are gathered when `forward` starts.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, step: Callable[..., Any], *args: Any) -> Any:
        """Calls `step` with all parameters outside of blocks gathered."""
        return step(*args)


def trained_parts(stage: Any) -> dict[str, Part]:
    """Parts with a trained parameter; the others are not sharded, as with `ddp`."""
    return {
        name: part
        for name, part in stage.parts.items()
        if any(parameter.requires_grad for parameter in part.parameters())
    }


def blocks_to_shard(stage: Any) -> list[nn.Module]:
    """The modules that are gathered one at a time, when their `forward` is called.

    These are the blocks of the parts in `stage.sharded_parts`, which every batch runs on every rank: gathering is a
    collective.
    """
    parts = [part for name, part in trained_parts(stage).items() if name in stage.sharded_parts]
    return [module for part in parts for module in part.modules() if isinstance(module, Block)]


def shard(stage: Any, mesh: DeviceMesh) -> Root:
    """Splits the parameters of the trained parts over the devices of a mesh of one axis, in place.

    Args:
        stage: A stage, on its device.
        mesh: The devices.

    Returns:
        The root, through which training steps are called.
    """
    for part in trained_parts(stage).values():
        for parameter in part.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP refuses weights in channels-last order
    for block in blocks_to_shard(stage):
        fully_shard(block, mesh=mesh)
    root: Any = Root(trained_parts(stage).values())
    frozen = {p for p in root.parameters() if not isinstance(p, DTensor) and not p.requires_grad}
    fully_shard(root, mesh=mesh, reshard_after_forward=False, ignored_params=frozen)
    if stage.has_unused_parameters:
        root.set_reduce_scatter_unused_params(True)
    return root


def drop_unused(parameters: Iterable[nn.Parameter]) -> None:
    """Sets gradients that are zero on all ranks, of parameters that no row has used, to None. A collective."""
    found = [(p, p.grad) for p in parameters if isinstance(p.grad, DTensor)]
    if not found:
        return
    used = sum_over_ranks(torch.stack([gradient.to_local().any() for _, gradient in found]).float())
    for (parameter, _), count in zip(found, used.tolist(), strict=True):
        if not count:
            parameter.grad = None


# From PyTorch 2.13 on, FSDP supports weights that have a gradient on only some ranks.
TAKES_UNUSED = hasattr(FSDPModule, "set_reduce_scatter_unused_params")


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` for stages: FSDP2 over all devices, with ordinary checkpoints.

    Training gathers one block at a time. Validation, test and prediction gather all weights once and keep them, because
    ranks generate answers of different lengths, and some only rank 0.

    Args:
        process_group_backend: `nccl` on GPUs and `gloo` on the CPU if not given.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )
        self.root: Root | None = None
        self._whole = False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Makes Lightning pass the optimizer states of a checkpoint to `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Splits data and weights over all devices."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Any) -> None:
        """Shards the stage with its initial weights, then makes the optimizer."""
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        self.root, self._whole = shard(self.lightning_module, self.device_mesh["data_parallel"]), False
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step of the stage through the root."""
        assert self.root is not None
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self.root(self.lightning_module.training_step, *args, *kwargs.values())

    def post_backward(self, closure_loss: Tensor) -> None:
        """Drops gradients of parameters that no rank has used: FSDP fills in zeros, on which AdamW would step."""
        super().post_backward(closure_loss)
        stage: Any = self.lightning_module
        if stage.has_unused_parameters:
            drop_unused(stage.parameters())

    def on_validation_start(self) -> None:
        """Gathers all weights."""
        assert self.root is not None
        self.root(lambda: None)  # initialises FSDP, which must start at the root
        self._gather(True)

    def on_validation_end(self) -> None:
        """Shards them again."""
        self._gather(False)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def _gather(self, whole: bool) -> None:
        self._whole = whole
        for module in self._sharded():
            if module is not self.root:
                module.set_reshard_after_forward(not whole, recurse=False)
            module.unshard() if whole else module.reshard()

    def _sharded(self) -> list[FSDPModule]:
        assert self.root is not None
        return [module for module in self.root.modules() if isinstance(module, FSDPModule)]

    # ------------------------------------------------------------------ checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights on rank 0, shapes only on the others. A collective."""
        assert self.lightning_module is not None
        whole = self._whole
        self._gather(False)
        same = {name: id(p) for name, p in self.lightning_module.named_parameters(remove_duplicate=False)}
        gathered: dict[Any, Any] = {}  # tied weights are gathered once
        state = self.lightning_module.state_dict()
        for name, value in state.items():
            key = same.get(name, name)
            gathered[key] = gathered[key] if key in gathered else self._assembled(value)
        self._gather(whole)
        return {name: gathered[same.get(name, name)] for name in state}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads this rank's share of the weights of a checkpoint."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {name: share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer state as one process saves it: whole on rank 0, shapes only on the others. A collective."""
        return tree_map(self._assembled, Strategy.optimizer_state(self, optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads this rank's share of the optimizer states of a checkpoint."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(shared_state(optimizer, state))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """One file, written by rank 0 as on one device."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint, read by every rank onto its CPU."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def _assembled(self, value: Any) -> Any:
        if isinstance(value, DTensor):
            value = value.full_tensor()
            return value.cpu() if self.is_global_zero else value.to("meta")
        return value


def share(value: Any, like: Any) -> Any:
    """This rank's share of a whole tensor, sharded like `like`; anything else is returned unchanged."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def shared_state(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """This rank's share of the state of an optimizer, or of several combined ones."""
    if "optimizers" in state:
        pairs = zip(optimizer.optimizers, state["optimizers"], strict=True)
        return {**state, "optimizers": [shared_state(one, its) for one, its in pairs]}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    own = dict(zip(numbers, parameters, strict=True))
    shared = {n: {name: share(value, own[n]) for name, value in some.items()} for n, some in state["state"].items()}
    return {**state, "state": shared}
