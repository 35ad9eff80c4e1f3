"""Image classification by an exported graph."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni.errors import UserError
from omni.media.image_file import read_rgb
from omni.runtime.exported import ExportedPart

Answer = dict[str, dict[str, float]]  # by attribute, the probability of each value in descending order

_BATCH = 32  # images


class Attribute(NamedTuple):
    """An attribute that images are classified by; see `omni.batch.Attribute`.

    Attributes:
        name: Its name.
        values: Names of the classes.
        several: Whether an image may have any number of the values.
    """

    name: str
    values: tuple[str, ...]
    several: bool


@final
class ImageClassifier:
    """The `image_classifier` of an exported folder; its classes are those of `omni.inference.classifier.VisionModel`.

    Args:
        folder: As `omni export --to onnx` writes it.
        variant: `fp32` or `int8`; by default the one that the export chose.
        threads: Number of threads; 0: one for each core.

    Raises:
        UserError: If the folder is not a complete export of an image classifier.
    """

    def __init__(self, folder: str | Path, *, variant: str | None = None, threads: int = 0) -> None:
        part = ExportedPart(folder, "image_classifier", variant=variant, threads=threads)
        self._run, constants = part.run, part.constants
        self.size, self.fit = int(constants["size"]), str(constants["fit"])
        self.attributes = [Attribute(a["name"], tuple(a["values"]), a["several"]) for a in constants["attributes"]]

    def classify(self, images: str | Path | bytes | Sequence[str | Path | bytes]) -> list[Answer]:
        """Classifies images.

        Args:
            images: Files or their contents: one or several.

        Returns:
            For each image, by attribute, the probability of each value in descending order.

        Raises:
            UserError: If an image cannot be read.
        """
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
        answers = []
        for _, answer in self.stream(list(images) if several else [images]):  # pyright: ignore
            if isinstance(answer, UserError):
                raise answer
            answers.append(answer)
        return answers

    def stream(self, sources: Sequence[str | Path | bytes]) -> Iterator[tuple[int, Answer | UserError]]:
        """As `classify`, one image after the other; yields a `UserError` for one that cannot be read.

        Args:
            sources: The images.

        Yields:
            The number of the image, and its probabilities or error.
        """
        for start in range(0, len(sources), _BATCH):
            numbers = range(start, min(start + _BATCH, len(sources)))
            found = {number: self._read(sources[number]) for number in numbers}
            pixels = [one for one in found.values() if not isinstance(one, UserError)]
            scores = iter(self._run({"images": np.stack(pixels)})[0] if pixels else ())
            for number, one in found.items():
                yield number, one if isinstance(one, UserError) else self._answer(next(scores))

    def _read(self, source: str | Path | bytes) -> NDArray[np.float32] | UserError:
        try:
            image = square(read_rgb(source), self.size, self.fit)
        except UserError as error:
            return error
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)

    def _answer(self, scores: NDArray[np.float32]) -> Answer:
        answer, start = {}, 0
        for attribute in self.attributes:
            part = scores[start : start + len(attribute.values)].astype(np.float64)
            start += len(attribute.values)
            shares = 1 / (1 + np.exp(-part)) if attribute.several else np.exp(part - np.logaddexp.reduce(part))
            pairs: Mapping[str, Any] = dict(zip(attribute.values, shares.tolist(), strict=True))
            answer[attribute.name] = dict(sorted(pairs.items(), key=lambda pair: -pair[1]))
        return answer


def square(image: Image.Image, size: int, fit: str) -> Image.Image:
    """Resizes an image to a square, as `omni.media.images.Preprocessing`.

    Args:
        image: Of mode RGB.
        size: Side of the square in pixels.
        fit: For images that are not square: `crop` to the centre, `pad` with black, or `stretch`.
    """
    width, height = image.size
    if fit == "crop" and width != height:
        side = min(width, height)
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    elif fit == "pad" and width != height:
        sides = [max(1, round(side * size / max(width, height))) for side in (width, height)]
        small = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        image = Image.new("RGB", (size, size))
        image.paste(small, ((size - sides[0]) // 2, (size - sides[1]) // 2))
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)
