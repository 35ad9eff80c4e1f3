"""Data sets of the Hugging Face Hub."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from omni.errors import UserError

HUB = "hub:"
_SPLITS: Mapping[str, tuple[str, ...]] = {"val": ("validation", "val", "valid")}  # names in use on the Hub


class HubName(NamedTuple):
    """The parts of `hub:OWNER/NAME[:CONFIG[:SPLIT]]`; empty where they are not given.

    Attributes:
        repository: `owner/name` on the Hub, or a folder that `datasets` can load.
        config: The data set's configuration.
        split: Its split.
    """

    repository: str
    config: str
    split: str

    @staticmethod
    def parse(entry: str) -> "HubName":
        """Splits a name of a configuration file.

        Raises:
            UserError: If it has no repository or too many parts.
        """
        parts = entry.removeprefix(HUB).split(":")
        if len(parts) > 3 or not parts[0]:
            raise UserError(f"{entry!r} does not name a data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]]")
        return HubName(*parts, *[""] * (3 - len(parts)))


class HubSplit:
    """One split of a data set of the Hugging Face Hub, or of a local folder that `datasets` can load.

    Args:
        entry: `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        split: `train`, `val` or `test`: which split is read where the entry names none.
        cache_dir: Folder of downloads.

    Attributes:
        name: What messages call it.
    """

    def __init__(self, entry: str, split: str, cache_dir: Path):
        self.repository, self.config, named = HubName.parse(entry)
        self.splits = (named,) if named else _SPLITS.get(split, (split,))
        self.name = f"{HUB}{self.repository}:{self.config}:{self.splits[0]}"
        self.cache_dir = cache_dir

    @cached_property
    def builder(self) -> Any:
        """The `datasets.DatasetBuilder`."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import datasets

        datasets.disable_progress_bars()
        with hub_errors(self.name):
            return datasets.load_dataset_builder(
                self.repository, self.config or None, cache_dir=str(self.cache_dir / "hub")
            )

    def open(self, *, streaming: bool) -> Any:
        """The `datasets.Dataset`, or `IterableDataset` if streaming, with its images and audio not decoded."""
        with hub_errors(self.name):
            if not streaming:
                self.builder.download_and_prepare()
            read = self.builder.as_streaming_dataset if streaming else self.builder.as_dataset
            tables = read()
            found = next((tables[name] for name in self.splits if name in tables), None)
            return self.undecoded(read(self.splits[0]) if found is None else found)

    def undecoded(self, table: Any) -> Any:
        """The data set with columns of images and audio as they are stored."""
        import datasets

        for column, feature in (table.features or {}).items():
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.Image | datasets.Audio):
                stored = type(inner)(decode=False)
                table = table.cast_column(column, stored if inner is feature else datasets.List(stored))
        return table

    @cached_property
    def table(self) -> Any:
        """The data set, downloaded once."""
        return self.open(streaming=False)

    def stream_rows(self, share: int, shares: int, seed: int, *, batch_size: int = 8) -> Iterator[dict[str, Any]]:
        """The rows of one of `shares` disjoint shares, read over the network; `seed` shuffles the data set's files."""
        from datasets.distributed import split_dataset_by_node

        table = self.open(streaming=True).shuffle(seed=seed, buffer_size=1)
        return self.rows_of(split_dataset_by_node(table, share, shares), batch_size)

    def rows_of(self, table: Any, batch_size: int) -> Iterator[dict[str, Any]]:
        """The rows of a `datasets.Dataset` or `IterableDataset`, read `batch_size` at a time."""
        # Not `__iter__`: in a worker it would split the files a second time and lose some.
        batches = table.iter(batch_size=batch_size)
        while True:
            with hub_errors(self.name):
                batch = next(batches, None)
            if batch is None:
                return
            for cells in zip(*batch.values(), strict=True):
                yield dict(zip(batch, cells, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("builder", "table")}


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns the errors of `datasets` into one line.

    Args:
        name: Of the data set.

    Raises:
        UserError: For whatever keeps a data set from being loaded.
    """
    from datasets.exceptions import DatasetsError

    try:
        yield
    except ConnectionError as error:
        raise UserError(
            f"{name}: the Hub cannot be reached: check the network, or download the data set and name its files "
            "in data.train"
        ) from error
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{name}: cannot be loaded ({str(error).splitlines()[0]}): check its name and split") from error
