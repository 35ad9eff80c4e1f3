"""Tokenizers and CTC vocabularies of an exported folder: their state as JSON, SentencePiece models in files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni.errors import UserError
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer


def write_vocabulary(vocabulary: Tokenizer | CTCVocabulary, folder: Path, name: str) -> dict[str, Any]:
    """Writes `NAME.vocabulary.json`, and `NAME.model` for one of SentencePiece.

    Args:
        vocabulary: The vocabulary.
        folder: The folder of the export.
        name: The part that uses it.

    Returns:
        The manifest's entry: its file, kind, fingerprint and size.
    """
    state = dict(vocabulary.state())
    for key, value in state.items():
        if isinstance(value, bytes):
            (folder / f"{name}.{key}").write_bytes(value)
            state[key] = {"file": f"{name}.{key}"}
    path = folder / f"{name}.vocabulary.json"
    path.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {
        "file": path.name,
        "kind": state["kind"],
        "fingerprint": vocabulary.fingerprint,
        "vocab_size": vocabulary.vocab_size,
    }


def read_vocabulary(folder: Path, entry: Mapping[str, Any]) -> Tokenizer | CTCVocabulary:
    """The vocabulary of an entry of the manifest.

    Args:
        folder: The folder of the export.
        entry: As `write_vocabulary` returns it.

    Raises:
        UserError: If a file is missing or damaged, or is of another vocabulary than the graphs.
    """
    path = folder / entry["file"]
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        state = {key: _content(folder, value) for key, value in state.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: export again") from error
    found = CTCVocabulary.from_state(state) if "normalization" in state else Tokenizer.from_state(state)
    if found.fingerprint != entry["fingerprint"]:
        raise UserError(
            f"{path} is of another vocabulary (fingerprint {found.fingerprint[:12]}) than the graphs beside it "
            f"({entry['fingerprint'][:12]}): export again"
        )
    return found


def _content(folder: Path, value: Any) -> Any:
    return (folder / value["file"]).read_bytes() if isinstance(value, dict) and value.keys() == {"file"} else value
