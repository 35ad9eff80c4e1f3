"""Whether the Transformers of a stage are compiled."""

from typing import Any, Literal

import torch
from torch import nn

from omni.devices import has_compiler
from omni.layers.transformer import Block

Compile = bool | Literal["auto"]
_PARAMETERS = 500_000  # trained ones of the blocks, from which on a step takes longer than what it takes to start one
_BATCHES = {"cpu": 600, "cuda": 6000}  # from which on compilation is paid back: by 1.35 × on a CPU, after a minute


def trained_blocks(module: nn.Module) -> list[Block]:
    """The blocks of Transformers with trained weights; a frozen encoder's forward pass gains too little."""
    return [
        block
        for block in module.modules()
        if isinstance(block, Block) and any(parameter.requires_grad for parameter in block.parameters())
    ]


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


def compile_blocks(blocks: list[Block]) -> None:
    """Compiles blocks in place, so that the names of weights stay. Blocks of one shape share the compiled code.

    The code is for any number of rows and positions, and does not depend on those that come first: a resumed run makes
    the steps of one that was not stopped.
    """
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 32)  # all blocks share it: of encoder, decoder, both modes
    for block in blocks:
        block.compile(dynamic=True)
