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
    assert trained_blocks(Transformer(dim=8, num_layers=1, num_heads=2, ffn_dim=8, causal=False, conv_kernel=3)) == []


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings(  # raised by the compiler itself
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.parametrize("causal", [True, False])
def test_the_shape_that_comes_first_does_not_matter(causal):
    """A resumed run compiles for another first batch than the run that it continues, and must make the same steps."""
    torch.manual_seed(0)
    model = Transformer(dim=64, num_layers=2, num_heads=2, ffn_dim=96, causal=causal)

    def gradients(first: tuple[int, int]) -> list[Tensor]:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        compile_blocks(trained_blocks(model))
        found, graphs = [], []
        for batch, time in (first, (5, 40), (1, 23)):
            model.zero_grad()
            x = torch.linspace(-1, 1, batch * time * 64).view(batch, time, 64)
            mask = None if causal else torch.arange(time).expand(batch, time) < time - 2
            model(x, mask=mask).hidden.square().sum().backward()
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        # One graph for an input without a gradient, one for that of the second block; a single row is compiled again.
        assert graphs[:2] == [2, 2]
        return found[1:]

    for one, other in zip(gradients((3, 50)), gradients((8, 7)), strict=True):
        assert len(one) == sum(parameter.numel() for parameter in model.parameters())
        assert torch.equal(one, other)
