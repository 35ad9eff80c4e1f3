"""Loggers by configuration, several at once and none: scalars, figures, audio and text, and the folder of the run."""

import csv
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning import Callback
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_runs import RUN, callback, scalars, step_of

from omni.cli import main
from omni.curves.event_files import read_run
from omni.stages.reporting import media
from omni.stages.reporting.media import media_writer
from omni.training.configuration import Configuration

LOGGERS = "lightning.pytorch.loggers"
IN_RUN = {"save_dir": "lightning_logs", "name": "thinker", "version": ""}
TONE = 0.5 * torch.sin(torch.arange(1600) * 0.3)


def logger(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{LOGGERS}.{name}", "init_args": arguments}


def loggers(*entries: Any) -> str:
    return f"--trainer.logger={json.dumps(entries)}"


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run))
    found.Reload()
    return found


class WritesMedia(Callback):
    """One figure, one sound and one text at each validation."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        writer = media_writer(trainer)
        if writer is None:
            return
        figure = Figure(figsize=(2, 1), facecolor="red")
        writer.add_figure("val/toy/figure", figure, trainer.global_step)
        writer.add_audio("val/toy/sound", TONE, trainer.global_step)
        writer.add_text("val/toy/text", "**bold**", trainer.global_step)


class ForeignLogger(Logger):
    """A logger that omni has no adapter for."""

    name, version, experiment = "foreign", "", None  # pyright: ignore

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.config = args[0]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "train/loss" in metrics:
            self.steps.append(step or 0)


MEDIA = callback("test_loggers.WritesMedia")


@pytest.fixture
def wandb(workplace, monkeypatch):
    """An offline wandb that writes nothing to the terminal."""
    module = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return module


@pytest.fixture
def mlflow(workplace, monkeypatch):
    module = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return module


class TestCSV:
    def test_has_the_values_of_tensorboard(self, fit):
        fit("fit", loggers(logger("TensorBoardLogger", **IN_RUN), logger("CSVLogger", **IN_RUN)))
        with (RUN / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["val/loss"]]
        written = {int(row["step"]): float(row["val/loss"]) for row in rows}
        assert written == pytest.approx(scalars(RUN, "val/loss"))
        assert len(written) == 2

    def test_alone_by_its_name_keeps_the_runs_folder(self, fit, capsys):
        fit("fit", "--trainer.logger=CSVLogger")
        names = {path.name for path in RUN.iterdir()}
        assert names >= {"best.ckpt", "last.ckpt", "config.yaml", "progress.json", "metrics.csv"}
        main(["plot", "thinker"])
        printed = capsys.readouterr().out
        assert "train/loss" in printed
        assert "at step 5; " in printed
        assert Path("curves.png").stat().st_size > 10_000

    def test_a_resumed_run_keeps_the_curve_from_before(self, fit):
        fit("fit", "--trainer.logger=CSVLogger")
        before = read_run("thinker").curves["train/loss"]
        fit("fit", "--trainer.logger=CSVLogger", "--ckpt_path=auto", trainer__max_steps=9)
        fit("validate", "--trainer.logger=CSVLogger", "--ckpt_path=last")
        after = read_run("thinker").curves["train/loss"]
        assert list(before) == list(range(6))
        assert len(after) == 9
        assert {step: after[step] for step in before} == before

    def test_a_new_run_moves_the_curve_of_the_earlier_one(self, fit):
        fit("fit", "--trainer.logger=CSVLogger")
        fit("fit", "--trainer.logger=CSVLogger", trainer__max_steps=3)
        assert (RUN / "earlier/1/metrics.csv").is_file()
        assert list(read_run("thinker").curves["train/loss"]) == [0, 1, 2]

    def test_files_of_several_resumed_runs_are_read_in_order(self, workplace):
        Path("run").mkdir()
        for name, loss in (("metrics.1.csv", 1), ("metrics.2.csv", 2), ("metrics.10.csv", 10), ("metrics.csv", 11)):
            Path("run", name).write_text(f"loss,step\n{loss},0\n{loss},{loss}\n")
        assert read_run("run").curves["loss"] == {0: 11, 1: 1, 2: 2, 10: 10, 11: 11}
        Path("run/metrics.csv").unlink()
        assert read_run("run").curves["loss"][0] == 10

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("a,b\n1,2\n", "metrics.csv has no column step"),
            ("step,loss\n1,abc\n", "metrics.csv, line 2: could not convert string to float: 'abc'"),
            ("step,loss\n,1\n", "metrics.csv, line 2: invalid literal for int"),
        ],
    )
    def test_another_file_of_that_name_is_refused(self, workplace, fails, text, complaint):
        Path("run").mkdir()
        Path("run/metrics.csv").write_text(text)
        assert complaint in fails(main, ["plot", "run"])


class TestMedia:
    def test_tensorboard(self, fit):
        fit("fit", MEDIA)
        found = events(RUN)
        assert len(found.Images("val/toy/figure")) == len(found.Audio("val/toy/sound")) == 2
        assert found.Audio("val/toy/sound")[0].sample_rate == 16_000
        assert found.Tensors("val/toy/text/text_summary")[0].tensor_proto.string_val[0] == b"**bold**"

    def test_wandb_beside_tensorboard(self, fit, wandb):
        offline = logger("WandbLogger", save_dir="lightning_logs", project="omni", offline=True)
        fit("fit", loggers(offline, logger("TensorBoardLogger", **IN_RUN)), MEDIA)
        assert wandb.run is None  # a second run of this process would go on with it
        (folder,) = Path("lightning_logs/wandb").glob("offline-run-*")
        files = folder / "files/media"
        (figure, _), (sound, _) = (sorted(files.glob(f"{kind}/val/toy/*")) for kind in ("images", "audio"))
        assert Image.open(figure).convert("RGB").getpixel((5, 5)) == (255, 0, 0)
        audio, rate = soundfile.read(sound)
        assert rate == 16_000
        assert np.allclose(audio, TONE, atol=1e-3)
        tables = [json.loads(path.read_text())["data"] for path in files.glob("table/val/toy/*.json")]
        assert tables == [[["**bold**"]]] * 2
        history, config = _wandb_records(folder)
        assert {step: row["val/loss"] for step, row in history.items() if "val/loss" in row} == pytest.approx(
            scalars(RUN, "val/loss")
        )
        assert config["model"]["init_args"]["lr"] == 1e-3
        assert (RUN / "config.yaml").is_file()

    def test_mlflow_beside_tensorboard(self, fit, mlflow):
        local = logger("MLFlowLogger", save_dir="mlruns", experiment_name="toy")
        fit("fit", loggers(local, logger("TensorBoardLogger", **IN_RUN)), MEDIA)
        client = mlflow.MlflowClient("file:mlruns")
        (run,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.params["model/init_args/lr"] == "0.001"
        curve = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "val/loss")}
        assert curve == pytest.approx(scalars(RUN, "val/loss"))
        artifacts = Path(run.info.artifact_uri.removeprefix("file://"), "val/toy")
        assert Image.open(artifacts / "figure/step-000003.png").convert("RGB").getpixel((5, 5)) == (255, 0, 0)
        assert np.allclose(soundfile.read(artifacts / "sound/step-000006.wav")[0], TONE, atol=1e-3)
        assert (artifacts / "text/step-000006.md").read_text() == "**bold**"

    def test_a_logger_without_an_adapter_gets_scalars_which_is_printed_once(self, fit, caplog):
        media._reported.clear()
        foreign = {"class_path": "test_loggers.ForeignLogger"}
        cli = fit("fit", loggers(logger("TensorBoardLogger", **IN_RUN), foreign), MEDIA)
        assert cli.trainer.loggers[1].steps == list(range(6))
        assert cli.trainer.loggers[1].config["seed_everything"] == 0
        assert len(events(RUN).Images("val/toy/figure")) == 2
        assert caplog.text.count("ForeignLogger gets scalars only") == 1


class TestFolder:
    def test_without_a_logger(self, fit):
        fit("fit", "--trainer.logger=false", "--trainer.default_root_dir=lightning_logs/thinker", MEDIA)
        fit("fit", "--trainer.logger=[]", "--trainer.default_root_dir=lightning_logs/thinker", "--ckpt_path=auto",
            trainer__max_steps=8)  # fmt: skip
        kept = {".omni-run", "best.ckpt", "last.ckpt", "config.yaml", "progress.json", "validations.jsonl"}
        assert {path.name for path in RUN.iterdir()} == kept
        assert step_of(RUN / "last.ckpt") == 8

    def test_of_wandb_alone(self, fit, wandb):
        fit("fit", "--trainer.logger=WandbLogger")
        fit("fit", "--trainer.logger=WandbLogger", "--ckpt_path=last", trainer__max_steps=8)
        assert step_of(RUN / "last.ckpt") == 8
        assert not (RUN / "earlier").exists()
        assert len(list(Path("lightning_logs/wandb").glob("offline-run-*"))) == 2

    def test_a_logger_in_yaml_may_leave_out_the_version(self, fit):
        arguments = {"save_dir": "lightning_logs", "name": "thinker"}
        fit("fit", loggers(logger("CSVLogger", **arguments), logger("TensorBoardLogger", **arguments)))
        assert (RUN / "metrics.csv").is_file()
        assert scalars(RUN, "val/loss").keys() == {2, 5}

    def test_is_that_of_the_configuration_without_a_run(self, fit):
        lists = loggers(logger("MLFlowLogger", save_dir="mlruns"), logger("CSVLogger", **IN_RUN))
        for options, folder in {
            (): RUN,
            (lists,): RUN,
            ("--trainer.logger=WandbLogger",): RUN,
            ("--trainer.logger=CSVLogger", "--trainer.logger.version=7"): RUN / "version_7",
            ("--trainer.logger=false", "--trainer.default_root_dir=here"): Path("here"),
        }.items():
            assert Configuration(["--config", "thinker.yaml", *options]).folder == folder

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--trainer.logger=false"], "false names no folder for checkpoints: give --trainer.default_root_dir"),
            (["--trainer.logger=MLFlowLogger"], "MLFlowLogger names no folder for checkpoints"),
            (["--trainer.logger=true"], "name a logger, as in configs/base.yaml, a list of loggers, or false"),
            (["--trainer.logger=null"], "name a logger"),
            (
                [loggers(logger("CSVLogger", **IN_RUN), logger("TensorBoardLogger", **IN_RUN | {"name": "else"}))],
                "TensorBoardLogger writes to lightning_logs/else, not to the run's folder lightning_logs/thinker",
            ),
            (
                [loggers(logger("CSVLogger", **IN_RUN), logger("MLFlowLogger", save_dir="lightning_logs"))],
                "save_dir of MLFlowLogger is lightning_logs, which holds the runs",
            ),
        ],
    )
    def test_mistakes_end_in_one_line(self, fit, fails, options, complaint):
        assert complaint in fails(fit, "fit", *options)
        assert not Path("lightning_logs").exists()

    def test_a_missing_package_ends_in_one_line(self, fit, fails, monkeypatch):
        monkeypatch.setattr("omni.training.loggers.find_spec", lambda name: None)
        message = fails(fit, "fit", "--trainer.logger=WandbLogger")
        assert "WandbLogger needs the package wandb: run `pip install" in message

    def test_a_service_out_of_reach_ends_in_one_line(self, fit, fails, monkeypatch):
        def refused(self):
            raise ConnectionError("no route\nto the host")

        monkeypatch.setattr(ForeignLogger, "experiment", property(refused))
        entries = loggers(logger("TensorBoardLogger", **IN_RUN), {"class_path": "test_loggers.ForeignLogger"})
        assert "trainer.logger: ForeignLogger: no route; to the host" in fails(fit, "fit", entries)


def _wandb_records(folder: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """The scalars by step, and the configuration, of an offline run of wandb."""
    history: dict[int, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    for record in _wandb_all(next(folder.glob("*.wandb"))):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "trainer/global_step" in row:
            history.setdefault(row["trainer/global_step"], {}).update(row)
        config |= {item.key: json.loads(item.value_json) for item in record.config.update}
    return history, config


def _wandb_all(file: Path) -> list[Any]:
    """All records of a file of wandb, whose process writes on after `wandb.finish`."""
    from wandb.proto.wandb_internal_pb2 import Record

    end = time.monotonic() + 60
    while True:
        records = [Record.FromString(blob) for blob in _wandb_blobs(file.read_bytes())]
        if records[-1:] and records[-1].HasField("exit"):
            return records
        assert time.monotonic() < end, "wandb has not finished its file"
        time.sleep(0.1)


def _wandb_blobs(content: bytes) -> Iterator[bytes]:
    """Records of a file of wandb: a header of 7 bytes, then LevelDB's log format."""
    at, blob = 7, b""
    while at + 7 < len(content):
        if (left := -at % 32_768) < 7:
            at += left  # records do not start in the last bytes of a block
        size, kind = struct.unpack_from("<HB", content, at + 4)  # after the checksum
        if at + 7 + size > len(content):
            return  # it is being written
        blob += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield blob
            blob = b""
