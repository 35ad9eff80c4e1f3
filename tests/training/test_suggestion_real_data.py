"""Suggestions for real data sets train; the environment variable `OMNI_DATA` tells where these are."""

import os
from pathlib import Path

import pytest
from toy_commands import CONFIGS

from omni.cli import main

PACK = os.environ.get("OMNI_DATA")
pytestmark = pytest.mark.skipif(
    PACK is None, reason="real data: set OMNI_DATA to a folder that holds text/ and speech/"
)
ROOT = Path(PACK or "")

SETS = {
    "wikitext": (
        *("thinker.yaml", f"--data.init_args.train={ROOT}/text/wikitext-2-raw/train.txt"),
        *(
            f"--data.init_args.val={ROOT}/text/wikitext-2-raw/valid.txt",
            r"--data.init_args.document_separator=\n(?= = \w)",
        ),
        *("--data.init_args.vocab_size=2048", "--model.init_args.thinker.init_args.vocab_size=2048"),
    ),
    "an4": (
        *("bench/an4.yaml", f"--data.init_args.train={ROOT}/manifests/an4_train.jsonl"),
        *(f"--data.init_args.val={ROOT}/manifests/an4_test.jsonl", "--data.init_args.test=null"),
    ),
    "fashion": ("bench/fashion_mnist.yaml", f"--data.init_args.root={ROOT}/vision"),
}


def test_each_fits_its_data_and_trains(workplace):
    steps, amounts = {}, {}
    for name, (config, *options) in SETS.items():
        argv = ["--config", str(CONFIGS / config), "--trainer.accelerator=cpu", "--trainer.max_steps=50000", *options]
        (made,) = main(["plan", "--suggest", *argv, f"--write={name}.yaml"])
        steps[name], amounts[name] = made.values["trainer.max_steps"], made.statistics.amount
        few = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
        assert main(["fit", f"--config={name}.yaml", *few]).trainer.global_step == 2
    assert amounts["an4"] == pytest.approx(0.71, abs=0.01)  # hours
    assert 58_000 < amounts["fashion"] < 60_000
    assert 3e6 < amounts["wikitext"] < 4e6  # tokens of a vocabulary of 2,048
    assert steps["wikitext"] == pytest.approx(10 * amounts["wikitext"] / 256 / 8, rel=0.01)  # 10 epochs
    assert steps["an4"] == 2000
    assert steps["fashion"] == 5 * (int(amounts["fashion"]) // 128)
