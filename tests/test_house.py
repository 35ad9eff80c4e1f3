"""Rules of the code base: which rooms may import which, where Lightning and prints are allowed, names of files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from omni.cli import VERBS

PACKAGE = Path(__file__).parents[1] / "omni"

# The rooms that each room may import; itself, errors, files and cores always. No room imports one of a later row.
MAY_IMPORT = {
    "renamed": "",
    "errors": "renamed",
    "cores": "",
    **dict.fromkeys(("devices", "files", "distributed", "batch", "text", "media", "curves", "synthetic"), ""),
    "layers": "distributed",
    "losses": "batch",
    "metrics": "batch",
    "optim": "distributed layers",
    "models": "batch layers losses media text",
    "checkpoints": "curves media models renamed text",
    "decoding": "devices layers models text",
    "inference": "batch checkpoints decoding devices layers media models text",
    "data": "batch checkpoints decoding devices distributed media models text",
    "stages": "batch checkpoints decoding devices distributed inference layers losses media metrics models optim text",
    "evaluation": "batch checkpoints data decoding devices inference media text",
    "runtime": "decoding media text",
    "export": "batch checkpoints decoding devices evaluation inference layers media models runtime text",
    "training": "checkpoints curves data distributed layers models optim stages",
    "completion": "",
    "cli": "completion training",
    "__main__": "cli",
    "bench": "batch checkpoints data decoding devices export inference layers losses media metrics models optim "
    "runtime text training",
    "pipeline": "checkpoints cli curves data decoding evaluation inference media models training",
    "sweeps": "checkpoints pipeline training",
    "serving": "checkpoints decoding inference media text",
    "commands": "batch bench checkpoints curves data decoding devices evaluation export inference media models optim "
    "pipeline runtime serving stages sweeps synthetic text training",
    "__init__": "inference sweeps",
}
LIGHTNING = {"training", "stages", "data"}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


def test_all_files_are_found():
    assert len(FILES) > 40
    assert {room(path) for path in FILES} == MAY_IMPORT.keys()


def test_the_table_has_no_circles():
    order = list(MAY_IMPORT)
    for number, (name, others) in enumerate(MAY_IMPORT.items()):
        assert all(order.index(other) < number for other in others.split()), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("omni.")}
    rooms = {name for name in used if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}
    assert rooms <= {*MAY_IMPORT[room(path)].split(), room(path), "errors", "files", "cores"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_some_rooms_import_lightning(path):
    if room(path) not in LIGHTNING:
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imports(path))


def test_stages_and_data_meet_in_the_batch_only():
    for path in FILES:
        if room(path) in ("stages", "data"):
            other = "omni.data" if room(path) == "stages" else "omni.stages"
            assert not any(name.startswith(other) for name in imports(path))


# Modules outside commands and cli.py that print: a file lock that waits, and a rank of a run that fails or is stopped.
# No command could print for them.
PRINTS = {"files", "training.rank_watch", "training.lightning_cli"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_commands_print(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if room(path) in ("commands", "cli") or module in PRINTS:
        return
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def test_a_verb_is_in_the_file_of_its_name():
    assert len(VERBS) > 15
    for verb, what in VERBS.items():
        module, _, function = what.target.partition(":")
        names = {verb.split()[0], verb.replace(" ", "_")}
        assert module in {f"omni.commands.{name}" for name in names}, verb
        assert (PACKAGE.parent / module.replace(".", "/")).with_suffix(".py").is_file(), verb
        assert function


def test_no_file_is_a_collection_of_helpers():
    assert not [path for path in FILES if path.stem in ("utils", "util", "common", "helpers", "misc")]


def test_help_needs_no_torch_and_inference_no_lightning():
    program = (
        "import sys; from omni.cli import main; main(['--help']); assert 'torch' not in sys.modules\n"
        "import omni; omni.load, omni.Assistant\n"
        "assert 'torch' in sys.modules\n"
        "assert not {name.split('.')[0] for name in sys.modules} & {'lightning', 'pytorch_lightning', 'datasets'}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fit" in done.stdout
    assert "data world" in done.stdout
