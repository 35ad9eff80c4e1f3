"""Image files of every kind are read as a viewer shows them, or give a one-line error; preprocessing."""

import io
import pickle
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from omni.data.images.data import ImageData
from omni.errors import UserError
from omni.media.image_file import MAX_PIXELS, ImageError, image_info
from omni.media.images import Preprocessing, read_image, shifted_views, to_pixels

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (20, 24, 3), np.uint8)
# Large areas, so that JPEG keeps them: red, green over blue, white.
QUARTERS = np.zeros((32, 48, 3), np.uint8)
QUARTERS[:16, :24], QUARTERS[:16, 24:] = (220, 30, 30), (30, 200, 30)
QUARTERS[16:, :24], QUARTERS[16:, 24:] = (30, 30, 220), (250, 250, 250)


def packed(image, kind="PNG", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(content):
    """The pixels that are read, (height, width, 3)."""
    pixels = read_image(content)
    assert pixels.dtype == torch.uint8
    assert pixels.permute(1, 2, 0).is_contiguous()  # colours side by side, which are resized fastest
    return pixels.permute(1, 2, 0).numpy()


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


class TestKinds:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "TGA"])
    def test_lossless_formats_are_read_exactly(self, kind):
        image = Image.fromarray(NOISE).quantize(64).convert("RGB")  # few enough colours for a GIF
        options = {"lossless": True} if kind == "WEBP" else {}
        np.testing.assert_array_equal(shown(packed(image, kind, **options)), np.asarray(image))

    def test_a_file_and_its_bytes_are_the_same(self, tmp_path):
        content = packed(NOISE)
        (tmp_path / "a.png").write_bytes(content)
        for source in (tmp_path / "a.png", str(tmp_path / "a.png")):
            assert torch.equal(read_image(source), read_image(content))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, kind, orientation):
        upright = QUARTERS
        stored = {  # as stored by a camera with this orientation
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: upright.transpose(1, 0, 2)[::-1],
            7: upright.transpose(1, 0, 2)[::-1, ::-1],
            8: upright.transpose(1, 0, 2)[:, ::-1],
        }[orientation]
        options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
        read = shown(packed(np.ascontiguousarray(stored), kind, **options)).astype(int)
        assert read.shape == upright.shape
        assert np.abs(read - upright)[4:12, 4:20].max() < 12
        assert np.abs(read - upright)[20:28, 28:44].max() < 12
        assert np.abs(read - upright)[20:28, 4:20].max() < 12

    @pytest.mark.parametrize(
        "tags",
        [
            b"Exif\0\0nothing of the kind",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
            exif(99).tobytes(),
            exif(6).tobytes()[:-3],
        ],
    )
    def test_broken_exif_is_ignored_without_a_warning(self, tags):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert sorted(shown(packed(QUARTERS, "JPEG", exif=tags)).shape) == [3, 32, 48]

    def test_grey(self):
        grey = NOISE[..., 0]
        np.testing.assert_array_equal(shown(packed(grey)), np.repeat(grey[..., None], 3, 2))
        two = (grey > 127).astype(np.uint8) * 255
        np.testing.assert_array_equal(shown(packed(Image.fromarray(two).convert("1"))), np.repeat(two[..., None], 3, 2))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_sixteen_bits(self, kind):
        deep = NOISE[..., 0].astype(np.uint16) * 256 + NOISE[..., 1]
        np.testing.assert_array_equal(shown(packed(deep, kind)), np.repeat(NOISE[..., :1], 3, 2))
        wide = Image.fromarray(deep.astype(np.int32))
        np.testing.assert_array_equal(shown(packed(wide, "TIFF")), np.repeat(NOISE[..., :1], 3, 2))
        dark = Image.fromarray(NOISE[..., 0].astype(np.int32))  # 8 bits in 32
        np.testing.assert_array_equal(shown(packed(dark, "TIFF")), np.repeat(NOISE[..., :1], 3, 2))

    def test_palette(self):
        image = Image.fromarray(QUARTERS).quantize(8)
        assert image.mode == "P"
        np.testing.assert_array_equal(shown(packed(image)), np.asarray(image.convert("RGB")))

    def test_transparency_is_blended_with_white(self):
        alpha = np.zeros((20, 24), np.uint8)
        alpha[:10], alpha[10:15] = 255, 128
        read = shown(packed(np.dstack((NOISE, alpha)))).astype(int)
        np.testing.assert_array_equal(read[:10], NOISE[:10])
        half = NOISE[10:15].astype(int) * 128 / 255 + 127
        assert np.abs(read[10:15] - half).max() <= 1
        assert (read[15:] == 255).all()
        grey = shown(packed(Image.merge("LA", (Image.fromarray(NOISE[..., 0]), Image.fromarray(alpha)))))
        assert (grey[15:] == 255).all()
        np.testing.assert_array_equal(grey[:10, :, 0], NOISE[:10, :, 0])

    def test_transparency_of_a_palette_and_of_one_colour(self):
        image = Image.fromarray(QUARTERS).quantize(4)
        red = image.getpixel((0, 0))
        assert (shown(packed(image, transparency=red))[:16, :24] == 255).all()
        levels = bytes(0 if index == red else 255 for index in range(4))
        read = shown(packed(image, transparency=levels))
        assert (read[:16, :24] == 255).all()
        assert np.abs(read[16:, :24].astype(int) - (30, 30, 220)).max() < 4
        assert (shown(packed(QUARTERS, transparency=(220, 30, 30)))[:16, :24] == 255).all()

    def test_cmyk(self):
        read = shown(packed(Image.fromarray(QUARTERS).convert("CMYK"), "JPEG", quality=95)).astype(int)
        assert np.abs(read - QUARTERS)[4:12, 4:20].max() < 25
        assert np.abs(read - QUARTERS)[20:28, 28:44].max() < 25

    def test_the_first_frame_of_an_animation(self):
        frames = [Image.fromarray(np.roll(QUARTERS, shift, 1)) for shift in (0, 8, 16)]
        content = packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert image_info(content).frames == 3
        assert np.abs(shown(content).astype(int) - QUARTERS).max() < 8

    def test_the_header(self):
        assert image_info(packed(NOISE)) == (24, 20, "PNG", "RGB", 1)
        assert image_info(packed(NOISE[..., 0], "JPEG")) == (24, 20, "JPEG", "L", 1)

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 1), (1, 30_000)])
    def test_extreme_shapes(self, width, height):
        content = packed(np.full((height, width, 3), 77, np.uint8))
        assert shown(content).shape == (height, width, 3)
        for fit in ("crop", "pad", "stretch"):
            assert Preprocessing(32, fit)(read_image(content)).shape == (3, 32, 32)


def claims(width, height):
    """A PNG whose header claims a given size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><circle r="4"/></svg>'
BAD = {
    "0 bytes": (b"", "empty", "an empty file, no image"),
    "text": (
        b"Dear reader, this is no image.",
        "unreadable",
        r"no image, whatever its name \(it begins with b'Dear rea'\)",
    ),
    "SVG": (SVG, "unreadable", "SVG is a drawing, not pixels: save it as PNG"),
    "EPS": (packed(QUARTERS, "EPS"), "unreadable", "EPS is a drawing, not pixels: save it as PNG"),
    "floating point": (packed(NOISE[..., 0].astype(np.float32), "TIFF"), "unreadable", "floating-point pixels"),
    "half a JPEG": (packed(NOISE, "JPEG")[:-100], "damaged", "a damaged image .*truncated"),
    "a JPEG without its last bytes": (packed(NOISE, "JPEG")[:-2], "damaged", "a damaged image .*truncated"),
    "half a PNG": (packed(NOISE)[:700], "damaged", "a damaged image"),
    "a PNG with a wrong byte": (packed(NOISE)[:300] + b"\0" + packed(NOISE)[301:], "damaged", "a damaged image"),
    "half a GIF": (packed(NOISE, "GIF")[:-99], "damaged", "a damaged image"),
    "half a WebP": (packed(NOISE, "WEBP")[:300], "damaged", "a damaged image"),
    "half a BMP": (packed(NOISE, "BMP")[:-99], "damaged", "a damaged image"),
    "half a TIFF": (packed(NOISE, "TIFF")[:300], "damaged", "a damaged image"),
    "a JPEG's first bytes": (packed(NOISE, "JPEG")[:20], "damaged", "a damaged image"),
    "a bomb": (
        claims(60_000, 60_000),
        "too large",
        r"too large, perhaps a decompression bomb \(3,600,000,000 pixels\): 120,000,000 ",
    ),
    "a smaller bomb": (
        claims(11_000, 11_000),
        "too large",
        f"too large.*11000 × 11000 pixels.*{MAX_PIXELS:,} pixels are read at most",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_each_fault_is_reported_in_one_line(what, tmp_path):
    content, fault, message = BAD[what]
    (tmp_path / "a.jpg").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source, options in ((tmp_path / "a.jpg", {}), (content, {"name": "row 3, a.jpg"})):
            with pytest.raises(ImageError, match=rf"a\.jpg: {message}") as failure:
                read_image(source, **options)
            assert failure.value.fault == fault
            assert "\n" not in str(failure.value)
            again = pickle.loads(pickle.dumps(failure.value))  # like when a worker fails
            assert (again.fault, str(again)) == (fault, str(failure.value))


def test_missing_files(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: there is no such file") as failure:
        read_image(tmp_path / "none.png")
    assert failure.value.fault == "missing"
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_any_damage_ends_in_one_line():
    whole = [
        packed(NOISE),
        packed(NOISE[..., 0].astype(np.uint16)),
        packed(QUARTERS, "JPEG", exif=exif(6)),
        packed(NOISE, "GIF"),
        packed(NOISE, "TIFF", compression="tiff_lzw"),
        packed(NOISE, "WEBP"),
        packed(NOISE, "TGA"),
    ]
    ends = {"read": 0, "refused": 0}
    for number in range(700):
        rng = np.random.default_rng(number)
        content = bytearray(whole[number % len(whole)])
        for _ in range(rng.integers(1, 5)):
            content[rng.integers(min(400, len(content)))] = rng.integers(256)
        content = bytes(content[: rng.integers(1, len(content))] if number % 5 == 0 else content)
        try:
            read_image(content)
            ends["read"] += 1
        except UserError as error:
            ends["refused"] += "\n" not in str(error)
    assert sum(ends.values()) == 700
    assert min(ends.values()) > 50


def test_many_threads_read_without_a_warning():
    content = [packed(QUARTERS, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), claims(11_000, 11_000)] * 40

    def read(one):
        try:
            return read_image(one).shape
        except UserError:
            return None

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, content)) == {torch.Size((3, 32, 48)), None}
    assert list(warnings.filters) == before


class TestPreprocessing:
    @pytest.mark.parametrize("size", [8, 32, 50])
    def test_crop_takes_the_middle_square_and_keeps_its_proportions(self, size):
        wide = torch.zeros(3, 60, 100, dtype=torch.uint8)
        wide[:, 20:40, 40:60] = 255  # a square in the middle of a square
        cropped = Preprocessing(size, "crop")(wide)
        assert cropped.shape == (3, size, size)
        lit = (cropped[0].float() / 255).sum((0, 1)) / size**2
        assert lit == pytest.approx(1 / 9, abs=0.03)
        assert torch.equal(Preprocessing(size, "crop")(wide.transpose(1, 2)), cropped.transpose(1, 2))

    def test_pad_keeps_everything_and_adds_black(self):
        padded = Preprocessing(40, "pad")(torch.full((3, 60, 120), 200, dtype=torch.uint8))
        assert padded.shape == (3, 40, 40)
        assert (padded[:, 10:30] == 200).all()
        assert (padded[:, :10] == 0).all()
        assert (padded[:, 30:] == 0).all()

    def test_stretch_fills(self):
        assert (Preprocessing(40, "stretch")(torch.full((3, 60, 120), 200, dtype=torch.uint8)) == 200).all()

    @pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
    def test_images_of_the_right_size_are_unchanged(self, fit):
        image = torch.from_numpy(NOISE[:, :20]).permute(2, 0, 1)
        assert torch.equal(Preprocessing(20, fit)(image), image)

    def test_shrinking_averages(self):
        """A fine pattern becomes grey, without moiré."""
        board = torch.from_numpy(np.indices((128, 128)).sum(0) % 2 * 255).byte().expand(3, -1, -1)
        small = Preprocessing(16)(board)[:, 2:-2, 2:-2].float()
        assert (small - 127.5).abs().max() < 8

    @pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
    @pytest.mark.parametrize("memory_gb", [0, 4])
    def test_training_and_inference_preprocess_alike(self, tmp_path, fit, memory_gb):
        contents = {
            "a/0.jpg": packed(QUARTERS, "JPEG", exif=exif(6)),
            "a/1.png": packed(np.dstack((NOISE, NOISE[..., 0]))),
            "b/2.gif": packed(NOISE, "GIF"),
            "b/3.png": packed(NOISE[..., 1].astype(np.uint16) * 256),
        }
        for name, content in contents.items():
            for split in ("train", "val"):
                path = tmp_path / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        folders = [str(tmp_path / split) for split in ("train", "val")]
        data = ImageData(*folders, image_size=16, fit=fit, batch_size=4, memory_gb=memory_gb)
        data.setup("fit")
        (measured,), (trained,) = data.val_dataloader(), data.train_dataloader()
        served = [to_pixels(Preprocessing(16, fit)(read_image(tmp_path / "val" / name))[None]) for name in contents]
        assert torch.equal(measured.images, torch.cat(served))
        assert torch.equal(trained.images, torch.cat(served)[trained.rows])

    def test_pixels_are_between_0_and_1(self):
        pixels = to_pixels(torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8))
        assert pixels.shape == (1, 3, 1, 3)
        torch.testing.assert_close(pixels[0, :, 0], torch.tensor([[0.0, 1.0, 0.2]]).expand(3, -1))


class TestShiftedViews:
    def test_an_image_and_its_mirror_image_stay_and_move_in_four_directions(self):
        image = torch.arange(1.0, 10).view(1, 1, 3, 3)
        views = [view[0, 0].tolist() for view in shifted_views(image, 1)]
        assert views[0] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        assert views[1] == [[0, 1, 2], [0, 4, 5], [0, 7, 8]]
        assert views[2] == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
        assert views[3] == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
        assert views[4] == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
        assert views[5] == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
        assert len(views) == 10
        assert views[6] == [[0, 3, 2], [0, 6, 5], [0, 9, 8]]


class TestHeic:
    def test_a_photograph_of_a_phone_is_read_where_pillow_heif_is_there(self):
        pillow_heif = pytest.importorskip("pillow_heif")
        file = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(QUARTERS)).save(file, quality=95)
        content = file.getvalue()
        assert np.abs(shown(content).astype(int) - QUARTERS)[4:12, 4:20].max() < 20
        assert image_info(content).format == "HEIF"
        for cut in (20, 200, len(content) - 50):
            with pytest.raises(ImageError, match="a damaged image") as failure:
                read_image(content[:cut])
            assert "\n" not in str(failure.value)

    def test_without_it_the_line_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.setattr(Image, "OPEN", {kind: each for kind, each in Image.OPEN.items() if kind != "HEIF"})
        monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
        content = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)
        with pytest.raises(
            ImageError, match=r"a\.heic: HEIC, which needs pillow-heif: run `pip install -e '\.\[media\]'"
        ):
            read_image(content, name="a.heic")
