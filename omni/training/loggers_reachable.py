"""Whether loggers can write: their folder and server. (`omni.training.loggers` checks their packages.)"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 5  # that a server may take to answer


def unreachable(class_path: str, arguments: Mapping[str, Any]) -> str | None:
    """What keeps a logger from writing, in a line; None if nothing does.

    Args:
        class_path: Of the logger.
        arguments: Of its constructor.
    """
    name = class_path.rpartition(".")[2]
    url = _server(name, arguments)
    if url is not None:
        return _closed(name, url)
    folder = Path(arguments.get("save_dir") or arguments.get("root_dir") or ".").expanduser().absolute()
    above = next(each for each in (folder, *folder.parents) if each.exists())
    if not above.is_dir():
        return f"{above} is a file: name another folder in {name}"
    return None if os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written: name another folder in {name}"


def _server(name: str, arguments: Mapping[str, Any]) -> str | None:
    """Address of the server that a logger sends to; None if it writes to a folder."""
    if name == "WandbLogger":
        offline = arguments.get("offline") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
        return None if offline else os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    uri = str(arguments.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI", ""))
    return uri if name == "MLFlowLogger" and uri.startswith("http") else None


def _closed(name: str, url: str) -> str | None:
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        return f"{name}: {url} cannot be reached ({error}): check the address and the network, or log offline"
    return None
