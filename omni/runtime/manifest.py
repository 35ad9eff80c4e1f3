"""`manifest.json` of an exported folder: read, and compared with the folder's files."""

import json
from pathlib import Path
from typing import Any

from omni.errors import UserError

MANIFEST = "manifest.json"
FORMAT = "omni-export"


def read_manifest(folder: Path, *, target: str | None = None) -> dict[str, Any]:
    """The manifest of an exported folder, whose files are as large as it says.

    Args:
        folder: The folder.
        target: The target that the caller can use; None for any.

    Raises:
        UserError: If the folder is not an export, is one for another target, or a file is missing or was cut.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is not an export of omni: it has no valid {MANIFEST}; make one with `omni export`")
    if target is not None and manifest["target"] != target:
        raise UserError(f"{folder} is an export for {manifest['target']}, and one for {target} is needed")
    for name, entry in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {entry['bytes']:,}"
            raise UserError(f"{path} {found}: the export is incomplete; copy it again, or export again")
    return manifest


def find_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if the folder is not an export. Its files are not compared."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    valid = isinstance(found, dict) and found.get("format") == FORMAT and {"target", "files"} <= found.keys()
    return found if valid else None
