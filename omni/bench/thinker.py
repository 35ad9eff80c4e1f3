"""The race of the Thinker against Hugging Face's Llama of the same size."""

import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from json import dumps
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from omni.bench.conditions import cpu, versions
from omni.bench.models import (
    Rules,
    Training,
    count_parameters,
    import_transformers,
    make,
    random_tokens,
    training_memory,
)
from omni.bench.timing import alternate
from omni.errors import UserError
from omni.optim.precision import best_precision
from omni.training.memory import format_size
from omni.training.shipped import CONFIGS

# What the settings change in the documented tiny size.
SETTINGS: dict[str, dict[str, Any]] = {"tiny-32k": {}, "tied-4k": {"vocab_size": 4096, "tied": True}}
NAMES = ("omni", "hf")  # in the order of their turns
PROMPT = 16  # tokens before those that are decoded


@dataclass(frozen=True, kw_only=True)
class Result:
    """One comparison.

    Attributes:
        setting: Which sizes.
        measure: What was measured, in `tokens/s` or `bytes`.
        omni: Median of omni.
        hf: Median of Hugging Face.
        ratios: How many times better omni was, faster or smaller, in each pair of turns.
    """

    setting: str
    measure: str
    omni: float
    hf: float
    ratios: list[float]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All comparisons.

    Attributes:
        conditions: What was run, and on what.
        parameters: Number of parameters of each contestant, by setting.
        results: The comparisons.
    """

    conditions: dict[str, str]
    parameters: dict[str, dict[str, int]]
    results: list[Result]


def race(
    *,
    settings: str = "tiny-32k,tied-4k",
    repeats: int = 5,
    steps: int = 3,
    batch_size: int = 8,
    context: int = 256,
    decode_tokens: int = 64,
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    threads: int | None = None,
    memory: bool = True,
    json: str | None = None,
) -> Report:
    """Race the Thinker against Hugging Face's Llama of the same size, and print a table.

    Both train on the same random tokens with the same optimizer and their own losses, and both decode greedily with
    their own caches, after a check that they say as many tokens as they were asked for. They take turns, and a ratio is
    the median over pairs of neighbouring turns: what slows the machine for a while slows both.

    Args:
        settings: tiny-32k (the documented tiny size), tied-4k (the same with 4,096 tokens and a tied head), or YAML
            files of a Thinker's arguments; several with commas between.
        repeats: Pairs of turns.
        steps: Training steps of a turn.
        batch_size: Rows of a training batch.
        context: Tokens of a row.
        decode_tokens: Tokens decoded behind a prompt of 16, in one row and in eight rows at a time.
        precision: Of both; auto is what omni trains with on this machine. With bf16-mixed, decoding has bf16 weights.
        threads: Threads on a CPU; PyTorch's own choice if not given.
        memory: Measure the peak memory of training too, of each in a process of its own.
        json: A file to write all numbers to.
    """
    numbers = {"repeats": repeats, "steps": steps, "batch_size": batch_size, "context": context - 1}
    for name, value in {**numbers, "decode_tokens": decode_tokens}.items():
        if value < 1:
            raise UserError(f"{name} is too small for a race")
    if json is not None and not Path(json).parent.is_dir():
        raise UserError(f"json: there is no folder {Path(json).parent}")
    import_transformers()
    if threads is not None:
        torch.set_num_threads(threads)
    best = best_precision("auto")
    chosen = best if precision == "auto" else precision
    sizes = {setting.strip(): _size(setting.strip()) for setting in settings.split(",")}
    parameters = {setting: _count(setting, size) for setting, size in sizes.items()}
    task = {"batch_size": batch_size, "context": context, "precision": chosen}
    results = []
    for setting, size in sizes.items():
        results += _races(setting, size, task, repeats=repeats, steps=steps, decode_tokens=decode_tokens, best=best)
        if memory:
            results.append(_memory(setting, size, task))
    conditions = _conditions(task, best=best, repeats=repeats, steps=steps, decode_tokens=decode_tokens)
    report = Report(conditions=conditions, parameters=parameters, results=results)
    print(_table(report))
    if json is not None:
        Path(json).write_text(dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def _size(setting: str) -> dict[str, Any]:
    path = CONFIGS / "models/tiny/thinker.yaml" if setting in SETTINGS else Path(setting)
    if not path.is_file():
        raise UserError(
            f"setting {setting!r} is none of {', '.join(SETTINGS)}, and no YAML file of a Thinker's arguments"
        )
    return yaml.safe_load(path.read_text(encoding="utf-8")) | SETTINGS.get(setting, {})


def _count(setting: str, size: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {name: count_parameters(name, size) for name in NAMES}
    if abs(counts["omni"] - counts["hf"]) > 1e-3 * counts["hf"]:
        raise UserError(f"{setting}: omni has {counts['omni']} parameters and hf {counts['hf']}: no fair race")
    return counts


def _races(
    setting: str, size: dict[str, Any], task: dict[str, Any], *, steps: int, decode_tokens: int, **turns: Any
) -> Iterator[Result]:
    """Training under equal rules, training as shipped, and decoding."""
    tokens = steps * task["batch_size"] * task["context"]
    shipped = {"omni": (turns.pop("best"), _shipped_optimizer()), "hf": ("32-true", "trainer")}
    for label, rules in (("training", dict.fromkeys(NAMES, (task["precision"], "equal"))), ("as shipped", shipped)):
        blocks = []
        for name in NAMES:
            precision, optimizer = rules[name]
            training = Training(make(name, size), **{**task, "precision": precision, "rules": optimizer})
            blocks.append(lambda training=training: [training.step() for _ in range(steps)])
        yield _race(setting, f"{label}, tokens/s", blocks, tokens, **turns)
    contestants = [make(name, size) for name in NAMES]
    for contestant in contestants:
        contestant.model.eval().to(torch.bfloat16 if task["precision"] == "bf16-mixed" else torch.float32)
        contestant.transpose_weights_for_decoding()
    for rows in (1, 8):
        prompts = random_tokens(contestants[0], rows, PROMPT)
        blocks = [lambda who=who, prompts=prompts: who.decode(prompts, decode_tokens) for who in contestants]
        for name, block in zip(NAMES, blocks, strict=True):
            if (said := block()) != rows * decode_tokens:
                raise RuntimeError(f"{name} said {said} tokens where {rows * decode_tokens} were asked for")
        yield _race(setting, f"decoding {rows} row{'s' * (rows > 1)}, tokens/s", blocks, rows * decode_tokens, **turns)


def _race(setting: str, measure: str, blocks: list[Callable[[], Any]], work: int, *, repeats: int) -> Result:
    """Lets both take turns, omni first."""
    rounds = alternate(f"{setting}: {measure}", blocks, repeats=repeats)
    omni, hf = ([work / times[i] for times in rounds] for i in (0, 1))
    ratios = [a / b for a, b in zip(omni, hf, strict=True)]
    return Result(
        setting=setting, measure=measure, omni=statistics.median(omni), hf=statistics.median(hf), ratios=ratios
    )


def _memory(setting: str, size: dict[str, Any], task: dict[str, Any]) -> Result:
    """Peak memory of training, each contestant alone in a new process."""
    peaks = {}
    for name in NAMES:
        print(f"{setting}: memory of {name}", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                peaks[name] = pool.submit(training_memory, name, size, torch.get_num_threads(), task).result()
            except BrokenProcessPool as error:
                raise UserError(f"{name} could not train {setting} in this machine's memory") from error
    ratio = peaks["hf"] / peaks["omni"]
    return Result(
        setting=setting, measure="peak memory of training", omni=peaks["omni"], hf=peaks["hf"], ratios=[ratio]
    )


def _shipped_optimizer() -> Rules:
    config = yaml.safe_load((CONFIGS / "thinker.yaml").read_text(encoding="utf-8"))
    return config["model"]["init_args"].get("optimizer", "adamw")


def _conditions(task: dict[str, Any], *, best: str, repeats: int, steps: int, decode_tokens: int) -> dict[str, str]:
    weights = "bf16" if task["precision"] == "bf16-mixed" else "fp32"
    return {
        "versions": versions("transformers"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu(),
        "training": f"{task['precision']}, {task['batch_size']} × {task['context']} random tokens a step; "
        "forward, loss, backward, clip, fused AdamW, zero",
        "as shipped": f"omni {best}, {_shipped_optimizer()}; hf 32-true, its Trainer's default optimizer",
        "decoding": f"greedy, {decode_tokens} tokens behind {PROMPT}, {weights} weights",
        "turns": f"{repeats} pairs, {steps} training steps a turn; median, and the lowest and highest ratio of a pair",
    }


def _table(report: Report) -> str:
    """The report as text."""
    sizes = {
        f"parameters of {setting}": f"omni {counts['omni']:,}, hf {counts['hf']:,}"
        for setting, counts in report.parameters.items()
    }
    heads = {**report.conditions, **sizes}
    lines = [f"{name:<{max(map(len, heads))}}  {text}" for name, text in heads.items()]
    rows = [("setting", "measure", "omni", "hf", "omni is better by")]
    for result in report.results:
        show = format_size if "memory" in result.measure else "{:,.0f}".format
        ratio = f"{statistics.median(result.ratios):.2f} ×"
        if len(result.ratios) > 1:
            ratio += f" ({min(result.ratios):.2f}–{max(result.ratios):.2f})"
        rows.append((result.setting, result.measure, show(result.omni), show(result.hf), ratio))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:{'<' if i < 2 else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(row[:4], widths, strict=False))
        ]
        lines.append("  ".join([*cells, row[4]]))
    lines.insert(-len(rows), "")
    return "\n".join(lines)
