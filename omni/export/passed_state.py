"""State of a stream that a graph takes as an input and returns as an output."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omni.layers.cache import KVCache
from omni.layers.convnext import ConvCache, ConvNeXt
from omni.layers.transformer import Transformer


class PassedCache(KVCache):
    """A cache of rows of equal length that grows by concatenation.

    Args:
        past: (layers, 2 for keys and values, batch, num_kv_heads, entries, head_dim); without entries, a start.
    """

    def __init__(self, past: Tensor) -> None:
        self._entries: list[tuple[Tensor, Tensor]] = [(layer[0], layer[1]) for layer in past.unbind(0)]
        self._past = past.shape[4]

    @property
    def present(self) -> Tensor:
        """All entries so far, as `past`."""
        return torch.stack([torch.stack(entries) for entries in self._entries])

    def slots(self, time: int) -> Tensor:
        return (self._past + torch.arange(time))[None]

    def mask(self, time: int) -> Tensor:
        return (torch.arange(self._past + time) <= self.slots(time)[..., None])[:, None]

    @property
    def lengths(self) -> tuple[int]:
        return (1,)  # not empty: attention is masked, not causal, also where `past` is empty

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        old_keys, old_values = self._entries[layer]
        self._entries[layer] = torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)
        return self._entries[layer]

    def advance(self, entries: Any) -> None:
        pass  # `append` has counted them


class PassedFrames(ConvCache):
    """The last input frames of the convolutions of ConvNeXt blocks.

    Args:
        modules: Modules with the blocks, in the order of `past`; all blocks are of one size.
        past: (blocks, batch, dim, kernel_size - 1); zeros are a start.
    """

    def __init__(self, modules: Sequence[nn.Module], past: Tensor) -> None:
        self._convs = [block.depthwise for block in _blocks(modules)]
        super().__init__(dict(zip(self._convs, past.unbind(0), strict=True)))

    @property
    def present(self) -> Tensor:
        """The frames to continue from, as `past`."""
        return torch.stack([self.past(conv) for conv in self._convs])


def no_entries(transformer: Transformer, batch: int, entries: int = 0) -> Tensor:
    """Zeros as `past` of a `PassedCache`."""
    return torch.zeros(transformer.num_layers, 2, batch, transformer.num_kv_heads, entries, transformer.head_dim)


def no_frames(modules: Sequence[nn.Module], batch: int) -> Tensor:
    """Zeros as `past` of `PassedFrames`."""
    blocks = _blocks(modules)
    return torch.zeros(len(blocks), batch, blocks[0].depthwise.in_channels, blocks[0].past)


def _blocks(modules: Sequence[nn.Module]) -> list[ConvNeXt]:
    return [block for module in modules for block in module.modules() if isinstance(block, ConvNeXt)]
