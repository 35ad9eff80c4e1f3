"""The trainer verbs at toy size: a shipped configuration, and options that make its model and its data small.

Everything here is a function or a value of a module, so that another process can be given it; see `processes.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toy_omni import MELS

from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder

CONFIGS = Path(__file__).parents[1] / "configs"


def run_stage(config: str, toy: Mapping[str, object], verb: str = "fit", *extra: str, **overrides: object) -> Any:
    """Runs a trainer verb in this process.

    Args:
        config: Name of a shipped configuration.
        toy: Values by option.
        verb: `fit`, `validate`, `test` or `predict`.
        extra: Further arguments.
        overrides: Further values, see `arguments`.
    """
    from omni.cli import main

    return main(command(config, toy, verb, *extra, **overrides))


def command(config: str, toy: Mapping[str, object], verb: str = "fit", *extra: str, **overrides: object) -> list[str]:
    """The arguments of the command that `run_stage` runs."""
    return [verb, "--config", str(CONFIGS / f"{config}.yaml"), *arguments(toy, overrides), *extra]


def arguments(toy: Mapping[str, object], overrides: Mapping[str, object]) -> list[str]:
    """The command's options: the toy values of the model and of the data in one option each, then the overrides.

    The parser checks the whole model for each of its options, so there are few.

    Args:
        toy: Values by option.
        overrides: Other values by option, with `__` for a dot; None removes an option.
    """
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    plain: dict[str, object] = {}
    nested: dict[str, Any] = {}
    for name, value in toy.items():
        part, *path = name.split(".")
        if part not in ("model", "data"):
            plain[name] = value
        elif name not in given:
            inner = nested.setdefault(part, {})
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = typed(value)
    options = {**plain, **{part: json.dumps(values) for part, values in nested.items()}, **given}
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def typed(value: object) -> object:
    """A value of the command line, parsed as JSON if it is JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def part(kind: type, **arguments: Any) -> str:
    return json.dumps({"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": arguments})


TOY = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.thinker.init_args.vocab_size": "288",
    "model.init_args.thinker.init_args.dim": "32",
    "model.init_args.thinker.init_args.num_layers": "2",
    "model.init_args.thinker.init_args.ffn_dim": "48",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.sample_tokens": "4",
    "data.init_args.train": "corpus.txt",
    "data.init_args.val": "null",
    "data.init_args.val_split": "tail",
    "data.init_args.tokenizer": "bytes",
    "data.init_args.context": "16",
    "data.init_args.batch_size": "4",
}


TOY_SPEECH = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.audio_encoder.init_args.vocab_size": "5",
    "model.init_args.audio_encoder.init_args.num_mels": "16",
    "model.init_args.audio_encoder.init_args.dim": "32",
    "model.init_args.audio_encoder.init_args.num_layers": "2",
    "model.init_args.audio_encoder.init_args.intermediate_ctc_block": "1",
    "model.init_args.audio_encoder.init_args.num_heads": "2",
    "model.init_args.audio_encoder.init_args.ffn_dim": "48",
    "model.init_args.audio_encoder.init_args.conv_channels": "4",
    "model.init_args.audio_encoder.init_args.head_dim": "16",
    "model.init_args.audio_encoder.init_args.dropout": "0",
    "model.init_args.shown": "0",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "data.init_args.train": "speech/train.jsonl",
    "data.init_args.val": "speech/val.jsonl",
    "data.init_args.characters": " abc",
    "data.init_args.num_mels": "16",
    "data.init_args.batch_seconds": "8",
    "data.init_args.max_duration": "4",
    "data.init_args.augmentation.silence": "0.1",
}


TOY_CODEC = {
    **{name: value for name, value in TOY_SPEECH.items() if "audio_encoder" not in name},
    "model.init_args.codec.init_args.num_mels": "16",
    "model.init_args.codec.init_args.dim": "32",
    "model.init_args.codec.init_args.mel_layers": "1",
    "model.init_args.codec.init_args.num_layers": "1",
    "model.init_args.codec.init_args.num_codebooks": "2",
    "model.init_args.codec.init_args.codebook_size": "16",
    "model.init_args.codec.init_args.codebook_dim": "8",
    "model.init_args.quality_utterances": "0",
    "data.init_args.crop": "0.5",
}
del TOY_CODEC["model.init_args.optimizer"]


TOY_VOCODER = {
    **{name: value for name, value in TOY_SPEECH.items() if "audio_encoder" not in name},
    "model.init_args.vocoder.init_args.num_mels": "16",
    "model.init_args.vocoder.init_args.dim": "24",
    "model.init_args.vocoder.init_args.num_layers": "1",
    "model.init_args.discriminators.init_args.periods": "[2, 3]",
    "model.init_args.discriminators.init_args.period_channels": "[2, 4]",
    "model.init_args.discriminators.init_args.resolutions": "[128]",
    "model.init_args.discriminators.init_args.resolution_channels": "2",
    "model.init_args.adversarial_start": "3",
    "model.init_args.quality_utterances": "1",
    "data.init_args.crop": "0.3",
    "data.init_args.batch_seconds": "4",
}


TOY_VISION = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.vision_encoder.init_args.image_size": "16",
    "model.init_args.vision_encoder.init_args.patch_size": "4",
    "model.init_args.vision_encoder.init_args.dim": "32",
    "model.init_args.vision_encoder.init_args.num_layers": "1",
    "model.init_args.vision_encoder.init_args.ffn_dim": "48",
    "model.init_args.vision_encoder.init_args.stem_width": "8",
    "model.init_args.shown": "0",
    "model.init_args.classifier.init_args.dim": "32",
    "model.init_args.classifier.init_args.num_classes": "3",
    "model.init_args.optimizer": "adamw",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "data.init_args.train": "pictures/train",
    "data.init_args.val": "pictures/val",
    "data.init_args.image_size": "16",
    "data.init_args.load_size": "18",
    "data.init_args.batch_size": "5",
}


TOY_TALKER = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "model.init_args.talker.init_args.vocab_size": "5",
    "model.init_args.talker.init_args.num_codebooks": "2",
    "model.init_args.talker.init_args.codebook_size": "17",
    "model.init_args.talker.init_args.dim": "32",
    "model.init_args.talker.init_args.num_layers": "2",
    "model.init_args.talker.init_args.num_heads": "2",
    "model.init_args.talker.init_args.ffn_dim": "64",
    "model.init_args.talker.init_args.text_layers": "1",
    "model.init_args.talker.init_args.text_ffn_dim": "48",
    "model.init_args.talker.init_args.num_speakers": "2",
    "model.init_args.talker.init_args.dropout": "0",
    "model.init_args.lr": "1e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.sentences": "4",
    "model.init_args.shown": "0",
    "data.init_args.train": "words.jsonl",
    "data.init_args.codec": "codec.ckpt",
    "data.init_args.recognizer": "recognizer.ckpt",
    "data.init_args.val_fraction": "0.2",
    "data.init_args.silence": "0.12",
    "data.init_args.batch_seconds": "8",
    "data.init_args.max_duration": "4",
    "data.init_args.device": "cpu",
}


PART = "model.init_args.{}.init_args."
TOY_OMNI = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.max_steps": "6",
    "trainer.val_check_interval": "3",
    "trainer.log_every_n_steps": "1",
    "init_from": "{}",
    **{
        PART.format("thinker") + key: value
        for key, value in {
            "vocab_size": 288,
            "dim": 32,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 4,
            "ffn_dim": 48,
        }.items()
    },
    **{
        PART.format("vision_encoder") + key: value
        for key, value in {
            "image_size": 16,
            "patch_size": 8,
            "dim": 24,
            "num_layers": 1,
            "ffn_dim": 32,
            "stem_width": 4,
            "reduction": "none",
        }.items()
    },
    **{
        PART.format("audio_encoder") + key: value
        for key, value in {
            "vocab_size": 5,
            "num_mels": MELS,
            "dim": 16,
            "num_layers": 1,
            "intermediate_ctc_block": 0,
            "num_heads": 2,
            "ffn_dim": 24,
            "conv_channels": 2,
            "head_dim": 8,
            "dropout": 0,
        }.items()
    },
    PART.format("vision_projector") + "in_dim": 24,
    PART.format("vision_projector") + "out_dim": 32,
    PART.format("audio_projector") + "in_dim": 16,
    PART.format("audio_projector") + "out_dim": 32,
    "model.init_args.lr": "3e-3",
    "model.init_args.warmup_steps": "2",
    "model.init_args.answer_tokens": "6",
    "model.init_args.shown": "0",
    "model.init_args.modality_ablation": "false",
    "data.init_args.train": "train.jsonl",
    "data.init_args.val": "val.jsonl",
    "data.init_args.tokenizer": "bytes",
    "data.init_args.image_size": "16",
    "data.init_args.num_mels": str(MELS),
    "data.init_args.max_tokens": "64",
    "data.init_args.batch_tokens": "512",
}


CAPTIONS = {
    "data__init_args__train": "pictures/train.jsonl",
    "data__init_args__val": "pictures/val.jsonl",
    "data__init_args__augmentation__flip": 0,
    "data__init_args__augmentation__mixup": 0,
    "data__init_args__augmentation__cutmix": 0,
    "model__init_args__contrast": part(ContrastHead, image_dim=32, text_dim=32, dim=16),
    "model__init_args__text_encoder": part(
        TextEncoder, vocab_size=288, dim=32, num_layers=1, num_heads=2, ffn_dim=32, dropout=0.1
    ),
}
NO_CLASSES = {
    "model__init_args__classifier": "null",
    "model__init_args__classifier__init_args__dim": None,
    "model__init_args__classifier__init_args__num_classes": None,
}
