"""The vision encoder and the image pipeline against those of torchvision."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from omni.bench import race
from omni.bench.race import Comparison, Race, Report
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.data import ImageData
from omni.devices import has_compiler
from omni.layers.compilation import compile_blocks, trained_blocks
from omni.models.classifier import Classifier
from omni.models.vision_encoder import VisionEncoder
from omni.optim.optimizers import adamw

_Name = Literal["patch", "conv", "torchvision"]

_CLASSES = 1000
_PHOTOGRAPHS = 192  # of 320 × 240 pixels, read in a round of the pipelines


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


@dataclass(frozen=True, kw_only=True)
class VisionRace(Race):
    """The vision encoder against torchvision's VisionTransformer.

    Attributes:
        size: tiny, laptop, ... or a YAML file with the arguments of a vision encoder.
        steps: Training steps in a round.
        batch: Images in a training batch.
        compiled: Whether training is also measured compiled, as `omni fit` trains long runs, which takes a minute and a
            C++ compiler: omni's blocks, and the peer's whole model.
    """

    positive = ("repeats", "steps", "batch")

    size: str = "tiny"
    steps: int = 2
    batch: int = 32
    compiled: bool = True

    def run(self) -> Report:
        """Runs the race.

        Raises:
            UserError: If there is no such size.
        """
        options: dict[str, Any] = race.read_size(self.size, "vision_encoder") | {"dropout": 0.0}
        results = [*self._models(options), *self._pipelines(options["image_size"])]
        pixels, patch = options["image_size"], options["patch_size"]
        names: tuple[_Name, ...] = ("patch", "conv", "torchvision")
        return Report(
            self.conditions(
                "torchvision",
                parameters=race.parameter_counts({name: build_model(name, options) for name in names}),
                images=f"{pixels} × {pixels}, patches of {patch}",
                training=f"32-true, {self.batch} images a step; forward, loss, backward, clip, fused AdamW, zero",
                pipeline="JPEGs of 320 × 240 pixels: decoded, cropped at random, mirrored, as floats",
            ),
            results,
        )

    def _models(self, options: dict[str, Any]) -> Iterator[Comparison]:
        """Training and inference."""
        images = torch.rand(self.batch, 3, options["image_size"], options["image_size"])
        labels = torch.randint(_CLASSES, (self.batch,))
        stem_names: tuple[_Name, ...] = ("patch", "conv")
        for stem in stem_names:
            stems: dict[str, _Name] = {"omni": stem, "torchvision": "torchvision"}
            models = {name: build_model(which, options) for name, which in stems.items()}
            train = {name: _training(model, images, labels, self.steps) for name, model in models.items()}
            work = self.steps * self.batch
            yield self.compare(f"training, {stem} stem", "images/s", train, work=work)
            if self.compiled and has_compiler("cpu"):
                compiled = {name: _compiled(which, options) for name, which in stems.items()}
                train = {name: _training(model, images, labels, self.steps) for name, model in compiled.items()}
                yield self.compare(f"training, {stem} stem, both compiled", "images/s", train, work=work)
            for count in (1, self.batch):
                infer = {name: _inference(model.eval(), images[:count]) for name, model in models.items()}
                measure = f"inference, {stem} stem, batch {count}"
                yield self.compare(measure, "images/s", infer, work=count)

    def _pipelines(self, image_size: int) -> Iterator[Comparison]:
        """Batches of augmented images from JPEG files, read again in each round."""
        batch = min(self.batch, _PHOTOGRAPHS)
        with tempfile.TemporaryDirectory() as folder:
            _write_photographs(Path(folder))
            data: Any = ImageData(
                f"{folder}/train",
                val=f"{folder}/val",
                image_size=image_size,
                batch_size=batch,
                augmentation=ImageAugmentation(min_crop_area=0.4, flip=0.5),
                memory_gb=0.0,
            )
            data.setup("fit")
            peer = torchvision.datasets.ImageFolder(
                f"{folder}/train",
                v2.Compose([
                    v2.RandomResizedCrop(image_size, (0.4, 1.0), antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.ToImage(),
                    v2.ToDtype(torch.float32, scale=True),
                ]),
            )  # fmt: skip
            blocks = {
                "omni": lambda: [None for _ in data.train_dataloader()],
                "torchvision": lambda: [None for _ in DataLoader(peer, batch, shuffle=True, drop_last=True)],
            }
            work = _PHOTOGRAPHS // batch * batch
            yield self.compare("data pipeline, one process", "images/s", blocks, work=work)


def build_model(name: _Name, options: dict[str, Any]) -> nn.Module:
    """A model that maps images to scores of 1,000 classes.

    Args:
        name: omni with one of its stems, or torchvision.
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


def _compiled(name: _Name, options: dict[str, Any]) -> nn.Module:
    """A model whose training is compiled: omni's blocks, as stages compile them, or all of the peer."""
    model = build_model(name, options)
    if name == "torchvision":
        model.compile()
    else:
        compile_blocks(trained_blocks(model))
    return model


def _training(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> Any:
    optimizer = adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    step = race.training_step(model, lambda: nn.functional.cross_entropy(model(images), labels), optimizer)
    return lambda: [step() for _ in range(steps)]


def _inference(model: nn.Module, images: Tensor) -> Any:
    return torch.inference_mode()(lambda: model(images))


def _write_photographs(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(_PHOTOGRAPHS + 2):
        split = "train" if number < _PHOTOGRAPHS else "val"
        file = folder / split / f"class{number % 2}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = torch.randint(256, (3, 12, 16), generator=generator, dtype=torch.uint8)
        pixels = v2.functional.resize(coarse, [240, 320]).permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(file, quality=90)
