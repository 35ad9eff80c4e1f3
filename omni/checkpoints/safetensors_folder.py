"""A checkpoint as a folder of two files that other programs read too: `model.safetensors` and `config.json`.

It holds what a trained model is: weights, recipes of the parts, tokenizer, constants, lineage; not what a run goes on
with, such as the optimizer's state. `Checkpoint` reads it like a `.ckpt`.
"""

import base64
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omni import __version__
from omni.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_OF_THE_RUN = {"state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "rng", "hparams_name",
               "hyper_parameters", "datamodule_hparams_name", "datamodule_hyper_parameters"}  # fmt: skip


def write_folder(checkpoint: dict[str, Any], folder: Path, **more: Any) -> None:
    """Writes a checkpoint's model to a folder.

    Args:
        checkpoint: Its content, as in `Checkpoint.content`.
        folder: Where to; it is made.
        more: Further entries of `config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, shared = _told_apart(checkpoint["state_dict"])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    # Lightning keeps the states of data modules and plugins under the names of their classes.
    kept = {key: value for key, value in checkpoint.items() if key not in _OF_THE_RUN and not key[0].isupper()}
    config = {"library_name": "omni", "omni_version": __version__, **kept, **more, "shared_weights": shared}
    text = json.dumps(config, indent=1, ensure_ascii=False, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def is_folder(path: Path) -> bool:
    """Whether both files are there."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read_folder(folder: Path) -> dict[str, Any]:
    """What `write_folder` wrote.

    Raises:
        UserError: If a file is damaged, or belongs to another library.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"), object_hook=_from_plain)
    except ValueError as error:
        raise UserError(f"{folder / CONFIG} cannot be read: it is cut off, damaged or no JSON") from error
    if not isinstance(config, dict) or config.get("library_name") != "omni":
        raise UserError(f"{folder} holds a model of another library than omni: its {CONFIG} says so")
    try:
        weights = load_file(folder / WEIGHTS)
        weights |= {name: weights[same] for name, same in config.pop("shared_weights").items()}
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: it is cut off or damaged") from error
    return {**config, "state_dict": weights}


def _told_apart(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights that share no memory, and which names mean the same one: safetensors stores each once."""
    kept: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    for name, weight in weights.items():
        where = (weight.untyped_storage().data_ptr(), weight.storage_offset(), weight.shape, weight.stride())
        if weight.numel() and where in names:
            shared[name] = names[where]
        else:
            names[where] = name
            kept[name] = weight.detach().clone(memory_format=torch.contiguous_format)
    return kept, shared


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"a checkpoint holds {type(value).__name__}, which JSON cannot hold")


def _from_plain(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
