"""A checkpoint as a folder of two portable files: `model.safetensors` and `config.json`.

It holds the trained model: weights, recipes of the parts, tokenizer, constants, lineage; not the state of the run, such
as the optimizer's. `Checkpoint` reads it like a `.ckpt`.
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
_RUN_STATE = {"state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "rng", "hparams_name",
               "hyper_parameters", "datamodule_hparams_name", "datamodule_hyper_parameters"}  # fmt: skip


def write_folder(checkpoint: dict[str, Any], folder: Path, **more: Any) -> None:
    """Writes a checkpoint's model to a folder.

    Args:
        checkpoint: The content of a checkpoint (see `Checkpoint.content`).
        folder: The folder, created if needed.
        more: Further entries of `config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, shared = _without_shared(checkpoint["state_dict"])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    # Lightning stores the states of data modules and plugins under their class names.
    kept = {key: value for key, value in checkpoint.items() if key not in _RUN_STATE and not key[0].isupper()}
    config = {"library_name": "omni", "omni_version": __version__, **kept, **more, "shared_weights": shared}
    text = json.dumps(config, indent=1, ensure_ascii=False, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def is_folder(path: Path) -> bool:
    """Whether a folder has both files."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read_folder(folder: Path) -> dict[str, Any]:
    """Reads a folder of `write_folder`.

    Raises:
        UserError: If a file is damaged, or belongs to another library.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"), object_hook=_from_plain)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read: it is damaged or not JSON") from error
    if not isinstance(config, dict) or config.get("library_name") != "omni":
        raise UserError(f"{folder} was not written by omni: see its {CONFIG}")
    try:
        weights = load_file(folder / WEIGHTS)
        weights |= {name: weights[same] for name, same in config.pop("shared_weights").items()}
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: it is damaged") from error
    return {**config, "state_dict": weights}


def _without_shared(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights without duplicates, which safetensors refuses, and for each duplicate the name of its weight."""
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
    raise TypeError(f"a checkpoint holds {type(value).__name__}, which JSON cannot represent")


def _from_plain(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
