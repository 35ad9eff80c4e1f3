"""Whether the Transformers of a stage are compiled."""

from typing import Literal

import torch

from omni.devices import has_compiler
from omni.layers.transformer import Block

Compile = bool | Literal["auto"]
_PARAMETERS = 500_000  # trained ones of the blocks, from which on a step takes longer than what it takes to start one
_BATCHES = {"cpu": 2500, "cuda": 6000}  # from which on the minute of compiling is paid back, by 1.15 × or more on a CPU


def pays(blocks: list[Block], device: torch.device, batches: float) -> bool:
    """Whether a run is long enough for compilation, and its device and this machine have a compiler.

    The choice depends on the configuration and the machine only, never on measured times: a resumed run makes the same.

    Args:
        blocks: Those that would be compiled.
        device: On which they are trained.
        batches: Of the whole run.
    """
    size = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    return size >= _PARAMETERS and batches >= _BATCHES.get(device.type, float("inf")) and has_compiler(device.type)
