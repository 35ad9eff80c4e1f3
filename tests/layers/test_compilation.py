"""Compiled blocks."""

import pytest
import torch
from torch import Tensor

from omni.devices import has_compiler
from omni.layers.compilation import compile_blocks, trained_blocks
from omni.layers.transformer import Transformer


def test_frozen_blocks_are_left_out():
    layers = Transformer(dim=8, num_layers=2, num_heads=2, ffn_dim=8)
    layers.blocks[0].requires_grad_(False)
    assert trained_blocks(layers) == [layers.blocks[1]]


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings(  # raised by the compiler itself
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute:UserWarning"
)
def test_the_shape_that_comes_first_does_not_matter():
    """A resumed run compiles for another first batch than the run that it continues, and must make the same steps."""
    torch.manual_seed(0)
    model = Transformer(dim=64, num_layers=2, num_heads=2, ffn_dim=96)

    def gradients(first: tuple[int, int]) -> list[Tensor]:
        torch.compiler.reset()
        compile_blocks(trained_blocks(model))
        found = []
        for batch, time in (first, (5, 40), (1, 23)):
            model.zero_grad()
            model(torch.linspace(-1, 1, batch * time * 64).view(batch, time, 64)).hidden.square().sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        return found[1:]

    for one, other in zip(gradients((3, 50)), gradients((8, 7)), strict=True):
        assert len(one) == sum(parameter.numel() for parameter in model.parameters())
        assert torch.equal(one, other)
