"""The folder of an export: whole or not at all, never over other files."""

import json
from pathlib import Path

import pytest
from toy_export import pieces, save, toy_thinker

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.export.folder import new_export, write_manifest
from omni.runtime.manifest import MANIFEST, read_manifest


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    checkpoint = Checkpoint(save(tmp_path / "a.ckpt", toy_thinker(), pieces()))
    with new_export(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub/weights").write_bytes(b"12345")
        (folder / "sub/weights").chmod(0o600)
        write_manifest(folder, checkpoint, target="hf", parts={})
    return tmp_path / "out"


def test_the_manifest_describes_the_files(exported: Path):
    manifest = read_manifest(exported, target="hf")
    assert manifest["files"].keys() == {"sub/weights"}
    assert manifest["lineage"]["step"] == 3
    assert (exported / "sub/weights").stat().st_mode == (exported / MANIFEST).stat().st_mode
    assert manifest["tokenizer"] == {"kind": "sentencepiece", "fingerprint": pieces().fingerprint, "vocab_size": 340}


def test_an_export_replaces_an_export(exported: Path):
    with new_export(exported) as folder:
        (folder / MANIFEST).write_text(json.dumps({"format": "omni-export", "target": "onnx", "files": {}}))
    assert [path.name for path in exported.iterdir()] == [MANIFEST]
    assert {path.name for path in exported.parent.iterdir()} == {"a.ckpt", "out"}


def test_a_failure_leaves_the_earlier_export_and_nothing_else(exported: Path):
    def fail() -> None:
        with new_export(exported) as folder:
            (folder / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_manifest(exported)["target"] == "hf"
    assert {path.name for path in exported.parent.iterdir()} == {"a.ckpt", "out"}


@pytest.mark.parametrize("kind", ["file", "folder", "manifest of another program"])
def test_other_files_are_never_replaced(tmp_path: Path, kind: str):
    out = tmp_path / "mine"
    kept = out if kind == "file" else out / (MANIFEST if "manifest" in kind else "thesis.txt")
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("{}")
    with pytest.raises(UserError, match="give another folder"), new_export(out):
        pytest.fail("entered")
    assert kept.read_text() == "{}"


def test_a_folder_that_is_no_export_or_was_cut_is_refused(exported: Path):
    with pytest.raises(UserError, match="is not an export"):
        read_manifest(exported / "sub")
    with pytest.raises(UserError, match="export for hf, and one for onnx"):
        read_manifest(exported, target="onnx")
    (exported / "sub/weights").write_bytes(b"12")
    with pytest.raises(UserError, match="2 bytes instead of 5"):
        read_manifest(exported)
    (exported / "sub/weights").unlink()
    with pytest.raises(UserError, match="is missing"):
        read_manifest(exported)
