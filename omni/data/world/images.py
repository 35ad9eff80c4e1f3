"""Images: scenes as pictures, with what is in them."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from omni.data.world.captions import caption, dense_caption
from omni.data.world.drawing import draw
from omni.data.world.language import NUMBERS, kind, noun
from omni.data.world.scene import COLOURS, SHAPES, Scene, scene_at
from omni.data.world.statements import relation

_RELATIONS = 3  # sentences about one scene


def image_row(seed: int, split: str, index: int) -> dict[str, Any]:
    """What is known of one of the world's pictures, the same whichever others are written.

    Args:
        seed: the seed of the whole data set.
        split: `train` or `val`.
        index: the picture's number in its split.

    Returns:
        `image`, its file beside the manifest; `id`; `labels` by attribute: every `shape` and `colour` that is there,
        every `kind` of both together, and the `count` of all things; `captions`: one of the whole, one thing by
        thing; `counts` of each kind of thing; and `relations` between things, in sentences.
    """
    scene, rng = scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/image")
    kinds = Counter(noun(kind(thing), 1) for thing in scene.things)
    found = dict.fromkeys(relation(scene, rng) for _ in range(_RELATIONS))
    return {
        "image": f"{split}/{index:06d}.png",
        "id": f"world-{split}-{index:06d}",
        "labels": labels(scene),
        "captions": [caption(scene, rng), " ".join(dense_caption(scene, rng))],
        "counts": dict(kinds),
        "relations": [sentence for sentence in found if sentence is not None],
    }


def labels(scene: Scene) -> dict[str, str | list[str]]:
    """What a scene is classified as, by attribute."""
    shapes, colours = ({getattr(thing, name) for thing in scene.things} for name in ("shape", "colour"))
    return {
        "shape": [shape for shape in SHAPES if shape in shapes],
        "colour": [colour for colour in COLOURS if colour in colours],
        "kind": sorted({f"{thing.colour} {thing.shape}" for thing in scene.things}),
        "count": NUMBERS[len(scene.things)],
    }


def picture(seed: int, split: str, index: int) -> Image.Image:
    """The picture of a row."""
    return Image.fromarray(draw(scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/drawing")))


def write_images(out: Path, split: str, count: int, seed: int) -> list[Path]:
    """Writes pictures of one split and their manifest.

    Pixels are the same on every machine; the bytes of the PNG files depend on the library that packs them.

    Args:
        out: folder to write into: `SPLIT.jsonl`, and `SPLIT/000000.png` and so on.
        split: `train` or `val`.
        count: pictures to write.
        seed: of the whole data set.

    Returns:
        The files, the manifest first.

    Raises:
        OSError: If they cannot be written.
    """
    manifest, files = out / f"{split}.jsonl", []
    (out / split).mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="\n") as file:
        for index in range(count):
            row = image_row(seed, split, index)
            files.append(out / row["image"])
            picture(seed, split, index).save(files[-1], compress_level=6)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return [manifest, *files]
