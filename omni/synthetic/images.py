"""Images: scenes drawn as PNG files, with captions and with labels for classification."""

import io
from random import Random
from typing import Any

from PIL import Image

from omni.synthetic.captions import caption, dense_caption
from omni.synthetic.drawing import draw
from omni.synthetic.language import NUMBERS
from omni.synthetic.media_folder import Job, MediaFolder, Row
from omni.synthetic.pool import processes_for
from omni.synthetic.scene import COLOURS, SHAPES, Scene, row_id, scene_at
from omni.synthetic.statements import relation

_CHUNK = 64  # images that a process makes at a time: 0.05 s
_WORTHWHILE = 2000  # images made while another process starts: 1.5 s
_RELATIONS = 3  # sentences about one scene


def image_row(seed: int, split: str, index: int) -> dict[str, Any]:
    """One row of the manifest, independent of the other rows.

    Args:
        seed: Seed of the world.
        split: `train` or `val`.
        index: Number of the row in its split; the document of the same number describes the same scene.

    Returns:
        `image`, the file relative to the manifest; `captions`: the whole scene in a sentence, every item, and, if there
        are two items, how they stand to each other; `labels` by attribute; and `id`.
    """
    scene, rng = scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/captions")
    captions = [caption(scene, rng), " ".join(dense_caption(scene, rng))]
    relations = dict.fromkeys(relation(scene, rng) for _ in range(_RELATIONS))
    if None not in relations:
        captions.append(" ".join(map(str, relations)))
    row = {"image": image_file(split, index), "captions": captions, "labels": labels(scene)}
    return {**row, "id": row_id(split, index)}


def labels(scene: Scene) -> dict[str, str | list[str]]:
    """Labels of a scene.

    Returns:
        Every `shape`, `colour`, `kind` ("red circle") and `size` ("small circle") that occurs, and the `count` of all
        items.
    """
    shapes, colours = ({getattr(item, name) for item in scene.items} for name in ("shape", "colour"))
    return {
        "shape": [shape for shape in SHAPES if shape in shapes],
        "colour": [colour for colour in COLOURS if colour in colours],
        "kind": sorted({f"{item.colour} {item.shape}" for item in scene.items}),
        "size": sorted({f"{item.size} {item.shape}" for item in scene.items}),
        "count": NUMBERS[len(scene.items)],
    }


def image(seed: int, split: str, index: int) -> Image.Image:
    """The image of a row."""
    return Image.fromarray(draw(scene_at(seed, split, index), Random(f"{seed}/{split}/{index}/picture")))


def image_file(split: str, index: int) -> str:
    """The file of a row, relative to the manifest."""
    return f"{split}/{row_id(split, index)}.png"


def png(image: Image.Image) -> bytes:
    """An image as the content of a PNG file. Its pixels are the same on every machine, its bytes depend on zlib."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def write_images(folder: MediaFolder, *, seed: int, sizes: dict[str, int], processes: int | None = None) -> None:
    """Writes the images of a world; files that exist already are kept.

    Args:
        folder: Where manifests and images go.
        seed: Seed of the world.
        sizes: Number of images in each split that has any.
        processes: Number of processes; by default one for each CPU, or fewer for little work.
    """
    jobs = [Job(seed, split, index) for split, size in sizes.items() for index in range(size)]
    folder.write(make_row, jobs, processes=processes or processes_for(len(jobs), _WORTHWHILE), chunk=_CHUNK)


def make_row(job: Job) -> Row:
    """The row and the image of a job."""
    key = (job.seed, job.split, job.index)
    return Row(image_row(*key), {image_file(job.split, job.index): png(image(*key))})
