"""KV caches of answers that run together: rows join and leave between tokens."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, final

from omni.inference.prompt import reusable
from omni.layers.cache import KVCache
from omni.models.interfaces import Cache, LanguageModel
from omni.models.pretrained.cache import PretrainedCache

_CAPACITY = 256  # entries of a row at first


class RunningRows(ABC):
    """Abstract: the cache of the running rows, which are numbered from 0 in the order of joining.

    A new row's prompt is computed alone, on the cache from `open`; `join` then makes it the last of the running ones.
    """

    @property
    @abstractmethod
    def cache(self) -> Cache:
        """Cache of the running rows, at least one."""

    @abstractmethod
    def open(self, keys: Sequence[Hashable], length: int) -> tuple[Cache, int]:
        """The cache of a new row.

        Args:
            keys: Of the prompt; see `Prompt.keys`.
            length: Most entries of the row: those of the prompt and of all tokens of the answer but the last.

        Returns:
            The cache, and the number of the prompt's first entries that it already holds.
        """

    @abstractmethod
    def join(self) -> None:
        """Adds the new row, the prompt of which is computed, to the running rows."""

    @abstractmethod
    def leave(self, row: int, generated: Sequence[int]) -> None:
        """Removes a running row; the last one takes its number.

        Args:
            row: Number of the row.
            generated: Tokens of its answer.
        """


def running_rows(thinker: LanguageModel, rows: int, context: int) -> RunningRows:
    """The running rows of a language model, none at first.

    Args:
        thinker: The model.
        rows: Largest number of running rows.
        context: Most entries of a row.
    """
    cache = thinker.new_cache(rows, min(context, _CAPACITY))
    return PooledRows(cache, context) if isinstance(cache, KVCache) else JoinedRows(thinker, context)


@final
class PooledRows(RunningRows):
    """Rows of one ragged cache, the running ones first.

    A row that has left keeps its entries until it is needed: the next turn of its conversation reuses them. A prefix
    shared with another row, such as a system message, is copied from it.

    Args:
        pool: An empty cache with the largest number of rows.
        context: Most entries of a row; the pool grows up to it.
    """

    def __init__(self, pool: KVCache, context: int) -> None:
        self._pool, self._context = pool, context
        self._keys: list[list[Hashable]] = [[] for _ in pool.lengths]  # of each row's entries
        self._new: list[Hashable] = []  # of the row that is opened
        self._left = [0] * len(pool.lengths)  # times of leaving
        self._running = self._time = 0

    @property
    def cache(self) -> KVCache:
        return self._pool.view(0, self._running)

    def open(self, keys: Sequence[Hashable], length: int) -> tuple[Cache, int]:
        if length > self._pool.max_length:
            self._pool.grow(min(self._context, max(length, 2 * self._pool.max_length)))
        new = self._running
        known, donor = max((reusable(held, keys), row) for row, held in enumerate(self._keys))
        row = min(range(new, len(self._keys)), key=lambda free: (bool(self._keys[free]), self._left[free]))
        if donor >= new and 2 * known >= len(self._keys[donor]):  # otherwise most of the donor's entries would be lost
            row = donor
        self._swap(row, new)
        if donor in (row, new):
            donor = new if donor == row else row
        if donor != new:
            self._pool.copy(donor, new, known)
        self._keys[new], self._new = list(keys[:known]), list(keys)
        cache = self._pool.view(new, new + 1)
        cache.keep(known)
        return cache, known

    def join(self) -> None:
        self._keys[self._running] = self._new
        self._running += 1

    def leave(self, row: int, generated: Sequence[int]) -> None:
        self._running, self._time = self._running - 1, self._time + 1
        self._keys[row] = [*self._keys[row], *generated][: self._pool.lengths[row]]
        self._left[row] = self._time
        self._swap(row, self._running)

    def _swap(self, row: int, other: int) -> None:
        if row == other:
            return
        self._pool.swap(row, other)
        keys, left = self._keys, self._left
        keys[row], keys[other] = keys[other], keys[row]
        left[row], left[other] = left[other], left[row]


@final
class JoinedRows(RunningRows):
    """Rows of the cache of a pretrained model, which is copied when a row joins or leaves; prefixes are not reused.

    Args:
        thinker: The model.
        context: Most entries of a row.
    """

    def __init__(self, thinker: LanguageModel, context: int) -> None:
        self._thinker, self._context = thinker, context
        self._cache: Any = None
        self._new: Any = None

    @property
    def cache(self) -> PretrainedCache:
        return self._cache

    def open(self, keys: Sequence[Hashable], length: int) -> tuple[Cache, int]:
        self._new = self._thinker.new_cache(1, self._context)
        return self._new, 0

    def join(self) -> None:
        if self._cache is None:
            self._cache = self._new
        else:
            self._cache.join(self._new)

    def leave(self, row: int, generated: Sequence[int]) -> None:
        others = list(range(len(self._cache.lengths)))
        last = others.pop()
        if row != last:
            others[row] = last
        if others:
            self._cache.select(others)
        else:
            self._cache = None
