"""Fixtures of several test files: a temporary current folder, toy data, and the command at toy size."""

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from processes import use_toy_settings
from toy_commands import (
    TOY,
    TOY_CODEC,
    TOY_OMNI,
    TOY_SPEECH,
    TOY_TALKER,
    TOY_VISION,
    TOY_VOCODER,
    run_stage,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much the slow tests do that search at random or for long."""
    parser.addoption("--fuzz", type=int, default=0, metavar="N", help="inputs of each kind of file (tests/fuzz)")
    parser.addoption("--fuzz_seed", type=int, default=0, metavar="SEED", help="seed of the inputs")
    parser.addoption("--kills", type=int, default=0, metavar="N", help="kills of each stage (test_killed_runs.py)")
    parser.addoption("--steps", type=int, default=0, metavar="N", help="steps of each work (test_flat_memory.py)")


@pytest.fixture(autouse=True)
def toy_settings(monkeypatch: pytest.MonkeyPatch):
    """Applies `use_toy_settings` during a test."""
    threads = torch.get_num_threads()
    use_toy_settings(monkeypatch)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder as the current one, with `corpus.txt`: sentences of a few words."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    words = [
        "the",
        "a",
        "red",
        "green",
        "blue",
        "star",
        "circle",
        "is",
        "above",
        "below",
        "left",
        "right",
        "of",
        "and",
        "small",
        "large",
    ]
    sentences = [" ".join(rng.choices(words, k=rng.randint(3, 9))) + "." for _ in range(150)]
    (tmp_path / "corpus.txt").write_text("\n".join(sentences), encoding="utf-8")
    return tmp_path


@pytest.fixture
def fit(workplace: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the stage-A configuration at toy size; keyword arguments override, `__` stands for a dot."""
    return partial(run_stage, "thinker", TOY)


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `trained` keeps its run."""
    return tmp_path_factory.mktemp("kept") / "lightning_logs"


@pytest.fixture
def trained(fit: Callable[..., Any], kept_run: Path) -> str:
    """The checkpoint of `fit()`, which runs once a session; its folder `lightning_logs` is copied for every test."""
    if kept_run.exists():
        shutil.copytree(kept_run, "lightning_logs")
    else:
        fit()
        shutil.copytree("lightning_logs", kept_run)
    return "lightning_logs/thinker/best.ckpt"


@pytest.fixture
def speech(workplace: Path) -> Path:
    """A folder with `train.jsonl` and `val.jsonl`: words in which each letter is a tone."""
    folder = workplace / "speech"
    folder.mkdir()
    rng = random.Random(0)
    for split, count in (("train", 24), ("val", 8)):
        rows = []
        for number in range(count):
            text = " ".join("".join(rng.choices("abc", k=rng.randint(1, 3))) for _ in range(rng.randint(1, 3)))
            path = folder / f"{split}-{number}.wav"
            audio = tones(text)
            soundfile.write(path, audio, 16_000)
            row = {"audio": path.name, "text": text, "speaker": f"{split}{number % 3}", "id": path.stem}
            rows.append(json.dumps(row | {"duration": len(audio) / 16_000}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def tones(text: str) -> np.ndarray:
    """Each letter as a tone of 500, 1,000 or 2,000 Hz for 0.12 s, then 0.04 s of silence; a space is silent."""
    parts = []
    for letter in text:
        time = np.arange(1920) / 16_000
        level = 0.0 if letter == " " else 0.3
        parts += [level * np.sin(2 * np.pi * 500 * 2 ** "abc".find(letter) * time), np.zeros(640)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture
def fit_audio(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the stage-B configuration at toy size on tones; arguments as of `fit`."""
    return partial(run_stage, "audio", TOY_SPEECH)


@pytest.fixture
def fit_codec(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the stage-D1 configuration at toy size on tones; arguments as of `fit`."""
    return partial(run_stage, "codec", TOY_CODEC)


@pytest.fixture
def fit_vocoder(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the stage-D3 configuration at toy size on tones; arguments as of `fit`."""
    return partial(run_stage, "vocoder", TOY_VOCODER)


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls a function that must end with a user error: exit code 2 and one line, which is returned."""

    def check(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            call(*args, **kwargs)
        assert stop.value.code == 2
        complaints = [line for line in capfd.readouterr().err.splitlines() if line.startswith("omni: ")]
        assert len(complaints) == 1
        return complaints[0]

    return check


COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


@pytest.fixture
def pictures(workplace: Path) -> Path:
    """A folder with `train` and `val`: class folders of three colours with a white spot, and manifests of captions."""
    folder = workplace / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        rows = []
        for colour, rgb in COLOURS.items():
            (folder / split / colour).mkdir(parents=True)
            for number in range(count):
                side = ("left", "right")[number % 2]
                pixels = np.clip(rng.normal(rgb, 12, (20, 16, 3)), 0, 255)
                pixels[6:14, slice(1, 7) if side == "left" else slice(9, 15)] = 255
                path = folder / split / colour / f"{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                captions = [f"{colour} with a spot on the {side}", f"on the {side} of {colour} is a spot"]
                rows.append({"image": f"{split}/{colour}/{number}.png", "label": colour, "captions": captions})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def fit_vision(pictures: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the stage-C configuration at toy size on pictures; as `fit`, and None removes an option."""
    return partial(run_stage, "vision", TOY_VISION)


@pytest.fixture
def words(workplace: Path) -> dict[str, str]:
    """`words.jsonl`: words of one to five tones by two speakers; and checkpoints `codec` and `recognizer` for them."""
    from toy_speech import ToneCodec, ToneEncoder, save

    from omni.text.ctc_vocabulary import CharacterVocabulary

    rng, rows = random.Random(0), []
    for number in range(40):
        text = "".join(rng.choices("abc", k=rng.randint(1, 5)))
        audio = tones(text)
        soundfile.write(f"{number}.wav", audio, 16_000)
        row = {"audio": f"{number}.wav", "text": text, "speaker": "xy"[number % 2], "duration": len(audio) / 16_000}
        rows.append(json.dumps(row))
    (workplace / "words.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    units = CharacterVocabulary(" abc")
    return {
        "codec": save(workplace / "codec.ckpt", "codec", ToneCodec(), units),
        "recognizer": save(workplace / "recognizer.ckpt", "audio_encoder", ToneEncoder(), units),
    }


@pytest.fixture
def fit_talker(words: dict[str, str]) -> Callable[..., Any]:
    """Runs `omni fit` with the Talker's configuration at toy size on tones; arguments as of `fit`."""
    return partial(run_stage, "talker", TOY_TALKER)


@pytest.fixture
def conversations(workplace: Path) -> Path:
    """Conversations about plain pictures and spoken letters: questions about one of them, about both, and text only."""
    rng = np.random.default_rng(0)
    draw = random.Random(0)
    for split, count in (("train", 60), ("val", 12)):
        rows = []
        for number in range(count):
            colour, letter = draw.choice(sorted(COLOURS)), draw.choice("abc")
            pixels = np.clip(rng.normal(COLOURS[colour], 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(f"{split}{number}.png")
            soundfile.write(f"{split}{number}.wav", tones(letter), 16_000)
            image, audio = (
                {"type": kind, kind: f"{split}{number}.{end}"} for kind, end in (("image", "png"), ("audio", "wav"))
            )
            task, parts, answer = (
                ("colour", [image, {"type": "text", "text": "?"}], colour[0]),
                ("transcription", [audio], letter),
                ("both", [audio, image], letter + colour[0]),
                ("text", "hi", "ho"),
            )[number % 4]
            messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
            rows.append(json.dumps({"messages": messages, "task": task}))
        (workplace / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return workplace


@pytest.fixture
def fit_omni(conversations: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the stage-E configuration at toy size; arguments as of `fit`."""
    return partial(run_stage, "omni", TOY_OMNI)


@pytest.fixture
def fit_llm(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` with the second recipe's configurations at toy size; see `toy_asr_llm.run`."""
    from toy_asr_llm import run
    from transformers.utils import logging

    logging.disable_progress_bar()  # while weights load
    return run
