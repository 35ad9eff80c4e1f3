"""A sweep of a toy stage A."""

from pathlib import Path
from typing import Any

import yaml
from toy_commands import CONFIGS, TOY

LR, WIDTH = "model.init_args.lr", "model.init_args.thinker.init_args.ffn_dim"
PARAMETERS = {LR: {"log": [1e-4, 1e-2]}, WIDTH: {"values": [48, 64]}}


def write_sweep(file: str = "toy", **content: Any) -> Path:
    """Writes a sweep; None takes a key out, and `overrides` are added to those that make the stage a toy."""
    fields = {
        "config": str(CONFIGS / "thinker.yaml"),
        "metric": "val/loss",
        "budget": {"trials": 4},
        "parameters": PARAMETERS,
        **content,
    }
    if fields["config"] != "chain.yaml":
        fields["overrides"] = {**TOY, **content.get("overrides", {})}
    path = Path(f"{file}.yaml")
    given = {key: value for key, value in fields.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path
