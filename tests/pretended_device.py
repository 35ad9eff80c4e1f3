"""A fake device: fake tensors on it, waits of the host for it, and every stage's step on it.

PyTorch's fake tensors may be on any device, but the backward pass on CUDA needs a driver. So another device is
registered. A process has one accelerator, so this one runs in a separate process: `python pretended_device.py FOLDER`
prints, in JSON, the error of each check of `CHECKS`, or null.
"""

import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torchmetrics import Metric
from toy_omni import toy_omni
from toy_stages import HEARING, STAGES, UNITS, Toy, toy
from toy_voice import codec_of, talker_of

from omni.decoding.sampling import Sampling, generate
from omni.decoding.talker import speak
from omni.inference.recognizer import Recognizer
from omni.media.griffin_lim import GriffinLim
from omni.models.audio_encoder import AudioEncoder
from omni.models.vocoder import Vocos
from omni.training.memory import FAKES

NAME = "pretended"
SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "all": Sampling(temperature=0.8, repetition_penalty=1.3),
    "few": Sampling(top_k=5),
    "likely": Sampling(top_p=0.8),
}
CTC = ["aten::_ctc_loss.Tensor"]
WAITS = {"audio": CTC, "audio_with_consistency": CTC}  # see `omni.decoding.ctc.ctc_nll`


class _Backend:
    """The module of the device, as PyTorch uses it."""

    is_available = staticmethod(lambda: False)  # otherwise fake tensors would copy real ones there
    is_initialized = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    device = staticmethod(lambda index: nullcontext())
    get_rng_state = staticmethod(lambda *_: torch.empty(0, dtype=torch.uint8))
    set_rng_state = manual_seed_all = staticmethod(lambda *_: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


class Waits(TorchDispatchMode):
    """Raises where tensors are copied between host and device such that the host waits.

    Fake tensors raise themselves where a value is read or devices meet, but not where tensors are copied.

    Args:
        allowed: Operations that may wait.

    Attributes:
        met: The allowed operations that ran.
    """

    def __init__(self, allowed: list[str]) -> None:
        super().__init__()
        self.allowed, self.met = allowed, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name()
        if func in FAKES:
            if name in self.allowed:
                self.met.add(name)
            elif name.startswith("aten::_ctc_loss."):
                raise RuntimeError(f"{name} waits for the device")
            return FAKES[func](*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **kwargs)
        places = {x.device.type for x in given if x.dim() or x.device.type != "cpu"}
        made = {x.device.type for x in tree_leaves(result) if isinstance(x, Tensor)}
        if places and len(places | made) > 1 and not kwargs.get("non_blocking"):
            raise RuntimeError(f"{name} copies between {' and '.join(sorted(places | made))}, and the host waits")
        return result


def moved(module: nn.Module, mode: FakeTensorMode) -> Callable[[Any], Any]:
    """Moves a module to the device as `Module.to` does, as fake tensors; returns the function that moves a tensor."""
    # Keeps the real tensors too: a new one could get the id of one that is freed.
    known: dict[int, tuple[Tensor, Tensor]] = {}

    def move(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        if id(tensor) not in known:
            fake = mode.from_tensor(tensor.detach()).to(NAME)
            fake = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
            known[id(tensor)] = tensor, fake
        return known[id(tensor)][1]

    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            tensors.update({name: move(tensor) for name, tensor in tensors.items()})
        if isinstance(child, Metric):
            child._defaults = {name: move(value) for name, value in child._defaults.items()}
            vars(child).update({name: move(getattr(child, name)) for name in child._defaults})
    return move


def step(made: Toy) -> None:
    """A training step, as Lightning makes it; both optimizers take it, one after the other."""
    stage, optimizers = made.stage, []
    for name in ("adamw", "muon"):
        stage.optimizer_name = name
        optimizers.append(stage.make_optimizer())
    stage.training_step(made.batch, 0).backward()
    stage.on_before_optimizer_step(optimizers[0])
    nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def training(name: str, folder: Path) -> None:
    """A step, entirely on the device."""
    made, mode, waits = toy(name, folder), FakeTensorMode(), Waits(WAITS.get(name, []))
    made = made._replace(batch=tree_map(moved(made.stage, mode), made.batch))
    with mode, waits:
        step(made)
    assert waits.met == set(waits.allowed), f"{waits.allowed} were to be met, and {waits.met} were"
    assert {x.device.type for x in (*made.stage.parameters(), *made.stage.buffers())} == {NAME}


def reads(function: str, call: Callable[[], Any]) -> None:
    """Runs up to the first read of a value, which must be in the given function of omni."""
    try:
        call()
    except DataDependentOutputException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/omni/" in frame.filename]
        assert frames[-1].name == function, f"a value is read in {frames[-1]}"
    else:
        raise AssertionError(f"no value was read in {function}")


@torch.no_grad()
def inference(name: str, folder: Path) -> None:
    """Text generation, speech, transcription, the codec: the first read by the host is where it is expected.

    Without `torch.inference_mode`, which fake tensors support on PyTorch's own devices only.
    """
    mode = FakeTensorMode()
    if name in SAMPLINGS:
        thinker = toy_omni().thinker
        moved(thinker, mode)
        with mode:
            steps = generate.__wrapped__(thinker, [[5, 6], [7]], max_tokens=4, stop=3, sampling=SAMPLINGS[name])
            reads("generate", lambda: next(steps))
    elif name == "talker":
        talker = talker_of()
        moved(talker, mode)
        with mode:
            frames = speak.__wrapped__(talker, [[1, 2], [3]])
            next(frames)
            reads("speak", lambda: next(frames))
    elif name == "recognizer":
        recognizer = Recognizer(AudioEncoder(**HEARING).eval(), UNITS)
        for module in (recognizer.encoder, recognizer.log_mel):
            moved(module, mode)
        recognizer.device = torch.device(NAME)
        with mode:
            reads("emit", lambda: Recognizer.emit.__wrapped__(recognizer, [torch.zeros(4000), torch.zeros(3000)]))
    else:
        sounding(mode)


def sounding(mode: FakeTensorMode) -> None:
    """Codec and vocoder, which read no value, and Griffin–Lim, in which PyTorch's inverse STFT reads its window."""
    codec, vocoder, griffin_lim = codec_of(), Vocos(num_mels=16, dim=32, num_layers=1).eval(), GriffinLim(16)
    for module in (codec, vocoder, griffin_lim):
        move = moved(module, mode)
    mels, lengths = move(torch.randn(2, 40, 16)), move(torch.tensor([40, 20]))
    with mode, Waits([]):
        mels = codec.decode(codec.encode(mels, lengths))
        with codec.streaming() as stream:
            stream.decode(stream.encode(mels[:, :9]))
        assert vocoder(mels, lengths).device.type == griffin_lim.magnitudes(mels).device.type == NAME
    with mode:
        reads("forward", lambda: griffin_lim(mels))


def faults(name: str, folder: Path) -> None:
    """Faults are detected."""
    with FakeTensorMode(), Waits([]):
        x, here = torch.randn(3, 4, device=NAME), torch.arange(3)
        wrong: dict[str, Callable[[], Any]] = {
            "read": lambda: x.sum().item(),
            "shape": lambda: x[x > 0],
            "copied": lambda: x.cpu(),
            "index": lambda: x[here],
            "sent": lambda: here.to(NAME),
            "met": lambda: x + here[:, None],
        }
        here.to(NAME, non_blocking=True)
        try:
            wrong[name]()
        except (RuntimeError, DataDependentOutputException, DynamicOutputShapeException):
            return
        raise AssertionError("nothing was raised")


CHECKS: dict[str, Callable[[Path], None]] = {
    **{f"training-{name}": partial(training, name) for name in STAGES},
    **{f"inference-{name}": partial(inference, name) for name in (*SAMPLINGS, "talker", "recognizer", "sound")},
    **{f"fault-{name}": partial(faults, name) for name in ("read", "shape", "copied", "index", "sent", "met")},
}


def outcomes(folder: Path) -> Iterator[tuple[str, str | None]]:
    torch.set_num_threads(1)
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
    for name, check in CHECKS.items():
        try:
            check(folder)
            yield name, None
        except Exception:
            yield name, traceback.format_exc()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(dict(outcomes(Path(sys.argv[1])))))
