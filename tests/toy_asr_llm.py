"""The second recipe by the command: its configurations at toy size, and the weights and metrics of runs."""

from pathlib import Path
from typing import Any

import torch
import toy_pretrained as toy
from toy_commands import CONFIGS, arguments

from omni.cli import main

PART = "model.init_args.{}.init_args."
TOY = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "4",
    "trainer.val_check_interval": "4",
    "trainer.log_every_n_steps": "1",
    "trainer.accumulate_grad_batches": "1",
    PART.format("audio_projector") + "in_dim": "16",
    PART.format("audio_projector") + "out_dim": "32",
    PART.format("audio_projector") + "hidden_dim": "24",
    PART.format("audio_encoder") + "source": "encoder",
    PART.format("audio_encoder") + "dtype": "float32",
    PART.format("thinker") + "source": "llm",
    PART.format("thinker") + "dtype": "float32",
    "model.init_args.lr": "3e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.answer_tokens": "6",
    "model.init_args.shown": "1",
    "data.init_args.train": "speech/train.jsonl",
    "data.init_args.val": "speech/val.jsonl",
    "data.init_args.tokenizer": "pretrained:llm",
    "data.init_args.max_tokens": "128",
    "data.init_args.batch_tokens": "512",
}


def run(config: str = "asr_llm", *extra: str, verb: str = "fit", **overrides: Any) -> Any:
    """`omni fit` with one of the recipe's configurations; makes the folders `llm` and `encoder` if needed.

        Args:
    config: Name of the configuration.
            extra: Further arguments.
            verb: Another verb.
    overrides: Values of options, with `__` for a dot.
    """
    for name, make in {"llm": toy.llm, "encoder": toy.encoder}.items():
        if not Path(name).exists():
            make(Path(name))
    return main([verb, "--config", str(CONFIGS / f"{config}.yaml"), *arguments(TOY, overrides), *extra])


def weights_of(cli):
    """All weights of a run by part."""
    return {name: {key: w.clone() for key, w in part.state_dict().items()} for name, part in cli.model.parts.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def metric(cli, name):
    return float(cli.trainer.callback_metrics[name])
