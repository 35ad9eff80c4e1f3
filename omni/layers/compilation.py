"""Compiles the blocks of Transformers."""

from typing import Any

import torch
from torch import nn

from omni.layers.transformer import Block


def trained_blocks(module: nn.Module) -> list[Block]:
    """The blocks of Transformers with trained weights; a frozen encoder's forward pass gains too little.

    Blocks with a convolution are left out: PyTorch 2.14 compiles the backward pass of one anew for each length.
    """
    return [
        block
        for block in module.modules()
        if isinstance(block, Block)
        and block.conv is None
        and any(parameter.requires_grad for parameter in block.parameters())
    ]


def compile_blocks(blocks: list[Block]) -> None:
    """Compiles blocks in place, so that the names of weights stay. Blocks of one shape share the compiled code.

    The code is for any number of rows and positions, and does not depend on those that come first: a resumed run makes
    the steps of one that was not stopped.
    """
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 32)  # all blocks share it: of encoder, decoder, both modes
    for block in blocks:
        block.compile(dynamic=True)
