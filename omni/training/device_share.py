"""Training memory of each of several devices."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omni.errors import UserError
from omni.training.sharding import blocks_to_shard, trained_parts

STRATEGIES = ("ddp", "model_parallel")


@dataclass(frozen=True, kw_only=True)
class DeviceShare:
    """Memory of one device, in bytes, besides the activations and the workspace of its own batch.

    The workspace is that of one device, an upper bound: sharding also splits the part that the optimizer's step needs,
    as Muon's may.

    Attributes:
        weights: Parameters and buffers that stay on the device.
        gradients: Gradients of its trained parameters.
        optimizer_state: Optimizer state of its trained parameters.
        exchange: `ddp`: the copy of all gradients that is summed over devices. `model_parallel`: the most that is
            gathered at once, which is everything outside of blocks, two blocks, and the whole gradients of the former
            and of one block.
        validation: All sharded weights, which validation gathers.
    """

    weights: int
    gradients: int
    optimizer_state: int
    exchange: int
    validation: int


def share_of_device(stage: Any, *, strategy: str, devices: int, optimizer_state: int) -> DeviceShare:
    """Memory of the device that needs most: FSDP splits first axes, rounded up.

    Args:
        stage: The stage, with frozen parameters marked as such.
        strategy: `ddp` or `model_parallel`.
        devices: Number of devices.
        optimizer_state: Bytes of optimizer state on a single device.

    Raises:
        UserError: If the stage cannot be trained like this.
    """
    if strategy not in STRATEGIES or devices < 1:
        raise UserError(
            f"cannot plan {devices} devices with {strategy}: give 1 or more devices, and {' or '.join(STRATEGIES)}"
        )
    trained, buffers = [p for p in stage.parameters() if p.requires_grad], _bytes(stage.buffers())
    gradients = _bytes(trained)
    if strategy == "ddp":
        weights = _bytes(stage.parameters()) + buffers
        exchange = gradients if devices > 1 else 0
        return DeviceShare(
            weights=weights, gradients=gradients, optimizer_state=optimizer_state, exchange=exchange, validation=0
        )
    if not stage.sharded_parts:
        raise UserError(f"model_parallel cannot shard the parts of {type(stage).__name__}: plan ddp")
    blocks = [list(block.parameters()) for block in blocks_to_shard(stage)]
    inside = {p for block in blocks for p in block}
    outside = {p for part in trained_parts(stage).values() for p in part.parameters() if p.requires_grad} - inside
    split = inside | outside
    whole = _bytes(set(stage.parameters()) - split) + buffers
    own = _bytes((p for p in trained if p in split), devices)
    largest = max((_bytes(block) for block in blocks), default=0)
    block_gradients = max((_bytes(p for p in block if p.requires_grad) for block in blocks), default=0)
    return DeviceShare(
        weights=whole + _bytes(split, devices),
        gradients=own,
        optimizer_state=round(optimizer_state * own / gradients),
        exchange=2 * _bytes(outside) + 2 * largest + block_gradients,
        validation=_bytes(split),
    )


def _bytes(tensors: Iterable[Any], devices: int = 1) -> int:
    """Bytes of tensors, each counted once; only the first rank's rows if they are split over devices."""
    total = 0
    for tensor in set(tensors):
        rows = tensor.shape[0] if tensor.dim() else 1
        held = -(-rows // devices) * (tensor.numel() // rows) if rows else 0
        total += held * tensor.element_size()
    return total
