"""Data sets of the Hugging Face Hub."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from omni.data.loading.hub_errors import hub_errors
from omni.data.loading.hub_slices import SliceFolder
from omni.errors import UserError

HUB = "hub:"
Columns = dict[str, dict[str, str | list[str]]]  # by data set, its names of omni's columns
_SPLITS: Mapping[str, tuple[str, ...]] = {"val": ("validation", "val", "valid")}  # names in use on the Hub
_SLICE = re.compile(r"\[(\d*):(\d*)\]$")
_HOMES = ("HF_HOME", "HF_DATASETS_CACHE")  # environment variables of the Hub's own cache
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubName(NamedTuple):
    """The parts of `hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT[[START:STOP]]]]`; empty where they are not given.

    Attributes:
        repository: `owner/name` on the Hub, or a folder that `datasets` can load.
        config: The data set's configuration.
        split: Its split.
        revision: A branch, a tag or a commit of the repository.
        rows: First row of the split, and the row after the last one (None: to the end); None for all.
    """

    repository: str
    config: str
    split: str
    revision: str = ""
    rows: tuple[int, int | None] | None = None

    @staticmethod
    def parse(entry: str) -> "HubName":
        """Splits a name of a configuration file.

        Raises:
            UserError: If it has no repository or too many parts, or names no rows.
        """
        name = entry.removeprefix(HUB)
        sliced = _SLICE.search(name)
        rows = None if sliced is None else (int(sliced[1] or 0), int(sliced[2]) if sliced[2] else None)
        parts = _SLICE.sub("", name).split(":")
        repository, revision = parts[0], ""
        if "@" in repository and not os.path.isdir(repository):
            repository, _, revision = repository.partition("@")
        if len(parts) > 3 or not repository:
            raise UserError(
                f"{entry!r} does not name a data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]], with @REVISION after NAME "
                "or [START:STOP] after SPLIT if wanted"
            )
        if rows is not None and (len(parts) < 3 or (rows[1] is not None and rows[0] >= rows[1])):
            raise UserError(f"{entry!r} names no rows: write hub:OWNER/NAME:CONFIG:SPLIT[START:STOP], START < STOP")
        return HubName(repository, *parts[1:], *[""] * (3 - len(parts)), revision=revision, rows=rows)


class HubSplit:
    """One split of a data set of the Hugging Face Hub, or of a local folder that `datasets` can load.

    It is loaded into `HF_DATASETS_CACHE` or `HF_HOME` if one of them is set, and into `cache_dir` otherwise. Of
    `SPLIT[START:STOP]` only the rows up to STOP are read over the network, once, and those from START on are stored in
    `cache_dir`; of `SPLIT[START:]` the whole split is downloaded.

    Args:
        entry: `hub:OWNER/NAME[@REVISION][:CONFIG[:SPLIT[[START:STOP]]]]`.
        split: `train`, `val` or `test`: which split is read where the entry names none.
        cache_dir: Folder of downloads.
        columns: By data set (`OWNER/NAME`), its names of the columns that are read. A list is for readers that take
            several columns, such as captions.

    Attributes:
        name: What messages call it.
        columns: Those of this data set.
        in_slices: Whether only the first rows of the split are read over the network.
    """

    def __init__(self, entry: str, split: str, cache_dir: Path, columns: Columns | None = None):
        self.repository, self.config, named, self.revision, self.row_range = HubName.parse(entry)
        self.splits = (named,) if named else _SPLITS.get(split, (split,))
        start, stop = self.row_range or (0, None)
        rows = "" if self.row_range is None else f"[{start}:{'' if stop is None else stop}]"
        self.in_slices = stop is not None
        self.name = f"{HUB}{self.repository}:{self.config}:{self.splits[0]}{rows}"
        self.cache_dir = cache_dir
        self.columns = dict((columns or {}).get(self.repository, {}))

    @cached_property
    def builder(self) -> Any:
        """The `datasets.DatasetBuilder`."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import datasets

        datasets.disable_progress_bars()
        home = None if any(os.environ.get(name) for name in _HOMES) else str(self.cache_dir / "hub")
        with hub_errors(self.name):
            return datasets.load_dataset_builder(
                self.repository, self.config or None, cache_dir=home, revision=self.revision or None
            )

    @property
    def version(self) -> str:
        """Changes when the data set does."""
        return self._slice.version if self.in_slices else str(self.builder.hash)

    @property
    def commit(self) -> str | None:
        """The commit that the revision stands for; None for a local folder."""
        found = str(self.builder.hash)
        return found if _COMMIT.fullmatch(found) else None

    def open(self, *, streaming: bool) -> Any:
        """The `datasets.Dataset`, or `IterableDataset` if streaming, with its images and audio not decoded."""
        if self.in_slices and not streaming:
            return self.adapted(self._slice.table())
        with hub_errors(self.name):
            return self.adapted(self._open(streaming=streaming))

    def _open(self, *, streaming: bool) -> Any:
        """The split with its own columns."""
        if not streaming:
            self.builder.download_and_prepare()
        read = self.builder.as_streaming_dataset if streaming else self.builder.as_dataset
        tables = read()
        found = next((tables[name] for name in self.splits if name in tables), None)
        table = read(self.splits[0]) if found is None else found
        if self.row_range is not None:
            start, stop = self.row_range
            table = table.skip(start) if stop is None else table.skip(start).take(stop - start)
        return table

    @cached_property
    def _slice(self) -> SliceFolder:
        """The stored rows of `SPLIT[START:STOP]`."""
        assert self.row_range is not None
        key = [self.repository, self.revision, self.config, self.splits[0], *map(str, self.row_range)]

        def stream() -> tuple[Any, str]:
            return HubSplit.undecoded(self, self._open(streaming=True)), str(self.builder.hash)

        return SliceFolder(self.cache_dir / "hub" / "slices", key, self.name, stream)

    def adapted(self, table: Any) -> Any:
        """The data set with omni's names of its columns, and media as they are stored."""
        table = HubSplit.undecoded(self, table)  # a stream decodes what it renames
        names = self.names_of(table) if self.columns else []
        for name, column in self.columns.items():
            if not isinstance(column, str) or column == name:
                continue
            if column not in names:
                raise UserError(self.missing_column(column, names))
            table = table.remove_columns(name) if name in names else table
            table = table.rename_column(column, name)
        return self.undecoded(table)

    def missing_column(self, column: str, names: Any) -> str:
        """The error of a column in `data.columns` that the data set lacks."""
        return (
            f"{self.name}: data.columns names {column!r}, but it has only {', '.join(sorted(names))}: correct the "
            "name, or pin a revision with that column, hub:OWNER/NAME@REVISION"
        )

    @staticmethod
    def names_of(table: Any) -> list[str]:
        """The names of the columns; of a stream without a schema, those of its first row."""
        return list(table.column_names or next(iter(table), {}))

    @property
    def stored_names(self) -> list[str]:
        """The data set's own names of the columns, without reading rows if its description has them."""
        if self.in_slices and self._slice.complete:
            return self.names_of(self.table)
        if self.builder.info.features:
            return list(self.builder.info.features)
        with hub_errors(self.name):
            return self.names_of(self._open(streaming=True))

    def undecoded(self, table: Any) -> Any:
        """The data set with columns of images and audio as they are stored."""
        import datasets

        # As a plain struct: `Audio` needs torchcodec even to pass bytes on.
        audio = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        for column, feature in (table.features or {}).items():
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.Image | datasets.Audio):
                stored = datasets.Image(decode=False) if isinstance(inner, datasets.Image) else audio
                table = table.cast_column(column, stored if inner is feature else datasets.List(stored))
        return table

    def load(self) -> int:
        """Downloads the data set, with progress bars, unless it is there; returns the number of its rows."""
        import datasets

        if not self.in_slices:
            self.builder  # noqa: B018  turns the bars off
            datasets.enable_progress_bars()
        try:
            return len(self.table)
        finally:
            datasets.disable_progress_bars()

    @cached_property
    def table(self) -> Any:
        """The data set, downloaded once."""
        return self.open(streaming=False)

    def stream_rows(self, share: int, shares: int, seed: int, *, batch_size: int = 8) -> Iterator[dict[str, Any]]:
        """The rows of one of `shares` disjoint shares, read over the network; `seed` shuffles the data set's files.

        Of `SPLIT[START:STOP]` every share reads all rows, in order: `datasets` would cut the rows out of each share.
        """
        from datasets.distributed import split_dataset_by_node

        table = self.open(streaming=True)
        if self.row_range is not None:
            return islice(self.rows_of(table, batch_size), share, None, shares)
        table = table.shuffle(seed=seed, buffer_size=1)
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
        return {name: value for name, value in self.__dict__.items() if name not in ("builder", "table", "_slice")}
