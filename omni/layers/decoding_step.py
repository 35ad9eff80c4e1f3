"""One new position of each row as one compiled graph: no Python between the layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from omni.layers.cache import KVCache


class StepCache(KVCache):
    """A cache inside a graph: earlier entries are inputs, the new ones an output.

    Args:
        keys: (layers, batch, num_kv_heads, entries, head_dim).
        values: Like `keys`.
        visible: (batch, 1, 1, entries + 1) of bool: entries that the new position attends to, itself last; None for
            all.
    """

    def __init__(self, keys: Tensor, values: Tensor, visible: Tensor | None) -> None:
        self._past = list(zip(keys.unbind(0), values.unbind(0), strict=True))
        self._new: list[tuple[Tensor, Tensor]] = []
        self._visible = visible

    @property
    def new(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the new position, (layers, batch, num_kv_heads, 1, head_dim) each."""
        keys, values = zip(*self._new, strict=True)
        return torch.stack(keys), torch.stack(values)

    @property
    def lengths(self) -> tuple[int]:
        return (1,)  # not empty

    def mask(self, time: int) -> Tensor | None:
        return self._visible

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        past_keys, past_values = self._past[layer]
        self._new.append((keys, values))
        return torch.cat((past_keys, keys), 2), torch.cat((past_values, values), 2)


class DecodingStep:
    """Runs a causal Transformer on one new position of each row, compiled.

    The code is made for one row and for several, at the first use of each: about 15 seconds on a CPU, less when PyTorch
    finds it in its cache on the disk. Its results differ from those of the layers one by one by rounding.
    """

    FIRST = 2  # entries: PyTorch would compile anew for rows with none or one

    def __init__(self) -> None:
        def step(
            transformer: nn.Module, x: Tensor, positions: Tensor, visible: Tensor | None, keys: Tensor, values: Tensor
        ) -> tuple[Tensor, ...]:
            cache = StepCache(keys, values, visible)
            hidden = transformer(x, positions=positions, cache=cache).hidden
            return hidden, *cache.new

        self._step: Callable[..., Any] = torch.compile(step, dynamic=True, fullgraph=True)

    def accepts(self, x: Tensor, cache: KVCache | None) -> bool:
        """Whether this is a step that the code is for."""
        return (
            type(cache) is KVCache
            and x.shape[1] == 1
            and max(cache.lengths) >= self.FIRST
            and not torch.is_grad_enabled()
        )

    def __call__(self, transformer: nn.Module, x: Tensor, positions: Tensor | None, cache: KVCache) -> Tensor:
        """Hidden states of the new positions, (batch, 1, dim); `cache.advance` counts the new entries.

        Args:
            transformer: The Transformer.
            x: (batch, 1, dim).
            positions: As in `Transformer.forward`.
            cache: Earlier keys and values; the new ones are stored in it.

        Raises:
            ValueError: If a row would grow over the capacity of the cache.
        """
        cache.check_room(1)
        # Of one type: a graph is compiled for each, and positions of media are fractions.
        positions = (cache.slots(1) if positions is None else positions).float()
        # Rows of equal length need no mask, but one graph for several rows takes half the time to compile.
        visible = cache.visible() if len(x) > 1 else None
        hidden, *new = self._step(transformer, x, positions, visible, *cache.entries())
        cache.store(*new)
        return hidden
