"""Lightning's own switches and callbacks work with the stages, or are refused in one line."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from toy_runs import RUN, callback, same, step_of, weights

from omni.training.callbacks.progress import StepBar

LIGHTNING = "lightning.pytorch.callbacks."
AVERAGE = callback(f"{LIGHTNING}EMAWeightAveraging", decay=0.9, update_every_n_steps=1)


class OwnLogger(Logger):
    """A logger of the user's."""

    logged: ClassVar[list[dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "own"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics, step=None) -> None:
        self.logged.append(metrics)

    def log_hyperparams(self, *args, **kwargs) -> None: ...


SWITCHES = {
    "no step is logged": ["--trainer.log_every_n_steps=0"],
    "long validation interval": ["--trainer.val_check_interval=100000"],
    "overfit": ["--trainer.overfit_batches=2"],
    "no validation": ["--trainer.limit_val_batches=0"],
    "few batches": ["--trainer.limit_train_batches=2"],
    "profiler": ["--trainer.profiler=simple"],
    "anomalies": ["--trainer.detect_anomaly=true"],
    "deterministic": ["--trainer.deterministic=true"],
    "time limit": ["--trainer.max_time=00:00:10:00"],
    "clipping by value": ["--trainer.gradient_clip_algorithm=value", "--trainer.gradient_clip_val=0.5"],
    "new loaders": ["--trainer.reload_dataloaders_every_n_epochs=1"],
    "no checkpoints": ["--trainer.enable_checkpointing=false"],
    "sanity check": ["--trainer.num_sanity_val_steps=2"],
    "no inference mode": ["--trainer.inference_mode=false"],
    "no callbacks": ["--trainer.callbacks=null"],
    "Timer": [callback(f"{LIGHTNING}Timer", duration="00:00:10:00")],
    "EarlyStopping": [callback(f"{LIGHTNING}EarlyStopping", monitor="val/loss")],
    "DeviceStatsMonitor": [callback(f"{LIGHTNING}DeviceStatsMonitor")],
    "StochasticWeightAveraging": [callback(f"{LIGHTNING}StochasticWeightAveraging", swa_lrs=1e-3, swa_epoch_start=1)],
    "LearningRateFinder": [callback(f"{LIGHTNING}LearningRateFinder", num_training_steps=5)],
    "GradientAccumulationScheduler": [callback(f"{LIGHTNING}GradientAccumulationScheduler", scheduling={0: 1, 1: 2})],
}


SWA_WARNING = pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")


@SWA_WARNING
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_lightning(name, fit):
    cli = fit("fit", *SWITCHES[name])
    assert cli.trainer.global_step > 0
    assert (RUN / "last.ckpt").exists() == (name not in ("no checkpoints", "no callbacks"))


@pytest.mark.parametrize(
    "runner", ["fit", "fit_audio", "fit_vision", "fit_codec", "fit_vocoder", "fit_talker", "fit_omni"]
)
def test_averaged_weights_are_validated_saved_and_resumed(runner, request):
    train = request.getfixturevalue(runner)
    few = {"trainer__max_steps": 4, "trainer__val_check_interval": 2}
    cli = train("fit", AVERAGE, **few)
    (folder,) = {path.parent for path in Path("lightning_logs").rglob("last.ckpt")}
    averaged = weights(folder / "last.ckpt")
    assert (folder / "best.ckpt").is_file()
    final = {name: value for name, value in cli.model.state_dict().items() if value.is_floating_point()}
    assert averaged.keys() >= final.keys() - {name for name in final if name not in averaged}
    train("fit", AVERAGE, "--ckpt_path=last", **{**few, "trainer__max_steps": 6})
    assert step_of(folder / "last.ckpt") == 6
    assert not same(weights(folder / "last.ckpt"), averaged)


def test_bits_per_byte_under_averaged_weights(fit):
    values = {}
    for options in ((), (AVERAGE,)):
        metrics = fit("fit", *options, trainer__max_steps=2, trainer__val_check_interval=2).trainer.callback_metrics
        values[len(options)] = float(metrics["val/bits_per_byte"] / metrics["val/loss"])
    assert values[0] == pytest.approx(values[1], rel=1e-3)  # bytes of a token are no weights


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_barebones_trains_and_writes_nothing(fit):
    fit()
    before = {path: path.stat().st_mtime_ns for path in Path("lightning_logs").rglob("*")}
    cli = fit("fit", "--trainer.barebones=true")
    assert cli.trainer.global_step == 6
    assert {path: path.stat().st_mtime_ns for path in Path("lightning_logs").rglob("*")} == before


def test_without_checkpoints_those_of_the_earlier_run_are_not_mixed_in(fit):
    fit()
    fit("fit", "--trainer.enable_checkpointing=false")
    assert (RUN / "earlier/1/best.ckpt").is_file()
    assert not (RUN / "best.ckpt").exists()


def test_a_logger_of_the_users_own(fit):
    own = ['--trainer.logger={"class_path": "test_lightning_switches.OwnLogger"}', f"--trainer.default_root_dir={RUN}"]
    fit("fit", *own)
    assert any("val/loss" in metrics for metrics in OwnLogger.logged)
    assert (RUN / "last.ckpt").is_file()


@pytest.mark.parametrize("name", ["RichProgressBar", "TQDMProgressBar"])
def test_a_progress_bar_of_the_users_own_replaces_omnis(name, fit):
    pytest.importorskip("rich")
    cli = fit("fit", callback(f"{LIGHTNING}{name}"), trainer__enable_progress_bar=True)
    (bar,) = (each for each in cli.trainer.callbacks if isinstance(each, ProgressBar))
    assert not isinstance(bar, StepBar)


@SWA_WARNING
def test_a_device_among_the_arguments_of_a_callback(fit):
    cli = fit("fit", callback(f"{LIGHTNING}StochasticWeightAveraging", swa_lrs=1e-3, swa_epoch_start=1, device="cpu"))
    assert "device: cpu" in (RUN / "config.yaml").read_text()
    assert torch.device("cpu") in [getattr(each, "_device", None) for each in cli.trainer.callbacks]
