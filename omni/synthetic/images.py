"""Images: the world's scenes as pictures on disk, with captions and with what a model may classify them by.

`images/<split>.jsonl` are the manifests, `images/<split>/` the pictures, and `images/<split>.sha256` their checksums.
"""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image
from tqdm import tqdm

from omni.errors import UserError
from omni.files import atomic_write
from omni.synthetic.captions import caption, dense_caption
from omni.synthetic.disk import refuse_foreign
from omni.synthetic.drawing import draw
from omni.synthetic.language import NUMBERS
from omni.synthetic.pool import cpus, in_order
from omni.synthetic.scene import COLOURS, SHAPES, Scene, scene_at
from omni.synthetic.statements import relation

SPLITS = ("train", "val")
CHUNK = 64  # pictures that a process makes at a time, 0.05 s
WORTHWHILE = 2000  # pictures that one process makes while another starts, 1.5 s
_RELATIONS = 3  # sentences about one scene
_PICTURE = re.compile(r"world-\w+-\d{6,}\.png|\.world-.*\.part")


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to make.

    Attributes:
        folder: holds the folders of the splits.
        seed: of the world.
        split: `train` or `val`.
        index: the picture's number in its split.
    """

    folder: Path
    seed: int
    split: str
    index: int


def image_row(seed: int, split: str, index: int) -> dict[str, Any]:
    """What is known of one of the world's pictures, the same whichever others are written.

    Args:
        seed: the seed of the whole data set.
        split: `train` or `val`.
        index: the picture's number in its split; the document of the same number is about the same scene.

    Returns:
        `image`, its file beside the manifest; `captions`: the whole in a sentence, thing by thing, and how things
        stand to each other, where there are two; `labels` by attribute; and an `id` that names split and number.
    """
    scene, rng = scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/captions")
    captions = [caption(scene, rng), " ".join(dense_caption(scene, rng))]
    relations = dict.fromkeys(relation(scene, rng) for _ in range(_RELATIONS))
    if None not in relations:
        captions.append(" ".join(map(str, relations)))
    identity = f"world-{split}-{index:06d}"
    return {"image": name(split, index), "captions": captions, "labels": labels(scene), "id": identity}


def labels(scene: Scene) -> dict[str, str | list[str]]:
    """What a scene is classified as.

    Returns:
        Every `shape`, every `colour`, every `kind` ("red circle") and every `size` ("small circle") that is there, and
        the `count` of all things. Eyes that are not asked for sizes see them, but as faintly as where a corner lies.
    """
    shapes, colours = ({getattr(thing, name) for thing in scene.things} for name in ("shape", "colour"))
    return {
        "shape": [shape for shape in SHAPES if shape in shapes],
        "colour": [colour for colour in COLOURS if colour in colours],
        "kind": sorted({f"{thing.colour} {thing.shape}" for thing in scene.things}),
        "size": sorted({f"{thing.size} {thing.shape}" for thing in scene.things}),
        "count": NUMBERS[len(scene.things)],
    }


def picture(seed: int, split: str, index: int) -> Image.Image:
    """The picture of a row."""
    return Image.fromarray(draw(scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/picture")))


def write_images(folder: Path, *, seed: int, sizes: dict[str, int], processes: int | None = None) -> None:
    """Write the pictures of a world; those that are there already stay as they are.

    Pixels are the same on every machine; the bytes of the PNG files depend on the library that packs them.

    Args:
        folder: where manifests and pictures go; ask `refuse` about it before.
        seed: of the world.
        sizes: pictures of each split; a split of none gets no manifest.
        processes: how many to use; by default one for each CPU, or fewer for little work.

    Raises:
        OSError: they cannot be written.
        UserError: a process was ended from outside.
    """
    for split in SPLITS:
        _clear(folder, split, sizes.get(split, 0))
    jobs = [Job(folder, seed, split, index) for split, size in sizes.items() for index in range(size)]
    for split in sizes:
        (folder / split).mkdir(parents=True, exist_ok=True)
    if processes is None:
        processes = max(1, min(cpus(), len(jobs) // WORTHWHILE))
    made: dict[str, list[tuple[bytes, str]]] = {split: [] for split in sizes}
    with tqdm(total=len(jobs), desc="images", unit=" images", leave=False, disable=None) as progress:
        for job, row in zip(jobs, in_order(make, jobs, processes, CHUNK), strict=True):
            made[job.split].append(row)
            progress.update()
    for split, rows in made.items():
        with atomic_write(folder / f"{split}.sha256", sync=False) as file:
            file.writelines(f"{checksum}  {name(split, index)}\n".encode() for index, (_, checksum) in enumerate(rows))
        with atomic_write(folder / f"{split}.jsonl", sync=False) as file:
            file.writelines(row for row, _ in rows)


def make(job: Job) -> tuple[bytes, str]:
    """One picture: its line of the manifest and its file's SHA-256. A file that is as it should be stays."""
    packed = io.BytesIO()
    picture(job.seed, job.split, job.index).save(packed, "PNG", compress_level=6)
    data, path = packed.getvalue(), job.folder / name(job.split, job.index)
    if not path.is_file() or path.read_bytes() != data:
        with atomic_write(path, sync=False) as file:
            file.write(data)
    row = json.dumps(image_row(job.seed, job.split, job.index), ensure_ascii=False)
    return f"{row}\n".encode(), hashlib.sha256(data).hexdigest()


def name(split: str, index: int) -> str:
    """A picture's file, as its manifest calls it."""
    return f"{split}/world-{split}-{index:06d}.png"


def refuse(folder: Path) -> None:
    """Keep what somebody else wrote.

    Raises:
        UserError: a manifest or a folder of pictures holds what is not the world's.
    """
    for split in SPLITS:
        refuse_foreign(folder / f"{split}.jsonl")
        for path in sorted((folder / split).iterdir()) if (folder / split).is_dir() else ():
            if not _PICTURE.fullmatch(path.name):
                raise UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")


def remove(folder: Path) -> None:
    """Take away all pictures that were written here, and the folder unless something else is in it."""
    for split in SPLITS:
        _clear(folder, split, 0)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _clear(folder: Path, split: str, size: int) -> None:
    """Remove the lists of a split, all but its first `size` pictures, and then an empty folder."""
    for suffix in ("jsonl", "sha256"):
        (folder / f"{split}.{suffix}").unlink(missing_ok=True)
    if not (folder / split).is_dir():
        return
    kept = {name(split, index) for index in range(size)}
    for path in (folder / split).iterdir():
        if _PICTURE.fullmatch(path.name) and f"{split}/{path.name}" not in kept:
            path.unlink()
    if not any((folder / split).iterdir()):
        (folder / split).rmdir()
