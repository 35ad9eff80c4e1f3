"""The data of a finished run, by its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omni.data.loading.hub import HUB


class RunData(NamedTuple):
    """The data that a configuration names.

    Attributes:
        kind: Name of the class.
        options: Its arguments.
    """

    kind: str
    options: Mapping[str, Any]

    @property
    def absent(self) -> str:
        """Why there is no row, where none is here."""
        named = self.options.get("val") or self.options.get("train")
        return "the run's data is not here" if named else "the run names no data"


def run_data(config: Any) -> RunData:
    """The data of a run; that of None has no name and no options."""
    data = (config.get("data") if isinstance(config, Mapping) else None) or {}
    return RunData(str(data.get("class_path", "")).rpartition(".")[2], data.get("init_args") or {})


def local_entries(entries: Any) -> list[str]:
    """Those of the entries of a configuration that are local files or folders; `@LIST` after a name is kept."""
    names = [entries] if isinstance(entries, str) else [name for name in entries or () if isinstance(name, str)]
    return [name for name in names if not name.startswith(HUB) and Path(name.partition("@")[0]).expanduser().exists()]
