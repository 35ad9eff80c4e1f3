"""What each of several devices needs in training, of what one device would need."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omni.errors import UserError
from omni.training.sharding import blocks_to_shard, trained_parts

STRATEGIES = ("ddp", "model_parallel")


@dataclass(frozen=True, kw_only=True)
class DeviceShare:
    """Memory of one device, in bytes, beside the activations and the workspace of its own batch.

    The workspace is that of one device, an upper bound: where the optimizer's step makes it, as Muon's may, sharding
    splits it too.

    Attributes:
        weights: Parameters and buffers that the device holds all the time.
        gradients: One for each trained parameter that it holds.
        optimizer_state: What the optimizer keeps of them.
        exchange: `ddp`: the copy of all gradients that is summed over devices. `model_parallel`: what is gathered at
            the worst moment, which is everything outside of blocks, two blocks, and whole gradients of the former and
            of one block.
        validation: All of the weights that are split, which validation gathers.
    """

    weights: int
    gradients: int
    optimizer_state: int
    exchange: int
    validation: int


def share_of_device(stage: Any, *, strategy: str, devices: int, optimizer_state: int) -> DeviceShare:
    """Memory of the fullest of some devices: FSDP splits first axes, rounded up.

    Args:
        stage: The stage, with frozen parameters marked as such.
        strategy: `ddp` or `model_parallel`.
        devices: How many there are.
        optimizer_state: Bytes of it on one device.

    Raises:
        UserError: If the stage cannot be trained so.
    """
    if strategy not in STRATEGIES or devices < 1:
        raise UserError(
            f"{devices} devices by {strategy} cannot be planned: give 1 or more, and {' or '.join(STRATEGIES)}"
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
    """Bytes of tensors, each counted once; of the first rank's rows where they are split."""
    total = 0
    for tensor in set(tensors):
        rows = tensor.shape[0] if tensor.dim() else 1
        held = -(-rows // devices) * (tensor.numel() // rows) if rows else 0
        total += held * tensor.element_size()
    return total
