"""A run touches only files that runs of omni wrote; if it fails early, those of the earlier run stay in their place."""

import signal
from pathlib import Path

import pytest
from lightning import Callback
from toy_runs import RUN, callback

from omni.cli import main
from omni.errors import UserError
from omni.training.earlier_run import MARKER

HERE = ("--trainer.logger=false", "--trainer.default_root_dir=.")


class FailsBeforeTraining(Callback):
    """An error after everything was set up."""

    def on_train_start(self, *args: object) -> None:
        raise UserError("no luck")


class StopsBeforeTraining(Callback):
    """Ctrl-C before the first batch."""

    def on_train_start(self, *args: object) -> None:
        raise KeyboardInterrupt


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and time of change of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def strangers(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Files of a user, some with names like those of omni's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "LICENSE", "notes.ckpt", "config.yml", "data.json", "events.txt", "best.ckpt.bak"):
        (folder / name).write_text(f"mine: {name}")
    (folder / "earlier").mkdir(exist_ok=True)
    (folder / "earlier/1").write_text("a file, not a folder")
    return content(folder)


def assert_kept(before: dict[Path, tuple[bytes, int]]) -> None:
    now = content(Path())
    assert {path: now.get(path) for path in before} == before


@pytest.mark.parametrize("place", [(), HERE], ids=["runs", "here"])
def test_fast_dev_run_writes_and_moves_nothing(place, fit):
    folder = RUN if not place else Path()
    fit("fit", *place)
    before = content(Path())
    assert folder / "last.ckpt" in before
    for verb in ("fit", "validate", "fit"):
        fit(verb, *place, "--trainer.fast_dev_run=true")
    assert content(Path()) == before


@pytest.mark.parametrize("place", [(), HERE], ids=["runs", "here"])
def test_files_of_the_user_stay_through_every_verb(place, fit):
    before = strangers(RUN if not place else Path())
    for verb in ("fit", "fit", "validate", "predict", "fit"):
        fit(verb, *place, *([] if verb == "fit" else ["--ckpt_path=best", "--data.init_args.test=corpus.txt"]))
        assert_kept(before)
    folder = RUN if not place else Path()
    assert (folder / "earlier/3/best.ckpt").is_file()
    assert (folder / "predictions.pt").is_file() is False  # moved with the run that made it
    assert (folder / "earlier/3/predictions.pt").is_file()


@pytest.mark.parametrize("name", ["config.yaml", "last.ckpt", "progress.json"])
@pytest.mark.parametrize("place", [(), HERE], ids=["runs", "here"])
def test_a_file_of_the_user_is_not_replaced(name, place, fit, fails):
    folder = RUN if not place else Path()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    before = content(Path())
    complaint = fails(fit, "fit", *place)
    assert f"{folder} holds {name}, which no run of omni has written" in complaint
    assert_kept(before)
    assert not (folder / MARKER).exists()


def test_predictions_of_another_program_are_not_replaced(fit, trained, fails):
    Path("other").mkdir()
    Path("other/predictions.pt").write_text("mine")
    complaint = fails(
        fit,
        "predict",
        f"--ckpt_path={trained}",
        "--data.init_args.test=corpus.txt",
        "--trainer.logger.init_args.name=../other",
    )
    assert "predictions.pt, which no run of omni has written" in complaint
    assert Path("other/predictions.pt").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_an_evaluation_beside_files_of_the_user(fit, trained, fails):
    Path("config.yaml").write_text("mine")
    fit("validate", *HERE, f"--ckpt_path={trained}")
    assert Path("config.yaml").read_text() == "mine"
    assert "holds config.yaml" in fails(fit, "fit", *HERE)  # the evaluation has not claimed the folder


def test_an_older_run_without_progress_is_evaluated(fit):
    fit()
    for name in (MARKER, "progress.json"):
        (RUN / name).unlink()
    fit("validate", "--ckpt_path=best")


def test_a_run_of_a_version_without_the_marker_is_known(fit):
    fit()
    for name in (MARKER, "progress.json"):
        (RUN / name).unlink()
    fit()
    (RUN / MARKER).unlink()
    fit()
    assert (RUN / "earlier/2/best.ckpt").is_file()


@pytest.mark.parametrize("fault", ["path", "callback", "signal"])
def test_a_run_that_fails_early_leaves_the_earlier_one(fault, fit, fails):
    fit()
    before = content(RUN)
    if fault == "path":
        fails(fit, data__init_args__train="corpos.txt")
    elif fault == "callback":
        fails(fit, "fit", callback("test_run_folder.FailsBeforeTraining"))
    else:
        with pytest.raises(SystemExit):
            fit("fit", callback("test_run_folder.StopsBeforeTraining"))
    assert content(RUN) == before
    assert not (RUN / "earlier").exists()
    fit("fit", "--ckpt_path=last", trainer__max_steps=7)  # as the message advises


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_an_evaluation_keeps_the_configuration_of_the_run(fit):
    fit()
    before = (RUN / "config.yaml").read_bytes()
    fit("validate", "--ckpt_path=best", data__init_args__batch_size=2)
    assert (RUN / "config.yaml").read_bytes() == before
    fit("validate", f"--ckpt_path={RUN}/best.ckpt", "--trainer.logger.init_args.name=validated")
    assert Path("lightning_logs/validated/config.yaml").is_file()


def test_a_run_that_has_begun_keeps_its_own_files(fit):
    fit()
    before = (RUN / "best.ckpt").read_bytes()
    with pytest.raises(SystemExit):
        fit("fit", callback("toy_runs.SignalAt", step=2, signum=signal.SIGTERM))
    assert (RUN / "earlier/1/best.ckpt").read_bytes() == before
    assert (RUN / "last.ckpt").is_file()


def test_a_part_may_come_from_the_run_that_is_moved(fit):
    fit()
    fit("fit", f"--init_from.thinker={RUN}/best.ckpt")
    assert (RUN / "earlier/1/best.ckpt").is_file()


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resuming_another_run_does_not_replace_the_one_in_the_folder(fit):
    fit()
    fit("fit", "--trainer.logger.init_args.name=other")
    before = (RUN / "best.ckpt").read_bytes()
    fit("fit", "--ckpt_path=lightning_logs/other/last.ckpt", trainer__max_steps=8)
    assert (RUN / "earlier/1/best.ckpt").read_bytes() == before


def test_a_folder_that_cannot_be_made(fit, fails):
    Path("lightning_logs").write_text("a file")
    assert "cannot be written to" in fails(fit)


def test_links_are_moved_and_their_targets_stay(fit):
    fit()
    Path("kept.ckpt").write_bytes((RUN / "best.ckpt").read_bytes())
    (RUN / "best.ckpt").unlink()
    (RUN / "best.ckpt").symlink_to(Path("kept.ckpt").absolute())
    before = Path("kept.ckpt").read_bytes()
    fit()
    assert (RUN / "earlier/1/best.ckpt").is_symlink()
    assert Path("kept.ckpt").read_bytes() == before
    main(["plan", "--config", str(RUN / "config.yaml")])
