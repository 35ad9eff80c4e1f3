"""Images for the stage: layouts, splits by image, seeded augmentation, and exact resuming."""

import gzip
import json
import struct
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from omni.data.images.augmentation import ImageAugmentation
from omni.data.images.data import ImageData
from omni.errors import UserError
from omni.text.tokenizer import PAD

OPTIONS: dict[str, Any] = {"image_size": 16, "batch_size": 4}


def pixels(seed, width=16, height=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(name, seed=0, **size):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, **size)).save(name)
    return str(name)


def make(train, val=None, **options):
    data = ImageData(train, val, **{**OPTIONS, **options})
    data.setup("fit")
    return data


def lines(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def everything(loader):
    """Pixels and labels of all batches by row."""
    found = {}
    for batch in loader:
        for image, label, row in zip(batch.images, batch.labels, batch.rows.tolist(), strict=True):
            assert row not in found
            found[row] = (image, label)
    return found


def read(batch, i):
    return (batch.images[i] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.fixture
def folders(workplace):
    """Class folders `train` and `val`: seeds 0 to 11, and 100 to 105."""
    for split, first, count in (("train", 0, 12), ("val", 100, 6)):
        for n in range(count):
            save(f"{split}/{('cat', 'dog', '10')[n % 3]}/{n:02d}.png", first + n)
    return workplace


@pytest.fixture
def captions(workplace):
    """`m.jsonl`: eight images with two captions each."""
    rows = [{"image": save(f"{n}.png", n), "captions": [f"one {n}", f"other {n}"]} for n in range(8)]
    return lines("m.jsonl", rows)


class TestLayouts:
    def test_class_folders(self, folders):
        data = make("train", "val")
        (attribute,) = data.attributes
        assert attribute == ("label", ("10", "cat", "dog"), False)
        seeds = {"cat": (0, 3), "dog": (1, 4), "10": (2, 5)}
        seen = everything(data.val_dataloader())
        assert len(seen) == 6
        expected = [100 + seed for name in attribute.values for seed in seeds[name]]
        for row, (image, label) in seen.items():
            np.testing.assert_array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), pixels(expected[row]))
            assert label.argmax() == row // 2
            assert label.sum() == 1
        assert len(everything(data.train_dataloader())) == 12

    def test_numbers_sort_as_numbers_and_images_may_lie_deeper(self, workplace):
        for n in (10, 2, 1):
            save(f"train/{n}/images/a.JPEG", n)
            save(f"train/{n}/b.png", 50 + n)
        data = make("train", val_fraction=0.3)
        assert data.attributes[0].values == ("1", "2", "10")

    def test_a_list_of_the_classes_of_one_folder(self, folders):
        for number, label in enumerate(("cat", "dog", "cat")):
            save(f"val/images/val_{number}.png", 50 + number)
            with Path("val/val_annotations.txt").open("a") as file:
                file.write(f"val_{number}.png\t{label}\t0\t0\t9\t9\n")
        data = make("train", "val")
        labels = [labels.tolist() for _, labels in everything(data.val_dataloader()).values()]
        names = data.attributes[0].values
        assert [names[row.index(1.0)] for row in labels] == ["cat", "dog", "cat"]
        for line, message in (("val_9.png\tcat", r"line 4: .*val_9.png does not exist"), ("val_0.png", "no class for")):
            Path("val/val_annotations.txt").write_text("val_0.png\tcat\n" * 3 + line + "\n")
            with pytest.raises(UserError, match=message):
                make("train", "val")

    def test_manifests_of_labels_attributes_and_captions(self, workplace):
        rows = [
            {"image": save("in/0.png", 0), "label": "a", "labels": {"colour": ["red", "blue"], "count": 2}},
            {"image": save("in/1.png", 1), "labels": {"colour": []}, "caption": "one"},
            {"image": save("in/2.png", 2), "label": "b", "captions": ["two", "zwei"]},
        ]
        lines("m.jsonl", rows)
        data = make("m.jsonl", lines("v.jsonl", [{**rows[2], "image": save("v.png", 9)}]), batch_size=3)
        assert [tuple(attribute) for attribute in data.attributes] == [
            ("label", ("a", "b"), False),
            ("colour", ("blue", "red"), True),
            ("count", ("2",), False),
        ]
        (batch,) = data.train_dataloader()
        table = dict(zip(batch.rows.tolist(), batch.labels.tolist(), strict=True))
        assert table == {0: [1, 0, 1, 1, 1], 1: [-1, -1, 0, 0, -1], 2: [0, 1, -1, -1, -1]}
        assert batch.captions.shape[:2] == (3, 1)
        (batch,) = data.val_dataloader()
        texts = [data.tokenizer.decode(tokens.tolist()) for tokens in batch.captions[0]]
        assert texts == ["two", "zwei"]
        assert batch.caption_ids.tolist() == [[0, 1]]

    @pytest.mark.parametrize("folder", ["", "Images", "images"])
    def test_flickr(self, workplace, folder):
        Path("f").mkdir()
        for n in range(4):
            save(Path("f") / folder / f"{n}.jpg", n)
        rows = "".join(f'{n}.jpg,"caption {k}, of {n}"\n' for n in range(4) for k in range(5))
        Path("f/captions.txt").write_text(f"image,caption\n{rows}")
        Path("f/train.txt").write_text("0.jpg\n1.jpg\n2.jpg\n")
        Path("f/val.txt").write_text("3.jpg\n")
        data = make("f/captions.txt@train.txt", "f/captions.txt@val.txt", batch_size=3)
        (batch,) = data.val_dataloader()
        assert batch.captions.shape[:2] == (1, 5)
        texts = {data.tokenizer.decode(tokens.tolist()) for tokens in batch.captions[0]}
        assert texts == {f"caption {k}, of 3" for k in range(5)}
        assert len(everything(data.train_dataloader())) == 3

    @pytest.mark.parametrize("place", ["c/train2017", "c/annotations", "c/annotations/images"])
    def test_coco(self, workplace, place):
        content = {
            "images": [{"id": 7 * n, "file_name": f"{n:03d}.jpg"} for n in range(4)],
            "annotations": [{"id": k, "image_id": 7 * (k % 4), "caption": f"text {k}"} for k in range(8)],
        }
        Path("c/annotations").mkdir(parents=True)
        Path("c/annotations/captions_train2017.json").write_text(json.dumps(content))
        for n in range(4):
            save(f"{place}/{n:03d}.jpg", n)
        data = make("c/annotations/captions_train2017.json", val_fraction=0.3)
        (batch,) = data.val_dataloader()
        assert batch.captions.shape[1] == 2

    def test_images_elsewhere(self, captions):
        Path("sub").mkdir()
        Path("m.jsonl").rename("sub/m.jsonl")
        with pytest.raises(UserError, match=r"row 1: .* does not exist"):
            make("sub/m.jsonl")
        assert len(everything(make("sub/m.jsonl", image_folder=".").train_dataloader())) >= 4

    @pytest.mark.parametrize("pack", [False, True])
    @pytest.mark.parametrize("name", ["FashionMNIST", "MNIST"])
    def test_mnist_files(self, workplace, name, pack):
        raw = Path("sets") / name / "raw"
        raw.mkdir(parents=True)
        images = {}
        for stem, count in (("train", 20), ("t10k", 8)):
            images[stem] = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
            labels = np.arange(count, dtype=np.uint8) % 10
            for kind, content in (
                ("images-idx3", struct.pack(">IIII", 0x803, count, 28, 28) + images[stem].tobytes()),
                ("labels-idx1", struct.pack(">II", 0x801, count) + labels.tobytes()),
            ):
                path = raw / f"{stem}-{kind}-ubyte"
                if pack:
                    path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
                else:
                    path.write_bytes(content)
        data = make(f"torchvision:{name}", f"torchvision:{name}:test", root="sets", image_size=28)
        assert len(data.attributes[0].values) == 10
        assert data.attributes[0].values[0] == ("T-shirt/top" if name == "FashionMNIST" else "0")
        seen = everything(data.val_dataloader())
        for row, (image, label) in seen.items():
            assert image.shape == (3, 28, 28)
            np.testing.assert_array_equal((image[0] * 255).round().byte().numpy(), images["t10k"][row])
            assert label.argmax() == row % 10
        with pytest.raises(UserError, match="has no val split"):
            make(f"torchvision:{name}", f"torchvision:{name}:val", root="sets")
        file = next(raw.glob("t10k-images*"))
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(UserError, match=r"t10k-images.*(truncated|damaged)"):
            make(f"torchvision:{name}", f"torchvision:{name}:test", root="sets")

    def test_torchvision_sets_that_keep_files(self, workplace):
        for n in range(8):
            save(f"sets/eurosat/2750/{'Forest' if n % 2 else 'River'}/{n}.jpg", n, width=40)
        data = make("torchvision:EuroSAT", root="sets", val_fraction=0.3)
        assert data.attributes[0].values == ("Forest", "River")
        rows = [row for images in data.datasets.values() for row in images.rows]
        assert len(rows) == 8
        assert all(isinstance(row.image, Path) for row in rows)  # pixels are read when they are needed

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("torchvision:Nothing", "torchvision has no data set with this name"),
            ("torchvision:CIFAR10", "set data.root to its folder, or data.download to true"),
            ("torchvision:CIFAR10:val", "does not have this split"),
            ("torchvision:Flowers102:middle", "cannot be read"),
            ("torchvision:MNIST", "cannot be read"),
        ],
    )
    def test_missing_torchvision_sets(self, workplace, entry, message):
        with pytest.raises(UserError, match=message):
            make(entry, root="nowhere")
        assert not Path("nowhere").exists()  # nothing was downloaded

    def test_several_sources(self, folders):
        save("more/bird/0.png", 60)
        data = make(["train", "more"], val_fraction=0.3)
        assert data.attributes[0].values == ("10", "bird", "cat", "dog")
        assert len(data.datasets["train"]) + len(data.datasets["val"]) == 13


@pytest.fixture
def hub(workplace, monkeypatch):
    """A folder that `datasets` loads: images with labels and captions, in train and validation."""
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # 5 s for each pass
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"]), "caption": datasets.Value("string")}
    )
    Path("set").mkdir()
    for split, first, count in (("train", 0, 24), ("validation", 50, 6)):
        rows = {
            "image": [{"bytes": Path(save("one.png", first + n)).read_bytes(), "path": None} for n in range(count)],
            "label": [n % 2 for n in range(count)],
            "caption": [f"picture {first + n}" for n in range(count)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(f"set/{split}.parquet")
    return "hub:set"


class TestHub:
    @pytest.mark.parametrize(("memory_gb", "workers"), [(4, 0), (0, 2)])
    def test_a_local_folder(self, hub, memory_gb, workers):
        data = make(hub, hub, memory_gb=memory_gb, num_workers=workers)
        assert data.attributes[0] == ("label", ("x", "y"), False)
        assert len(data.datasets["train"]) == 24
        assert not any(isinstance(row.image, bytes) for row in data.datasets["train"].rows)  # images stay on disk
        seen = everything(data.val_dataloader())
        for row, (image, label) in seen.items():
            np.testing.assert_array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), pixels(50 + row))
            assert label.tolist() == [1 - row % 2, row % 2]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_streaming_gives_every_image_once_per_pass(self, hub, workers):
        data = make(hub, streaming=True, shuffle_buffer=8, num_workers=workers)
        first, second = (list(data.train_dataloader()) for _ in range(2))
        rows = [row for batch in first for row in batch.rows.tolist()]
        assert len(set(rows)) == len(rows) == 24
        assert len({read(batch, i).tobytes() for batch in first for i in range(4)}) == 24
        assert {row for batch in second for row in batch.rows.tolist()} == set(rows)
        assert [row for batch in second for row in batch.rows.tolist()] != rows
        assert len(list(data.val_dataloader())) == 2

    def test_missing_splits_and_columns(self, hub):
        with pytest.raises(UserError, match="::third: cannot be loaded"):
            make(f"{hub}::third")
        with pytest.raises(UserError, match="cannot be loaded"):
            make("hub:nothing/of/the/kind")
        save("train/a/0.png")
        with pytest.raises(UserError, match="reads from the Hub"):
            make("train", streaming=True)


class TestSplits:
    def test_images_are_held_out_with_all_their_captions(self, workplace):
        rows = [{"image": save(f"{n}.png", n), "caption": f"text {n}"} for n in range(12)]
        rows += [{**row, "caption": f"again {n}"} for n, row in enumerate(rows)]
        data = make(lines("m.jsonl", rows), val_fraction=0.3)
        sides = [{row.image for row in data.datasets[split].rows} for split in ("train", "val")]
        assert not sides[0] & sides[1]
        assert sum(map(len, sides)) == 12
        assert all(len(row.captions) == 2 for images in data.datasets.values() for row in images.rows)

    def test_copies_of_an_image_stay_together(self, workplace):
        for n in range(20):
            for copy in "abc":
                save(f"train/{'xy'[n % 2]}/{copy}{n}.png", n)
        data = make("train", val_fraction=0.3)
        held_out = {image.numpy().tobytes() for image in data.datasets["val"].pixels}
        assert len(data.datasets["val"]) == 3 * len(held_out)
        assert not held_out & {image.numpy().tobytes() for image in data.datasets["train"].pixels}

    def test_the_held_out_share_is_as_configured_and_deterministic(self, workplace):
        for n in range(200):
            save(f"train/a/{n}.png", n, width=2, height=2)
        first, again = (make("train", val_fraction=0.2, image_size=2) for _ in range(2))
        assert 25 <= len(first.datasets["val"]) <= 55
        assert [r.where for r in first.datasets["val"].rows] == [r.where for r in again.datasets["val"].rows]

    def test_a_file_in_two_splits_is_refused(self, folders):
        rows = [{"image": "train/cat/00.png", "label": "cat"}]
        with pytest.raises(UserError, match=r"is in data\.train and in data\.val"):
            make("train", lines("v.jsonl", rows))
        with pytest.raises(UserError, match=r"train is in data\.train and in data\.val"):
            make("train", "train")


EVERY = {"shift": 2, "flip": 0.5, "randaugment": 2, "mixup": 0.8, "cutmix": 1.0}


class TestAugmentation:
    def test_it_depends_on_the_seed_only_and_leaves_global_random_numbers(self, folders):
        def batches(seed):
            torch.manual_seed(torch.seed() % 2**31)
            before = torch.get_rng_state()
            found = list(make("train", "val", augmentation=ImageAugmentation(**EVERY), seed=seed).train_dataloader())
            assert torch.equal(torch.get_rng_state(), before)
            return found

        first, again, other = batches(0), batches(0), batches(1)
        assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
        assert all(torch.equal(a.labels, b.labels) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a.images, b.images) for a, b in zip(first, other, strict=True))

    @pytest.mark.parametrize("option", EVERY)
    def test_each_augmentation_changes_training_images_only(self, folders, option):
        plain, changed = (
            make("train", "val", augmentation=ImageAugmentation(**options), val_batch_size=6)
            for options in ({}, {option: EVERY[option]})
        )
        (one,), (other,) = plain.val_dataloader(), changed.val_dataloader()
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert set(other.labels.unique().tolist()) == {0, 1}
        pairs = list(zip(plain.train_dataloader(), changed.train_dataloader(), strict=True))
        assert any(not torch.equal(a.images, b.images) for a, b in pairs)
        assert all(b.images.min() >= 0 and b.images.max() <= 1 for _, b in pairs)
        for a, b in pairs:
            if option in ("mixup", "cutmix"):
                torch.testing.assert_close(b.labels.sum(1), torch.ones(4))
            else:
                assert torch.equal(a.labels, b.labels)

    @pytest.mark.parametrize("option", ["mixup", "cutmix"])
    def test_labels_are_mixed_like_pixels(self, option):
        images = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
        images[::2] = 255
        labels = torch.eye(4)
        shares = []
        for seed in range(40):
            torch.manual_seed(seed)
            mixed, targets = ImageAugmentation(**{option: 1.0})(images, labels, 16)
            for i in range(4):
                light = float(mixed[i].mean())
                own = light if i % 2 == 0 else 1 - light
                assert targets[i, i] == pytest.approx(own, abs=1e-5)
                assert targets[i, i - 1] == pytest.approx(1 - own, abs=1e-5)
                shares.append(own)
            if option == "cutmix":
                assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        assert min(shares) < 0.35
        assert max(shares) > 0.8

    def test_unknown_labels_stay_unknown_when_mixed(self):
        labels = torch.tensor([[1.0, 0, 1], [0, 1, -1], [1, 0, 0]])
        targets = ImageAugmentation(mixup=1.0)(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), labels, 4)[1]
        assert (targets[:, 2] == torch.tensor([targets[0, 2], -1, -1])).all()
        assert (targets[:, :2] >= 0).all()

    def test_crops_are_random_in_training_and_central_in_validation(self, workplace):
        for n in range(4):
            save(f"train/{'ab'[n % 2]}/{n}.png", n, width=24, height=24)
            save(f"val/{'ab'[n % 2]}/{n}.png", n + 50, width=24, height=24)
        data = make("train", "val", image_size=16, load_size=24)
        (batch,) = data.train_dataloader()
        for i, row in enumerate(batch.rows.tolist()):
            whole = np.asarray(Image.open(data.datasets["train"].rows[row].image))
            places = [
                (y, x) for y in range(9) for x in range(9) if (whole[y : y + 16, x : x + 16] == read(batch, i)).all()
            ]
            assert len(places) == 1
        assert data.datasets["val"].pixels.shape[-1] == 16

    def test_shifts_fill_with_black_and_reach_every_offset(self):
        images = torch.randint(1, 256, (200, 1, 8, 8), dtype=torch.uint8)
        torch.manual_seed(0)
        moved = (ImageAugmentation(shift=2)(images, torch.zeros(200, 0), 8)[0][:, 0] * 255).round().byte()
        padded, found = torch.nn.functional.pad(images[:, 0], (2, 2, 2, 2)), set()
        for one, whole in zip(moved, padded, strict=True):
            places = [(y, x) for y in range(5) for x in range(5) if torch.equal(whole[y : y + 8, x : x + 8], one)]
            assert len(places) == 1
            found.update(places)
        assert len(found) == 25

    def test_training_uses_one_caption_per_image_and_another_each_epoch(self, captions):
        data = make(
            captions, lines("v.jsonl", [{"image": save("v.png", 99), "captions": ["a", "b", "c"]}]), batch_size=8
        )
        images, seen = data.datasets["train"], set()
        for epoch in range(8):
            batch = images.__getitems__(data.train_batches().epoch(epoch)[0].tolist())
            for tokens, row in zip(batch.captions[:, 0], batch.rows.tolist(), strict=True):
                seen.add((row, data.tokenizer.decode(tokens.tolist())))
        assert {text for _, text in seen} > {"one 0", "other 0"}
        assert all(text.endswith(str(row)) for row, text in seen)
        assert len(seen) == 16
        (batch,) = data.val_dataloader()
        assert batch.captions.shape[:2] == (1, 3)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"min_crop_area": 0}, "it must be more"),
            ({"flip": 2}, "between 0 and 1"),
            ({"mixup": -1}, "0 or more"),
        ],
    )
    def test_invalid_augmentation_is_refused(self, options, words):
        with pytest.raises(UserError, match=words):
            ImageAugmentation(**options)


class TestCaptions:
    def test_equal_texts_have_equal_numbers(self, workplace):
        rows = [{"image": save(f"{n}.png", n), "captions": [f"text {n % 2}", "the same"]} for n in range(4)]
        (batch,) = make(lines("m.jsonl", rows[:1]), lines("v.jsonl", rows[1:])).val_dataloader()
        ids = batch.caption_ids.tolist()
        assert ids[0] == ids[2] != ids[1]
        assert len({row[1] for row in ids}) == 1

    def test_long_captions_are_cropped_and_short_ones_padded(self, workplace):
        rows = [{"image": save(f"{n}.png", n), "captions": ["ab", "a" * 99][: 2 - n]} for n in range(2)]
        data = make(lines("m.jsonl", rows), lines("v.jsonl", [{**row, "image": save("v.png", 9)} for row in rows[:1]]))
        (batch,) = data.val_dataloader()
        assert batch.captions.shape == (1, 2, 64)
        short, long = ((row != PAD).sum() for row in batch.captions[0])
        assert (short, long) == (4, 64)  # with BOS and EOS
        assert [data.tokenizer.decode(row.tolist()) for row in batch.captions[0]] == ["ab", "a" * 63]

    def test_a_tokenizer_is_learned_from_training_captions_only(self, workplace):
        rows = [
            {
                "image": save(f"{n}.png", n),
                "captions": [f"a red circle and {n} blue stars above it", "zebra"][: 1 + n // 40],
            }
            for n in range(41)
        ]
        data = make(lines("m.jsonl", rows[:40]), lines("v.jsonl", rows[40:]), tokenizer="bpe", vocab_size=335)
        (batch,) = data.val_dataloader()
        known, new = ((row != PAD).sum() for row in batch.captions[0])
        assert data.tokenizer.decode(batch.captions[0, 1].tolist()) == "zebra"
        assert known < len(rows[40]["captions"][0]) - 8
        assert new >= 6
        again = make("m.jsonl", "v.jsonl", tokenizer="bpe", vocab_size=335)
        assert again.tokenizer.fingerprint == data.tokenizer.fingerprint


class Spy(L.LightningModule):
    """A stage that learns nothing and records its batches."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, index):
        self.seen.append((batch.rows.tolist(), float(batch.images.double().sum()), batch.labels.tolist()))
        return self.weight * 0

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(data, steps, ckpt=None, **options):
    spy = Spy()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(spy, datamodule=data, ckpt_path=ckpt)
    trainer.save_checkpoint("last.ckpt")
    return spy.seen


class TestResumption:
    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize("memory_gb", [0, 4])
    def test_a_stopped_run_resumes_at_the_next_batch(self, folders, workers, memory_gb):
        def data():
            augmentation = ImageAugmentation(**EVERY)
            return ImageData(
                *("train", "val"), augmentation=augmentation, num_workers=workers, memory_gb=memory_gb, **OPTIONS
            )

        whole = run(data(), 8)
        assert run(data(), 4) + run(data(), 8, "last.ckpt") == whole
        assert len({tuple(rows) for rows, _, _ in whole}) > 3

    def test_a_stream_resumes_at_the_next_batch(self, hub):
        def data():
            return ImageData(hub, streaming=True, shuffle_buffer=8, **OPTIONS)

        whole = run(data(), 9)
        assert run(data(), 4) + run(data(), 9, "last.ckpt") == whole

    def test_changed_images_give_a_warning(self, folders):
        run(ImageData("train", "val", **OPTIONS), 2)
        save("train/cat/new.png", 77)
        with pytest.warns(UserWarning, match="have changed since the checkpoint"):
            run(ImageData("train", "val", **OPTIONS), 4, "last.ckpt")

    def test_the_fingerprint_covers_content_and_is_computed_once(self, folders, monkeypatch):
        first = make("train", "val")
        before = first.fingerprint
        assert make("train", "val").fingerprint == before
        assert make("train", "val", image_size=8).fingerprint != before
        with monkeypatch.context() as patch:
            patch.setattr("omni.data.images.rows.ImageRow.content_hash", lambda row: pytest.fail("read again"))
            assert first.fingerprint == before
        save("train/cat/00.png", 78)
        assert make("train", "val").fingerprint != before

    def test_batches_are_split_over_two_ranks(self, folders, monkeypatch):
        def batches(rank, world_size):
            monkeypatch.setattr(ImageData, "rank", lambda self: {"rank": rank, "world_size": world_size})
            data = make("train", "val", batch_size=4 // world_size, val_batch_size=3)
            return [b.rows.tolist() for b in data.train_dataloader()], [b.rows.tolist() for b in data.val_dataloader()]

        (alone, measured), (one, seen), (two, also_seen) = batches(0, 1), batches(0, 2), batches(1, 2)
        assert len(one) == len(two) == 3
        for all_rows, some, others in zip(alone, one, two, strict=True):
            assert not set(some) & set(others)
            assert set(some) | set(others) == set(all_rows)
        assert sorted(chain(*seen, *also_seen)) == sorted(chain(*measured))


class TestFaults:
    @pytest.mark.parametrize("memory_gb", [0, 4])
    @pytest.mark.parametrize("fault", ["truncated", "empty", "text", "svg"])
    def test_a_bad_file_is_reported_in_one_line_or_left_out_and_counted(self, folders, fault, memory_gb):
        bad = Path("train/cat/bad.jpg" if fault != "svg" else "train/cat/bad.svg")
        save("ok.jpg")
        content = {"truncated": Path("ok.jpg").read_bytes()[:-60], "empty": b"", "text": b"hello", "svg": b"<svg/>"}
        bad.write_bytes(content[fault])
        with pytest.warns(UserWarning, match=rf"train: 1 rows are left out, the first: train/cat/{bad.name}: ") as said:
            data = make("train", "val", bad_rows="skip", memory_gb=memory_gb)
        assert len(said) == 1
        assert len(everything(data.train_dataloader())) == 12
        with pytest.raises(UserError, match=rf"train/cat/{bad.name}: ") as failure:
            next(iter(make("train", "val", memory_gb=memory_gb, batch_size=13).train_dataloader()))
        assert "\n" not in str(failure.value)

    def test_an_empty_class_folder(self, folders):
        Path("train/empty").mkdir()
        with pytest.raises(UserError, match="train/empty: a class without images: add some or remove the folder"):
            make("train")
        with pytest.warns(UserWarning, match="1 rows are left out, the first: train/empty"):
            make("train", bad_rows="skip")

    def test_class_folders_that_differ(self, folders):
        save("val/bird/0.png", 60)
        with pytest.raises(UserError, match="val: has a class 'bird' that the training images do not have"):
            make("train", "val")
        save("train/bird/0.png", 61)
        save("train/fish/0.png", 62)
        with pytest.raises(UserError, match="val: lacks the class 'fish' of the training images"):
            make("train", "val")

    def test_labels_that_are_not_in_training(self, folders):
        for row, words in (
            ({"label": "bird"}, "no training image has label 'bird'"),
            ({"labels": {"s": 1}}, "label 's'"),
        ):
            rows = [{"image": save("new.png", 63), **row}]
            with pytest.raises(UserError, match=f"row 1.*{words}"):
                make("train", lines("v.jsonl", rows))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"caption": "no image"}, "row 9: no image: give its file name under 'image'"),
            ({"image": "gone.png", "caption": "a"}, r"row 9: .*gone\.png does not exist"),
            ({"image": "0.png", "caption": ""}, "row 9: 'caption' is not text"),
            ({"image": "x.png"}, r"row 9, x\.png: an image with neither caption nor label"),
            ({"image": "x.png", "label": {"a": 1}}, "row 9: label is {'a': 1}: a label is a text, a number, or a list"),
            ([], "row 9: a list, not an object"),
        ],
    )
    def test_a_caption_row_that_cannot_be_used(self, captions, row, message):
        save("x.png", 70)
        rows = [json.loads(line) for line in Path(captions).read_text().splitlines()]
        lines(captions, [*rows, row])
        with pytest.raises(UserError, match=message) as failure:
            make(captions, val_fraction=0.3)
        assert "bad_rows: skip" in str(failure.value)
        with pytest.warns(UserWarning, match="train: 1 rows are left out"):
            data = make(captions, val_fraction=0.3, bad_rows="skip")
        assert sum(len(images) for images in data.datasets.values()) == 8

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"image_size": 0}, "image_size is 0: it must be 2 or more"),
            ({"load_size": 8}, "load_size is 8: it must be image_size, 16, or more"),
            ({"val_fraction": 1.0}, "between 0 and 1"),
            ({"bad_rows": "ignore"}, "it must be error or skip"),
            ({"train": []}, "empty list"),
            ({"train": "nowhere"}, "nowhere: does not exist"),
            ({"train": "corpus.md"}, "unknown kind of file '.md'"),
            ({"train": "loose"}, "loose: holds 1 images but no folders of classes"),
            ({"train": "bare.jsonl", "val": None}, "neither labels nor captions"),
            ({"train": "m.jsonl@none.txt"}, r"none\.txt: cannot be read"),
            ({"train": "m.jsonl@list.txt"}, r"1 listed images have no row, such as 9\.png"),
        ],
    )
    def test_invalid_arguments_are_refused(self, folders, captions, options, words):
        Path("corpus.md").write_text("no images")
        save("loose/a.png")
        lines("bare.jsonl", [{"image": f"{n}.png"} for n in range(4)])
        Path("list.txt").write_text("0.png\n9.png\n")
        with pytest.raises(UserError, match=words):
            make(**{"train": "train", "val": "val", **options})


def test_images_are_mirrored_one_by_one():
    images = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8)
    pixels, _ = ImageAugmentation(flip=1.0)(images, torch.zeros(16, 1), 8)
    assert torch.equal(pixels, images.flip(-1) / 255)
    torch.manual_seed(0)
    pixels, _ = ImageAugmentation(flip=0.5)(images, torch.zeros(16, 1), 8)
    kept = [torch.equal(one, image / 255) for one, image in zip(pixels, images, strict=True)]
    mirrored = [torch.equal(one, image.flip(-1) / 255) for one, image in zip(pixels, images, strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 0 < sum(mirrored) < 16


def test_crops_lie_anywhere_with_the_wanted_areas():
    torch.manual_seed(0)
    place = torch.arange(256, dtype=torch.uint8)
    image = torch.stack((place.expand(256, 256), place[:, None].expand(256, 256), torch.zeros(256, 256).byte()))
    pixels, _ = ImageAugmentation(min_crop_area=0.3)(image.expand(64, -1, -1, -1), torch.zeros(64, 1), 64)
    columns, rows = (255 * pixels[:, :2]).round().unbind(1)
    assert (columns - columns[:, :1]).abs().max() <= 1  # not turned
    assert (rows - rows[:, :, :1]).abs().max() <= 1
    width, height = columns[:, 0, -1] - columns[:, 0, 0], rows[:, -1, 0] - rows[:, 0, 0]
    share = width * height / 256**2
    assert 0.25 < share.min() < 0.4
    assert 0.85 < share.max() <= 1
    assert ((width / height) > 0.7).all()
    assert ((width / height) < 1.43).all()
    assert (width / height).std() > 0.1
    for first in (columns[:, 0, 0], rows[:, 0, 0]):
        assert first.min() < 10
        assert first.max() > 40
