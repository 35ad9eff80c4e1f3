"""The Thinker against Hugging Face's Llama of the same size."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from omni.bench.language_models import (
    MODELS,
    OptimizerName,
    build_model,
    gpu_or_cpu,
    import_transformers,
    model_parameters,
    model_training_step,
    random_tokens,
    training_memory,
)
from omni.bench.race import Comparison, Race, Report
from omni.decoding.acceleration import accelerate
from omni.devices import has_compiler
from omni.errors import UserError
from omni.optim.precision import best_precision
from omni.training.shipped import CONFIGS

# Changes to the documented tiny size.
SETTINGS: dict[str, dict[str, Any]] = {"tiny-32k": {}, "tied-4k": {"vocab_size": 4096, "tied": True}}
_PROMPT_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class ThinkerRace(Race):
    """The Thinker against Hugging Face's Llama of the same size.

    Attributes:
        settings: tiny-32k (the documented tiny size), tied-4k (the same with 4,096 tokens and a tied head), or YAML
            files with the arguments of a Thinker; several separated by commas.
        steps: Training steps in a round.
        batch_size: Rows in a training batch.
        context: Tokens in a row, 2 or more.
        decode_tokens: Tokens decoded after a prompt of 16, for one row and for eight rows at a time.
        precision: Precision of both models; auto is the one that omni trains with on this machine. With bf16-mixed,
            decoding uses bf16 weights.
        compiled: Whether training and decoding are also measured compiled, which takes minutes and a C++ compiler.
        memory: Whether to measure the peak memory of training, each model in a process of its own.
    """

    positive = ("repeats", "steps", "batch_size", "decode_tokens")

    settings: str = "tiny-32k,tied-4k"
    steps: int = 3
    batch_size: int = 8
    context: int = 256
    decode_tokens: int = 64
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    compiled: bool = True
    memory: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context < 2:
            raise UserError(f"context is {self.context}: give 2 or more")

    def run(self) -> Report:
        """Runs the race.

        Raises:
            UserError: If transformers is missing, there is no such setting, or the models differ in size.
        """
        import_transformers()
        best = best_precision("auto")
        precision = best if self.precision == "auto" else self.precision
        task = {"batch_size": self.batch_size, "context": self.context, "precision": precision}
        sizes = {setting.strip(): _read_setting(setting.strip()) for setting in self.settings.split(",")}
        counts = {f"parameters of {setting}": _count(setting, size) for setting, size in sizes.items()}
        results = []
        for setting, size in sizes.items():
            results += self._training(setting, size, task, best)
            results += self._decoding(setting, size, precision)
            if self.memory:
                results.append(_memory(setting, size, task))
        rows = f"{self.batch_size} × {self.context} random tokens a step, {self.steps} steps a round"
        weights = "bf16" if precision == "bf16-mixed" else "fp32"
        others = {
            "training": f"{precision}, {rows}; forward, loss, backward, clip, fused AdamW, zero",
            "as shipped": f"omni {best}, {_shipped_optimizer()}; hf 32-true, its Trainer's default optimizer",
            "decoding": f"greedy, {self.decode_tokens} tokens after {_PROMPT_TOKENS}, {weights} weights (int8: 8 bits)",
        }
        run = self.conditions("transformers", device=gpu_or_cpu(), **others, **counts)
        return Report(run, results)

    def _training(self, setting: str, size: dict[str, Any], task: dict[str, Any], best: str) -> Iterator[Comparison]:
        """Training with the same precision and optimizer, and as shipped."""
        same: dict[str, tuple[str, OptimizerName]] = dict.fromkeys(MODELS, (task["precision"], "adamw"))
        shipped: dict[str, tuple[str, OptimizerName]] = {
            "omni": (best, _shipped_optimizer()),
            "hf": ("32-true", "trainer"),
        }
        work = self.steps * self.batch_size * self.context
        ways = {"": False, " compiled": True} if self.compiled and has_compiler(gpu_or_cpu().type) else {"": False}
        for label, choices in (("training", same), ("as shipped", shipped)):
            blocks = {}
            for name, (precision, optimizer) in choices.items():
                options = {**task, "precision": precision, "optimizer": optimizer}
                for way, compiled in ways.items():
                    model = build_model(name, size)
                    if compiled:
                        model.compile()
                    blocks[f"{name}{way}"] = self._repeated(model_training_step(model, **options))
            best_first = sorted(blocks.items(), key=lambda block: block[0] != f"omni{[*ways][-1]}")
            yield self.compare(f"{setting}: {label}", "tokens/s", dict(best_first), work=work)

    def _repeated(self, step: Callable[[], None]) -> Callable[[], Any]:
        return lambda: [step() for _ in range(self.steps)]

    def _decoding(self, setting: str, size: dict[str, Any], precision: str) -> Iterator[Comparison]:
        """Decoding of one row and of eight, after a check that both models generate all tokens."""
        models = {name: build_model(name, size) for name in MODELS}
        if self.compiled and has_compiler(kind := gpu_or_cpu().type):
            fast = ["omni compiled", *(["omni int8 compiled"] if kind == "cpu" else [])]
            models |= {name: build_model("omni", size) for name in fast}
        for name, model in models.items():
            model.model.eval().to(torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
            model.transpose_weights_for_decoding()
            accelerate([model.model], compile="compiled" in name, int8="int8" in name)
        for rows in (1, 8):
            prompts, work = random_tokens(models["omni"], rows, _PROMPT_TOKENS), rows * self.decode_tokens
            blocks = {
                name: lambda model=model, prompts=prompts: model.decode(prompts, self.decode_tokens)
                for name, model in models.items()
            }
            for name, block in blocks.items():
                if (generated := block()) != work:
                    raise RuntimeError(f"{name} generated {generated} of {work} tokens")
            measure = f"{setting}: decoding {rows} row{'s' * (rows > 1)}"
            fastest = [name for name in blocks if name.startswith("omni")][-1]
            best_first = sorted(blocks.items(), key=lambda block: block[0] != fastest)
            comparison = self.compare(measure, "tokens/s", dict(best_first), work=work)
            yield comparison
            if fastest != "omni":
                yield _with_same_weights(comparison)


def _with_same_weights(comparison: Comparison) -> Comparison:
    """The uncompiled models of a comparison, with equal weights: their ratio in the same rounds."""
    rounds = zip(comparison.ratios["hf"], comparison.ratios["omni"], strict=True)
    values = {name: comparison.values[name] for name in MODELS}
    ratios = {"hf": [to_hf / to_omni for to_hf, to_omni in rounds]}
    return Comparison(f"{comparison.measure}, uncompiled", comparison.unit, values, ratios)


def _read_setting(setting: str) -> dict[str, Any]:
    path = CONFIGS / "models/tiny/thinker.yaml" if setting in SETTINGS else Path(setting)
    if not path.is_file():
        names = ", ".join(SETTINGS)
        raise UserError(
            f"setting {setting!r} is neither one of {names} nor a YAML file with the arguments of a Thinker"
        )
    return yaml.safe_load(path.read_text(encoding="utf-8")) | SETTINGS.get(setting, {})


def _count(setting: str, size: dict[str, Any]) -> str:
    omni, hf = (model_parameters(name, size) for name in MODELS)
    if abs(omni - hf) > 1e-3 * hf:
        raise UserError(f"{setting}: omni has {omni} parameters and hf {hf}, which is not a fair race")
    return f"omni {omni:,}, hf {hf:,}"


def _memory(setting: str, size: dict[str, Any], task: dict[str, Any]) -> Comparison:
    """Peak memory of training, each model alone in a new process."""
    peaks: dict[str, float | None] = {}
    for name in MODELS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                peaks[name] = pool.submit(training_memory, name, size, torch.get_num_threads(), task).result()
            except BrokenProcessPool as error:
                raise UserError(f"{name} could not train {setting} in this machine's memory") from error
    omni, hf = (float(peak or 0) for peak in peaks.values())
    return Comparison(f"{setting}: peak memory of training", "bytes", peaks, {"hf": [hf / omni]})


def _shipped_optimizer() -> OptimizerName:
    config = yaml.safe_load((CONFIGS / "thinker.yaml").read_text(encoding="utf-8"))
    return config["model"]["init_args"].get("optimizer", "adamw")
