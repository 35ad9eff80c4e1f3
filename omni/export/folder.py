"""The folder of an export: written whole or not at all, described by its `manifest.json`, and checked when it is read.

The manifest holds `target` (`hf`, `onnx` or `torch`), `parts`, `tokenizer`, `audio` (constants of the spectrograms),
`lineage`, `parity`, and `files`: size in bytes and sha256 of each other file. `omni.runtime.manifest` reads it.
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
from omni.runtime.manifest import FORMAT, MANIFEST, find_manifest
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer


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
        "format": FORMAT,
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


def _identity(vocabulary: Tokenizer | CTCVocabulary) -> dict[str, Any]:
    kind = vocabulary.state().get("kind", type(vocabulary).__name__)
    return {"kind": kind, "fingerprint": vocabulary.fingerprint, "vocab_size": vocabulary.vocab_size}


def _refuse_foreign(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and find_manifest(out) is None):
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
