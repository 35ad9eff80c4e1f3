"""The key-value cache of a language model of `transformers`."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ARGUMENTS = ("cache", "past_key_values")  # `transformers` 5.24 renamed the second to the first


def cache_argument(forward: Callable[..., Any]) -> str:
    """The name of the cache argument of a model's `forward`.

    Raises:
        ValueError: If it has none.
    """
    names = signature(forward).parameters
    found = next((name for name in _ARGUMENTS if name in names), None)
    if found is None:
        raise ValueError(f"the model takes no cache: its forward has no argument {' or '.join(_ARGUMENTS)}")
    return found


def has_cache(arguments: Mapping[str, Any]) -> bool:
    """Whether the keyword arguments of a call hold a cache, under either name."""
    return any(arguments.get(name) is not None for name in _ARGUMENTS)


class PretrainedCache:
    """Keys and values of rows of unequal length, with the interface of `omni.layers.cache.KVCache`.

    Prompts are padded at their ends. When their lengths are known, rows are shifted to end together, with the padding
    before them: new tokens then have the same distances as in a row alone, sliding windows included.

    Args:
        batch_size: Number of rows.
        max_length: Capacity of a row in entries.
        device: Device of keys and values.
        argument: Name of the model's cache argument; see `cache_argument`.
    """

    def __init__(self, batch_size: int, max_length: int, *, device: torch.device, argument: str) -> None:
        from transformers import DynamicCache

        self.argument = argument
        self.max_length, self.device = max_length, device
        self.lengths = [0] * batch_size
        self._cache: Any = DynamicCache()
        self._first = torch.zeros(batch_size, dtype=torch.long, device=device)  # entries of padding before each row
        self._entries = 0

    def options(self, time: int) -> dict[str, Any]:
        """Keyword arguments of the model for a number of further tokens of each row.

        Raises:
            ValueError: If a row would grow over `max_length`.
        """
        if self._entries + time > self.max_length:
            raise ValueError(
                f"the cache holds {self.max_length} entries; {self._entries} are used, {time} more do not fit"
            )
        entries = torch.arange(self._entries + time, device=self.device)
        positions = (entries[self._entries :] - self._first[:, None]).clamp(min=0)
        mask = None if len(set(self.lengths)) == 1 else entries >= self._first[:, None]
        return {self.argument: self._cache, "use_cache": True, "position_ids": positions, "attention_mask": mask}

    def keep(self, entries: int) -> None:
        """Drops all but the first entries of each row.

        Raises:
            ValueError: If rows are of unequal length.
        """
        if len(set(self.lengths)) > 1:
            raise ValueError("rows of unequal length cannot be truncated")
        if entries >= self._entries:
            return
        self._cache.crop(entries - self._entries)
        self.lengths, self._entries = [entries] * len(self.lengths), entries

    def advance(self, entries: int | Sequence[int]) -> None:
        """Counts new entries: the same number for each row, or one number a row (the rest was padding)."""
        counts = [entries] * len(self.lengths) if isinstance(entries, int) else list(entries)
        if len(set(counts)) > 1 and self._entries:
            raise ValueError("only the first entries of rows may differ in number")
        new = self._cache.get_seq_length() - self._entries
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        self._entries += new
        padding = [new - count for count in counts]
        if any(padding):
            shifts = torch.tensor(padding, device=self.device)
            self._first = self._first + shifts
            for layer in self._cache.layers:
                layer.keys, layer.values = _shifted(layer.keys, shifts), _shifted(layer.values, shifts)

    def join(self, other: "PretrainedCache") -> None:
        """Adds the rows of another cache; the shorter of the two is padded before its first entries."""
        entries = max(self._entries, other._entries)
        before, others_before = entries - self._entries, entries - other._entries
        for layer, others in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.keys = torch.cat((_padded(layer.keys, before), _padded(others.keys, others_before)))
            layer.values = torch.cat((_padded(layer.values, before), _padded(others.values, others_before)))
        self._first = torch.cat((self._first + before, other._first + others_before))
        self.lengths, self._entries = [*self.lengths, *other.lengths], entries

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order, and drops padding that none of them needs."""
        self.lengths = [self.lengths[row] for row in rows]
        unused, self._entries = self._entries - max(self.lengths), max(self.lengths)
        index = torch.tensor(rows, device=self.device)
        self._first = self._first[index] - unused
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index, :, unused:], layer.values[index, :, unused:]


def _padded(entries: Tensor, before: int) -> Tensor:
    """(batch, heads, time, dim) with a number of zeros before its first entries."""
    return F.pad(entries, (0, 0, before, 0))


def _shifted(entries: Tensor, by: Tensor) -> Tensor:
    """Shifts each row of (batch, heads, time, dim) towards its end; padding at the end moves to the start."""
    time = entries.shape[2]
    source = (torch.arange(time, device=entries.device) - by[:, None]) % time
    return entries.gather(2, source[:, None, :, None].expand_as(entries))
