"""The same code on real files, if the environment variable `OMNI_DATA` is set to a folder of data."""

import os
from pathlib import Path

import pytest

from omni.cli import main
from omni.data.text.data import TextData

PACK = os.environ.get("OMNI_DATA")
pytestmark = pytest.mark.skipif(PACK is None, reason="real data: set OMNI_DATA to a folder that holds text/")
SHAKESPEARE = "text/tinyshakespeare/input.txt"
CONFIGS = Path(__file__).parents[2] / "configs"


def real(name: str) -> str:
    return str(Path(PACK or "") / name)


@pytest.mark.parametrize(
    ("name", "options", "documents"),
    [
        (SHAKESPEARE, {"val_split": "tail"}, 2),
        ("text/tinystories/train.txt", {"document_separator": r"<\|endoftext\|>"}, 1_000),
        ("text/wikitext-2-raw/valid.txt", {"document_separator": r"\n(?= = [^=].* = \n)"}, 50),
        ("text/gsm8k/train.jsonl", {"text_column": "question"}, 7_473),
    ],
)
def test_corpora_are_read_completely(name, options, documents, workplace):
    data = TextData(real(name), tokenizer="bytes", context=128, **options)
    data.setup()
    train, val = data.report["train"], data.report["val"]
    assert train.documents + val.documents >= documents
    assert train.cropped == val.cropped == 0
    if name.endswith(".txt") and "tinystories" not in name:  # the separator between documents is not text
        size = Path(real(name)).stat().st_size
        assert train.tokens + val.tokens - 2 * (train.documents + val.documents) <= size
        assert train.tokens + val.tokens >= 0.99 * size
    assert max(train.padding, val.padding) < 0.02
    text = data.tokenizer.decode(next(iter(data.val_dataloader())).tokens[0].tolist())
    assert len(text) > 32


def test_the_thinker_learns_shakespeare(workplace):
    options = {
        "data.init_args.train": real(SHAKESPEARE),
        "trainer.max_steps": 40,
        "trainer.val_check_interval": 40,
        "trainer.limit_val_batches": 4,
        "trainer.enable_progress_bar": "false",
        "model.init_args.sample_tokens": 4,
        "data.init_args.val_batch_size": 24,
        "model.init_args.warmup_steps": 10,
    }
    pairs = [f"--{name}={value}" for name, value in options.items()]
    cli = main(["fit", "--config", str(CONFIGS / "bench" / "shakespeare_char.yaml"), *pairs])
    assert cli.trainer.callback_metrics["val/loss"] < 2.8  # 3.3 is the loss of character frequencies alone
