"""Documents of text from the Hugging Face Hub."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, final

from omni.data.text.documents import Documents, checked
from omni.errors import UserError


@final
class HubDataset(Documents):
    """One split of a data set of the Hugging Face Hub, or of a local folder that `datasets` can load.

    Args:
        repository: `owner/name` on the Hub, or a folder.
        config: The data set's configuration; empty: its default.
        split: The split, such as `train`.
        column: Where the text is.
        cache_dir: Where downloads go.
        streaming: Read over the network as documents are asked for; nothing is stored.
    """

    def __init__(self, repository: str, config: str, split: str, *, column: str, cache_dir: Path, streaming: bool):
        self.name = f"hub:{repository}:{config}:{split}"
        self.repository = repository
        self.config = config
        self.split = split
        self.column = column
        self.cache_dir = cache_dir
        self.streaming = streaming

    def read(self) -> Iterator[str]:
        return self._texts(self._table())

    def read_share(self, share: int, shares: int, seed: int) -> Iterator[str]:
        from datasets.distributed import split_dataset_by_node

        table = self._table()
        if self.streaming:
            table = table.shuffle(seed=seed, buffer_size=1)  # the order of its files
        return self._texts(split_dataset_by_node(table, share, shares))

    def fingerprint(self, *, content: bool) -> str:
        return f"{self.name} {self._builder.hash} {self.column}"

    @cached_property
    def _builder(self) -> Any:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import datasets

        datasets.disable_progress_bars()
        with hub_errors(self.name, "data.train"):
            return datasets.load_dataset_builder(
                self.repository, self.config or None, cache_dir=str(self.cache_dir / "hub")
            )

    def _table(self) -> Any:
        with hub_errors(self.name, "data.train"):
            if self.streaming:
                return self._builder.as_streaming_dataset(self.split)
            self._builder.download_and_prepare()
            return self._builder.as_dataset(self.split)

    def _texts(self, table: Any) -> Iterator[str]:
        number = 0
        # not `__iter__`: in a worker that would share the files out once more, and leave some workers without any
        batches = table.iter(batch_size=64)
        while True:
            with hub_errors(self.name, "data.train"):
                batch = next(batches, None)
            if batch is None:
                return
            if self.column not in batch:
                raise UserError(f"{self.name}: no column {self.column!r}, only {sorted(batch)}: set data.text_column")
            for value in batch[self.column]:
                number += 1
                text = checked(value, f"{self.name}: row {number}, {self.column!r}")
                if text and not text.isspace():
                    yield text

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_builder"}


@contextmanager
def hub_errors(name: str, option: str) -> Iterator[None]:
    """Turns the many ways in which a data set cannot be had into one line."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except ConnectionError as error:
        raise UserError(
            f"{name}: the Hub cannot be reached: check the network, or download the data set "
            f"and name its files in {option}"
        ) from error
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{name}: cannot be loaded ({str(error).splitlines()[0]}): check its name and split") from error
