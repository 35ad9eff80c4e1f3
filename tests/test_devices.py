"""Faults that a CPU does not show: tensors on a wrong device, hosts that wait for a GPU, and float64 without support.

Two checks replace the devices: fake tensors on a fake device (`pretended_device`), where mixed devices and reads by the
host raise; and real tensors on the CPU under `NoFloat64`, which raises like Apple's GPUs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_assistant
import toy_voice
from pretended_device import CHECKS, SAMPLINGS, step
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric
from toy_omni import TOKENIZER
from toy_stages import HEARING, STAGES, UNITS, toy

from omni import metrics
from omni.decoding.sampling import Sampling, generate
from omni.decoding.sampling_options import SpeechSampling
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.codec_files import decode, encode
from omni.inference.recognizer import Recognizer
from omni.media.griffin_lim import GriffinLim
from omni.models.audio_encoder import AudioEncoder

HERE = Path(__file__).parent


def test_all_tensors_are_on_the_device_and_the_host_never_waits(tmp_path: Path):
    """All checks on the fake device, in one separate process; a single test, so that only one worker starts it."""
    command = [sys.executable, "pretended_device.py", str(tmp_path)]
    path = {"PYTHONPATH": str(HERE.parent)}
    run = subprocess.run(command, cwd=HERE, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    outcomes: dict[str, str | None] = json.loads(run.stdout.splitlines()[-1])
    assert outcomes.keys() == set(CHECKS)
    if failed := [f"{check}: {outcome}" for check, outcome in outcomes.items() if outcome is not None]:
        pytest.fail("\n".join(failed), pytrace=False)


# ---------------------------------------------------------------- fp16


@pytest.mark.parametrize("name", STAGES)
def test_gradients_in_fp16_are_finite_and_close_to_fp32(name: str, tmp_path: Path):
    """Computed like in `16-mixed`: products in fp16, the loss scaled, gradients unscaled."""
    found, scale = [], 2.0**16  # initial scale of the scaler
    for narrow in (False, True):
        made = toy(name, tmp_path)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.float16, enabled=narrow):
            loss = made.stage.training_step(made.batch, 0)
        (loss * scale).backward()
        gradients = [weight.grad.flatten() / scale for weight in made.stage.parameters() if weight.grad is not None]
        found.append(torch.cat(gradients))
    assert found[1].isfinite().all()
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.995


# ---------------------------------------------------------------- no float64


class NoFloat64(TorchDispatchMode):
    """Raises if a float64 tensor is made, like on Apple's GPUs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{func.name()} makes float64, which the MPS framework does not have")
        return result


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> NoFloat64:
    """Intelligibility is computed on the host with NumPy, where float64 is allowed."""
    measure = metrics.short_time_objective_intelligibility

    def on_the_host(*args: Any) -> Tensor:
        with _disable_current_modes():
            return measure(*args)

    monkeypatch.setattr(metrics, "short_time_objective_intelligibility", on_the_host)
    return NoFloat64()


@pytest.mark.parametrize("name", STAGES)
def test_training_and_validation_make_no_float64(name: str, tmp_path: Path, no_float64: NoFloat64):
    made = toy(name, tmp_path)
    stage = made.stage
    with no_float64:
        step(made)
        stage.eval()
        with torch.no_grad():
            stage.on_validation_epoch_start()
            stage.validation_step(made.batch, 0)
            if "predict_step" in vars(type(stage)):
                stage.predict_step(made.batch, 0)
            used = [each for each in stage.modules() if isinstance(each, Metric) and each.update_called]
            values = [metric.compute() for metric in used]
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    assert leaves
    assert all(leaf.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_generating_makes_no_float64(sampling: str, no_float64: NoFloat64, tmp_path: Path):
    stage: Any = toy("thinker", tmp_path).stage.eval()
    with no_float64:
        steps = list(generate(stage.thinker, [[5, 6], [7]], max_tokens=4, stop=3, sampling=SAMPLINGS[sampling]))
    assert steps


def test_speaking_makes_no_float64(no_float64: NoFloat64):
    voice = toy_voice.synthesizer(num_speakers=3)
    with no_float64:
        (speech,) = voice.speak(["ab cd"], speaker="y", sampling=SpeechSampling())
        assert torch.cat(list(voice.stream("ab cd", speaker="y"))).dtype == torch.float32
        assert GriffinLim(16)(torch.randn(1, 20, 16)).dtype == torch.float32
    assert speech.audio.dtype == torch.float32


def test_codec_recognizer_and_assistant_make_no_float64(no_float64: NoFloat64):
    codec, recognizer = toy_voice.codec_of(), Recognizer(AudioEncoder(**HEARING).eval(), UNITS)
    assistant = toy_assistant.assistant_of(voice=True)
    media = {"image": torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8), "audio": 0.1 * torch.randn(8000)}
    with no_float64:
        assert decode(codec, encode(codec, torch.randn(40, 16))).dtype == torch.float32
        recognizer.transcribe(media["audio"], timestamps="word")
        recognizer.align(media["audio"], "ab")
        reply = assistant.chat(text="what?", **media, sampling=Sampling(seed=1), max_tokens=3, speak=True)
        assert list(reply)


@pytest.mark.parametrize("name", ["codec", "vocoder"])
def test_the_inverse_of_mel_filters_is_computed_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Griffin–Lim's pseudo-inverse is computed once, with the stage."""
    made = toy(name, tmp_path)
    monkeypatch.setattr(torch.linalg, "pinv", lambda *_: pytest.fail("inverted again"))
    made.stage.eval()
    with torch.no_grad():
        made.stage.on_validation_epoch_start()
        made.stage.validation_step(made.batch, 0)


def test_the_table_of_token_bytes_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = toy("talker_with_thinker", tmp_path)
    made.stage.loss(made.batch)
    monkeypatch.setattr(type(TOKENIZER), "token_bytes", lambda _: pytest.fail("tabled again"))
    made.stage.loss(made.batch)


def test_no_float64_detects_float64():
    with NoFloat64(), pytest.raises(TypeError, match="float64"):
        torch.zeros(2).double()


# ---------------------------------------------------------------- names of devices


@pytest.mark.parametrize(("present", "chosen"), [({"cuda", "mps"}, "cuda"), ({"mps"}, "mps"), (set(), "cpu")])
def test_auto_is_the_fastest_available_device(present: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch):
    for name, backend in {"cuda": torch.cuda, "mps": torch.backends.mps}.items():
        monkeypatch.setattr(backend, "is_available", lambda name=name: name in present)
    assert resolve("auto") == torch.device(chosen)


@pytest.mark.parametrize("name", ["abacus", "cuda:7", "mps"])
def test_an_unknown_or_missing_device_is_reported_in_one_line(name: str):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=rf"^data.device '{name}' cannot be used: [^\n]+$"):
        resolve(name, option="data.device")
    assert resolve("cpu") == torch.device("cpu")
