"""The chain of a language's world: `configs/world/language.yaml` with its paths and its characters."""

import json
import re
from pathlib import Path

from omni.files import atomic_write
from omni.training.shipped import CONFIGS

_TEMPLATE = CONFIGS / "world/language.yaml"
_NAME = "world_de"  # in the template: the run's folder, and that of the data


def write_language_chain(folder: Path, language: str, characters: str) -> Path:
    """Writes `chain.yaml` into a world's folder.

    Args:
        folder: The folder, with the world's text and speech.
        language: Code of the language. The chain's name, and that of its runs, is `world_LANGUAGE`.
        characters: Those of its text, as `data.characters` takes them.

    Returns:
        The file.
    """
    values = {
        "units": str(len(characters) + 1),
        "characters": json.dumps(characters, ensure_ascii=False),
        "language": json.dumps(language),
    }
    path = folder / "chain.yaml"
    with atomic_write(path) as file:
        file.write(_chain(_TEMPLATE.read_text(encoding="utf-8"), folder, f"world_{language}", values).encode())
    return path


def _chain(text: str, folder: Path, name: str, values: dict[str, str]) -> str:
    """The template with other paths, another name, and other values at its anchors."""
    body = text[text.index("name:") :]
    for anchor, value in values.items():
        body = re.sub(rf'(&{anchor}) ("[^"]*"|\S+)', lambda found, value=value: f"{found[1]} {value}", body)
    body = re.sub(rf"data/{_NAME}/(\S+?\.jsonl)", lambda found: json.dumps((folder / found[1]).as_posix()), body)
    body = body.replace(_NAME, name)
    body = re.sub(r"config: (\w+\.yaml)", r"config: world/\1", body)
    return f"# Written by `omni data world`: omni train {folder.as_posix()}/chain.yaml\n{body}"
