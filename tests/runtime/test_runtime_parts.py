"""The host of exported graphs computes what omni computes with PyTorch: spectrograms, images, CTC, sampling."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from omni.decoding import ctc
from omni.decoding.sampling import choose_tokens
from omni.decoding.sampling_options import Sampling
from omni.inference.long_form import ChunkMerger
from omni.media import audio as media
from omni.media.images import Preprocessing, read_image
from omni.media.resampling import resample
from omni.runtime import audio, sampling
from omni.runtime import ctc as runtime_ctc
from omni.runtime.decoder import continuation, inputs_of
from omni.runtime.image_classifier import square
from omni.text.ctc_vocabulary import CharacterVocabulary

NOISE = np.random.default_rng(0).normal(0, 0.1, 16_000 * 3).astype(np.float32)
ALL = ["omni.runtime", "omni.commands.transcribe", "omni.commands.classify", "omni.commands.generate", "omni.cli"]


def test_nothing_of_it_imports_pytorch_or_training_code():
    blocked = ["torch", "torchaudio", "torchvision", "lightning", "pytorch_lightning", "datasets", "transformers"]
    rooms = [f"omni.{room}" for room in ("models", "layers", "training", "stages", "data", "checkpoints", "export")]
    program = (
        f"import sys, pkgutil\nsys.modules.update(dict.fromkeys({blocked + rooms}))\n"
        f"import omni.runtime\nnames = [m.name for m in pkgutil.iter_modules(omni.runtime.__path__, 'omni.runtime.')]\n"
        f"assert len(names) > 8\nfor name in names + {ALL}: __import__(name)\n"
        "from omni.cli import main\nmain(['transcribe', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--runtime" in done.stdout


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("length", [1, 159, 160, 161, 16_000, 300_000])
def test_spectrograms(num_mels: int, length: int):
    samples = np.resize(NOISE, length) * np.linspace(0, 1, length, dtype=np.float32)
    expected = media.LogMel(num_mels)(torch.from_numpy(samples)).numpy()
    found = audio.log_mel(samples, num_mels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 11_025, 16_000])
@pytest.mark.parametrize("length", [1, 500, 48_000])
def test_resampling(rate: int, length: int):
    expected = resample(torch.from_numpy(NOISE[:length]), rate, 16_000).numpy()
    # torchaudio computes the filter in fp32: a few 1e-5 at 11,025 Hz.
    np.testing.assert_allclose(audio.resample(NOISE[:length], rate), expected, atol=5e-5, rtol=0)


def test_files_of_any_rate(tmp_path: Path):
    for rate, channels in ((44_101, 2), (16_000, 1)):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, NOISE[: 24_000 * channels].reshape(-1, channels), rate)
        np.testing.assert_allclose(audio.read_audio(path), media.read_audio(path).numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_images(tmp_path: Path, fit: str):
    """Those of torchvision; a difference of one level is one of rounding."""
    draw = np.random.default_rng(0)
    for number, (height, width) in enumerate(((64, 64), (50, 91), (91, 50), (20, 31), (300, 7), (33, 32))):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        expected = Preprocessing(32, fit)(read_image(path)).permute(1, 2, 0).numpy().astype(int)  # pyright: ignore
        found = np.asarray(square(Image.open(path).convert("RGB"), 32, fit)).astype(int)
        assert found.shape == (32, 32, 3)
        assert np.abs(found - expected).max() <= 1, (height, width)


def emissions(seed: int, frames: int = 120, units: int = 5) -> np.ndarray:
    scores = torch.randn(frames, units, generator=torch.Generator().manual_seed(seed)) * 3
    return scores.log_softmax(-1).numpy()


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_ctc(beam: int):
    for seed in range(5):
        log_probs = emissions(seed)
        (expected,) = ctc.decode(torch.from_numpy(log_probs)[None], torch.tensor([len(log_probs)]), beam=beam)
        assert runtime_ctc.decode(log_probs, beam) == expected


@pytest.mark.parametrize("beam", [1, 4])
def test_chunks_are_merged_alike(beam: int):
    units = CharacterVocabulary("ab c")
    for seed in range(20):
        whole = emissions(seed, 150)
        chunks = [whole[start : start + 60] + 0.01 * emissions(seed + start, 60) for start in (0, 45, 90)]
        there = ChunkMerger(units, seconds=0.02, overlap=0.3, beam=beam, timestamps=None)
        here = runtime_ctc.ChunkMerger(units, shared=15, beam=beam)
        for chunk in chunks:
            there.add(torch.from_numpy(chunk), 1.0)
            here.add(chunk)
        assert here.finish() == there.finish().text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 5},
        {"top_p": 0.8},
        {"temperature": 0.5, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.5},
        {"temperature": 0.0, "repetition_penalty": 2.0},
    ],
)
def test_sampling(options):
    chosen = Sampling(**options)
    draw = np.random.default_rng(0)
    for _ in range(50):
        logits = draw.normal(0, 2, 60).astype(np.float32)
        seen, number = draw.random(60) < 0.3, float(draw.random())
        tensors = torch.from_numpy(logits)[None], torch.from_numpy(seen)[None], torch.tensor([number])
        assert sampling.choose(chosen, logits, seen, number) == choose_tokens(chosen, *tensors).item()
    for number in (0.0, 1.0):  # the ends: never a token that was cut off
        assert sampling.choose(Sampling(top_k=2), logits, seen, number) in np.argsort(-logits)[:2]


def test_a_continuation_passes_its_cache_and_stops():
    constants = {"num_layers": 2, "num_kv_heads": 1, "head_dim": 4, "tokenizer_size": 9}
    calls = []

    def run(inputs):
        calls.append((inputs["tokens"].tolist(), inputs["past"].shape[4]))
        logits = np.zeros((1, inputs["tokens"].shape[1], 12), dtype=np.float32)
        logits[0, -1, 11] = 9.0  # not one of the tokenizer
        logits[0, -1, (inputs["tokens"][0, -1] + 1) % 9] = 1.0
        return [logits, np.zeros((2, 2, 1, 1, inputs["past"].shape[4] + inputs["tokens"].shape[1], 4), np.float32)]

    assert [*continuation(run, inputs_of([1, 2, 3], constants), constants, max_tokens=10, stop=6)] == [4, 5, 6]
    assert calls == [([[1, 2, 3]], 0), ([[4]], 3), ([[5]], 4)]
    assert len([*continuation(run, inputs_of([1], constants), constants, max_tokens=2, stop=6)]) == 2
    assert all(one[1] < other[1] for one, other in pairwise(calls[3:]))
