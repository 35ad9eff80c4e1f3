"""The world's images: labels and captions agree with the pixels, splits are disjoint, runs give the same bytes."""

import colorsys
import json
import re
from collections import Counter
from functools import partial
from itertools import count, pairwise
from random import Random

import numpy as np
import pytest
from PIL import Image
from toy_world import rows, tree, write
from world_reader import NUMBERS, Reader

from omni.cli import main
from omni.data.images.data import ImageData
from omni.errors import UserError
from omni.synthetic import images
from omni.synthetic.drawing import draw
from omni.synthetic.media_folder import MediaFolder
from omni.synthetic.scene import COLOURS, HELD_OUT, SHAPES, Item, Scene, scene_at

SIZES = {"train": 30, "val": 12}
HUES = {"red": 0, "orange": 30, "yellow": 52, "green": 130, "blue": 230, "purple": 280}  # degrees
# The spread of a shape's area relative to a circle, and the share of it below the centre, in hundredths.
SPREADS = {
    "circle": (1.01, 0),
    "square": (1.06, 0),
    "triangle": (1.22, -1.87),
    "heart": (1.05, 0.455),
    "cross": (1.23, 0),
    "star": (1.31, 0.09),
}


def hue(pixel):
    return colorsys.rgb_to_hsv(*(np.asarray(pixel, float) / 255))[0] * 360


def colour_of(pixel):
    """The colour with the nearest hue; None for a background's pale pixel."""
    if colorsys.rgb_to_hsv(*(np.asarray(pixel, float) / 255))[1] < 0.4:
        return None
    return min(HUES, key=lambda name: abs((hue(pixel) - HUES[name] + 180) % 360 - 180))


def read_colours(picture):
    """Colours by cell, from the middle of each cell; shares no code with the drawing."""
    side = len(picture) // 4
    found = {
        (row, column): colour_of(picture[row * side + side // 2, column * side + side // 2])
        for row in range(4)
        for column in range(4)
    }
    return {cell: colour for cell, colour in found.items() if colour}


def read_shape(picture):
    """Shape and size of the only object in a picture, from the moments of its pixels."""
    pixels = picture.astype(float)
    away = np.linalg.norm(pixels - np.median(pixels.reshape(-1, 3), axis=0), axis=2)
    cover = np.where(away > away.max() / 50, away / away.max(), 0)
    y, x = np.mgrid[: len(cover), : len(cover)]
    area = cover.sum()
    below, right = y - (cover * y).sum() / area, x - (cover * x).sum() / area
    spread = 2 * np.pi * (cover * (below**2 + right**2)).sum() / area**2
    lean = 100 * (cover * below**3).sum() / area**2.5
    shape = min(SPREADS, key=lambda name: (10 * (SPREADS[name][0] - spread)) ** 2 + (SPREADS[name][1] - lean) ** 2)
    limits = {"circle": 100, "square": 100, "triangle": 60, "heart": 90, "cross": 70, "star": 40}
    return shape, "large" if area > limits[shape] else "small"


drawn = partial(write, documents=1, val_documents=1, utterances=0, val_utterances=0, narrations=0, val_narrations=0)


def write_images(out, **other):
    drawn(out, **{"pictures": SIZES["train"], "val_pictures": SIZES["val"], **other})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    write_images(out)
    return out


class TestPictures:
    @pytest.mark.parametrize("split", SIZES)
    def test_labels_agree_with_the_pixels(self, split):
        for index in range(300):
            picture = np.asarray(images.image(3, split, index))
            assert picture.shape == (64, 64, 3)
            labels = images.image_row(3, split, index)["labels"]
            found = read_colours(picture)
            assert labels["count"] == NUMBERS[len(found)]
            assert set(labels["colour"]) == set(found.values())
            assert {kind.split()[0] for kind in labels["kind"]} == set(labels["colour"])
            assert {kind.split()[1] for kind in labels["kind"]} == set(labels["shape"])
            items = scene_at(3, split, index).items
            assert set(labels["size"]) == {f"{item.size} {item.shape}" for item in items}

    def test_objects_are_in_the_cells_of_the_scene(self):
        for index in range(200):
            scene = scene_at(4, "train", index)
            picture = draw(scene, Random(index))
            assert read_colours(picture) == {item.cell: item.colour for item in scene.items}

    @pytest.mark.parametrize("colour", COLOURS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_shapes_and_sizes_match_their_names(self, colour, shape):
        for number in range(16):
            for size in ("small", "large"):
                scene = Scene((Item(size, colour, shape, number // 4, number % 4),))
                assert read_shape(draw(scene, Random(number))) == (shape, size)
                assert read_shape(draw(scene)) == (shape, size)

    def test_colours_are_distinct(self):
        seen = {colour: [] for colour in COLOURS}
        for index in range(500):
            picture = np.asarray(images.image(5, "train", index))
            for (row, column), colour in read_colours(picture).items():
                seen[colour].append(hue(picture[16 * row + 8, 16 * column + 8]))
        angles = sorted(
            (min((h + 30) % 360 for h in hues), max((h + 30) % 360 for h in hues)) for hues in seen.values()
        )
        assert all(after[0] - before[1] > 8 for before, after in pairwise(angles))

    def test_borders_are_smooth_and_shapes_are_complete(self):
        for shape in SHAPES:
            for cell in ((0, 0), (3, 3), (1, 2)):
                picture = draw(Scene((Item("large", "blue", shape, *cell),)), Random(0)).astype(int)
                away = np.abs(picture - np.median(picture.reshape(-1, 3), axis=0)).max(2)
                assert len(np.unique(away)) >= 4  # shades between the two colours
                assert away[[0, -1]].max() < 0.4 * away.max()
                assert away[:, [0, -1]].max() < 0.4 * away.max()

    def test_a_larger_picture_shows_the_same(self):
        for index in range(20):
            scene = scene_at(6, "train", index)
            assert read_colours(draw(scene, size=224)) == {item.cell: item.colour for item in scene.items}

    def test_captions_are_true_and_name_every_object(self):
        kinds = Counter()
        for index in range(300):
            row, scene = images.image_row(7, "val", index), scene_at(7, "val", index)
            for text in row["captions"]:
                Reader(scene).read(text)
            assert len(re.findall(r"\.", row["captions"][1])) == len(scene.items)
            assert len(row["captions"]) == (3 if len(scene.items) > 1 else 2)
            kinds.update(word for text in row["captions"][2:] for word in ("left", "above") if f" {word} " in text)
        assert min(kinds["left"], kinds["above"]) > 50


class TestSplits:
    def test_scenes_and_pictures_are_disjoint_for_all_seeds(self):
        scenes, pixels = {}, {}
        for split in SIZES:
            numbers = [(seed, split, index) for seed in (0, 1) for index in range(200)]
            scenes[split] = {scene_at(*number) for number in numbers}
            pixels[split] = {images.image(*number).tobytes() for number in numbers}
            assert len(pixels[split]) == 400
        assert not scenes["train"] & scenes["val"]
        assert not pixels["train"] & pixels["val"]

    def test_held_out_pairs_are_never_drawn_and_all_others_occur(self):
        found = {kind for index in range(800) for kind in images.image_row(0, "train", index)["labels"]["kind"]}
        assert len(found) == 30
        assert not found & {" ".join(pair) for pair in HELD_OUT}

    def test_counts_are_spread_evenly(self):
        counts = Counter(images.image_row(0, "val", index)["labels"]["count"] for index in range(900))
        assert counts.keys() == set(NUMBERS[1:])
        assert min(counts.values()) > 60


class TestFiles:
    def test_manifests_match_the_pictures(self, world):
        for split, size in SIZES.items():
            found = rows(world / "images", split)
            assert found == [images.image_row(0, split, index) for index in range(size)]
            for index, row in enumerate(found):
                assert row["image"] == f"{split}/{row['id']}.png"
                with Image.open(world / "images" / row["image"]) as file:
                    assert (file.format, file.mode, file.size) == ("PNG", "RGB", (64, 64))
                    assert file.tobytes() == images.image(0, split, index).tobytes()
        record = json.loads((world / "world.json").read_text())
        assert (record["pictures"], record["val_pictures"]) == (30, 12)

    def test_training_reads_the_files(self, world):
        data = ImageData(
            str(world / "images/train.jsonl"), str(world / "images/val.jsonl"), image_size=64, batch_size=4
        )
        data.setup("fit")
        assert [(attribute.name, attribute.several) for attribute in data.attributes] == [
            *(("shape", True), ("colour", True), ("kind", True), ("size", True), ("count", False))
        ]
        batch = next(iter(data.val_dataloader()))
        for image, index in zip(batch.images, batch.rows.tolist(), strict=True):
            shown = (image * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(shown, np.asarray(images.image(0, "val", index)))

    def test_runs_and_processes_give_the_same_bytes_and_other_seeds_others(self, world, tmp_path):
        write_images(tmp_path / "again")
        assert tree(tmp_path / "again") == tree(world)
        images.write_images(MediaFolder(tmp_path / "two", tuple(SIZES)), seed=0, sizes=SIZES, processes=2)
        assert tree(tmp_path / "two") == tree(world / "images")
        write_images(tmp_path / "other", seed=1)
        pictures = [
            {data for name, data in tree(out).items() if name.endswith(".png")} for out in (world, tmp_path / "other")
        ]
        assert not pictures[0] & pictures[1]

    def test_pictures_do_not_depend_on_counts(self, world, tmp_path):
        write_images(tmp_path, pictures=5, val_pictures=0)
        small, all_of_it = tree(tmp_path / "images"), tree(world / "images")
        assert small["train.jsonl"].splitlines() == all_of_it["train.jsonl"].splitlines()[:5]
        pictures = {name for name in small if name.endswith(".png")}
        assert len(pictures) == 5
        assert all(small[name] == all_of_it[name] for name in pictures)

    def test_the_command_reports_them(self, tmp_path, capsys):
        sizes = ["--documents=1", "--val_documents=1"]
        sizes += ["--utterances=0", "--val_utterances=0", "--narrations=0", "--val_narrations=0"]
        main(["data", "world", "--out", str(tmp_path), *sizes, "--pictures=3", "--val_pictures=2"])
        assert "; 3 and 2 pictures" in capsys.readouterr().out


class TestResumption:
    def test_a_complete_world_is_kept_and_broken_files_are_made_again(self, tmp_path, capsys):
        write_images(tmp_path)
        before = tree(tmp_path)
        times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
        capsys.readouterr()
        write_images(tmp_path)
        assert "up to date" in capsys.readouterr().out
        pictures = sorted(times)
        pictures[0].unlink()
        pictures[1].write_bytes(pictures[1].read_bytes()[:-9])
        pictures[2].write_bytes(pictures[3].read_bytes())
        write_images(tmp_path)
        assert "wrote" in capsys.readouterr().out
        assert tree(tmp_path) == before
        assert {path for path in times if path.stat().st_mtime_ns != times[path]} == set(pictures[:3])
        for name in ("images/train.jsonl", "images/val.sha256", "world.json"):
            (tmp_path / name).unlink()
            write_images(tmp_path)
            assert tree(tmp_path) == before

    def test_an_interrupted_run_is_not_taken_for_complete(self, world, tmp_path, monkeypatch):
        calls, picture = count(), images.image

        def dying(*arguments):
            if next(calls) == 7:
                raise KeyboardInterrupt
            return picture(*arguments)

        monkeypatch.setattr(images, "image", dying)
        with pytest.raises(KeyboardInterrupt):
            write_images(tmp_path)
        assert len(list(tmp_path.rglob("*.png"))) == 7
        assert not [*tmp_path.glob("images/*.jsonl"), *tmp_path.glob("world.json")]
        (tmp_path / "images/train/.world-train-000007.png.77.part").write_bytes(b"PNG")
        write_images(tmp_path)
        assert tree(tmp_path) == tree(world)

    def test_other_arguments_leave_nothing_of_the_old_world(self, world, tmp_path):
        write_images(tmp_path, pictures=40, val_pictures=15)
        write_images(tmp_path)
        assert tree(tmp_path) == tree(world)
        write_images(tmp_path, pictures=0, val_pictures=0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "world.json"]


class TestMistakes:
    @pytest.mark.parametrize("name", ["pictures", "val_pictures"])
    def test_counts_below_zero_are_refused(self, tmp_path, name):
        with pytest.raises(UserError, match=f"--{name} is -1: give 0 or more"):
            write_images(tmp_path, **{name: -1})

    @pytest.mark.parametrize("name", ["train.jsonl", "val.jsonl", "train/mine.png", "val/notes.txt"])
    @pytest.mark.parametrize("pictures", [0, 2])
    def test_files_of_others_are_kept(self, tmp_path, name, pictures):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine\n")
        with pytest.raises(UserError, match=f"{path.name} was not written by"):
            write_images(tmp_path, pictures=pictures)
        assert tree(tmp_path) == {f"images/{name}": b"mine\n"}
