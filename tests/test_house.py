"""The laws of the house: imports go down, Lightning stays where it belongs, and no file collects odds and ends."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "omni"

# What each room may import of the others; itself, errors and files, always.
CORE = {
    *("batch", "losses", "metrics", "models", "media", "tokenizer", "chat_template", "checkpoint", "generation"),
    *("normalization", "units", "ctc", "speaking", "conditioning", "layout", "attachments", "pretrained_tokenizer"),
}
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "shipped": set(),
    "distributed": set(),
    "predictions": set(),
    "rank_watch": set(),
    "batch": set(),
    "tokenizer": set(),
    "pretrained_tokenizer": {"tokenizer", "models"},
    "normalization": set(),
    "units": {"normalization"},
    "media": set(),
    "image_figures": set(),
    "ctc": {"units"},
    "figures": {"media", "units"},
    "conversation_figures": {"media"},
    "chat_template": {"tokenizer"},
    "layout": {"chat_template", "tokenizer"},
    "attachments": {"media"},
    "layers": {"distributed"},
    "losses": {"batch", "layers"},
    "metrics": {"batch", "layers"},
    "optimizers": {"distributed", "layers", "precision"},
    "models": {"batch", "layers", "losses", "media", "layout", "tokenizer"},
    "weights_folder": set(),
    "checkpoint": {"models", "tokenizer", "pretrained_tokenizer", "units", "media", "weights_folder"},
    "generation": {"models"},
    "speaking": {"generation", "models", "layers", "units", "batch", "sentences"},
    "conditioning": {"models", "tokenizer", "units"},
    "prompt": {"attachments", "chat_template", "layout", "media", "tokenizer"},
    "writing": {"prompt", "generation", "media", "models", "tokenizer"},
    "reply": set(),
    "reading_aloud": {"media", "sentences", "speaking", "synthesis"},
    "assistant": CORE | {"layers", "prompt", "reply", "reading_aloud", "synthesis", "writing"},
    "inference": CORE | {"layers"},
    "generating": {"assistant", "checkpoint", "generation", "inference", "media", "prompt", "reply"},
    "chat": {"assistant", "generating", "generation", "media"},
    "windows": {"ctc", "media", "units"},
    "recognition": CORE | {"layers", "windows"},
    "transcription": {"recognition", "windows", "media"},
    "sentences": set(),
    "synthesis": CORE,
    "narration": {"synthesis", "speaking", "generation", "media"},
    "coding": {"checkpoint", "media", "models"},
    "repetition": set(),
    "hypotheses": {"assistant", "checkpoint", "recognition", "normalization", "media", "data"},
    "word_errors": set(),
    "wer_report": {"word_errors"},
    "wer": {"hypotheses", "recognition", "normalization", "repetition", "data", "word_errors", "wer_report"},
    "exam": {
        *("assistant", "batch", "checkpoint", "data", "normalization", "prompt", "reading_aloud", "recognition"),
        *("speaking", "word_errors"),
    },
    "classification": CORE | {"layers"},
    "data": CORE | {"distributed", "layers"},
    "stages": CORE
    | {
        *("distributed", "layers", "optimizers", "precision", "inference", "figures", "image_figures"),
        "conversation_figures",
    },
    "precision": set(),
    "cliffs": set(),
    "curves": set(),
    "curve_figures": {"cliffs"},
    "model_card": {"checkpoint", "curves"},
    "hub": {"checkpoint", "model_card", "weights_folder"},
    "plot": {"cliffs", "curves", "curve_figures"},
    "callbacks": {"cliffs", "distributed", "precision", "predictions", "weights_folder"},
    "training": {"shipped", "stages", "data", "checkpoint", "callbacks", "precision", "rank_watch", "sharding", "cli"},
    "sharding": {"distributed", "layers", "models"},
    "memory": set(),
    "configuration": {"training", "cli", "shipped"},
    "device_share": {"sharding"},
    "plan": {"configuration", "device_share", "stages", "memory", "precision"},
    "chain": CORE
    | {
        *("configuration", "data", "memory", "assistant", "inference", "recognition", "classification", "synthesis"),
        *("coding", "cli", "shipped"),
    },
    "bench": CORE
    | {
        "layers",
        "optimizers",
        "memory",
        "precision",
        "data",
        "synthesis",
        "plan",
        "configuration",
        "training",
        "shipped",
    },
    "cli": {
        *("training", "classification", "transcription", "narration", "coding", "wer", "data", "plan"),
        *("bench", "generating", "chat", "exam", "chain", "plot", "hub"),
    },
    "__init__": {"assistant", "inference", "recognition", "classification", "synthesis"},
}
LIGHTNING = {"training", "callbacks", "stages", "data", "plan", "sharding"}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
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


def test_all_files_were_found():
    assert len(FILES) > 40
    assert {room(path) for path in FILES} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("omni.")}
    rooms = {name for name in used if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}
    assert rooms <= MAY_IMPORT[room(path)] | {room(path), "errors", "files"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_some_rooms_know_lightning(path):
    if room(path) not in LIGHTNING:
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imports(path))


def test_stages_and_data_meet_in_the_batch_only():
    for path in FILES:
        if room(path) in ("stages", "data"):
            other = "omni.data" if room(path) == "stages" else "omni.stages"
            assert not any(name.startswith(other) for name in imports(path))


def test_no_file_collects_odds_and_ends():
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
