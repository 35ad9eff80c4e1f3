"""What `omni bench gpu` measures: training steps of each stage, MFU, decoding, and resuming, also on the CPU."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils._pytree import tree_map

from omni.batch import ConversationBatch
from omni.bench.timing import seconds
from omni.decoding.sampling import Sampling, generate
from omni.errors import parser_errors
from omni.layers.transformer import Transformer
from omni.models.thinker import Thinker
from omni.optim.optimizers import muon
from omni.optim.precision import measure_peak_tflops
from omni.text.tokenizer import AUDIO, IMAGE
from omni.training.configuration import Configuration
from omni.training.lightning_cli import run as fit
from omni.training.memory_plan import fake_tensors, measure
from omni.training.shipped import CONFIGS

STAGES = ("thinker", "audio", "vision", "codec", "talker", "vocoder", "omni")
WARM_UP = 3  # steps that do not count: kernels are chosen, and with `compile` made
PROMPT = 16  # tokens before those that are decoded
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def train(
    stage_name: str, *, size: str, device: torch.device, precision: str, compiled: bool, steps: int
) -> dict[str, Any]:
    """Trains a stage of a documented size on its largest batch.

    Args:
        stage_name: One of `STAGES`.
        size: `tiny`: as in `configs/`; `toy`: as in `configs/world/`, with small batches.
        device: Where.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        compiled: Whether Transformers are compiled.
        steps: Steps that are timed, after `WARM_UP`.

    Returns:
        `seconds_per_step`, the work of a second by its unit, on a GPU `peak_memory` and `reserved_memory`, and what
        `omni plan` says, `planned_memory`; in bytes.
    """
    folder = CONFIGS if size == "tiny" else CONFIGS / "world"
    with parser_errors("bench gpu"):
        configuration = Configuration(["--config", str(folder / f"{stage_name}.yaml")])
    data = configuration.config["data"]["init_args"].as_dict() | (_TOY if size == "toy" else {})
    with fake_tensors():
        planned = measure(configuration.make("model"), data, precision=precision).training
    before = _reset(device)
    stage = configuration.make("model").to(device).train()
    for name in stage.frozen:
        stage.part(name).requires_grad_(False)
    for module in stage.modules() if compiled else ():
        if isinstance(module, Transformer):
            module.compile()
    batch = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, _example(stage, data))
    step = _step(stage, lambda: stage.loss(batch).mean, stage.make_optimizer(), device, precision)
    taken = _timed(step, steps)
    work, unit = batch.work
    return {"seconds_per_step": taken, f"{unit}_per_second": work / taken, "planned_memory": planned} | _peak(
        device, before
    )


def _example(stage: Any, data: dict[str, Any]) -> Any:
    """The stage's example batch; that of stage E gets placeholders for its media."""
    batch = stage.example_batch(data)
    if not isinstance(batch, ConversationBatch):
        return batch
    layout, begin = stage.omni.layout, 0
    for media, placeholder in ((batch.images, IMAGE), (batch.mels, AUDIO)):
        if media is not None:
            span = layout.image() if placeholder == IMAGE else layout.audio(media.shape[1])
            batch.tokens[:, begin : begin + span.tokens] = placeholder
            begin += span.tokens
    return batch


# Batches of the toy size, by the arguments of any data module.
_TOY = {"batch_size": 2, "context": 32, "max_tokens": 64, "batch_tokens": 128, "batch_seconds": 2.0}
_TOY |= {"max_duration": 2.0, "max_batch_rows": 2}


def thinker_mfu(
    size: str | dict[str, Any], *, device: torch.device, batch_size: int, context: int, steps: int
) -> dict[str, Any]:
    """Trains a Thinker in bf16, compiled on a GPU; the share of the measured peak that its own operations use.

    Args:
        size: A folder of `configs/models`, or a Thinker's arguments.
        device: Where.
        batch_size: Rows.
        context: Tokens of a row.
        steps: Steps that are timed.
    """
    peak, before = measure_peak_tflops(device, "bf16-mixed"), _reset(device)
    thinker = _thinker(size, device).train()
    if device.type == "cuda":
        thinker.transformer.compile()
    tokens = torch.randint(thinker.vocab_size, (batch_size, context), device=device)

    def loss() -> Tensor:
        return thinker.cross_entropy(thinker.encode(tokens).hidden, tokens) / tokens.numel()

    optimizer = muon(thinker, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    taken = _timed(_step(thinker, loss, optimizer, device, "bf16-mixed"), steps)
    rate = tokens.numel() / taken
    mfu = rate * thinker.flops_per_token / (peak * 1e12)
    return {"mfu": mfu, "tokens_per_second": rate, "peak_tflops": peak} | _peak(device, before)


def decoding(size: str | dict[str, Any], *, device: torch.device, tokens: int) -> dict[str, Any]:
    """Tokens a second of greedy decoding in one row, with bf16 weights on a GPU.

    Args:
        size: As of `thinker_mfu`.
        device: Where.
        tokens: Tokens of a run; three runs are timed after one that is not.
    """
    before = _reset(device)
    thinker = _thinker(size, device).eval()
    if device.type == "cuda":
        thinker.to(torch.bfloat16)
    thinker.transpose_weights_for_decoding()
    prompt = [[number % thinker.vocab_size for number in range(PROMPT)]]
    runs = []
    for _ in range(4):
        made = 0

        def run() -> None:
            nonlocal made
            made = sum(
                1 for _ in generate(thinker, prompt, max_tokens=tokens, stop=-1, sampling=Sampling(temperature=0))
            )

        runs.append(seconds(run))
        if made != tokens:
            raise RuntimeError(f"{made} tokens were decoded where {tokens} were asked for")
    return {"tokens_per_second": tokens / statistics.median(runs[1:])} | _peak(device, before)


def resume(*, size: str, device: torch.device) -> dict[str, Any]:
    """`omni fit` of a small Thinker, stopped, resumed, and its checkpoint resumed on the CPU.

    Raises:
        RuntimeError: If a run does not reach its last step, or a loss is not finite.
    """
    found: dict[str, Any] = {}
    place = "gpu" if device.type == "cuda" else "cpu"
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, chdir(folder):
        for name, first in (("train", 0), ("val", 2000)):
            lines = (f"the number {number} is followed by {number + 1}.\n" for number in range(first, first + 2000))
            Path(f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        for label, accelerator, steps in (("first", place, 4), ("resumed", place, 8), ("cpu", "cpu", 10)):
            arguments = _fit(accelerator, steps, toy=size == "toy")
            if label != "first":
                arguments += ["--ckpt_path", "last"]
            trainer: Any = fit(arguments).trainer
            loss = float(trainer.callback_metrics["train/loss"])
            if trainer.global_step != steps or not loss < float("inf"):
                raise RuntimeError(f"{label}: ended at step {trainer.global_step} of {steps} with a loss of {loss}")
            found[f"{label}_loss"] = loss
    return found


def _fit(accelerator: str, steps: int, *, toy: bool) -> list[str]:
    config = CONFIGS / ("world/thinker.yaml" if toy else "thinker.yaml")
    options = {
        "trainer.accelerator": accelerator,
        "trainer.max_steps": steps,
        "trainer.val_check_interval": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.accumulate_grad_batches": 1,
        "trainer.limit_val_batches": 1,
        "trainer.enable_progress_bar": "false",
        "data.init_args.train": "train.txt",
        "data.init_args.val": "val.txt",
        "data.init_args.tokenizer": "bytes",
        "data.init_args.context": 32,
        "data.init_args.batch_size": 2,
        "model.init_args.thinker.init_args.vocab_size": 288,
    }
    return ["fit", "--config", str(config), *(f"--{name}={value}" for name, value in options.items())]


def _thinker(size: str | dict[str, Any], device: torch.device) -> Thinker:
    if isinstance(size, str):
        arguments: dict[str, Any] = yaml.safe_load(
            (CONFIGS / f"models/{size}/thinker.yaml").read_text(encoding="utf-8")
        )
    else:
        arguments = size
    with device:
        return Thinker(**arguments)


def _step(
    model: torch.nn.Module, loss: Callable[[], Tensor], optimizer: Any, device: torch.device, precision: str
) -> Callable[[], None]:
    """A training step: forward, loss, backward, clip, optimizer, zero."""
    dtype = _AUTOCAST.get(precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            value = loss()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def _timed(step: Callable[[], None], steps: int) -> float:
    """Median seconds of a step, a GPU's work included."""
    times = list(_times(step, WARM_UP + steps))
    return statistics.median(times[WARM_UP:])


def _times(step: Callable[[], None], count: int) -> Iterator[float]:
    for _ in range(count):
        yield seconds(step)


def _reset(device: torch.device) -> int:
    """Forgets peaks; returns the bytes that are in use already."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(device: torch.device, before: int) -> dict[str, int]:
    if device.type != "cuda":
        return {}
    return {
        "peak_memory": torch.cuda.max_memory_allocated() - before,
        "reserved_memory": torch.cuda.max_memory_reserved(),
    }
