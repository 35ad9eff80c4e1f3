"""The folder of an export: written whole or not at all, described by its `manifest.json`, and checked when it is read.

The manifest holds `target` (`hf`, `onnx` or `torch`), `parts`, `tokenizer`, `audio` (constants of the spectrograms),
`lineage`, `parity`, and `files`: size in bytes and sha256 of each other file.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omni import __version__
from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.files import private
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer

MANIFEST = "manifest.json"
_FORMAT = "omni-export"


@contextmanager
def new_export(out: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `out`, which replaces `out` at the end and is removed on an error.

    Args:
        out: A folder that does not exist, is empty, or holds an export.

    Raises:
        UserError: If `out` holds anything else, or cannot be written.
    """
    _refuse_foreign(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): give another folder as --out") from error
    try:
        made.chmod(0o755)
        yield made
        _replace(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_manifest(folder: Path, checkpoint: Checkpoint, *, target: str, **entries: Any) -> dict[str, Any]:
    """Writes the manifest of a folder whose other files are complete.

    Args:
        folder: The folder.
        checkpoint: The checkpoint that was exported.
        target: `hf`, `onnx` or `torch`.
        entries: Further entries: `parts`, `parity`, ...

    Returns:
        The manifest.
    """
    manifest = {
        "format": _FORMAT,
        "omni_version": __version__,
        "target": target,
        **entries,
        "tokenizer": _identity(checkpoint.vocabulary),
        "audio": checkpoint.content.get("audio"),
        "lineage": checkpoint.lineage,
        "files": {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        },
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in manifest["files"]:
        shutil.copymode(path, folder / name)  # safetensors writes files that only their owner can read
    return manifest


def read_manifest(folder: Path, *, target: str | None = None) -> dict[str, Any]:
    """The manifest of an exported folder, whose files are as large as it says.

    Args:
        folder: The folder.
        target: The target that the caller can use; None for any.

    Raises:
        UserError: If the folder is not an export, is one for another target, or a file is missing or was cut.
    """
    manifest = _manifest(folder)
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


def _identity(vocabulary: Tokenizer | CTCVocabulary) -> dict[str, Any]:
    kind = vocabulary.state().get("kind", type(vocabulary).__name__)
    return {"kind": kind, "fingerprint": vocabulary.fingerprint, "vocab_size": vocabulary.vocab_size}


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    valid = isinstance(found, dict) and found.get("format") == _FORMAT and {"target", "files"} <= found.keys()
    return found if valid else None


def _refuse_foreign(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and _manifest(out) is None):
        kind = "a file" if out.is_file() else f"a folder of other files (no {MANIFEST} of an export)"
        raise UserError(f"{out} is {kind}: give another folder as --out")


def _replace(made: Path, out: Path) -> None:
    """Moves a folder to a path at which a folder may be, which is put back if that fails."""
    _refuse_foreign(out)
    if not out.is_dir():
        made.rename(out)
        return
    old = private(out)
    out.rename(old)
    try:
        made.rename(out)
    except OSError:
        with suppress(OSError):
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
