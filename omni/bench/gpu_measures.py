"""Measures of `omni bench gpu`: training steps of each stage, MFU, decoding, and resuming, also on the CPU."""

import statistics
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from omni.batch import ConversationBatch
from omni.bench.race import read_size, seconds, training_step
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
WARMUP_STEPS = 3  # not timed: kernels are selected, and compiled
_PROMPT_TOKENS = 16
# Batches of the toy size, by the arguments of any data module.
_TOY_DATA = {"batch_size": 2, "context": 32, "max_tokens": 64, "batch_tokens": 128, "batch_seconds": 2.0}
_TOY_DATA |= {"max_duration": 2.0, "max_batch_rows": 2}


def train(
    stage_name: str, *, size: str, device: torch.device, precision: str, compiled: bool, steps: int
) -> dict[str, Any]:
    """Trains a stage of a documented size on its largest batch.

    Args:
        stage_name: One of `STAGES`.
        size: `tiny`: as in `configs/`; `toy`: as in `configs/world/`, with small batches.
        device: The device.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
        compiled: Whether Transformers are compiled.
        steps: Number of timed steps, after `WARMUP_STEPS`.

    Returns:
        `seconds_per_step`, the work per second by its unit, on a GPU `peak_memory` and `reserved_memory`, and the
        forecast of `omni plan`, `planned_memory`; in bytes.
    """
    folder = CONFIGS if size == "tiny" else CONFIGS / "world"
    with parser_errors("bench gpu"):
        configuration = Configuration(["--config", str(folder / f"{stage_name}.yaml")])
    data = configuration.config["data"]["init_args"].as_dict() | (_TOY_DATA if size == "toy" else {})
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
    step = training_step(stage, lambda: stage.loss(batch).mean, stage.make_optimizer(), precision=precision)
    duration = _median_seconds(step, steps)
    work, unit = batch.work
    speed = {"seconds_per_step": duration, f"{unit}_per_second": work / duration}
    return {**speed, "planned_memory": planned, **_peak(device, before)}


def _example(stage: Any, data: dict[str, Any]) -> Any:
    """The stage's example batch; for stage E with placeholders for its media."""
    batch = stage.example_batch(data)
    if not isinstance(batch, ConversationBatch):
        return batch
    layout, start = stage.omni.layout, 0
    for media, placeholder in ((batch.images, IMAGE), (batch.mels, AUDIO)):
        if media is not None:
            span = layout.image() if placeholder == IMAGE else layout.audio(media.shape[1])
            batch.tokens[:, start : start + span.tokens] = placeholder
            start += span.tokens
    return batch


def thinker_mfu(
    size: str | dict[str, Any], *, device: torch.device, batch_size: int, context: int, steps: int
) -> dict[str, Any]:
    """Trains a Thinker in bf16, compiled on a GPU, and relates its FLOPs to the measured peak.

    Args:
        size: A folder of `configs/models`, or a Thinker's arguments.
        device: The device.
        batch_size: Rows.
        context: Tokens in a row.
        steps: Number of timed steps.

    Returns:
        `mfu`, `tokens_per_second`, `peak_tflops`, and on a GPU its memory.
    """
    peak, before = measure_peak_tflops(device, "bf16-mixed"), _reset(device)
    thinker = _thinker(size, device).train()
    if device.type == "cuda":
        thinker.transformer.compile()
    tokens = torch.randint(thinker.vocab_size, (batch_size, context), device=device)

    def loss() -> Tensor:
        return thinker.cross_entropy(thinker.encode(tokens).hidden, tokens) / tokens.numel()

    optimizer = muon(thinker, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    step = training_step(thinker, loss, optimizer, precision="bf16-mixed")
    rate = tokens.numel() / _median_seconds(step, steps)
    mfu = rate * thinker.flops_per_token / (peak * 1e12)
    return {"mfu": mfu, "tokens_per_second": rate, "peak_tflops": peak} | _peak(device, before)


def decoding(size: str | dict[str, Any], *, device: torch.device, tokens: int) -> dict[str, Any]:
    """Speed of greedy decoding of one row, with bf16 weights on a GPU.

    Args:
        size: See `thinker_mfu`.
        device: The device.
        tokens: Tokens in a run; three runs are timed after one that is not.
    """
    before = _reset(device)
    thinker = _thinker(size, device).eval()
    if device.type == "cuda":
        thinker.to(torch.bfloat16)
    thinker.transpose_weights_for_decoding()
    prompt = [[number % thinker.vocab_size for number in range(_PROMPT_TOKENS)]]
    greedy = Sampling(temperature=0)
    generated: list[Any] = []

    def run() -> None:
        generated[:] = generate(thinker, prompt, max_tokens=tokens, stop=-1, sampling=greedy)

    times = []
    for _ in range(4):
        times.append(seconds(run))
        if len(generated) != tokens:
            raise RuntimeError(f"{len(generated)} of {tokens} tokens were decoded")
    return {"tokens_per_second": tokens / statistics.median(times[1:])} | _peak(device, before)


def resume(*, size: str, device: torch.device) -> dict[str, Any]:
    """Runs `omni fit` of a small Thinker, resumes it, and resumes its checkpoint on the CPU.

    Returns:
        The last loss of each of the three runs.

    Raises:
        RuntimeError: If a run does not reach its last step, or a loss is not finite.
    """
    losses: dict[str, Any] = {}
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
            losses[f"{label}_loss"] = loss
    return losses


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
    arguments = read_size(size, "thinker") if isinstance(size, str) else size
    with device:
        return Thinker(**arguments)


def _median_seconds(step: Callable[[], None], steps: int) -> float:
    """Median duration of a step after warm-up."""
    return statistics.median([seconds(step) for _ in range(WARMUP_STEPS + steps)][WARMUP_STEPS:])


def _reset(device: torch.device) -> int:
    """Resets the peaks of memory; returns the bytes in use."""
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
