"""Parameters and memory of a configuration, measured with fake tensors, without allocating weights."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from omni.errors import UserError
from omni.layers.transformer import Transformer
from omni.optim.precision import best_precision, check_precision
from omni.stages.stage import Stage
from omni.training.configuration import Configuration
from omni.training.device_share import DeviceShare, share_of_device
from omni.training.memory import MemoryTracker

# The type of matrix products under autocast.
PRODUCTS: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters and the memory, in bytes, of a configuration.

    Attributes:
        stage: Class of the stage.
        batch: Shape of each tensor of a batch, by its name.
        precision: Precision of training, as Lightning names it.
        optimizer: Name of the optimizer.
        parameters: Number of parameters by part.
        total_parameters: Number of parameters of the stage; shared ones count once.
        trained_parameters: Number of parameters that are not frozen.
        weights: Parameters and buffers.
        gradients: Gradients of the trained parameters.
        optimizer_state: State that the optimizer keeps between steps.
        activations: A batch, and the tensors kept from its forward to its backward pass.
        workspace: Memory beyond all of these at the peak of a step.
        inference_weights: Parameters of all parts at inference, in fp32.
        cache: Keys and values of one row as long as the context.
        gpu_memory: Available memory; None if not given.
        share: Memory of each of several devices; None for one device.
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
        """Memory of training: an upper bound, as gradients replace activations during a step."""
        return self.weights + self.gradients + self.optimizer_state + self.activations + self.workspace

    @property
    def per_device(self) -> int:
        """Memory of training on each device: of a step, or of validation if that needs more."""
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
        """Whether training fits `gpu_memory`; None if that is not given."""
        return None if self.gpu_memory is None else self.per_device <= self.gpu_memory


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Makes every new tensor a fake one, which has a shape and no data, and lets stages copy it."""

    def copied(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
        """A copy in the same mode; PyTorch's own copies the mode too, and corrupts the heap when both are freed."""
        copy = tensor.detach().clone()
        copy = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
        return memo.setdefault(id(tensor), copy)

    with FakeTensorMode(), patch.object(FakeTensor, "__deepcopy__", copied, create=True):
        yield


def plan_of(
    configuration: Configuration,
    *,
    gpu_memory: int | None = None,
    devices: int = 1,
    strategy: str = "ddp",
    data: Mapping[str, Any] | None = None,
    accumulating: bool | None = None,
    gradient_checkpointing: bool | None = None,
) -> Plan:
    """Parameters and memory of a parsed configuration; no file of data is opened.

    Args:
        configuration: The configuration of a stage.
        gpu_memory: Available bytes on each device.
        devices: Number of devices, each with a batch of its own.
        strategy: `ddp` or `model_parallel`.
        data: Arguments of the data module that replace those of the configuration.
        accumulating: Whether gradients are accumulated; None: as configured.
        gradient_checkpointing: Whether trained Transformers recompute activations; None: as configured.

    Raises:
        UserError: If an argument or the precision is refused, or the data does not define the size of a batch.
    """
    trainer = configuration.config["trainer"]
    configuration.make("data")  # refuses invalid arguments; opens no file before its setup
    with fake_tensors():
        stage = configuration.make("model")
        for module in stage.modules():
            if isinstance(module, Transformer) and gradient_checkpointing is not None:
                module.gradient_checkpointing = gradient_checkpointing
        return measure(
            stage,
            {**configuration.config["data"]["init_args"].as_dict(), **(data or {})},
            precision=trainer["precision"] or best_precision(trainer["accelerator"]),
            accumulating=trainer["accumulate_grad_batches"] > 1 if accumulating is None else accumulating,
            gpu_memory=gpu_memory,
            devices=devices,
            strategy=strategy,
        )


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
    """Runs one training step and counts its memory.

    Args:
        stage: The stage, without a trainer. Build it and call this function under `fake_tensors`, unless it is small.
        data: Arguments of its data module.
        precision: Precision of the trainer.
        accumulating: Whether gradients of earlier micro-batches are kept during a batch.
        gpu_memory: Available bytes on each device.
        devices: Number of devices, each with a batch of its own.
        strategy: `ddp` or `model_parallel`.

    Raises:
        UserError: If the precision is not supported, or `data` does not define the size of a batch.
    """
    precision = check_precision(precision)
    inference_weights = _bytes(p for part in stage.parts.values() for p in part.parameters())
    cache = _cache_bytes(stage, data.get("context"))
    for name in stage.frozen:
        stage.part(name).requires_grad_(False)
    stage.train()
    batch = example_batch(stage, data)
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
    """Bytes that a training step of one or two micro-batches needs besides weights and gradients."""
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
    state = ledger.live - before  # created by the first step; later steps hold it besides the activations
    peak = max(pass_peak + state, ledger.peak)
    workspace = max(0, peak - (ledger.live - inputs + activations))
    return {"optimizer_state": state, "activations": activations, "workspace": workspace}


def _autocast(precision: str) -> AbstractContextManager[Any]:
    dtype = PRODUCTS[precision]
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)  # the device of fake tensors


def example_batch(stage: Stage, data: Mapping[str, Any]) -> Any:
    """The largest batch of a data module with these arguments.

    Raises:
        UserError: If they do not define the size of a batch.
    """
    try:
        return stage.example_batch(data)
    except KeyError as error:
        raise UserError(
            f"data.init_args has no {error}, which is needed to plan a batch of {type(stage).__name__}"
        ) from error
    except (TypeError, RuntimeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no batch of {type(stage).__name__} can be made from data.init_args ({reason})") from error


def _cache_bytes(stage: Stage, context: int | None) -> int:
    parts: list[Any] = [part for part in stage.parts.values() if hasattr(part, "new_cache")]
    caches = [part.new_cache(1, context) for part in parts if context is not None]
    return _bytes(tensor for cache in caches for tensor in (cache.keys, cache.values))


def _bytes(tensors: Any) -> int:
    """Bytes of tensors, each counted once."""
    return sum({tensor: tensor.numel() * tensor.element_size() for tensor in tensors}.values())
