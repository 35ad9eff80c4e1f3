"""The status of stages: which are kept, resumed, or trained from scratch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_chain import FIRST, SECOND, two, written
from toy_commands import CONFIGS

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.pipeline.definition import read_pipeline
from omni.pipeline.status import StageStatus, stage_status
from omni.training.configuration import Configuration


class TestStageStatus:
    @pytest.fixture
    def chain(self, fit):
        """A chain whose first stage is done."""
        path = written(two())
        fit()
        return path

    def find(self, name: str = "thinker", **overrides: Any) -> StageStatus:
        stages = two(**overrides)
        if name == "thinker":
            del stages["again"]
        return stage_status(read_pipeline(written(stages)).stages[name])

    def test_done_after_the_repository_has_moved(self, chain, monkeypatch, workplace):
        assert self.find() == StageStatus("done")
        assert self.find("again") == StageStatus("new")
        (workplace / "sub").mkdir()
        monkeypatch.chdir("sub")
        for name in ("lightning_logs", "corpus.txt"):
            Path(name).symlink_to(workplace / name)
        assert self.find().state == "done"

    def test_the_fingerprint_does_not_depend_on_the_folder_of_the_files(self, workplace):
        shutil.copytree(CONFIGS, "elsewhere")
        folders = (CONFIGS, Path("elsewhere"))
        here, there = (Configuration(["--config", str(folder / "world/thinker.yaml")]) for folder in folders)
        assert here.fingerprint == there.fingerprint

    def test_another_configuration_or_more_steps(self, chain):
        assert self.find(**{"model.init_args.lr": 2e-3}).reason == "its configuration has changed"
        assert self.find(**{"trainer.max_steps": 12}).reason == "its configuration has changed"
        assert self.find(**{"trainer.log_every_n_steps": 2}).state == "done"
        assert self.find(**{"data.init_args.num_workers": 1, "data.init_args.cache_dir": "elsewhere"}).state == "done"
        assert self.find(**{"model.init_args.sample_tokens": 3, "model.init_args.compile": True}).state == "done"
        assert self.find(**{"trainer.gradient_clip_algorithm": "value"}).reason == "its configuration has changed"

    def test_other_data(self, chain):
        with Path("corpus.txt").open("a") as file:
            file.write("one more sentence.\n")
        assert self.find() == StageStatus("new", "its data has changed")
        Path("corpus.txt").unlink()
        with pytest.raises(UserError, match="does not exist"):
            self.find()

    def test_another_ancestor(self, chain, fit):
        fit("fit", f"--init_from.thinker={FIRST}", **{key.replace(".", "__"): v for key, v in SECOND.items()})
        assert self.find("again").state == "done"
        fit(trainer__max_steps=3)
        assert self.find("again") == StageStatus("new", "thinker, which it starts from, has changed")

    def test_interrupted(self, chain):
        folder = Path("lightning_logs/thinker")
        progress = json.loads((folder / "progress.json").read_text())
        assert progress["finished"]
        assert (progress["step"], progress["steps"], progress["first_step"]) == (6, 6, 0)
        measured = Checkpoint(folder / "last.ckpt").content["metrics"]
        assert measured.items() <= progress["metrics"].items()
        (folder / "progress.json").write_text(json.dumps(progress | {"finished": False, "step": 3}))
        assert self.find() == StageStatus(
            "new", "it was interrupted in its only validation"
        )  # step 6, that of the best checkpoint
        checkpoint = Checkpoint(folder / "best.ckpt").content
        checkpoint["lineage"]["step"] = 3
        torch.save(checkpoint, "other.ckpt")  # a new file: the old one is memory-mapped
        Path("other.ckpt").replace(folder / "best.ckpt")
        assert self.find() == StageStatus("interrupted", resume="best")
        (folder / "last.ckpt").write_bytes((folder / "best.ckpt").read_bytes())
        assert self.find() == StageStatus("interrupted", resume="last")
        (folder / "progress.json").unlink()
        assert self.find() == StageStatus("interrupted", resume="last")

    def test_damaged_or_missing(self, chain):
        Path("lightning_logs/thinker/best.ckpt").unlink()
        assert self.find() == StageStatus("new", "its best.ckpt is missing")
        Path("lightning_logs/thinker/last.ckpt").write_bytes(b"cut off")
        assert self.find() == StageStatus("new")
