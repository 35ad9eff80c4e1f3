"""Files for fuzzing: written, mutated and read by name."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from mutations import mutate_bytes, mutate_json, mutate_jsonl, mutate_yaml
from PIL import Image

Mutation = Callable[[Random, bytes], bytes]
_MUTATIONS: dict[str, Mutation] = {".jsonl": mutate_jsonl, ".json": mutate_json, ".yaml": mutate_yaml}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8))


def mutate_files(names: str) -> Callable[[Random], None]:
    """Mutates one of several files, by their suffix."""

    def mutate(rng: Random) -> None:
        path = Path(rng.choice(names.split()))
        path.write_bytes(_MUTATIONS.get(path.suffix, mutate_bytes)(rng, path.read_bytes()))

    return mutate


def read_each(names: str, read: Callable[[str], None]) -> Callable[[], None]:
    """Reads several files."""

    def read_all() -> None:
        for name in names.split():
            read(name)

    return read_all


def write_jsonl(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
