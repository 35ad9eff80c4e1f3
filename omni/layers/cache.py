"""The key-value cache of a causal Transformer."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all layers, allocated once, for rows of unequal length.

    New entries follow each row's own last one, so no padding is needed between prompt and answer. Lengths are kept on
    the host as well as on the device: choosing the cheap path (all rows equally long) needs no synchronisation.

    Args:
        num_layers: Number of layers.
        batch_size: Number of rows.
        max_length: Capacity of a row in entries.
        num_kv_heads: Heads of keys and values.
        head_dim: Size of a head.
        dtype: Type of keys and values.
        device: Device of keys and values.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        max_length: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, max_length, head_dim)
        # Zeros, not garbage: a masked entry gets weight 0, and 0 × NaN would still be NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.max_length = max_length
        self._slots = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._rows = torch.arange(batch_size, device=device)[:, None]
        self._lengths, self._span = [0] * batch_size, slice(0, batch_size)

    @property
    def device(self) -> torch.device:
        """Device of keys and values."""
        return self.keys.device

    @property
    def lengths(self) -> Sequence[int]:
        """Number of entries of each row."""
        return self._lengths[self._span]

    @property
    def uniform(self) -> bool:
        """Whether all rows are equally long."""
        return len(set(self.lengths)) == 1

    def slots(self, time: int) -> Tensor:
        """Indices of the next `time` entries of each row: (batch, time). Also their positions, for text."""
        return self._slots[:, None] + torch.arange(time, device=self._slots.device)

    def mask(self, time: int) -> Tensor | None:
        """Entries that the next `time` queries attend to: (batch, 1, time, entries) of bool.

        None where no mask is needed: with an empty cache attention is causal, and a single query after rows of equal
        length attends to everything.
        """
        longest = max(self.lengths)
        if longest == 0 or (time == 1 and self.uniform):
            return None
        entries = torch.arange(longest + time, device=self._slots.device)
        return (entries <= self.slots(time)[..., None])[:, None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores a layer's keys and values of new entries; `advance` counts them.

        Args:
            layer: Index of the layer.
            keys: (batch, num_kv_heads, time, head_dim).
            values: Like `keys`.

        Returns:
            All keys and values so far, each (batch, num_kv_heads, entries, head_dim).

        Raises:
            ValueError: If a row would grow over `max_length`.
        """
        time, longest = keys.shape[2], max(self.lengths)
        self.check_room(time)
        if self.uniform:
            self.keys[layer, :, :, longest : longest + time] = keys
            self.values[layer, :, :, longest : longest + time] = values
        else:
            slots = self.slots(time)
            self.keys[layer][self._rows, :, slots] = keys.transpose(1, 2).to(self.keys.dtype)
            self.values[layer][self._rows, :, slots] = values.transpose(1, 2).to(self.values.dtype)
        return self.keys[layer, :, :, : longest + time], self.values[layer, :, :, : longest + time]

    def check_room(self, time: int) -> None:
        """Checks that `time` more entries of each row fit.

        Raises:
            ValueError: If a row would grow over `max_length`.
        """
        longest = max(self.lengths)
        if longest + time > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} entries; {longest} are used, {time} more do not fit")

    def entries(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all layers so far, (layers, batch, num_kv_heads, entries, head_dim) each.

        Rows that are shorter than the longest hold anything after their end, see `visible`.
        """
        longest = max(self.lengths)
        return self.keys[:, :, :, :longest], self.values[:, :, :, :longest]

    def visible(self) -> Tensor:
        """Which of `entries`, and of one new entry after all of them, each row attends to.

        Returns:
            (batch, 1, 1, entries + 1) of bool.
        """
        longest = max(self.lengths)
        entries = torch.arange(longest + 1, device=self._slots.device)
        return ((entries < self._slots[:, None]) | (entries == longest))[:, None, None]

    def store(self, keys: Tensor, values: Tensor) -> None:
        """Stores one new entry of each row in all layers, (layers, batch, num_kv_heads, 1, head_dim) each.

        As `append` does for a layer; `advance` counts it.
        """
        for all_entries, new in ((self.keys, keys), (self.values, values)):
            if self.uniform:
                longest = self.lengths[0]
                all_entries[:, :, :, longest : longest + 1] = new
            else:
                all_entries[:, self._rows, :, self._slots[:, None]] = new.permute(1, 3, 0, 2, 4).to(all_entries.dtype)

    def view(self, start: int, stop: int) -> "KVCache":
        """The rows from `start` to before `stop`, as a cache that shares their entries and lengths; valid until `grow`.

        A model that runs on it reads and writes these rows only.
        """
        part = copy(self)
        part.keys, part.values = self.keys[:, start:stop], self.values[:, start:stop]
        part._slots, part._rows = self._slots[start:stop], self._rows[: stop - start]
        part._span = slice(self._span.start + start, self._span.start + stop)
        return part

    def swap(self, row: int, other: int) -> None:
        """Exchanges two rows."""
        used = max(self.lengths[row], self.lengths[other])
        for entries in (self.keys, self.values):
            kept = entries[:, row, :, :used].clone()
            entries[:, row, :, :used] = entries[:, other, :, :used]
            entries[:, other, :, :used] = kept
        lengths = self.lengths[row], self.lengths[other]
        self._set_length(row, lengths[1])
        self._set_length(other, lengths[0])

    def copy(self, source: int, target: int, entries: int) -> None:
        """Replaces a row by the first entries of another."""
        self.keys[:, target, :, :entries] = self.keys[:, source, :, :entries]
        self.values[:, target, :, :entries] = self.values[:, source, :, :entries]
        self._set_length(target, entries)

    def grow(self, max_length: int) -> None:
        """Raises the capacity to `max_length` entries a row; existing entries stay."""
        keys, values = self.keys, self.values
        used = keys.shape[3]
        shape = (*keys.shape[:3], max_length, keys.shape[4])
        self.keys, self.values = keys.new_zeros(shape), values.new_zeros(shape)
        self.keys[:, :, :, :used], self.values[:, :, :, :used] = keys, values
        self.max_length = max_length

    def keep(self, entries: int) -> None:
        """Drops all but the first entries of each row."""
        self._lengths[self._span] = [min(length, entries) for length in self.lengths]
        self._slots.clamp_(max=entries)

    def advance(self, entries: int | Sequence[int]) -> None:
        """Counts new entries: the same number for each row, or one number a row (the rest was padding)."""
        counts = [entries] * len(self.lengths) if isinstance(entries, int) else list(entries)
        self._lengths[self._span] = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        if isinstance(entries, int):
            self._slots += entries
        else:
            self._slots += torch.tensor(counts, device=self._slots.device)

    def _set_length(self, row: int, entries: int) -> None:
        self._lengths[self._span.start + row] = entries
        self._slots[row] = entries
