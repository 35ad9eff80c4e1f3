"""Pipelines of toy stages."""

from pathlib import Path
from typing import Any

import yaml
from toy_commands import CONFIGS, TOY

FIRST = "lightning_logs/thinker/best.ckpt"
NAME = "trainer.logger.init_args.name"
SECOND = {NAME: "again", "init_from.thinker": FIRST, "data.init_args.tokenizer": FIRST}


def stage(**changes: Any) -> dict[str, Any]:
    """A toy stage A; `overrides` are added to those of the toy, and None removes a key."""
    overrides = {**TOY, **changes.pop("overrides", {})}
    content = {"config": str(CONFIGS / "thinker.yaml"), "metric": "val/perplexity", "overrides": overrides, **changes}
    return {key: value for key, value in content.items() if value is not None}


def written(stages: dict[str, Any], **content: Any) -> Path:
    path = Path("chain.yaml")
    path.write_text(yaml.safe_dump({"name": "toy", "stages": stages, **content}), encoding="utf-8")
    return path


def two(**overrides: Any) -> dict[str, Any]:
    """Two stages in the wrong order: the first is initialised from the second."""
    return {"again": stage(overrides={**SECOND, **overrides}), "thinker": stage(below=1000, overrides=overrides)}
