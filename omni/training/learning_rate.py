"""The learning rate by width: a rule of thumb, from the configuration for which the learning rate was chosen."""

from pathlib import Path
from typing import NamedTuple

import yaml

from omni.training.configuration import Configuration
from omni.training.memory_plan import fake_tensors
from omni.training.shipped import CONFIGS

MUON_FACTOR = 3.0  # learning rate of Muon relative to AdamW's, as in the comments of the shipped configurations
TRUSTED = 4.0  # a learning rate set by hand is kept within this factor of the rule


class LearningRate(NamedTuple):
    """A learning rate and where it comes from.

    Attributes:
        value: New learning rate; None to keep the configured one.
        reason: Why, in a phrase.
    """

    value: float | None
    reason: str


class _Setting(NamedTuple):
    lr: float
    optimizer: str
    part: str
    dim: int


def lr_by_width(configuration: Configuration) -> LearningRate:
    """The learning rate for the width of the trained part: lr × sqrt(reference width / width).

    The reference is the shipped configuration that this one is based on, or else the shipped one of the same stage. A
    learning rate that differs from the reference's was set by hand, and is kept unless it is far from the rule.

    Where the exponent of -1/2 comes from: the spectral norm of an update of a square matrix should not depend on the
    width (arXiv:2310.17813). Updates of a fixed RMS, as Muon's are here (arXiv:2502.16982), have a spectral norm that
    grows with sqrt(width): the learning rate falls with 1 / sqrt(width). For AdamW, μP (arXiv:2203.03466) has 1 / width
    for hidden matrices and 1 for embeddings; a single learning rate lies in between. A rate that rises with
    sqrt(width), as other projects document, contradicts both.

    Args:
        configuration: The configuration of a stage.
    """
    given = _setting(configuration)
    if given is None:
        return LearningRate(None, "no trained part has a width `dim`")
    if given.part in configuration.init_from:
        return LearningRate(None, f"{given.part} starts from a checkpoint")
    path = _reference(configuration)
    reference = None if path is None else _setting(Configuration(["--config", str(path)]))
    if path is None or reference is None or reference.part != given.part:
        return LearningRate(None, f"no shipped configuration trains {given.part} from scratch in this stage")
    lr = reference.lr * (reference.dim / given.dim) ** 0.5
    lr *= {"muon": MUON_FACTOR}.get(given.optimizer, 1.0) / {"muon": MUON_FACTOR}.get(reference.optimizer, 1.0)
    lr = float(f"{lr:.2g}")
    name = path.relative_to(CONFIGS.resolve())
    source = f"{reference.lr:g} at width {reference.dim} with {reference.optimizer} in {name}"
    rule = f"{source}, × sqrt({reference.dim} / {given.dim})"
    if given.optimizer != reference.optimizer:
        rule += f", {'×' if given.optimizer == 'muon' else '/'} {MUON_FACTOR:g} for {given.optimizer}"
    if given.lr == lr or (given.dim, given.optimizer, given.lr) == (reference.dim, reference.optimizer, reference.lr):
        return LearningRate(None, f"as in {name}" if given.lr == reference.lr else f"by the rule: {rule}")
    if given.lr != reference.lr and 1 / TRUSTED <= given.lr / lr <= TRUSTED:
        return LearningRate(None, f"set by hand; the rule gives {lr:g} ({rule})")
    return LearningRate(lr, rule)


def _setting(configuration: Configuration) -> _Setting | None:
    """The learning rate, and the width of the largest trained part that has one."""
    with fake_tensors():
        stage = configuration.make("model")
        parts = {name: part for name, part in stage.parts.items() if name not in stage.frozen}
        sizes = {
            name: part.num_parameters for name, part in parts.items() if isinstance(getattr(part, "dim", None), int)
        }
    if not sizes:
        return None
    name = max(sizes, key=lambda each: sizes[each])
    return _Setting(stage.lr, stage.optimizer_name, name, int(getattr(parts[name], "dim")))  # noqa: B009


def _reference(configuration: Configuration) -> Path | None:
    """The last shipped configuration that this one names, or else the first shipped one of the same stage."""
    root = CONFIGS.resolve()
    named = [Path(path).resolve() for path in configuration.files]
    if shipped := [path for path in named if path.is_relative_to(root)]:
        return shipped[-1]
    wanted = configuration.config["model"]["class_path"].rpartition(".")[2]
    for path in sorted(root.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if (
            str((content.get("model") or {}).get("class_path", "")).rpartition(".")[2] == wanted
            and "base" not in content
        ):
            return path
    return None
