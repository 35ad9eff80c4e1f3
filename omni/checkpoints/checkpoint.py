"""Checkpoints without Lightning: read one, rebuild its parts, load a part into another model.

A checkpoint of omni holds, beside what Lightning puts there:

- `parts`: for each part the recipe that rebuilds it (see `Part.recipe`),
- `tokenizer`: its state (see `Tokenizer.state`),
- `metrics`: what the last validation before it measured, by name (`val/loss`),
- `lineage`: stage, step, fingerprints of configuration, data and tokenizer, and the same for every ancestor,
- `units`: the state of the characters that its Talker reads, where the tokenizer is one of text,
- `origins`: for each pretrained part whose weights it is, which the checkpoint then does not hold (see `Part.lent`),
- `audio`: the constants of the spectrograms that its parts hear, if any (see `omni.media.audio.mel_constants`),
- `context`, `answer_tokens`, `template`, `images`, `dictation`: of stage E: most tokens of a conversation and of an
  answer, how it is laid out (see `omni.text.chat_template.encode_chat`), how images are brought to one size, how one
  asks for what a recording says,
- `rng`: the states of the random number generators of each rank (see `omni.distributed.random_state`).

All of it is plain data and tensors, so that reading a checkpoint never runs code that lies in it.
"""

import hashlib
import importlib
import pickle
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from torch import nn

from omni.checkpoints.safetensors_folder import is_folder, read_folder
from omni.errors import UserError
from omni.media.audio import mel_constants
from omni.models.part import Part
from omni.models.pretrained.tokenizer import PretrainedTokenizer
from omni.renamed import current_arguments
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer

P = TypeVar("P", bound=Part)


class Lineage(TypedDict):
    """Where weights come from.

    Keys:
        stage: Class of the stage that trained them.
        step: Optimizer steps it had made.
        config: Fingerprint of its configuration.
        data: Fingerprint of its data.
        tokenizer: Fingerprint of its tokenizer.
        ancestors: The lineage of each part that was loaded at its start.
    """

    stage: str
    step: int
    config: str
    data: str
    tokenizer: str
    ancestors: dict[str, "Lineage"]


def read(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, its tensors mapped from the file rather than copied.

    Args:
        path: A `.ckpt` file, or a folder as `omni hub pull` writes it.

    Raises:
        UserError: If the file is missing, no checkpoint, cut off, or not written by omni.
    """
    path = Path(path)
    checkpoint = read_folder(path) if is_folder(path) else _read_file(path)
    if not isinstance(checkpoint, dict) or not {"state_dict", "parts", "lineage"} <= checkpoint.keys():
        raise UserError(f"checkpoint {path} was not written by omni: it has no parts and no lineage")
    there, here = checkpoint.get("audio"), mel_constants()
    if there is not None and there != here:
        key = next(key for key in here if there.get(key) != here[key])
        raise UserError(
            f"checkpoint {path} hears spectrograms of another kind ({key} is {there.get(key)} there and {here[key]} "
            "here): use the version of omni that trained it"
        )
    return checkpoint


def _read_file(path: Path) -> Any:
    if not path.is_file():
        reason = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise UserError(
            f"checkpoint {path} {reason}: give the .ckpt file of a run, such as lightning_logs/thinker/best.ckpt"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint {path} cannot be read: it is cut off, damaged or no checkpoint at all") from error


def build(recipe: dict[str, Any]) -> Part:
    """Makes a part, untrained, from its recipe.

    Raises:
        UserError: If the recipe names something that is no `Part`, cannot be imported, or takes other arguments.
    """
    module, _, name = recipe["class_path"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the checkpoint needs {recipe['class_path']}, which cannot be imported: {error}") from error
    # Only parts: a checkpoint must not be able to call whatever else is installed.
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise UserError(f"the checkpoint names {recipe['class_path']} as a part, which is none")
    given = current_arguments(cls.__name__, recipe["init_args"])
    arguments = {key: _build_nested(value) for key, value in given.items()}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UserError(
            f"the checkpoint's {recipe['class_path']} belongs to another version of omni: {error}"
        ) from error


def _build_nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_nested(item) for item in value]
    if isinstance(value, dict):
        return build(value) if "class_path" in value else {key: _build_nested(item) for key, item in value.items()}
    return value


class Checkpoint:
    """A checkpoint that has been read, once, and what can be made of it.

    Args:
        path: A `.ckpt` file, or a folder as `omni hub pull` writes it.

    Raises:
        UserError: As of `read`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.content = read(path)

    @classmethod
    def open(cls, source: "Source", *, near: "Checkpoint | None" = None) -> "Checkpoint":
        """The checkpoint at a path.

        Args:
            source: The path; or a checkpoint, which is returned.
            near: Another one, which is returned where it is the one at that path.
        """
        if isinstance(source, Checkpoint):
            return source
        return near if near is not None and near.path == Path(source) else cls(source)

    def __str__(self) -> str:
        return str(self.path)

    def __contains__(self, part: str) -> bool:
        return part in self.content["parts"]

    def part(self, name: str, *kinds: type[P]) -> P:
        """Rebuilds a part from the checkpoint alone, in eval mode.

        Args:
            name: The part's name.
            kinds: The classes of which the part must have one.

        Raises:
            UserError: If the checkpoint has no such part, or one of another kind.
        """
        if name not in self:
            raise UserError(_no_such_part(self.content, name, self.path))
        part = build(self.content["parts"][name])
        if not isinstance(part, kinds):
            needed = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{name} of {self} is a {type(part).__name__}, and a {needed} is needed")
        self.fill(part, name)
        return part.eval()

    def fill(self, part: nn.Module, name: str) -> None:
        """Gives a part the weights of the one called `name`, strictly.

        Raises:
            UserError: If the checkpoint has no such part, or one of other shapes.
        """
        fill(part, check_fit(part, name, self.content, self.path))

    @cached_property
    def vocabulary(self) -> Tokenizer | CTCVocabulary:
        """The tokenizer, or the units of speech, that its parts were trained with."""
        return vocabulary(self.content["tokenizer"])

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that travels in it.

        Raises:
            UserError: If it holds units of speech instead.
        """
        if not isinstance(self.vocabulary, Tokenizer):
            raise UserError(f"checkpoint {self} holds units of speech and no tokenizer of text")
        return self.vocabulary

    @property
    def units(self) -> CTCVocabulary:
        """Its units of speech: its own, or those of the Talker that travels in it (`units`).

        Raises:
            UserError: If it has none.
        """
        units = vocabulary(self.content["units"]) if self.content.get("units") else self.vocabulary
        if not isinstance(units, CTCVocabulary):
            raise UserError(f"checkpoint {self} holds a tokenizer of text, and no characters for a Talker to read")
        return units


Source = str | Path | Checkpoint


def load_part(part: nn.Module, name: str, path: Source) -> Lineage:
    """Loads the weights of the part called `name` from a checkpoint of any stage; see `Checkpoint.fill`.

    Returns:
        The checkpoint's lineage.
    """
    checkpoint = Checkpoint.open(path)
    checkpoint.fill(part, name)
    return checkpoint.content["lineage"]


def from_checkpoint(path: Source, name: str, *kinds: type[P]) -> tuple[P, Tokenizer | CTCVocabulary]:
    """A part of a checkpoint, see `Checkpoint.part`, and the tokenizer or the units of speech it was trained with."""
    checkpoint = Checkpoint.open(path)
    return checkpoint.part(name, *kinds), checkpoint.vocabulary


def ancestry(path: str | Path, name: str) -> Lineage:
    """Where the part called `name` in a checkpoint comes from: its ancestor's lineage, or the checkpoint's own."""
    lineage: Lineage = read(path)["lineage"]
    return lineage["ancestors"].get(name, lineage)


def vocabulary(state: dict[str, Any]) -> Tokenizer | CTCVocabulary:
    """The tokenizer, or the units of speech, that a state is of."""
    if state.get("kind") == "pretrained":
        return PretrainedTokenizer.from_state(state)
    return CTCVocabulary.from_state(state) if "normalization" in state else Tokenizer.from_state(state)


def ctc_vocabulary_of(path: Source) -> CTCVocabulary:
    """The units of speech in a checkpoint; see `Checkpoint.units`."""
    return Checkpoint.open(path).units


def tokenizer_of(path: Source) -> Tokenizer:
    """The tokenizer that travels in a checkpoint; see `Checkpoint.tokenizer`."""
    return Checkpoint.open(path).tokenizer


def thinker_tokenizer(checkpoint: Mapping[str, Any]) -> Tokenizer:
    """What the Thinker in a Talker's checkpoint reads, beside the units of speech that the Talker reads.

    Raises:
        UserError: If there is no such tokenizer.
    """
    found = vocabulary(checkpoint["thinker_tokenizer"]) if "thinker_tokenizer" in checkpoint else None
    if not isinstance(found, Tokenizer):
        raise UserError("the checkpoint's Talker has learned to speak without a Thinker: give it as init_from.talker")
    return found


def weights_fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """The sha256, in hex, of weights and buffers by their names in a part."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_fit(part: nn.Module, name: str, checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Compares a part with the weights that a checkpoint holds for it.

    Returns:
        The weights, by their names in the part.

    Raises:
        UserError: If there are none, or names or shapes differ.
    """
    prefix = f"{name}."
    weights = {key.removeprefix(prefix): w for key, w in checkpoint["state_dict"].items() if key.startswith(prefix)}
    if not weights and name not in checkpoint.get("origins", {}):
        raise UserError(_no_such_part(checkpoint, name, path))
    own = part.state_dict()
    if lent := part.lent - weights.keys() if isinstance(part, Part) else set():
        _check_origin(part, name, checkpoint, path)
        own = {key: weight for key, weight in own.items() if key not in lent}
    differing = [
        f"{key} is {_shape(weights.get(key))} there and {_shape(own.get(key))} here"
        for key in sorted({*own, *weights})
        if _shape(weights.get(key)) != _shape(own.get(key))
    ]
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError(f"{name} of {path} is another than that of this configuration: {differing[0]}{more}")
    return weights


def _check_origin(part: Any, name: str, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuses a part around another pretrained model than the one that the checkpoint leaves out."""
    there, here = checkpoint.get("origins", {}).get(name), part.origin
    if there is None:
        raise UserError(f"{name} of {path} was made by omni, and is no pretrained model as that of this configuration")
    if there["fingerprint"] != here["fingerprint"]:
        revision = f" at {there['revision']}" if there["revision"] else ""
        raise UserError(
            f"{name} of {path} was trained on top of {there['source']}{revision}, which is another model than "
            f"{here['source']} of this configuration: set model.init_args.{name}.init_args.source to it"
        )


def _shape(weight: torch.Tensor | None) -> str:
    return "missing" if weight is None else "×".join(map(str, weight.shape)) or "a scalar"


def fill(part: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Gives a part its weights, strictly: all of them, but for those that are lent."""
    if not isinstance(part, Part):
        part.load_state_dict(weights)
        return
    lent = {key: weight for key, weight in part.state_dict().items() if key in part.lent}
    part.load_state_dict({**lent, **weights})
    part.own(set(weights))


def without_lent(state: Mapping[str, torch.Tensor], parts: Mapping[str, Part]) -> dict[str, torch.Tensor]:
    """The weights of a stage, by their names in it, without those that are lent to its parts."""
    lent = {f"{name}.{key}" for name, part in parts.items() for key in part.lent}
    return {key: weight for key, weight in state.items() if key not in lent}


def _no_such_part(checkpoint: dict[str, Any], name: str, path: str | Path) -> str:
    held = ", ".join(sorted(checkpoint["parts"])) or "none"
    return f"checkpoint {path} of stage {checkpoint['lineage']['stage']} holds no part {name!r}; it holds: {held}"
