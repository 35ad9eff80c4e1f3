"""Untrusted files run no code, and reach no file outside of their folder: the promises of docs/trust.md."""

import ast
import contextlib
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_export
import yaml

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.hub import fetch
from omni.checkpoints.recipe import build
from omni.checkpoints.safetensors_folder import CONFIG, WEIGHTS, write_folder
from omni.cli import main
from omni.errors import UserError
from omni.inference.codec_files import Coded
from omni.text.tokenizer import ByteTokenizer

PACKAGE = Path(__file__).parents[2] / "omni"
EVIL = "raise SystemExit(open('ran', 'w').close())"


class Bomb:
    """Unpickled, it writes the file `ran`."""

    def __reduce__(self):
        return exec, ("open('ran', 'w').close()",)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder in which no code may run: it would leave the file `ran`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("OMNI_TRUST")
    toy_export.save(Path("a.ckpt"), toy_export.toy_thinker(), ByteTokenizer())
    yield tmp_path
    assert not Path("ran").exists()


@pytest.fixture
def folder(place):
    """A model's folder."""
    write_folder(torch.load("a.ckpt"), Path("model"), card={"data": {}, "metrics": {}})
    return Path("model")


def changed(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), encoding="utf-8")


def recipe_of(class_path: str) -> dict:
    return {"class_path": class_path, "init_args": {}}


def test_the_bomb_goes_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("ran").exists()


OWN_PICKLES = {"export_memory.py"}  # files that its parent process has just written, in a folder of its own


class TestPickles:
    @pytest.mark.parametrize("key", ["state_dict", "parts", "tokenizer", "optimizer_states", "callbacks"])
    def test_in_a_checkpoint(self, place, key, fails):
        torch.save(torch.load("a.ckpt") | {key: Bomb()}, "b.ckpt")
        assert "b.ckpt cannot be read" in fails(main, ["generate", "--checkpoint", "b.ckpt", "--text", "a"])

    def test_in_a_checkpoint_that_is_resumed(self, fit, monkeypatch, fails):
        fit(trainer__max_steps=1)
        last = Path("lightning_logs/thinker/last.ckpt")
        torch.save(torch.load(last) | {"callbacks": Bomb()}, last)
        assert "last.ckpt cannot be read" in fails(fit, "fit", "--ckpt_path=last", trainer__max_steps=2)
        # Lightning's own reading is as safe: it is reached without omni's check here.
        monkeypatch.setattr("omni.training.lightning_cli.OmniCLI._resolve_checkpoint", _resolved(last))
        with pytest.raises(pickle.UnpicklingError):
            fit("fit", "--ckpt_path=last", trainer__max_steps=2)
        assert not Path("ran").exists()

    def test_as_a_whole_file(self, place):
        for protocol in (2, 4):
            Path("c.ckpt").write_bytes(pickle.dumps(Bomb(), protocol))
            with pytest.raises(UserError, match="cannot be read"):
                Checkpoint("c.ckpt")

    def test_in_codes(self, place):
        np.savez("a.npz", codes=np.array([Bomb()], dtype=object), num_samples=1)
        with pytest.raises(UserError, match="not a file of codes"):
            Coded.load(Path("a.npz"))

    def test_nothing_reads_pickles_or_unpacks_archives(self):
        """Every call in omni that could: reading as plain data is spelled out where it is not the default."""
        files = sorted(PACKAGE.rglob("*.py"))
        assert len(files) > 100
        found = [name for path in files if path.name not in OWN_PICKLES for name in _dangerous(path)]
        assert not found


def _resolved(path: Path):
    def resolve(cli, verb: str) -> None:
        cli.config_init[verb]["ckpt_path"] = str(path)

    return resolve


def _dangerous(path: Path):
    """Calls that run code from a file, or unpack one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        unsafe = {
            "torch.load": options.get("weights_only") != "True",
            "np.load": options.get("allow_pickle", "False") != "False",
        }.get(name, False)
        forbidden = name in ("exec", "eval", "compile") or name.endswith(
            ("pickle.load", "pickle.loads", "Unpickler", "extractall", "archive.extract", "unpack_archive", "yaml.load",
             "yaml.unsafe_load", "yaml.full_load", "jit.load", "joblib.load", "read_pickle")
        )  # fmt: skip
        if unsafe or forbidden or options.get("trust_remote_code", "False") != "False":
            yield f"{path.name}:{node.lineno}: {name}"


@pytest.mark.parametrize("code", ["torch.load(x)", "np.load(x, allow_pickle=True)", "eval(x)", "yaml.load(x)"])
def test_the_rule_finds_what_it_forbids(code, tmp_path):
    (tmp_path / "x.py").write_text(code)
    assert list(_dangerous(tmp_path / "x.py"))


class TestClasses:
    @pytest.mark.parametrize("class_path", ["evil.Part", "os.system", "subprocess.Popen", "omni.cli.main", "evil"])
    def test_a_class_that_is_not_omnis(self, folder, class_path, fails):
        Path("evil.py").write_text(EVIL, encoding="utf-8")
        changed(folder / CONFIG, parts={"thinker": recipe_of(class_path)})
        message = fails(main, ["generate", "--checkpoint", "model", "--text", "a"])
        assert "whose code is not omni's" in message or "not a Part of omni" in message
        assert "evil" not in sys.modules

    def test_a_nested_class(self, place):
        Path("evil.py").write_text(EVIL, encoding="utf-8")
        with pytest.raises(UserError, match="OMNI_TRUST=evil"):
            build({"class_path": "omni.models.thinker.Thinker", "init_args": {"thinker": [recipe_of("evil.Part")]}})

    def test_the_summary_and_the_card_build_nothing(self, folder):
        Path("evil.py").write_text(EVIL, encoding="utf-8")
        changed(folder / CONFIG, parts={"thinker": recipe_of("evil.Part")})
        main(["hub", "pull", "./model", "--out", "pulled"])
        main(["hub", "push", "./pulled", "./pushed"])

    def test_a_package_that_the_user_trusts(self, place, monkeypatch):
        text = "from omni.models.part import Part\nclass Mine(Part):\n    pass\n"
        Path("mine_trusted.py").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="set OMNI_TRUST=mine_trusted"):
            build(recipe_of("mine_trusted.Mine"))
        monkeypatch.setenv("OMNI_TRUST", "other, mine_trusted")
        assert type(build(recipe_of("mine_trusted.Mine"))).__name__ == "Mine"


class TestFolders:
    def test_links_out_of_the_folder(self, folder, fails):
        Path("secret").write_text("mine", encoding="utf-8")
        for name in ("README.md", CONFIG, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(Path("secret").absolute())
            for other in {CONFIG, WEIGHTS} - {name}:
                (folder / other).touch()
            assert "is a link to" in fails(main, ["hub", "pull", "./model", "--out", "pulled"])
            assert not Path("pulled").exists()
            (folder / name).unlink()

    def test_links_of_the_hubs_cache(self, folder):
        snapshot = Path("cache/snapshots/abc")
        for path in (snapshot, Path("cache/blobs")):
            path.mkdir(parents=True)
        for name in (CONFIG, WEIGHTS):
            (folder / name).rename(f"cache/blobs/{name}")
            (snapshot / name).symlink_to(f"../../blobs/{name}")
        fetch(str(snapshot.absolute()), out=Path("pulled"))
        assert not Path(f"pulled/{WEIGHTS}").is_symlink()

    def test_other_files_are_not_fetched(self, folder):
        for name in ("evil.py", "modeling.py", "pytorch_model.bin", ".git/hooks/post-checkout", "x/../../up"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(Bomb()))
        main(["hub", "pull", "./model", "--out", "pulled"])
        assert {path.name for path in Path("pulled").iterdir()} == {CONFIG, WEIGHTS}

    @pytest.mark.parametrize("size", [2**20, 2**40, 2**63, 2**64 - 1])
    def test_a_huge_header(self, folder, size, fails):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", size) + content[8:])
        for verb in (
            ["hub", "pull", "./model", "--out", "pulled"],
            ["generate", "--checkpoint", "model", "--text", "a"],
        ):
            assert f"{WEIGHTS} cannot be read: it is damaged" in fails(main, verb)
        assert not Path("pulled").exists()

    @pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "thinker/../../x", ""])
    def test_names_of_weights_are_no_paths(self, folder, name, fails):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / WEIGHTS)
        save_file({**weights, name: torch.zeros(1)}, folder / WEIGHTS)
        before = sorted(Path("..").rglob("*"))
        main(["hub", "pull", "./model", "--out", "pulled"])
        assert {str(path) for path in {*Path("..").rglob("*")} - {*before}} <= {
            str(path) for path in (Path("..") / Path.cwd().name / "pulled").rglob("*")
        } | {f"../{Path.cwd().name}/pulled"}

    def test_code_of_a_hugging_face_model_is_neither_run_nor_asked_for(self, place, fails, monkeypatch):
        pytest.importorskip("transformers")
        Path("hf").mkdir()
        Path("hf/evil.py").write_text(EVIL, encoding="utf-8")
        config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
        Path("hf/config.json").write_text(json.dumps(config), encoding="utf-8")
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        assert "cannot be loaded" in fails(main, ["generate", "--checkpoint", "hf:hf", "--text", "a"])


@pytest.mark.parametrize(
    "verb",
    [
        ["train", "x.yaml"],
        ["sweep", "x.yaml", "--dry_run"],
        ["fit", "--config", "x.yaml"],
        ["plan", "--config", "x.yaml"],
        ["configs", "copy", "x.yaml"],
        ["plot", "run"],
    ],
)
def test_tags_of_yaml_make_no_objects(verb, place, fails):
    text = "x: !!python/object/apply:os.system ['touch ran']\n"
    for path in (Path("x.yaml"), Path("run/config.yaml")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    Path("run/metrics.csv").write_text("step,val/loss\n1,2\n", encoding="utf-8")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)
    fails(main, verb)


def test_members_of_a_checkpoints_archive_stay_inside(place):
    """A `.ckpt` is a zip file, which PyTorch reads without unpacking it."""
    content = io.BytesIO(Path("a.ckpt").read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        for name in ("../outside", "/tmp/omni-outside", "a/../../outside"):
            archive.writestr(name, b"x")
    Path("b.ckpt").write_bytes(content.getvalue())
    with contextlib.suppress(UserError):
        Checkpoint("b.ckpt").part("thinker")
    assert not Path("../outside").exists()
    assert not os.path.exists("/tmp/omni-outside")
