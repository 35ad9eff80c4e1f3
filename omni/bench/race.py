"""What all races share: models that alternate on the same work, and a report as a table with ratios."""

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from omni import __version__
from omni.errors import UserError
from omni.training.memory import format_size
from omni.training.shipped import CONFIGS

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Comparison:
    """One measure of omni and of its peers.

    Attributes:
        measure: What is measured.
        unit: Unit of the values.
        values: The median of each model by name, omni first; None for a model that did not reach the goal.
        ratios: For each peer, how many times better omni is in each round.
    """

    measure: str
    unit: str
    values: dict[str, float | None]
    ratios: dict[str, list[float]]


@dataclass(frozen=True)
class Report:
    """The result of a race.

    Attributes:
        conditions: What was run, and on what.
        results: All measures.
    """

    conditions: dict[str, str]
    results: list[Comparison]

    def table(self) -> str:
        """The report as text."""
        names = list(dict.fromkeys(name for result in self.results for name in result.values))
        rows = [("", *names, "omni is better by")]
        for result in self.results:
            ratios = [_ratio(name if len(names) > 2 else "", ratios) for name, ratios in result.ratios.items()]
            cells = [_cell(result, name) for name in names]
            rows.append((f"{result.measure}, {result.unit}", *cells, "; ".join(ratios)))
        return "\n".join([*aligned([*self.conditions.items()]), "", *aligned(rows)])


@dataclass(frozen=True, kw_only=True)
class Race(ABC):
    """Abstract: a race with its arguments.

    Attributes:
        repeats: Rounds.
        threads: Number of threads on a CPU; by default PyTorch's own choice.
        json: File to write all numbers to.
    """

    positive: ClassVar[tuple[str, ...]] = ("repeats",)
    """Arguments that must be 1 or more."""

    repeats: int = 5
    threads: int | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        for name in self.positive:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")

    @abstractmethod
    def run(self) -> Report:
        """Runs the race.

        Raises:
            UserError: If an argument is wrong, or a package or a file is missing.
        """

    def compare(self, measure: str, unit: str, blocks: Mapping[str, Callable[[], Any]], *, work: float) -> Comparison:
        """Compares the speeds of models.

        Args:
            measure: What is measured.
            unit: Unit of the work by seconds.
            blocks: What each model does in a round, by its name; omni first.
            work: Amount of work in a round.
        """
        rounds = alternate(measure, blocks.values(), repeats=self.repeats)
        speeds = {name: [work / times[i] for times in rounds] for i, name in enumerate(blocks)}
        (_, omni), *peers = speeds.items()
        ratios = {name: [a / b for a, b in zip(omni, peer, strict=True)] for name, peer in peers}
        return Comparison(measure, unit, {name: statistics.median(values) for name, values in speeds.items()}, ratios)

    def conditions(self, *packages: str, device: torch.device | None = None, **others: str) -> dict[str, str]:
        """What a race was run on.

        Args:
            packages: Names of the peers' packages.
            device: The device; by default the CPU.
            others: Further conditions by name.
        """
        cpu = f"CPU ({torch.backends.cpu.get_cpu_capability()}), threads: {torch.get_num_threads()}"
        versions = [f"omni {__version__}", *(f"{name} {version(name)}" for name in ("torch", *packages))]
        return {
            "versions": ", ".join(versions),
            "device": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else cpu,
            **others,
            "rounds": f"{self.repeats}; the median, and the lowest and highest ratio of a round",
        }


def _cell(result: Comparison, name: str) -> str:
    if name not in result.values:
        return ""
    value = result.values[name]
    if value is None:
        return "never"
    return format_size(value) if result.unit == "bytes" else f"{value:,.{0 if value >= 100 else 1}f}"


def _ratio(name: str, ratios: Sequence[float]) -> str:
    if not ratios:
        return "–"
    spread = f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{name} {statistics.median(ratios):.2f} ×{spread}".lstrip()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: the first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *middle, last = (
            cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *middle, last]).rstrip())
    return lines


def alternate(label: str, blocks: Iterable[Callable[[], Any]], *, repeats: int) -> list[list[float]]:
    """Times models in turn, after a round that does not count: what slows the machine for a while slows all of them.

    Args:
        label: What is measured, for the progress bar.
        blocks: What each model does in a round.
        repeats: Number of rounds.

    Returns:
        Seconds of each model in each round.
    """
    blocks = [*blocks]
    return [[seconds(block) for block in blocks] for _ in tqdm(range(repeats + 1), label)][1:]


def seconds(block: Callable[[], Any]) -> float:
    """Duration of a call, including its work on a GPU."""
    wait = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    block()
    wait()
    return time.perf_counter() - start


def training_step(
    model: nn.Module, loss: Callable[[], Tensor], optimizer: Optimizer, *, precision: str = "32-true"
) -> Callable[[], None]:
    """A training step: forward, loss, backward, clip, optimizer, zero.

    Args:
        model: The model.
        loss: Computes the loss of a batch.
        optimizer: Its optimizer.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device, dtype = parameters[0].device.type, _AUTOCAST.get(precision)
    scaler = torch.amp.GradScaler(device, enabled=precision == "16-mixed")

    def step() -> None:
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            value = loss()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def parameter_counts(models: Mapping[str, nn.Module]) -> str:
    """The number of parameters of each model, as text."""
    return ", ".join(f"{name} {count_parameters(model):,}" for name, model in models.items())


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_size(size: str, part: str) -> dict[str, Any]:
    """The arguments of a part in a documented size, or in a YAML file.

    Args:
        size: A folder of `configs/models`, or a file.
        part: Such as `audio_encoder`.

    Raises:
        UserError: If there is neither.
    """
    path = CONFIGS / "models" / size / f"{part}.yaml"
    path = path if path.is_file() else Path(size)
    if not path.is_file():
        raise UserError(f"size {size!r} is neither a folder of configs/models nor a YAML file")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
