"""The race of the vision encoder against torchvision's, and of the data pipeline against torchvision's."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from omni.bench.conditions import cpu, versions
from omni.bench.timing import alternate
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.data import ImageData
from omni.errors import UserError
from omni.models.classifier import Classifier
from omni.models.vision_encoder import VisionEncoder
from omni.optim.optimizers import adamw
from omni.training.shipped import CONFIGS

_CLASSES = 1000
_PHOTOGRAPHS = 192  # of 320 × 240 pixels, as many as the pipelines' turns read


class EncoderClassifier(nn.Module):
    """The vision encoder and a classifier.

    Args:
        options: Arguments of `VisionEncoder`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.vision_encoder = VisionEncoder(**options)
        self.classifier = Classifier(dim=self.vision_encoder.dim, num_classes=_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (batch, 3, height, width), pixels from 0 to 1, to scores (batch, classes)."""
        return self.classifier(self.vision_encoder(images).pooled)


@dataclass(frozen=True)
class Result:
    """One comparison, in images a second.

    Attributes:
        measure: What was measured.
        omni: Of omni, a median.
        torchvision: Of torchvision, a median.
        ratios: How many times faster omni was, in each pair of turns.
    """

    measure: str
    omni: float
    torchvision: float
    ratios: list[float]


def race(
    *,
    size: str = "tiny",
    repeats: int = 5,
    steps: int = 2,
    batch: int = 32,
    threads: int | None = None,
    json: str | None = None,
) -> list[Result]:
    """Race the vision encoder against torchvision's VisionTransformer of the same size, and print a table.

    Both have as many layers and heads of the same width, patches of the same size, the same optimizer and the same
    batches. omni runs twice: with one matrix a patch, as torchvision, and with its convolutional stem. They take turns,
    and a ratio is the median over pairs of neighbouring turns. The pipelines, which read, crop, mirror and normalise
    JPEG photographs, race too: where one gives fewer images a second than training takes, training starves.

    Args:
        size: tiny, laptop, ... or a YAML file of a vision encoder's arguments.
        repeats: Pairs of turns.
        steps: Training steps of a turn.
        batch: Images of a training batch.
        threads: Threads on a CPU; PyTorch's own choice if not given.
        json: A file to write all numbers to.
    """
    for name, value in {"repeats": repeats, "steps": steps, "batch": batch}.items():
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    if threads is not None:
        torch.set_num_threads(threads)
    path = CONFIGS / "models" / size / "vision_encoder.yaml"
    path = path if path.is_file() else Path(size)
    if not path.is_file():
        raise UserError(f"size {size!r} is neither a folder of configs/models nor a YAML file")
    options = yaml.safe_load(path.read_text(encoding="utf-8")) | {"dropout": 0.0}
    results = [*_models(options, repeats, steps, batch), *_pipelines(options["image_size"], repeats, batch)]
    report = {"conditions": _conditions(options, batch, repeats), "results": [asdict(r) for r in results]}
    print(_table(report["conditions"], results))
    if json is not None:
        Path(json).write_text(dumps(report, indent=1) + "\n", encoding="utf-8")
    return results


def make(name: Literal["patch", "conv", "torchvision"], options: dict[str, Any]) -> nn.Module:
    """A contestant, which maps images to scores of 1,000 classes.

    Args:
        name: omni with either stem, or torchvision.
        options: Arguments of `VisionEncoder`.
    """
    if name != "torchvision":
        return EncoderClassifier(options | {"stem": name})
    return torchvision.models.VisionTransformer(
        image_size=options["image_size"],
        patch_size=options["patch_size"],
        num_layers=options["num_layers"],
        num_heads=options["num_heads"],
        hidden_dim=options["dim"],
        mlp_dim=options["ffn_dim"],
        num_classes=_CLASSES,
    )


def _models(options: dict[str, Any], repeats: int, steps: int, batch: int) -> Iterator[Result]:
    """Training and inference."""
    images = torch.rand(batch, 3, options["image_size"], options["image_size"])
    labels = torch.randint(_CLASSES, (batch,))
    for stem in ("patch", "conv"):
        models = [make(stem, options), make("torchvision", options)]
        optimizers = [adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1) for model in models]

        def train(i: int, models: Any = models, optimizers: Any = optimizers) -> Callable[[], None]:
            def block() -> None:
                for _ in range(steps):
                    nn.functional.cross_entropy(models[i](images), labels).backward()
                    optimizers[i].step()
                    optimizers[i].zero_grad()

            return block

        yield _result(f"training, {stem} stem", [train(0), train(1)], steps * batch, repeats)
        for model in models:
            model.eval()
        for count in (1, batch):

            def see(i: int, models: Any = models, few: Tensor = images[:count]) -> Callable[[], None]:
                def block() -> None:
                    with torch.inference_mode():
                        models[i](few)

                return block

            yield _result(f"inference, {stem} stem, batch {count}", [see(0), see(1)], count, repeats)


def _pipelines(image_size: int, repeats: int, batch: int) -> Iterator[Result]:
    """Batches of augmented images from JPEG files, read each time."""
    batch = min(batch, _PHOTOGRAPHS)
    with tempfile.TemporaryDirectory() as folder:
        generator = torch.Generator().manual_seed(0)
        for number in range(_PHOTOGRAPHS + 2):
            split = "train" if number < _PHOTOGRAPHS else "val"
            file = Path(folder, split, f"class{number % 2}", f"{number}.jpg")
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = torch.randint(256, (3, 12, 16), generator=generator, dtype=torch.uint8)
            pixels = v2.functional.resize(coarse, [240, 320]).permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(file, quality=90)
        ours: Any = ImageData(
            f"{folder}/train",
            val=f"{folder}/val",
            image_size=image_size,
            batch_size=batch,
            augmentation=ImageAugmentation(min_crop_area=0.4, flip=0.5),
            memory_gb=0.0,
        )
        ours.setup("fit")
        theirs = torchvision.datasets.ImageFolder(
            f"{folder}/train",
            v2.Compose([
                v2.RandomResizedCrop(image_size, (0.4, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]),
        )  # fmt: skip

        def read(make: Callable[[], Any]) -> Callable[[], None]:
            def block() -> None:
                for _ in make():
                    pass

            return block

        blocks = [read(ours.train_dataloader), read(lambda: DataLoader(theirs, batch, shuffle=True, drop_last=True))]
        yield _result("data pipeline, one process", blocks, _PHOTOGRAPHS // batch * batch, repeats)


def _result(measure: str, blocks: list[Callable[[], None]], work: float, repeats: int) -> Result:
    rounds = alternate(measure, blocks, repeats=repeats)
    omni, other = ([work / times[i] for times in rounds] for i in (0, 1))
    ratios = [a / b for a, b in zip(omni, other, strict=True)]
    return Result(measure, statistics.median(omni), statistics.median(other), ratios)


def _conditions(options: dict[str, Any], batch: int, repeats: int) -> dict[str, str]:
    names: tuple[Any, ...] = ("patch", "conv", "torchvision")
    counts = {name: sum(p.numel() for p in make(name, options).parameters()) for name in names}
    return {
        "versions": versions("torchvision"),
        "device": cpu(),
        "parameters": ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        "images": f"{options['image_size']} × {options['image_size']}, patches of {options['patch_size']}",
        "training": f"32-true, {batch} images a step; forward, cross-entropy, backward, fused AdamW, zero",
        "data pipeline": "JPEGs of 320 × 240 pixels: decoded, cropped at random, mirrored, as floats",
        "turns": f"{repeats} pairs; median, and the lowest and highest ratio of a pair",
    }


def _table(conditions: dict[str, str], results: list[Result]) -> str:
    width = max(map(len, conditions))
    lines = [f"{name:<{width}}  {text}" for name, text in conditions.items()]
    lines.append(f"\n{'images a second':38}{'omni':>10}{'torchvision':>13}  omni is faster by")
    for result in results:
        ratio = f"{statistics.median(result.ratios):.2f} ×"
        spread = f" ({min(result.ratios):.2f}–{max(result.ratios):.2f})"
        lines.append(f"{result.measure:38}{result.omni:10,.0f}{result.torchvision:13,.0f}  {ratio}{spread}")
    return "\n".join(lines)
