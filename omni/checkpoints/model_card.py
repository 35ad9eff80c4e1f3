"""The model card: what a model is, how it is used, what it learned from, how good it is, where it comes from."""

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from omni.checkpoints.checkpoint import Lineage
from omni.curves.event_files import read_config, read_curves


class Use(NamedTuple):
    """What the models of a stage are for.

    Attributes:
        task: The Hub's name for it.
        command: How it is done; `MODEL` stands for the folder.
    """

    task: str
    command: str


USES = {
    "ThinkerPretraining": Use("text-generation", 'omni generate --checkpoint MODEL --text "The first"'),
    "SpeechRecognition": Use("automatic-speech-recognition", "omni transcribe talk.wav --checkpoint MODEL"),
    "VisionPretraining": Use("image-classification", "omni classify holiday.jpg --checkpoint MODEL"),
    "CodecTraining": Use("audio-to-audio", "omni codec encode talk.wav --checkpoint MODEL --out talk.npz"),
    "VocoderTraining": Use("audio-to-audio", "omni codec decode talk.npz --checkpoint CODEC --vocoder MODEL"),
    "TalkerTraining": Use("text-to-speech", 'omni speak "The first words." --out words.wav --checkpoint MODEL'),
    "OmniTuning": Use("any-to-any", "omni chat --checkpoint MODEL"),
}
_OTHER = Use("any-to-any", "omni --help")


def facts(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a card tells beside what the checkpoint itself holds: data and metrics, from the folder of its run.

    Args:
        checkpoint: The checkpoint.
        path: Its file; or its folder, if it was pulled: then what is known travels in it.
    """
    if "card" in checkpoint:
        return checkpoint["card"]
    config = read_config(path.parent)
    data = config.get("data") if isinstance(config, dict) else None
    arguments = (data or {}).get("init_args") or {}
    found = {name: _discreet(arguments[name]) for name in ("train", "val", "test", "root") if arguments.get(name)}
    step = checkpoint["lineage"]["step"]
    metrics = {}
    for name, curve in read_curves(path.parent).items():
        split, _, rest = name.partition("/")
        measured = [(at, value) for at, value in curve.items() if at <= step and isfinite(value)]
        if split in ("val", "test") and "/" not in rest and measured:
            metrics[name] = dict(zip(("step", "value"), measured[-1], strict=True))
    return {"data": {"class": data["class_path"].rpartition(".")[2], **found} if data else {}, "metrics": metrics}


def model_card(name: str, checkpoint: dict[str, Any], known: Mapping[str, Any], *, license: str | None = None) -> str:
    """The card, in the Hub's Markdown: metadata first.

    Args:
        name: Of the model: `OWNER/NAME`, or a folder's name.
        checkpoint: The checkpoint.
        known: See `facts`.
        license: Under which the weights may be used, as the Hub calls it: `mit`, `cc-by-4.0`.
    """
    lineage: Lineage = checkpoint["lineage"]
    use = USES.get(lineage["stage"], _OTHER)
    folder = name.rpartition("/")[2]
    lines = [f"# {folder}", ""]
    lines += [f"Trained by omni, stage `{lineage['stage']}`, {lineage['step']:,} optimizer steps. It holds:", ""]
    lines += ["| part | class | weights |", "|---|---|---|"]
    for part, recipe in checkpoint["parts"].items():
        weights = {key: w for key, w in checkpoint["state_dict"].items() if key.startswith(f"{part}.")}
        count = sum({weight.data_ptr(): weight.numel() for weight in weights.values()}.values())
        lines.append(f"| `{part}` | `{recipe['class_path'].rpartition('.')[2]}` | {count:,} |")
    lines += ["", "## Use", ""]
    lines += [f"    omni hub pull {name} --out {folder}", f"    {use.command.replace('MODEL', folder)}", ""]
    lines += ["## Data", ""]
    data = dict(known["data"])
    lines += [f"`{data.pop('class')}`" if data else "Not known: no configuration lies beside the checkpoint."]
    lines += [f"- {split}: `{source}`" for split, source in data.items()]
    lines += [f"- fingerprint: `{lineage['data']}`", "", "## Metrics", ""]
    if known["metrics"]:
        lines += ["| metric | value | at step |", "|---|---|---|"]
        lines += [f"| {metric} | {m['value']:.4g} | {m['step']:,} |" for metric, m in known["metrics"].items()]
    else:
        lines += ["Not known: no curves lie beside the checkpoint."]
    lines += ["", "## Lineage", "", *_tree("this model", lineage)]
    return _metadata(name, use, known, license) + "\n".join(lines) + "\n"


def _metadata(name: str, use: Use, known: Mapping[str, Any], license: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = known["data"]
    results = [
        EvalResult(
            task_type=use.task,
            dataset_type=data.get("class", "unknown"),
            dataset_name=str(data.get("val", data.get("root", "validation"))),
            metric_type=metric.partition("/")[2],
            metric_value=round(m["value"], 6),
            metric_name=metric,
        )
        for metric, m in known["metrics"].items()
    ]
    card = ModelCardData(
        library_name="omni",
        pipeline_tag=use.task,
        license=license,
        tags=["omni"],
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n\n"


def _tree(name: str, lineage: Lineage, depth: int = 0) -> Iterator[str]:
    """A line for a model, and below it one for each that it began with."""
    yield (
        f"{'  ' * depth}- {name}: `{lineage['stage']}`, step {lineage['step']:,}, configuration "
        f"`{lineage['config'][:12]}`, data `{lineage['data'][:12]}`, tokenizer `{lineage['tokenizer'][:12]}`"
    )
    for part, ancestor in lineage["ancestors"].items():
        yield from _tree(f"`{part}` began as", ancestor, depth + 1)


def _discreet(source: Any) -> Any:
    """Where data came from, without the folders that lead to it: these are the owner's own affair."""
    if isinstance(source, list | tuple):
        return ", ".join(str(_discreet(item)) for item in source)
    path = Path(str(source))
    return "/".join(path.parts[-2:]) if path.is_absolute() or str(source).startswith("~") else str(source)
