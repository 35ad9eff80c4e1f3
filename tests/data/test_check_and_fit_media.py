"""`data check` and the reader of `fit` agree on images and conversations of every shape that people have."""

import base64
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from omni.commands.data_check import _kind_of as kind_of
from omni.data.checks.conversations import CONVERSATION_KINDS, ConversationCheck
from omni.data.checks.findings import Report
from omni.data.checks.images import IMAGE_KINDS, ImageCheck
from omni.data.conversations.data import ConversationData
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.speech import is_speech
from omni.data.images.data import ImageData
from omni.data.images.opening import open_images
from omni.data.images.sources import Location
from omni.errors import UserError
from omni.text.media_positions import MediaLayout
from omni.text.tokenizer import AUDIO, IMAGE, ByteTokenizer

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


def packed(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    tags = Image.Exif()
    tags[274] = 6
    return packed(NOISE, "JPEG", exif=tags)


PICTURE = packed(NOISE)
FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - NOISE)]}
# name -> content of the file, and kinds of findings
PICTURES = {
    "PNG": (PICTURE, set()),
    "CMYK": (packed(Image.fromarray(NOISE).convert("CMYK"), "JPEG"), set()),
    "16 bits": (packed(NOISE[..., 0].astype(np.uint16) * 257), set()),
    "palette": (packed(Image.fromarray(NOISE).quantize(16)), set()),
    "animation": (packed(NOISE, "GIF", **FRAMES), {"several frames"}),
    "EXIF": (turned(), set()),
    "1 × 1": (packed(NOISE[:1, :1]), {"tiny image"}),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', {"unreadable image"}),
    "text": (b"no image", {"unreadable image"}),
    "cut off": (PICTURE[:-200], {"damaged image"}),
    "empty": (b"", {"empty image file"}),
}
TINY = {"tiny image"}  # reported, and read: whether it shows anything is not for a reader to decide


@pytest.mark.parametrize("name", PICTURES)
def test_images(name, workplace):
    content, kinds = PICTURES[name]
    Path("a.png").write_bytes(content)
    for number in range(5):
        Image.fromarray(NOISE + number + 1).save(f"{number}.png")
    for manifest, files in {"m": ("a.png", "0.png", "1.png", "2.png"), "v": ("3.png", "4.png")}.items():
        rows = [json.dumps({"image": file, "label": "x"}) for file in files]
        Path(f"{manifest}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    report = Report(IMAGE_KINDS)
    ImageCheck(report).split("data", [open_images("m.jsonl", "train", Location())])
    assert {finding.kind for finding in report.findings} - {"one colour"} == kinds
    refused = report.counts["error"] > 0 and kinds != TINY
    for memory_gb in (0, 4):
        options: Any = {"image_size": 16, "batch_size": 4, "memory_gb": memory_gb}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = ImageData("m.jsonl", "v.jsonl", bad_rows="skip", **options)
            data.setup("fit")
            batches = list(data.train_dataloader())
        assert sum(len(batch.images) for batch in batches) == 4 - refused
        assert any("a.png" in str(each.message) for each in said) == refused


USER = {"role": "user", "content": "why?"}
SAID = {"role": "assistant", "content": "yes"}
RED = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
HUM = {"data": "", "format": "wav"}  # filled by a fixture


def openai(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, SAID]}


def sharegpt(asked: str, **columns: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": "yes"}], **columns}


IMAGE_URL = {"type": "image_url", "image_url": {"url": RED}}
# name -> a row; the media of its question and its answers, or None: refused
SHAPES: dict[str, tuple[Any, Any]] = {
    "texts": ({"messages": [USER, SAID]}, ([], "yes")),
    "system": ({"messages": [{"role": "system", "content": "be brief"}, USER, SAID]}, ([], "yes")),
    "developer": ({"messages": [{"role": "developer", "content": "be brief"}, USER, SAID]}, ([], "yes")),
    "several answers": ({"messages": [USER, SAID, SAID, USER, SAID]}, ([], "yesyesyes")),
    "tool": ({"messages": [USER, {"role": "tool", "content": "3"}, SAID]}, None),
    "tool call": ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, None),
    "no answer": ({"messages": [USER]}, None),
    "empty question": ({"messages": [{"role": "user", "content": ""}, SAID]}, ([], "yes")),
    "empty list": ({"messages": [{"role": "user", "content": []}, SAID]}, ([], "yes")),
    "no content": ({"messages": [{"role": "user"}, SAID]}, None),
    "parts": (openai({"type": "text", "text": "a"}, {"type": "text", "text": "b"}), ([], "yes")),
    "image_url": (openai({"type": "text", "text": "what?"}, IMAGE_URL), ([IMAGE], "yes")),
    "image_url, a file": (openai({"type": "image_url", "image_url": {"url": "a.png"}}), ([IMAGE], "yes")),
    "image_url, a text": (openai({"type": "image_url", "image_url": RED}), ([IMAGE], "yes")),
    "image_url, the network": (openai({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}), None),
    "image_url, broken": (openai({"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}), None),
    "image_url, not Base64": (openai({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}), None),
    "image_url, nothing": (openai({"type": "image_url"}), None),
    "input_audio": (openai({"type": "input_audio", "input_audio": HUM}), ([AUDIO], "yes")),
    "input_audio, broken": (openai({"type": "input_audio", "input_audio": {"data": "?"}}), None),
    "input_audio, nothing": (openai({"type": "input_audio"}), None),
    "input_text": (openai({"type": "input_text", "text": "a"}), ([], "yes")),
    "an unknown part": (openai({"type": "file", "file": {}}), None),
    "parts without types": (openai({"image": "a.png"}, {"text": "what?"}), ([IMAGE], "yes")),
    "ShareGPT": (sharegpt("why?"), ([], "yes")),
    "ShareGPT with a system": (sharegpt("why?", system="be brief"), ([], "yes")),
    "ShareGPT with a tool": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}]},
        None,
    ),
    "LLaVA": (sharegpt("<image>\nwhat?", id="1", image="a.png"), ([IMAGE], "yes")),
    "LLaVA, two images": (sharegpt("<image> or <image>?", image=["a.png", "a.png"]), ([IMAGE, IMAGE], "yes")),
    "LLaVA, too few images": (sharegpt("<image> or <image>?", image=["a.png"]), None),
    "LLaVA, too many images": (sharegpt("<image>?", image=["a.png", "a.png"]), None),
    "LLaVA, a missing image": (sharegpt("<image>?", image="none.png"), None),
    "a tag without a column": (sharegpt("what is <image> in HTML?"), ([], "yes")),
    "ms-swift": ({"messages": [{"role": "user", "content": "<audio>?"}, SAID], "audios": ["h.wav"]}, ([AUDIO], "yes")),
    "ms-swift without tags": ({"messages": [USER, SAID], "images": ["a.png"]}, ([IMAGE], "yes")),
    "ms-swift, both": (
        {"messages": [{"role": "user", "content": "<audio><image>?"}, SAID], "audios": ["h.wav"], "images": ["a.png"]},
        ([AUDIO, IMAGE], "yes"),
    ),
    "ms-swift, a query": ({"query": "<image>why?", "response": "yes", "images": ["a.png"]}, ([IMAGE], "yes")),
    "ms-swift, a history": (
        {"query": "why?", "response": "yes", "history": [["who?", "no"]], "system": "be brief"},
        ([], "noyes"),
    ),
    "ms-swift, a bad history": ({"query": "why?", "response": "yes", "history": [["who?"]]}, None),
    "ms-swift, no response": ({"query": "why?", "response": None}, None),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("name", SHAPES)
def test_conversations(name, suffix, workplace):
    row, expected = SHAPES[name]
    Path("a.png").write_bytes(PICTURE)
    soundfile.write("h.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    HUM["data"] = base64.b64encode(Path("h.wav").read_bytes()).decode()
    rows = [row, {"messages": [{"role": "user", "content": "fine?"}, {"role": "assistant", "content": "fine"}]}]
    file = f"m{suffix}"
    lines = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(each) + "\n" for each in rows)
    Path(file).write_text(lines, encoding="utf-8")
    Path("v.jsonl").write_text(json.dumps(rows[1]) + "\n", encoding="utf-8")
    report = Report(CONVERSATION_KINDS)
    ConversationCheck(report, ByteTokenizer()).split("data", open_conversations([file]))
    assert (report.counts["error"] > 0) == (expected is None)
    assert kind_of(file) == "conversations"
    assert not is_speech(file)
    options: Any = {"tokenizer": "bytes", "num_mels": 16, "max_tokens": 99, "batch_tokens": 400}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = ConversationData(file, "v.jsonl", bad_rows="skip", **options)
        data.set_layout(MediaLayout(image_grid=(2, 2), mel_frames=8))
        (batch,) = data.train_dataloader()
    assert len(batch.rows) == 1 + (expected is not None)
    refusals = [str(each.message) for each in said if "left out" in str(each.message)]
    assert len(refusals) == (expected is None)
    assert all(f"{file}: row 1" in line for line in refusals)
    if expected is not None:
        media, answers = expected
        read = data.dataset("train").rows[0]
        assert [token for token in read.chat.tokens if token in (IMAGE, AUDIO)] == media
        scored = [token for token, counts in zip(*read.chat, strict=True) if counts]
        assert data.tokenizer.decode(scored) == answers
        assert "<image>" not in data.tokenizer.decode(read.chat.tokens) or name == "a tag without a column"


def test_a_json_file_that_is_no_list_of_rows(workplace):
    for content, problem in {
        "[{": "not JSON",
        "[7]": "row 1: a int, not an object",
        '{"a": 1}': "a dict, not a list",
    }.items():
        Path("m.json").write_text(content, encoding="utf-8")
        (source,) = open_conversations(["m.json"])
        (error,) = source.rows_or_errors()
        assert isinstance(error, UserError)
        assert problem in str(error)
