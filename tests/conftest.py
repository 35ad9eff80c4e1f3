"""What several test files need: an empty folder to stand in, a corpus, and the command at toy size."""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

CONFIGS = Path(__file__).parents[1] / "configs"

TOY = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.thinker.init_args.vocab_size": "288",
    "model.init_args.thinker.init_args.dim": "32",
    "model.init_args.thinker.init_args.num_layers": "2",
    "model.init_args.thinker.init_args.ffn_dim": "48",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.sample_tokens": "4",
    "data.init_args.train": "corpus.txt",
    "data.init_args.val": "null",
    "data.init_args.val_split": "tail",
    "data.init_args.tokenizer": "bytes",
    "data.init_args.context": "16",
    "data.init_args.batch_size": "4",
}


def arguments(toy: Mapping[str, object], overrides: Mapping[str, object]) -> list[str]:
    """The command's options: toy values of the model and the data as two of them, and then the overrides, one by one.

    Each option of the model costs the time to check the whole model.

    Args:
        toy: Values by option.
        overrides: Other values by option, with `__` for a dot; None takes an option out.
    """
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    plain: dict[str, object] = {}
    nested: dict[str, Any] = {}
    for name, value in toy.items():
        part, *path = name.split(".")
        if part not in ("model", "data"):
            plain[name] = value
        elif name not in given:
            inner = nested.setdefault(part, {})
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = typed(value)
    options = {**plain, **{part: json.dumps(values) for part, values in nested.items()}, **given}
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def typed(value: object) -> object:
    """What a value of the command line is as JSON; text stays as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


@pytest.fixture(autouse=True)
def one_thread():
    """Toy sizes are fastest, and forks safe, with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fp32(monkeypatch: pytest.MonkeyPatch):
    """What is chosen by the machine is fp32 on every one; what is about bf16 asks for it."""
    for module in ("optim.precision", "optim.optimizers"):
        monkeypatch.setattr(f"omni.{module}.multiplies_bf16", lambda device: False)


@pytest.fixture(autouse=True)
def short_peak(monkeypatch: pytest.MonkeyPatch):
    """The device's peak, measured at the start of every run in the process, takes 0.01 s of it, not 0.3."""
    from omni.optim.precision import measure_peak_tflops

    monkeypatch.setattr(
        "omni.training.callbacks.throughput.measure_peak_tflops", partial(measure_peak_tflops, size=256, seconds=0.01)
    )


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, with `corpus.txt`: sentences of a few words."""
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
    """Runs `omni fit` on the stage-A configuration at toy size; keyword arguments override, `__` stands for a dot."""
    from omni.cli import main

    def run(verb: str = "fit", *extra: str, **overrides: object) -> Any:
        return main([verb, "--config", str(CONFIGS / "thinker.yaml"), *arguments(TOY, overrides), *extra])

    return run


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that keeps what `trained` needs."""
    return tmp_path_factory.mktemp("kept") / "lightning_logs"


@pytest.fixture
def trained(fit: Callable[..., Any], kept_run: Path) -> str:
    """The checkpoint of `fit()`, which is run once; its folder `lightning_logs` is copied for every test."""
    if kept_run.exists():
        shutil.copytree(kept_run, "lightning_logs")
    else:
        fit()
        shutil.copytree("lightning_logs", kept_run)
    return "lightning_logs/thinker/best.ckpt"


@pytest.fixture
def speech(workplace: Path) -> Path:
    """A folder with `train.jsonl` and `val.jsonl`: words of letters that each sound as a tone of their own."""
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
    """0.12 s a letter, 500, 1,000 or 2,000 Hz, and 0.04 s of silence behind it; a space is silent."""
    parts = []
    for letter in text:
        time = np.arange(1920) / 16_000
        level = 0.0 if letter == " " else 0.3
        parts += [level * np.sin(2 * np.pi * 500 * 2 ** "abc".find(letter) * time), np.zeros(640)]
    return np.concatenate(parts).astype(np.float32)


TOY_SPEECH = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.audio_encoder.init_args.vocab_size": "5",
    "model.init_args.audio_encoder.init_args.num_mels": "16",
    "model.init_args.audio_encoder.init_args.dim": "32",
    "model.init_args.audio_encoder.init_args.num_layers": "2",
    "model.init_args.audio_encoder.init_args.intermediate_ctc_block": "1",
    "model.init_args.audio_encoder.init_args.num_heads": "2",
    "model.init_args.audio_encoder.init_args.ffn_dim": "48",
    "model.init_args.audio_encoder.init_args.conv_channels": "4",
    "model.init_args.audio_encoder.init_args.head_dim": "16",
    "model.init_args.audio_encoder.init_args.dropout": "0",
    "model.init_args.shown": "0",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "data.init_args.train": "speech/train.jsonl",
    "data.init_args.val": "speech/val.jsonl",
    "data.init_args.characters": " abc",
    "data.init_args.num_mels": "16",
    "data.init_args.batch_seconds": "8",
    "data.init_args.max_duration": "4",
    "data.init_args.augmentation.silence": "0.1",
}


@pytest.fixture
def fit_audio(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` on the stage-B configuration at toy size on tones; arguments as of `fit`."""
    from omni.cli import main

    def argv(verb: str = "fit", *extra: str, **overrides: object) -> list[str]:
        return [verb, "--config", str(CONFIGS / "audio.yaml"), *arguments(TOY_SPEECH, overrides), *extra]

    def run(*given: str, **overrides: object) -> Any:
        return main(argv(*given, **overrides))

    run.argv = argv  # of the same run in another process
    return run


TOY_CODEC = {
    **{name: value for name, value in TOY_SPEECH.items() if "audio_encoder" not in name},
    "model.init_args.codec.init_args.num_mels": "16",
    "model.init_args.codec.init_args.dim": "32",
    "model.init_args.codec.init_args.mel_layers": "1",
    "model.init_args.codec.init_args.num_layers": "1",
    "model.init_args.codec.init_args.num_codebooks": "2",
    "model.init_args.codec.init_args.codebook_size": "16",
    "model.init_args.codec.init_args.codebook_dim": "8",
    "model.init_args.quality_utterances": "0",
    "data.init_args.crop": "0.5",
}
del TOY_CODEC["model.init_args.optimizer"]


@pytest.fixture
def fit_codec(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` on the stage-D1 configuration at toy size on tones; arguments as of `fit`."""
    from omni.cli import main

    def run(verb: str = "fit", *extra: str, **overrides: object) -> Any:
        return main([verb, "--config", str(CONFIGS / "codec.yaml"), *arguments(TOY_CODEC, overrides), *extra])

    return run


TOY_VOCODER = {
    **{name: value for name, value in TOY_SPEECH.items() if "audio_encoder" not in name},
    "model.init_args.vocoder.init_args.num_mels": "16",
    "model.init_args.vocoder.init_args.dim": "24",
    "model.init_args.vocoder.init_args.num_layers": "1",
    "model.init_args.discriminators.init_args.periods": "[2, 3]",
    "model.init_args.discriminators.init_args.period_channels": "[2, 4]",
    "model.init_args.discriminators.init_args.resolutions": "[128]",
    "model.init_args.discriminators.init_args.resolution_channels": "2",
    "model.init_args.adversarial_start": "3",
    "model.init_args.quality_utterances": "1",
    "data.init_args.crop": "0.3",
    "data.init_args.batch_seconds": "4",
}


@pytest.fixture
def fit_vocoder(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` on the stage-D3 configuration at toy size on tones; arguments as of `fit`."""
    from omni.cli import main

    def run(verb: str = "fit", *extra: str, **overrides: object) -> Any:
        return main([verb, "--config", str(CONFIGS / "vocoder.yaml"), *arguments(TOY_VOCODER, overrides), *extra])

    return run


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls something that must end as a user's mistake does: exit code 2 and one line, which is returned."""

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
    """A folder with `train` and `val`: class folders of three colours with a bright spot, and manifests of captions."""
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


TOY_VISION = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.vision_encoder.init_args.image_size": "16",
    "model.init_args.vision_encoder.init_args.patch_size": "4",
    "model.init_args.vision_encoder.init_args.dim": "32",
    "model.init_args.vision_encoder.init_args.num_layers": "1",
    "model.init_args.vision_encoder.init_args.ffn_dim": "48",
    "model.init_args.vision_encoder.init_args.stem_width": "8",
    "model.init_args.shown": "0",
    "model.init_args.classifier.init_args.dim": "32",
    "model.init_args.classifier.init_args.num_classes": "3",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "data.init_args.train": "pictures/train",
    "data.init_args.val": "pictures/val",
    "data.init_args.image_size": "16",
    "data.init_args.load_size": "18",
    "data.init_args.batch_size": "5",
}


@pytest.fixture
def fit_vision(pictures: Path) -> Callable[..., Any]:
    """Runs `omni fit` on the stage-C configuration at toy size on pictures; as `fit`, and None takes an option out."""
    from omni.cli import main

    def run(verb: str = "fit", *extra: str, **overrides: object) -> Any:
        return main([verb, "--config", str(CONFIGS / "vision.yaml"), *arguments(TOY_VISION, overrides), *extra])

    return run


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


TOY_TALKER = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.talker.init_args.vocab_size": "5",
    "model.init_args.talker.init_args.num_codebooks": "2",
    "model.init_args.talker.init_args.codebook_size": "17",
    "model.init_args.talker.init_args.dim": "32",
    "model.init_args.talker.init_args.num_layers": "2",
    "model.init_args.talker.init_args.num_heads": "2",
    "model.init_args.talker.init_args.ffn_dim": "64",
    "model.init_args.talker.init_args.text_layers": "1",
    "model.init_args.talker.init_args.text_ffn_dim": "48",
    "model.init_args.talker.init_args.num_speakers": "2",
    "model.init_args.talker.init_args.dropout": "0",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.sentences": "4",
    "model.init_args.shown": "0",
    "data.init_args.train": "words.jsonl",
    "data.init_args.codec": "codec.ckpt",
    "data.init_args.recognizer": "recognizer.ckpt",
    "data.init_args.val_fraction": "0.2",
    "data.init_args.silence": "0.12",
    "data.init_args.batch_seconds": "8",
    "data.init_args.max_duration": "4",
    "data.init_args.device": "cpu",
}


@pytest.fixture
def fit_talker(words: dict[str, str]) -> Callable[..., Any]:
    """Runs `omni fit` on the Talker's configuration at toy size on tones; arguments as of `fit`."""
    from omni.cli import main

    def run(verb: str = "fit", *extra: str, **overrides: object) -> Any:
        return main([verb, "--config", str(CONFIGS / "talker.yaml"), *arguments(TOY_TALKER, overrides), *extra])

    return run


@pytest.fixture
def fit_llm(speech: Path) -> Callable[..., Any]:
    """Runs `omni fit` on the second recipe's configurations at toy size; see `toy_asr_llm.run`."""
    from toy_asr_llm import run
    from transformers.utils import logging

    logging.disable_progress_bar()  # of weights that load
    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the ranks of the world first: autograd refuses a fork of a process that used its threads."""
    items.sort(key=lambda item: "test_world_ranks" not in item.nodeid)
