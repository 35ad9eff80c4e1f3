"""Real image collections, if the environment variable `OMNI_DATA` is set to a folder of data."""

import json
import os
from pathlib import Path

import pytest
import torch

from omni.commands.data_check import SourceOptions, check
from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.data import ImageData
from omni.media.images import Preprocessing, read_image, to_pixels

PACK = os.environ.get("OMNI_DATA")
pytestmark = pytest.mark.skipif(PACK is None, reason="real data: set OMNI_DATA to a folder that holds vision/ and vl/")
VISION, FLICKR = Path(PACK or "") / "vision", Path(PACK or "") / "vl" / "flickr8k"
CIFAR = tuple(str(VISION / "cifar10_jpg" / split) for split in ("train", "test"))
CAPTIONS = tuple(f"{FLICKR}/captions.txt@Flickr_8k.{split}Images.txt" for split in ("train", "dev"))
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"


def make(train, val, **options):
    data = ImageData(train, val, **options)
    data.setup("fit")
    return data


def test_class_folders(workplace):
    data = make(*CIFAR, image_size=32, batch_size=100, augmentation=ImageAugmentation(flip=0.5, shift=4, randaugment=1))
    assert data.attributes[0].values == tuple(CLASSES.split())
    batches = list(data.val_dataloader())
    assert sum(len(batch.images) for batch in batches) == 1000
    assert sum(batch.labels.sum(0) for batch in batches).tolist() == [100] * 10
    for row, image in zip(batches[3].rows.tolist()[:5], batches[3].images, strict=False):
        file = data.datasets["val"].rows[row].image
        assert torch.equal(image, to_pixels(Preprocessing(32)(read_image(file))[None])[0])
    assert len(list(data.train_dataloader())) == 40


def test_mnist_files(workplace):
    for name, train in (("FashionMNIST", 60_000), ("MNIST", 10_000)):
        data = make(f"torchvision:{name}", f"torchvision:{name}:test", root=str(VISION), image_size=28, batch_size=500)
        assert [len(data.datasets[split]) for split in ("train", "val")] == [train, 5_000]
        assert data.datasets["train"].pixels.shape == (train, 1, 28, 28)
        batch = next(iter(data.train_dataloader()))
        assert batch.images.shape == (500, 3, 28, 28)
        assert 0.1 < batch.images.mean() < 0.35
        assert (batch.labels.sum(0) > 20).all()


def test_images_with_five_captions_each(workplace):
    data = make(*CAPTIONS, image_size=64, batch_size=16)
    train, val = ({row.image for row in data.datasets[split].rows} for split in ("train", "val"))
    assert (len(train), len(val)) == (753, 113)
    assert not train & val
    for batch in data.val_dataloader():
        assert batch.captions.shape[1] == 5
        assert (batch.caption_ids >= 0).all()
    assert next(iter(data.train_dataloader())).captions.shape[:2] == (16, 1)


def test_splits_by_image_without_official_lists(workplace):
    data = make(str(FLICKR / "captions.txt"), None, image_size=32, val_fraction=0.1)
    train, val = ({row.image for row in data.datasets[split].rows} for split in ("train", "val"))
    assert not train & val
    assert len(train) + len(val) == 875
    assert 50 < len(val) < 130


def test_folders_of_folders_and_a_list_of_classes(workplace):
    folder = VISION / "tiny-imagenet-200"
    data = make(str(folder / "train"), str(folder / "val"), image_size=64)
    (attribute,) = data.attributes
    assert len(attribute.values) == 20
    for split in ("train", "val"):
        assert len(data.datasets[split]) == len(list((folder / split).rglob("*.JPEG")))
    known = dict(line.split("\t")[:2] for line in (folder / "val" / "val_annotations.txt").read_text().splitlines())
    batch = next(iter(data.val_dataloader()))
    for row, label in zip(batch.rows.tolist(), batch.labels, strict=True):
        assert known[Path(data.datasets["val"].rows[row].image).name] == attribute.values[label.argmax()]


@pytest.mark.parametrize(
    ("train", "val", "images"),
    [(CIFAR[0], CIFAR[1], 5_000), (*CAPTIONS, 866), ("torchvision:MNIST", "torchvision:MNIST:test", 15_000)],
    ids=["cifar10", "flickr8k", "mnist"],
)
def test_the_check_finds_no_harmful_faults(train, val, images, workplace, capsys):
    check([train], val=val, sources=SourceOptions(root=str(VISION)), json=Path("report.json"))
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["findings"] == []
    assert report["rows"] == images
    assert "0 errors" in capsys.readouterr().out
