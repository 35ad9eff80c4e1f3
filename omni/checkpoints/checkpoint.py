"""Checkpoints without Lightning: read one, rebuild its parts, load a part into another model.

Besides Lightning's own entries, a checkpoint of omni holds:

- `parts`: the recipe that rebuilds each part (see `Part.recipe`),
- `tokenizer`: the tokenizer's state (see `Tokenizer.state`),
- `metrics`: the last validation's metrics by name (`val/loss`),
- `lineage`: stage, step, and fingerprints of configuration, data and tokenizer; the same for every ancestor,
- `units`: the state of the Talker's characters, where `tokenizer` is one of text,
- `thinker_tokenizer`: the tokenizer of the Thinker that a Talker is conditioned on,
- `origins`: for each pretrained part, the source of the weights that the checkpoint omits (see `Part.omitted_weights`),
- `audio`: the constants of the spectrograms that its parts read, if any (see `omni.media.mel_scale.mel_constants`),
- `context`, `answer_tokens`, `template`, `images`, `dictation` (stage E): most tokens of a conversation and of an
  answer, the chat template (see `omni.text.chat_template.encode_chat`), the preprocessing of images, the transcription
  prompt,
- `rng`: the states of each rank's random number generators (see `omni.distributed.random_state`).

All of it is plain data and tensors: reading a checkpoint never runs code from it.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from omni.checkpoints.hf_folder import PREFIX, read_hf
from omni.checkpoints.layout import check_layout, is_lineage
from omni.checkpoints.recipe import build, is_own
from omni.checkpoints.safetensors_folder import is_folder, read_folder
from omni.checkpoints.weights import differences, load_weights, with_current_names
from omni.errors import UserError
from omni.media.mel_scale import mel_constants
from omni.models.part import Part
from omni.models.pretrained.tokenizer import PretrainedTokenizer
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer

P = TypeVar("P", bound=Part)


class Lineage(TypedDict):
    """Where weights come from.

    Keys:
        stage: Class of the stage that trained them.
        step: Optimizer steps made.
        config: Fingerprint of the configuration.
        data: Fingerprint of the data.
        tokenizer: Fingerprint of the tokenizer.
        ancestors: The lineage of each part that was loaded at the start.
    """

    stage: str
    step: int
    config: str
    data: str
    tokenizer: str
    ancestors: dict[str, "Lineage"]


class Checkpoint:
    """A checkpoint, read once: its content, and the parts rebuilt from it.

    Args:
        path: A `.ckpt` file, a folder as `omni hub pull` writes it, or `hf:FOLDER` for a Qwen3 model of `transformers`
            with a tokenizer of omni, as `omni export --to hf` writes it.
        content: The file's content, where it is loaded already; otherwise the file is read onto the CPU, its tensors
            memory-mapped.

    Raises:
        UserError: If the file is missing, damaged, not a checkpoint, or not written by omni.
    """

    def __init__(self, path: str | Path, content: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.content = _read(self.path) if content is None else content

    @classmethod
    def open(cls, source: "Source", *, opened: "Checkpoint | None" = None) -> "Checkpoint":
        """The checkpoint at a path, without reading a file twice.

        Args:
            source: The path; a checkpoint is returned as it is.
            opened: Another checkpoint, returned if it has that path.
        """
        if isinstance(source, Checkpoint):
            return source
        return opened if opened is not None and opened.path == Path(source) else cls(source)

    def __str__(self) -> str:
        return str(self.path)

    def __contains__(self, part: str) -> bool:
        return part in self.content["parts"]

    @property
    def lineage(self) -> Lineage:
        """Where its weights come from."""
        return self.content["lineage"]

    def check_lineage(self) -> None:
        """Checks that it says where its weights come from.

        Raises:
            UserError: If something is missing.
        """
        if not is_lineage(self.content["lineage"]):
            raise UserError(f"checkpoint {self} is damaged: its lineage is not complete")

    @property
    def weights(self) -> dict[str, Tensor]:
        """All weights and buffers, by `part.name`."""
        return self.content["state_dict"]

    # ------------------------------------------------------------------ parts

    def part(self, name: str, *kinds: type[P]) -> P:
        """Rebuilds a part from the checkpoint alone, in eval mode.

        Args:
            name: The part's name.
            kinds: The classes that are accepted.

        Raises:
            UserError: If the checkpoint has no such part, or one of another class.
        """
        if name not in self:
            raise self._no_part(name)
        recipe = self.content["parts"][name]
        if is_own(recipe):  # before memory is taken for sizes that the weights do not have
            with torch.device("meta"):
                self.check_fit(build(recipe), name)
        part = build(recipe)
        if not isinstance(part, kinds):
            needed = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{name} of {self} is a {type(part).__name__}, and a {needed} is needed")
        self.fill(part, name)
        return part.eval()

    def fill(self, part: nn.Module, name: str) -> None:
        """Loads the weights of the part called `name` into `part`, strictly; see `Part.converted`.

        Raises:
            UserError: As in `check_fit`, or if weights are not finite.
        """
        weights: Mapping[str, Tensor] = self.weights_of(name)
        weights = part.converted(weights) if isinstance(part, Part) else weights
        self.check_fit(part, name, weights)
        if broken := next((key for key, weight in weights.items() if not weight.isfinite().all()), None):
            raise UserError(f"{name} of {self} holds numbers that are not finite ({broken}): its training diverged")
        load_weights(part, weights)

    def weights_of(self, name: str) -> dict[str, Tensor]:
        """The weights of a part, by their names in it; empty if there are none."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): w for key, w in self.weights.items() if key.startswith(prefix)}

    def check_fit(self, part: nn.Module, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Compares a part with the weights of the part called `name`, after it has adapted to them.

        Args:
            part: The part.
            name: Its name.
            weights: The weights, if they were converted for the part.

        Raises:
            UserError: If there are none, if names or shapes differ, or if they belong to another pretrained model.
        """
        weights = self.weights_of(name) if weights is None else weights
        if not weights and name not in self.content.get("origins", {}):
            raise self._no_part(name)
        if isinstance(part, Part):
            part.adapt_to(weights)
            if part.omitted_weights - weights.keys():
                self._check_origin(part, name)
        if found := differences(part, weights):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(f"{name} of {self} does not fit this configuration: {found[0]}{more}")

    def _check_origin(self, part: Part, name: str) -> None:
        there, here = self.content.get("origins", {}).get(name), part.origin
        assert here is not None  # only a pretrained part lends weights
        if there is None:
            raise UserError(f"{name} of {self} was trained from scratch, and this configuration's is pretrained")
        if there["fingerprint"] != here["fingerprint"]:
            revision = f" at {there['revision']}" if there["revision"] else ""
            raise UserError(
                f"{name} of {self} was trained on top of {there['source']}{revision}, which is another model than "
                f"{here['source']} of this configuration: set model.init_args.{name}.init_args.source to it"
            )

    def _no_part(self, name: str) -> UserError:
        held = ", ".join(sorted(self.content["parts"])) or "none"
        return UserError(f"checkpoint {self} of stage {self.lineage['stage']} holds no part {name!r}; it holds: {held}")

    def lineage_of(self, name: str) -> Lineage:
        """Where the part called `name` comes from: its ancestor's lineage, or the checkpoint's own."""
        return self.lineage["ancestors"].get(name, self.lineage)

    # ------------------------------------------------------------------ text

    @cached_property
    def vocabulary(self) -> Tokenizer | CTCVocabulary:
        """The tokenizer, or the CTC vocabulary, that its parts were trained with."""
        if self.content.get("tokenizer") is None:
            raise UserError(f"checkpoint {self} is damaged: it holds no tokenizer")
        return _vocabulary(self.content["tokenizer"])

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer of text.

        Raises:
            UserError: If it holds a CTC vocabulary instead.
        """
        if not isinstance(self.vocabulary, Tokenizer):
            raise UserError(f"checkpoint {self} holds a CTC vocabulary and no tokenizer of text")
        return self.vocabulary

    @property
    def ctc_vocabulary(self) -> CTCVocabulary:
        """Its CTC vocabulary, or that of the Talker in it.

        Raises:
            UserError: If it has none.
        """
        found = _vocabulary(self.content["units"]) if self.content.get("units") else self.vocabulary
        if not isinstance(found, CTCVocabulary):
            raise UserError(f"checkpoint {self} holds a tokenizer of text and no CTC vocabulary: give one of stage B")
        return found

    @property
    def thinker_tokenizer(self) -> Tokenizer:
        """The tokenizer of the Thinker that its Talker is conditioned on.

        Raises:
            UserError: If the Talker was trained without a Thinker.
        """
        if "thinker_tokenizer" not in self.content:
            raise UserError(f"the Talker of {self} was trained without a Thinker: give it as init_from.talker")
        found = _vocabulary(self.content["thinker_tokenizer"])
        assert isinstance(found, Tokenizer)
        return found


Source = str | Path | Checkpoint


def _read(path: Path) -> dict[str, Any]:
    if str(path).startswith(PREFIX):
        return read_hf(Path(str(path).removeprefix(PREFIX)).expanduser())
    content = read_folder(path) if is_folder(path) else _read_file(path)
    if not isinstance(content, dict) or not {"state_dict", "parts", "lineage"} <= content.keys():
        raise UserError(
            f"checkpoint {path} was not written by omni: it has no parts and no lineage",
            page="reference/checkpoints.md",
        )
    check_layout(content, str(path))
    there, here = content.get("audio"), mel_constants()
    if there is not None and there != here:
        key = next(key for key in here if there.get(key) != here[key])
        raise UserError(
            f"checkpoint {path} was trained on other spectrograms ({key} is {there.get(key)} there and {here[key]} "
            "here): use the version of omni that trained it"
        )
    return {**content, "state_dict": with_current_names(content["state_dict"])}


def _read_file(path: Path) -> Any:
    if not path.is_file():
        reason = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise UserError(
            f"checkpoint {path} {reason}: give the .ckpt file of a run, such as lightning_logs/thinker/best.ckpt"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:  # objects that only code of the file could make, or damage
        raise UserError(
            f"checkpoint {path} cannot be read: it is damaged, or holds more than tensors and plain data",
            page="trust.md",
        ) from error
    except Exception as error:  # PyTorch's reader meets damage with nearly any of them
        raise UserError(f"checkpoint {path} cannot be read: it is damaged, or not a checkpoint") from error


def _vocabulary(state: dict[str, Any]) -> Tokenizer | CTCVocabulary:
    try:
        if state.get("kind") == "pretrained":
            return PretrainedTokenizer.from_state(state)
        return CTCVocabulary.from_state(state) if "normalization" in state else Tokenizer.from_state(state)
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"the checkpoint's tokenizer cannot be rebuilt: it is damaged ({error})") from error
