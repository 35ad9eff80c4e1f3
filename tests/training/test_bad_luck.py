"""What happens to machines in mid-run: full disks, clocks that are set back, killed workers, data that vanish."""

import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import tones
from killed_runs import OFTEN, FullDisk, differences
from lightning import Callback
from processes import start
from toy_commands import TOY, TOY_SPEECH, command, run_stage
from toy_runs import RUN, callback, same, weights

from omni.cli import main
from omni.training.callbacks.checkpointing import AtomicCheckpointIO
from omni.training.callbacks.seamless_curves import SeamlessCurves

AUDIO = Path("lightning_logs/audio")


class At(Callback):
    """Does something at the start of a step.

    Args:
        step: The step.
        what: Name of a function of this module.
    """

    def __init__(self, step: int, what: str) -> None:
        self.step, self.what = step, what

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            globals()[self.what](trainer)


def kill_workers(trainer: Any) -> None:
    for worker in multiprocessing.active_children():
        worker.kill()


def delete_recordings(trainer: Any) -> None:
    for path in Path("speech").glob("train*.wav"):
        path.unlink()


def change_recordings(trainer: Any) -> None:
    for path in Path("speech").glob("train*.wav"):
        soundfile.write(path, tones("a"), 16_000)


def delete_corpus(trainer: Any) -> None:
    Path("corpus.txt").unlink()


def in_process(argv: list[str], fails_at: int | None) -> int | None:
    """The exit code of a command on a disk that is full at a write."""
    process = start(partial(on_disk, argv, fails_at), output=Path("log.txt"))
    process.join()
    return process.exitcode


def on_disk(argv: list[str], fails_at: int | None) -> None:
    disk = FullDisk(fails_at).install(pytest.MonkeyPatch())
    main(argv)
    Path("writes.txt").write_text(str(disk.writes))


def at(step: int, what: str) -> str:
    return callback("test_bad_luck.At", step=step, what=what)


class TestFullDisk:
    @pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
    def test_at_every_write_of_a_checkpoint(self, stride, trained, monkeypatch):
        last = RUN / "last.ckpt"
        content, before = torch.load(last), last.read_bytes()
        with monkeypatch.context() as patch:
            disk = FullDisk().install(patch)
            AtomicCheckpointIO().save_checkpoint(content, last.with_name("other.ckpt"))
        assert disk.writes > 5
        for number in range(1, disk.writes + 1, stride):
            with monkeypatch.context() as patch:
                FullDisk(number).install(patch)
                with pytest.raises(Exception, match=r"last\.ckpt could not be written .*the previous one is unchanged"):
                    AtomicCheckpointIO().save_checkpoint(content, last)
            assert last.read_bytes() == before
            assert not list(RUN.glob("*.part"))
            assert not list(RUN.glob(".*.part"))

    @pytest.mark.slow
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_in_a_run_that_is_resumed(self, share, workplace):
        argv = command("thinker", TOY, "fit", OFTEN, "--ckpt_path=auto")
        assert in_process(argv, None) == 0
        RUN.rename("whole")
        assert in_process(argv, int(share * int(Path("writes.txt").read_text()))) == 2
        message = Path("log.txt").read_text(encoding="utf-8").splitlines()[-1]
        assert message.startswith("omni: ")
        assert "could not be written" in message or "No space left on device" in message
        assert in_process(argv, None) == 0
        assert not differences(Path("whole"), RUN)


def test_the_clock_is_set_back(fit, monkeypatch):
    fit("fit", OFTEN)
    RUN.rename("whole")
    with pytest.raises(SystemExit):
        fit("fit", OFTEN, callback("toy_runs.SignalAt", step=2, signum=2))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86_400)
    fit("fit", OFTEN, "--ckpt_path=last")
    assert not differences(Path("whole"), RUN)


def test_event_files_of_the_same_second_keep_their_order(tmp_path):
    from omni.training.loggers import _put_before

    names = ["1500.host.9.0", "2000.host.7.0", "2000.host.8.0"]
    for name in names:
        (tmp_path / f"events.out.tfevents.{name}").write_text(name)
    _put_before(tmp_path, 2000)
    (tmp_path / "events.out.tfevents.2000.host.1.0").write_text("new")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == [*names, "new"]


def test_a_file_of_a_process_that_died_is_removed_and_others_stay(fit):
    fit("fit", trainer__max_steps=3)
    unfinished = RUN / f".last.ckpt.{'0' * 32}.part"
    others = [RUN / ".mine.part", RUN / f".other.ckpt.{'0' * 32}.part"]
    for path in (unfinished, *others):
        path.touch()
    fit("fit", "--ckpt_path=last")
    assert not unfinished.exists()
    assert all(path.exists() for path in others)


class TestCurves:
    """Points of a step whose process dies between the checkpoint and the log."""

    def test_the_points_of_the_checkpoints_step_are_logged(self, fit, monkeypatch):
        fit("fit", OFTEN)
        RUN.rename("whole")
        saved = SeamlessCurves.on_save_checkpoint

        def dies(self, trainer, *args):
            saved(self, trainer, *args)
            if trainer.global_step == 4:
                for logger in trainer.loggers:  # nothing is logged any more
                    monkeypatch.setattr(logger, "log_metrics", lambda *args, **kwargs: None)

        with monkeypatch.context() as patch:
            patch.setattr(SeamlessCurves, "on_save_checkpoint", dies)
            with pytest.raises(SystemExit):
                fit("fit", OFTEN, callback("toy_runs.SignalAt", step=3, signum=2))
        fit("fit", OFTEN, "--ckpt_path=last")
        assert not differences(Path("whole"), RUN)


@pytest.mark.slow
class TestData:
    def test_a_killed_worker_ends_in_one_line_and_the_run_resumes(self, speech, fails):
        options = {"data__init_args__num_workers": 1}
        run_stage("audio", TOY_SPEECH, "fit", OFTEN, **options)
        AUDIO.rename("whole")
        message = fails(run_stage, "audio", TOY_SPEECH, "fit", OFTEN, at(3, "kill_workers"), **options)
        assert "a process that loads data has died" in message
        assert "--ckpt_path last" in message
        run_stage("audio", TOY_SPEECH, "fit", OFTEN, "--ckpt_path=last", **options)
        assert not differences(Path("whole"), AUDIO)

    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.filterwarnings("ignore:.*left out")  # what is missing is named, and left out while others are there
    def test_recordings_that_vanish_end_in_one_line(self, workers, speech, fails):
        options = {"data__init_args__num_workers": workers, "trainer__max_steps": 60}
        message = fails(run_stage, "audio", TOY_SPEECH, "fit", at(2, "delete_recordings"), **options)
        assert "no row of data.train can be read" in message

    def test_recordings_that_change_are_noted_when_the_run_is_resumed(self, speech):
        run_stage("audio", TOY_SPEECH, "fit", at(2, "change_recordings"))
        with pytest.warns(UserWarning, match="The data, its batches or its seed have changed since the checkpoint"):
            run_stage("audio", TOY_SPEECH, "fit", "--ckpt_path=last", trainer__max_steps=9)

    def test_a_corpus_that_vanishes_is_finished_from_the_cache(self, fit):
        fit()
        whole = weights(RUN / "last.ckpt")
        fit("fit", at(2, "delete_corpus"))
        assert same(whole, weights(RUN / "last.ckpt"))
