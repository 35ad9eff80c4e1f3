"""What a configuration will need: its parameters and its memory, measured without making a single weight."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from omni.errors import UserError
from omni.optim.precision import check_precision
from omni.stages.stage import Stage
from omni.training.device_share import DeviceShare, share_of_device
from omni.training.memory import MemoryTracker

# What autocast multiplies in.
PRODUCTS: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a configuration needs. Memory is in bytes.

    Attributes:
        stage: Class of the stage.
        batch: Shape of each tensor of a batch, by its name.
        precision: Of training, in Lightning's words.
        optimizer: Its name.
        parameters: Number of parameters by part.
        total_parameters: Number of parameters of the stage, those that parts share counted once.
        trained_parameters: Those of them that are not frozen.
        weights: Parameters and buffers.
        gradients: One for each trained parameter.
        optimizer_state: What the optimizer keeps between its steps.
        activations: A batch, and what lives from its forward to its backward pass.
        workspace: What the worst moment of a step needs beyond all of these.
        inference_weights: Parameters of all parts as inference loads them, in fp32.
        cache: Keys and values of one row as long as the context.
        gpu_memory: What there is; None if that was not told.
        share: What each of several devices holds; None for one device.
    """

    stage: str
    batch: dict[str, tuple[int, ...]]
    precision: str
    optimizer: str
    parameters: dict[str, int]
    total_parameters: int
    trained_parameters: int
    weights: int
    gradients: int
    optimizer_state: int
    activations: int
    workspace: int
    inference_weights: int
    cache: int
    gpu_memory: int | None = None
    share: DeviceShare | None = None

    @property
    def training(self) -> int:
        """Memory of training. No single moment needs more; most need less, as gradients replace activations."""
        return self.weights + self.gradients + self.optimizer_state + self.activations + self.workspace

    @property
    def per_device(self) -> int:
        """Memory of training on each device; validation, which keeps no gradients, may be what needs most."""
        share = self.share
        if share is None:
            return self.training
        step = share.gradients + share.exchange + self.activations + self.workspace
        return share.weights + share.optimizer_state + max(step, share.validation)

    @property
    def inference(self) -> int:
        """Memory of inference on one row."""
        return self.inference_weights + self.cache

    @property
    def fits(self) -> bool | None:
        """Whether training fits `gpu_memory`; None if that was not told."""
        return None if self.gpu_memory is None else self.per_device <= self.gpu_memory


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Every tensor that is made has a shape only. Stages copy some: metrics their states, averages whole parts."""

    def copied(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
        """PyTorch's own copies the mode with the tensor, and then frees what the mode refers to twice: heaps break."""
        copy = tensor.detach().clone()
        copy = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
        return memo.setdefault(id(tensor), copy)

    with FakeTensorMode(), patch.object(FakeTensor, "__deepcopy__", copied, create=True):
        yield


def measure(
    stage: Stage,
    data: Mapping[str, Any],
    *,
    precision: str | int = "32-true",
    accumulating: bool = False,
    gpu_memory: int | None = None,
    devices: int = 1,
    strategy: str = "ddp",
) -> Plan:
    """Makes one training step and counts what it needs.

    Args:
        stage: The stage, without a trainer. Make it, and call this, under `fake_tensors` unless it is small.
        data: Arguments of its data module.
        precision: As the trainer's.
        accumulating: Whether gradients of earlier micro-batches lie beside a batch's activations.
        gpu_memory: Bytes that there are, on each device.
        devices: How many there are, each with a batch of its own.
        strategy: How they share the work, `ddp` or `model_parallel`.

    Raises:
        UserError: If the precision cannot be planned, or `data` does not tell how large a batch is.
    """
    precision = check_precision(precision)
    inference_weights = _bytes(p for part in stage.parts.values() for p in part.parameters())
    cache = _cache_bytes(stage, data.get("context"))
    for name in stage.frozen:
        stage.part(name).requires_grad_(False)
    stage.train()
    batch = _example_batch(stage, data)
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError("model.init_args.frozen names every part: nothing is left to train")
    needed = _step(stage, batch, precision, passes=2 if accumulating else 1)
    share = None
    if devices != 1 or strategy != "ddp":
        state = needed["optimizer_state"]
        share = share_of_device(stage, strategy=strategy, devices=devices, optimizer_state=state)
    return Plan(
        stage=type(stage).__name__,
        batch={name: tuple(tensor.shape) for name, tensor in batch._asdict().items() if isinstance(tensor, Tensor)},
        precision=precision,
        optimizer=stage.optimizer_name,
        parameters={name: part.num_parameters for name, part in stage.parts.items()},
        total_parameters=sum(parameter.numel() for parameter in stage.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        weights=_bytes([*stage.parameters(), *stage.buffers()]),
        gradients=_bytes(trained),
        **needed,
        inference_weights=inference_weights,
        cache=cache,
        gpu_memory=gpu_memory,
        share=share,
    )


def _step(stage: Stage, batch: Any, precision: str, *, passes: int) -> dict[str, int]:
    """What a training step of one or two micro-batches needs beyond weights and gradients, in bytes."""
    optimizer, ledger = stage.make_optimizer(), MemoryTracker()
    ledger.add([*stage.parameters(), *stage.buffers()])
    activations = inputs = ledger.add(batch)
    with ledger:
        for _ in range(passes):
            before = ledger.live
            with _autocast(precision):
                loss = stage.loss(batch)
            activations = inputs + ledger.live - before
            loss.total.backward()
            del loss
        pass_peak, before = ledger.peak, ledger.live
        optimizer.step()
    state = ledger.live - before  # made by the first step; from the second on it lies beside a batch's activations
    peak = max(pass_peak + state, ledger.peak)
    workspace = max(0, peak - (ledger.live - inputs + activations))
    return {"optimizer_state": state, "activations": activations, "workspace": workspace}


def _autocast(precision: str) -> AbstractContextManager[Any]:
    dtype = PRODUCTS[precision]
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)  # where fake tensors say they lie


def _example_batch(stage: Stage, data: Mapping[str, Any]) -> Any:
    try:
        return stage.example_batch(data)
    except KeyError as error:
        raise UserError(f"data.init_args has no {error}, which {type(stage).__name__} needs to plan a batch") from error


def _cache_bytes(stage: Stage, context: int | None) -> int:
    parts: list[Any] = [part for part in stage.parts.values() if hasattr(part, "new_cache")]
    caches = [part.new_cache(1, context) for part in parts if context is not None]
    return _bytes(tensor for cache in caches for tensor in (cache.keys, cache.values))


def _bytes(tensors: Any) -> int:
    """Bytes of tensors, each counted once."""
    return sum({tensor: tensor.numel() * tensor.element_size() for tensor in tensors}.values())
