"""A configuration fitted to its data: length of the run, intervals, batch, learning rate, each with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from omni.data.loading.statistics import DataStatistics, Unit
from omni.errors import UserError
from omni.training.batch_fitting import BatchFit, fit_batch
from omni.training.configuration import Configuration, muted_logs
from omni.training.learning_rate import lr_by_width

# Amount of training data from which a data set counts as large.
LARGE: dict[Unit, float] = {"tokens": 100e6, "hours": 100, "images": 100e3, "conversations": 100e3}
MIN_STEPS = 2000  # of a model trained from scratch; AN4's 45 minutes take 3,000 (configs/bench/an4.yaml)
MAX_EPOCHS = 100  # even if these are fewer than MIN_STEPS steps
WARMUP = 0.03  # share of the steps
STEPS_CLOSE = 1.5  # a number of steps within this factor of the rule is kept
VALIDATIONS = (5, 25)  # a number between these is kept
CHECKPOINTS = (10, 100)
_LAST = "trainer.callbacks+"


class Change(NamedTuple):
    """A value that a suggestion changes.

    Attributes:
        key: Dotted key of the configuration.
        old: Value before.
        new: Value after.
        reason: Why, in a phrase.
        setting: What to write at `key`, where it is not `new`.
    """

    key: str
    old: Any
    new: Any
    reason: str
    setting: Any = None

    @property
    def value(self) -> Any:
        """What to write at `key`."""
        return self.new if self.setting is None else self.setting


@final
@dataclass(kw_only=True)
class Suggestion:
    """Changes of a configuration, and why.

    Attributes:
        stage: Class of the stage.
        changes: In the order in which they were derived.
        notes: What was kept or could not be derived, and why.
        statistics: Of the data; None if it cannot be read yet.
    """

    stage: str
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    statistics: DataStatistics | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The changed values by key."""
        return {change.key: change.value for change in self.changes}


def suggest(
    configuration: Configuration,
    *,
    gpu_memory: int | None = None,
    devices: int | None = None,
    strategy: str = "ddp",
    missing: str | None = None,
) -> Suggestion:
    """Fits a configuration to its data, its width and a GPU's memory.

    The data is prepared as for training (text is tokenised once and kept), and counted. A suggested configuration needs
    no change: the rules keep what they have set.

    Args:
        configuration: The configuration of a stage.
        gpu_memory: Bytes on each device; None leaves batch and gradient checkpointing as they are.
        devices: Number of devices; None: as configured.
        strategy: `ddp` or `model_parallel`.
        missing: Why the data cannot be read yet; what depends on it is then left as it is.

    Raises:
        UserError: If the data cannot be read, is of a class that does not count it, or a batch of the smallest size
            does not fit the memory.
    """
    suggestion = Suggestion(stage=configuration.config["model"]["class_path"].rpartition(".")[2])
    if missing is None:
        suggestion.statistics = statistics = count(configuration)
        _fit_classes(suggestion, configuration, statistics)
    else:
        suggestion.notes.append(f"the data is not counted: {missing}")
    statistics = suggestion.statistics
    now = _devices(configuration)
    devices = devices or now
    if devices != now:
        suggestion.changes.append(Change("trainer.devices", now, devices, "as asked for"))
    fit = fit_batch(
        configuration, statistics, gpu_memory=gpu_memory, devices_before=now, devices=devices, strategy=strategy
    )
    _fit_memory(suggestion, configuration, fit)
    if statistics is not None:
        _fit_length(suggestion, configuration, statistics, fit, devices)
    _fit_lr(suggestion, configuration)
    return suggestion


def count(configuration: Configuration) -> DataStatistics:
    """Counts the data that a configuration names.

    Raises:
        UserError: If it cannot be read, or its class has no `statistics`.
    """
    data = configuration.configured_data()
    if not hasattr(data, "statistics"):
        raise UserError(
            f"data.class_path: {type(data).__name__} does not count its data: give it a method `statistics` that "
            "returns omni.data.loading.statistics.DataStatistics"
        )
    with muted_logs():
        return data.statistics()


def _devices(configuration: Configuration) -> int:
    devices, nodes = configuration.get("trainer.devices"), configuration.get("trainer.num_nodes")
    number = len(devices) if isinstance(devices, list) else devices
    try:
        return max(1, int(number)) * nodes
    except (TypeError, ValueError):  # auto
        return nodes


def _fit_classes(suggestion: Suggestion, configuration: Configuration, statistics: DataStatistics) -> None:
    key = "model.init_args.classifier.init_args.num_classes"
    old = configuration.get(key)
    if old is not None and statistics.classes not in (None, old):
        suggestion.changes.append(Change(key, old, statistics.classes, "number of classes of the data"))


def _fit_memory(suggestion: Suggestion, configuration: Configuration, fit: BatchFit) -> None:
    """Batch, accumulation and gradient checkpointing."""
    for key, (new, reason) in fit.settings.items():
        old = configuration.get(key)
        if old != new:
            suggestion.changes.append(Change(key, old, new, reason))
    suggestion.notes += fit.notes


def _fit_length(
    suggestion: Suggestion, configuration: Configuration, statistics: DataStatistics, fit: BatchFit, devices: int
) -> None:
    """Steps, warm-up, validation and checkpoints."""
    batches, changes = statistics.train_batches(fit.batch_size), suggestion.changes
    old = configuration.get("trainer.max_steps")
    if batches is None:
        suggestion.notes.append(f"trainer.max_steps kept at {old}: the length of a stream is not known")
        steps = old
    else:
        steps = _steps(suggestion, configuration, statistics, max(1, batches // devices // fit.accumulate))
    if steps < 1:
        return
    key, warmup = "model.init_args.warmup_steps", max(1, round(WARMUP * steps))
    old = configuration.get(key)
    if old is not None and not 0.01 * steps <= old <= 0.1 * steps:
        changes.append(Change(key, old, warmup, f"{WARMUP:.0%} of the steps"))
    for name in ("adversarial_start", "projector_steps"):
        key, old = f"model.init_args.{name}", configuration.get(f"model.init_args.{name}")
        if old and old > steps // 2:
            changes.append(Change(key, old, steps // 2, "half of the steps: what starts there needs the other half"))
    _fit_validation(suggestion, configuration, statistics, steps * fit.accumulate)
    _fit_checkpoints(suggestion, configuration, steps)


def _steps(
    suggestion: Suggestion, configuration: Configuration, statistics: DataStatistics, steps_per_epoch: int
) -> int:
    """Optimizer steps of the run."""
    amount = statistics.amount
    assert amount is not None
    epochs, size = epochs_for(statistics.unit, amount)
    steps, reason = epochs * steps_per_epoch, f"{epochs} epochs" if epochs > 1 else "1 epoch"
    reason += f" of {steps_per_epoch:,} steps: {_amount(statistics.unit, amount)} is {size}"
    if steps < MIN_STEPS:
        epochs = min(MAX_EPOCHS, -(-MIN_STEPS // steps_per_epoch))
        steps = min(MIN_STEPS, epochs * steps_per_epoch)
        limit = f"at least {MIN_STEPS:,} steps" if steps == MIN_STEPS else f"at most {MAX_EPOCHS} epochs"
        reason = f"{limit}; {_amount(statistics.unit, amount)} makes {steps_per_epoch:,} an epoch"
    old, epochs_before = configuration.get("trainer.max_steps"), configuration.get("trainer.max_epochs")
    if epochs_before is not None:
        suggestion.changes.append(Change("trainer.max_epochs", epochs_before, None, "trainer.max_steps ends the run"))
        old = min(old, epochs_before * steps_per_epoch) if old > 0 else epochs_before * steps_per_epoch
    if old > 0 and steps / STEPS_CLOSE <= old <= steps * STEPS_CLOSE and epochs_before is None:
        if old != steps:
            suggestion.notes.append(f"trainer.max_steps kept at {old:,}: the rule gives {steps:,} ({reason})")
        return old
    suggestion.changes.append(Change("trainer.max_steps", configuration.get("trainer.max_steps"), steps, reason))
    return steps


def epochs_for(unit: Unit, amount: float) -> tuple[int, str]:
    """Epochs for an amount of data, 1 to 3 of a large set and 5 to 10 of a small one, and the name of its size.

    Up to about 4 epochs of the same text are almost as good as new text, and beyond 16 little is gained
    (arXiv:2305.16264).
    """
    share = amount / LARGE[unit]
    if share >= 10:
        return 1, "very large"
    if share >= 1:
        return 3, "large"
    return (5, "small") if share >= 0.1 else (10, "very small")


def _fit_validation(
    suggestion: Suggestion, configuration: Configuration, statistics: DataStatistics, batches: int
) -> None:
    """Batches between validations: ten in a run, fewer if they would take longer than training."""
    key = "trainer.val_check_interval"
    old = configuration.get(key)
    if configuration.get("trainer.check_val_every_n_epoch") is not None or isinstance(old, str | Mapping):
        suggestion.notes.append(f"{key} kept: validation follows epochs or the clock")
        return
    fewest, most = VALIDATIONS
    if isinstance(old, int) and fewest <= batches / old <= most and old >= statistics.val_batches:
        return
    new, reason = max(1, batches // 10), "10 validations"
    if new < statistics.val_batches:
        new = min(batches, statistics.val_batches)
        reason = f"{max(1, batches // new)} validations: one takes {statistics.val_batches:,} batches"
    if old != new:
        suggestion.changes.append(Change(key, old, new, f"{reason} in {batches:,} batches"))


def _fit_checkpoints(suggestion: Suggestion, configuration: Configuration, steps: int) -> None:
    """Steps between two checkpoints `last.ckpt`."""
    callbacks = configuration.get("trainer.callbacks") or []
    arguments = [each.get("init_args") or {} for each in callbacks if each["class_path"].endswith(".StageCheckpoint")]
    lasts = [each["every_n_train_steps"] for each in arguments if each["filename"] == "last"]
    if not lasts or not lasts[-1]:
        return
    fewest, most = CHECKPOINTS
    if fewest <= steps / lasts[-1] <= most:
        return
    new = max(1, min(steps // 20, 1000))
    if new == lasts[-1]:
        return
    callback = {
        "class_path": "omni.training.callbacks.StageCheckpoint",
        "init_args": {"filename": "last", "every_n_train_steps": new},
    }
    reason = f"a kill loses at most {new:,} of {steps:,} steps"
    suggestion.changes.append(Change(_LAST, f"last.ckpt every {lasts[-1]} steps", f"every {new}", reason, [callback]))


def _fit_lr(suggestion: Suggestion, configuration: Configuration) -> None:
    key, rate = "model.init_args.lr", lr_by_width(configuration)
    old = configuration.get(key)
    if rate.value is None:
        suggestion.notes.append(f"{key} kept at {old:g}: {rate.reason}")
    else:
        suggestion.changes.append(Change(key, old, rate.value, f"{rate.reason}; a sweep finds a better one"))


def _amount(unit: Unit, amount: float) -> str:
    return f"{amount:.2f} hours" if unit == "hours" else f"{amount:,.0f} {unit}"
