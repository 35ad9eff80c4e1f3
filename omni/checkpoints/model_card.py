"""Model cards: parts, use, data, metrics and lineage of a checkpoint."""

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from omni.checkpoints.checkpoint import Checkpoint, Lineage
from omni.curves.event_files import read_config, read_curves


class Use(NamedTuple):
    """The use of a stage's models.

    Attributes:
        task: The Hub's name of the task.
        command: A command; `MODEL` stands for the folder.
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


def card_data(checkpoint: Checkpoint) -> dict[str, Any]:
    """Data and metrics for the card: from a pulled folder's own card, otherwise from the folder of the run."""
    if "card" in checkpoint.content:
        return checkpoint.content["card"]
    run = checkpoint.path.parent
    config = read_config(run)
    data = config.get("data") if isinstance(config, dict) else None
    arguments = (data or {}).get("init_args") or {}
    sources = {
        name: _without_parents(arguments[name]) for name in ("train", "val", "test", "root") if arguments.get(name)
    }
    metrics = {}
    for name, curve in read_curves(run).items():
        measured = {at: value for at, value in curve.items() if at <= checkpoint.lineage["step"] and isfinite(value)}
        if name.count("/") == 1 and name.startswith(("val/", "test/")) and measured:
            step = max(measured)
            metrics[name] = {"step": step, "value": measured[step]}
    return {"data": {"class": data["class_path"].rpartition(".")[2], **sources} if data else {}, "metrics": metrics}


def model_card(name: str, checkpoint: Checkpoint, card: Mapping[str, Any], *, license: str | None = None) -> str:
    """The card in the Hub's Markdown, with its metadata.

    Args:
        name: `OWNER/NAME`, or a folder's name.
        checkpoint: The checkpoint.
        card: Data and metrics; see `card_data`.
        license: The Hub's name of the license of the weights: `mit`, `cc-by-4.0`.
    """
    lineage = checkpoint.lineage
    use = USES.get(lineage["stage"], _OTHER)
    folder = name.rpartition("/")[2]
    lines = [f"# {folder}", ""]
    lines += [f"Trained by omni, stage `{lineage['stage']}`, {lineage['step']:,} optimizer steps. Parts:", ""]
    lines += ["| part | class | weights |", "|---|---|---|"]
    for part, recipe in checkpoint.content["parts"].items():
        weights = checkpoint.weights_of(part).values()
        count = sum({weight.data_ptr(): weight.numel() for weight in weights}.values())
        lines.append(f"| `{part}` | `{recipe['class_path'].rpartition('.')[2]}` | {count:,} |")
    lines += ["", "## Use", ""]
    lines += [f"    omni hub pull {name} --out {folder}", f"    {use.command.replace('MODEL', folder)}", ""]
    lines += ["## Data", ""]
    data = dict(card["data"])
    lines += [f"`{data.pop('class')}`" if data else "Unknown: the checkpoint's folder has no configuration."]
    lines += [f"- {split}: `{source}`" for split, source in data.items()]
    lines += [f"- fingerprint: `{lineage['data']}`", "", "## Metrics", ""]
    if card["metrics"]:
        lines += ["| metric | value | at step |", "|---|---|---|"]
        lines += [f"| {metric} | {m['value']:.4g} | {m['step']:,} |" for metric, m in card["metrics"].items()]
    else:
        lines += ["Unknown: the checkpoint's folder has no curves."]
    lines += ["", "## Lineage", "", *_tree("this model", lineage)]
    return _metadata(name, use, card, license) + "\n".join(lines) + "\n"


def _metadata(name: str, use: Use, card: Mapping[str, Any], license: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data = card["data"]
    results = [
        EvalResult(
            task_type=use.task,
            dataset_type=data.get("class", "unknown"),
            dataset_name=str(data.get("val", data.get("root", "validation"))),
            metric_type=metric.partition("/")[2],
            metric_value=round(m["value"], 6),
            metric_name=metric,
        )
        for metric, m in card["metrics"].items()
    ]
    metadata = ModelCardData(
        library_name="omni",
        pipeline_tag=use.task,
        license=license,
        tags=["omni"],
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n"


def _tree(name: str, lineage: Lineage, depth: int = 0) -> Iterator[str]:
    """A line for a model, followed by those of its ancestors."""
    yield (
        f"{'  ' * depth}- {name}: `{lineage['stage']}`, step {lineage['step']:,}, configuration "
        f"`{lineage['config'][:12]}`, data `{lineage['data'][:12]}`, tokenizer `{lineage['tokenizer'][:12]}`"
    )
    for part, ancestor in lineage["ancestors"].items():
        yield from _tree(f"`{part}` initialised from", ancestor, depth + 1)


def _without_parents(source: Any) -> Any:
    """A data source without its parent folders, which are private."""
    if isinstance(source, list | tuple):
        return ", ".join(str(_without_parents(item)) for item in source)
    path = Path(str(source))
    return "/".join(path.parts[-2:]) if path.is_absolute() or str(source).startswith("~") else str(source)
