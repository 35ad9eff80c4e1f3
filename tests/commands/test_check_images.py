"""`omni data check` on images: every kind of fault is found in the right place, and good data has none."""

import json
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from check_findings import findings
from PIL import Image

from omni.cli import main


def pixels(seed=0, width=24, height=20):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def save(name, content=None, **options):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels() if content is None else content).save(name, **options)
    return name


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)
    return name


def half(name, of):
    content = Path(of).read_bytes()
    return write(name, content[: len(content) // 2])


def copy(name, of):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(of, name)
    return name


def bomb(name, side=60_000):
    """A PNG whose header has more pixels than fit into memory."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return write(name, b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b""))


def animation(name):
    first, *rest = (Image.fromarray(pixels(seed)) for seed in (70, 71, 72))
    first.save(name, save_all=True, append_images=rest)
    return name


def row(image, caption="a picture", **columns):
    return {"image": image, "caption": caption, **columns}


def manifest(name, rows):
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in rows]
    Path(name).write_bytes(b"\n".join(lines) + b"\n")
    return name


@pytest.fixture
def found(capsys):
    """Runs the check, see `findings`."""
    return partial(findings, capsys)


@pytest.fixture
def good(workplace):
    """Rows without a fault."""
    return [row(save(f"good{n}.png", pixels(n)), f"picture {n}", label="ab"[n % 2]) for n in range(6)]


@pytest.fixture
def folders(workplace):
    """Class folders without a fault: `train` and `val`."""
    for number, split in enumerate(("train", "val")):
        for n in range(4):
            save(f"{split}/{'ab'[n % 2]}/{n}.jpg", pixels(10 * number + n))
    return workplace


def figures():
    return json.loads(Path("report.json").read_text(encoding="utf-8"))["figures"]


def test_good_images_have_no_fault(good, found):
    assert found(manifest("m.jsonl", good)) == {}
    assert figures()["data"] == {
        "images": 6,
        "width in pixels": {"min": 24, "median": 24, "max": 24},
        "height in pixels": {"min": 20, "median": 20, "max": 20},
        "formats": {"PNG": 6},
        "label, images of each of 2": {"a": 3, "b": 3},
        "captions": 6,
        "different captions": 6,
        "captions of an image": {"min": 1, "median": 1, "max": 1},
        "characters of a caption, at most": 9,
    }


FAULTS = {
    "no file": (lambda: row("none.png"), {"missing image": "none.png does not exist"}),
    "0 bytes": (lambda: row(write("a.jpg", b"")), {"empty image file": "an empty file"}),
    "text named .jpg": (lambda: row(write("a.jpg", b"no image" * 9)), {"unreadable image": "no image, whatever its"}),
    "SVG": (lambda: row(write("a.svg", b"<svg></svg>")), {"unreadable image": "SVG is a drawing"}),
    "half a JPEG": (lambda: row(half("a.jpg", save("b.jpg"))), {"damaged image": "a damaged image"}),
    "half a PNG": (lambda: row(half("a.png", "good1.png")), {"damaged image": "a damaged image"}),
    "half a GIF": (lambda: row(half("a.gif", save("b.gif"))), {"damaged image": "a damaged image"}),
    "1 x 1": (lambda: row(save("a.png", pixels(50, 1, 1))), {"tiny image": "1 × 1 pixels"}),
    "30,000 x 1": (
        lambda: row(save("a.png", pixels(50, 30_000, 1))),
        {"tiny image": "30000 × 1 pixels", "extreme aspect": "30000 × 1 pixels"},
    ),
    "a strip": (lambda: row(save("a.png", pixels(50, 10, 90))), {"extreme aspect": "10 × 90 pixels"}),
    "a bomb": (lambda: row(bomb("a.png")), {"too large image": "perhaps a decompression bomb"}),
    "a small bomb": (lambda: row(bomb("a.png", 11_500)), {"too large image": "11500 × 11500 pixels"}),
    "one colour": (lambda: row(save("a.png", np.full((9, 9, 3), 7, np.uint8))), {"one colour": "all pixels"}),
    "an animation": (lambda: row(animation("a.gif")), {"several frames": "3 frames, GIF"}),
    "the same pixels in another file": (
        lambda: row(save("a.bmp", pixels(3)), label="b"),
        {"duplicate image": "is the same as m.jsonl: row 4, good3.png"},
    ),
    "the same with another label": (
        lambda: row(copy("a.png", "good3.png"), label="a"),
        {"contradicting labels": "'a', and 'b' in m.jsonl: row 4, good3.png"},
    ),
    "neither caption nor label": (
        lambda: {"image": save("a.png", pixels(50))},
        {"no caption or label": "it has neither"},
    ),
    "an empty caption": (lambda: row(save("a.png", pixels(50)), " "), {"bad image row": "'caption' is not text"}),
    "a caption without image": (lambda: {"caption": "a"}, {"bad image row": "no image: give its file name"}),
    "a list of labels": (
        lambda: row(save("a.png", pixels(50)), label=["a"]),
        {"bad image row": "label is a list here, unlike in m.jsonl: row 1, good0.png"},
    ),
    "no JSON": (lambda: b"{", {"bad image row": "not JSON"}),
    "no UTF-8": (lambda: b'{"image": "good0.png", "caption": "\xe9"}', {"bad image row": "byte 35 is not UTF-8"}),
    "no object": (lambda: b"[]", {"bad image row": "a list, not an object"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_in_its_place(good, found, fault):
    make, expected = FAULTS[fault]
    kinds = found(manifest("m.jsonl", [*good, make()]))
    assert kinds.keys() == expected.keys()
    for kind, what in expected.items():
        ((where, told),) = kinds[kind]
        assert where.startswith("m.jsonl: row 7")
        assert what in told


def test_files_of_cameras_and_scanners_have_no_fault(good, found):
    cmyk, grey = Image.fromarray(pixels(30)).convert("CMYK"), Image.fromarray(pixels(31)).convert("L")
    palette, deep = (
        Image.fromarray(pixels(32)).convert("P"),
        Image.fromarray(pixels(33)[..., 0].astype(np.uint16) * 256),
    )
    rows = []
    for name, image in {"c.jpg": cmyk, "g.jpg": grey, "p.png": palette, "d.png": deep}.items():
        image.save(name)
        rows.append(row(name))
    assert found(manifest("m.jsonl", rows)) == {}
    assert figures()["data"]["formats"] == {"JPEG": 2, "PNG": 2}


def test_rows_after_an_invalid_one_are_checked(good, found):
    assert found(manifest("m.jsonl", [b"{", good[0], b"[]", row("none.png")])).keys() == {
        *("bad image row", "missing image")
    }
    assert json.loads(Path("report.json").read_text())["rows"] == 4


def test_splits_are_compared_by_content(good, found):
    rows = [row(save("copy.bmp", pixels(2)), label="a"), row(save("new.png", pixels(80)), label="b")]
    kinds = found(manifest("m.jsonl", good), val=manifest("v.jsonl", rows), test=manifest("t.jsonl", [rows[1]]))
    assert kinds == {
        "leaked image": [
            ("v.jsonl: row 1, copy.bmp", "is in data too: m.jsonl: row 3, good2.png"),
            ("t.jsonl: row 1, new.png", "is in val too: v.jsonl: row 2, new.png"),
        ]
    }


def test_labels_that_are_not_in_training(good, found):
    rows = [row(save(f"v{n}.png", pixels(60 + n)), **label) for n, label in enumerate(({"label": "c"}, {"size": "x"}))]
    rows[1]["labels"] = {"size": "large"}
    kinds = found(manifest("m.jsonl", good), val=manifest("v.jsonl", rows))
    assert kinds == {
        "other classes": [
            ("val", "label has values that data lacks: c"),
            ("val", "size has values that data lacks: large"),
        ]
    }


def test_two_blank_images_are_not_copies(good, found):
    rows = [row(save(f"blank{n}.png", np.zeros((9, 9, 3), np.uint8))) for n in range(2)]
    assert found(manifest("m.jsonl", [*good, *rows])).keys() == {"one colour"}


class TestFolders:
    def test_good_folders_have_no_fault(self, folders, found):
        assert found("train", val="val") == {}
        assert figures()["val"]["label, images of each of 2"] == {"a": 2, "b": 2}

    def test_an_empty_class(self, folders, found):
        Path("train/c").mkdir()
        save("val/c/0.jpg", pixels(99))
        write("train/c/notes.txt", b"to do")
        assert found("train", val="val") == {
            "empty class": [("train/c", "a class without images: add some or remove the folder")]
        }

    def test_classes_that_differ(self, folders, found):
        save("train/c/0.jpg", pixels(98))
        save("val/d/0.jpg", pixels(99))
        assert found("train", val="val") == {
            "other classes": [
                ("val", "label has values that data lacks: d"),
                ("val", "label lacks values that data has: c"),
            ]
        }

    def test_files_that_cannot_be_read_and_copies(self, folders, found):
        half("train/a/x.jpg", "train/a/0.jpg")
        copy("train/b/y.jpg", "train/a/0.jpg")
        copy("val/b/z.jpg", "train/a/2.jpg")
        kinds = found("train", val="val")
        assert {kind: [where for where, _ in places] for kind, places in kinds.items()} == {
            "damaged image": ["train/a/x.jpg"],
            "contradicting labels": ["train/b/y.jpg"],
            "leaked image": ["val/b/z.jpg"],
        }

    def test_a_folder_where_nothing_can_be_read(self, workplace, found):
        write("train/a/x.jpg", b"")
        assert found("train").keys() == {"empty image file", "no images"}


class TestCaptions:
    def test_flickr(self, good, found):
        lines = [f"good{n // 2}.png,picture {n}" for n in range(6)]
        Path("captions.txt").write_text("\n".join(["image,caption", *lines]))
        assert found("captions.txt") == {}
        assert figures()["data"]["captions of an image"]["max"] == 2
        Path("captions.txt").write_text(
            "\n".join(["image,caption", *lines, "good0.png,", ",a text", "gone.png,a text"])
        )
        kinds = found("captions.txt")
        assert kinds["bad image row"] == [
            ("captions.txt: row 8", "no caption of good0.png: write one, or remove the row"),
            ("captions.txt: row 9", "no image: give its file name under 'image'"),
        ]
        assert kinds["missing image"] == [("captions.txt: row 10", "gone.png does not exist")]

    def test_a_list_of_images_splits_by_image(self, good, found):
        lines = [f"good{n // 2}.png,picture {n}" for n in range(6)]
        Path("captions.txt").write_text("\n".join(["image,caption", *lines]))
        Path("train.txt").write_text("good0.png\ngood1.png\n")
        Path("val.txt").write_text("good1.png\ngood2.png\n")
        assert found("captions.txt@train.txt", val="captions.txt@val.txt").keys() == {"leaked image"}

    def test_coco(self, good, found):
        content = {
            "images": [{"id": n, "file_name": f"good{n}.png"} for n in range(3)] + [{"id": 9, "file_name": "gone.png"}],
            "annotations": [{"image_id": n, "caption": f"picture {n}"} for n in (0, 1, 1, 9)],
        }
        Path("captions.json").write_text(json.dumps(content))
        assert found("captions.json") == {
            "missing image": [("captions.json", "gone.png: captions/gone.png does not exist")],
            "no caption or label": [("captions.json: good2.png, good2.png", "it has neither")],
        }
        content["annotations"] += [{"image_id": 77, "caption": "a"}, {"image_id": 2}, ["no object"]]
        Path("captions.json").write_text(json.dumps(content))
        kinds = found("captions.json")
        assert kinds["bad image row"] == [
            ("captions.json: annotation 5", "a caption of image 77, which is not listed"),
            ("captions.json: annotation 6", "'caption' is not text: give a text, or a list of texts as 'captions'"),
            ("captions.json: annotation 7", "a caption of image None, which is not listed"),
        ]


def test_torchvision_and_images_in_another_folder(good, found):
    Path("pictures").mkdir()
    for one in good:
        shutil.move(one["image"], "pictures")
    rows = manifest("m.jsonl", good)
    assert len(found(rows)["missing image"]) == 6
    assert found(rows, image_folder="pictures") == {}
    folder = Path("sets/MNIST/raw")
    folder.mkdir(parents=True)
    images, labels = np.random.default_rng(0).integers(0, 255, (4, 28, 28), np.uint8), np.arange(4, dtype=np.uint8)
    images[3] = images[1]
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 4, 28, 28) + images.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 4) + labels.tobytes())
    kinds = found("torchvision:MNIST", root="sets")
    assert kinds.keys() == {"contradicting labels"}
    assert figures()["data"]["images"] == 4


def test_images_beside_text(good, found):
    assert found(manifest("m.jsonl", good), "corpus.txt") == {}
    assert figures().keys() == {"data", "data (images)"}


def test_the_command_and_its_exit_codes(good, capfd, fails):
    manifest("m.jsonl", good)
    main(["data", "check", "m.jsonl"])
    assert "6 rows checked: 0 errors, 0 warnings, 0 notes" in capfd.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", "m.jsonl", "--val", manifest("v.jsonl", good[:1])])
    assert stop.value.code == 1
    assert "error: leaked image: 1" in capfd.readouterr().out
    save("loose/a.png")
    assert "loose: holds 1 images but no folders of classes" in fails(main, ["data", "check", "loose"])
    assert "none: does not exist" in fails(main, ["data", "check", "none", "--kind", "images"])
    Path("bad.json").write_text("{}")
    assert "bad.json: not in the format of COCO's captions" in fails(main, ["data", "check", "bad.json"])
