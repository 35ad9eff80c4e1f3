"""What checkpoints of a stage hold: its parts, their lineage, and the state of the random number generators."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info

from omni.checkpoints.checkpoint import Checkpoint, Lineage
from omni.checkpoints.weights import with_current_names, without_omitted
from omni.distributed import gather_objects, random_state, resume_random_numbers, start_random_numbers
from omni.errors import UserError
from omni.media.mel_scale import mel_constants
from omni.models.part import Part
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer


class CheckpointedModule(LightningModule):
    """A LightningModule of exchangeable parts, whose checkpoints rebuild the parts without Lightning.

    Attributes:
        ancestors: The lineage of each part that an earlier stage has trained, by part.
        config_fingerprint: See `omni.training.fingerprint.config_fingerprint`; None outside `omni fit`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ancestors: dict[str, Lineage] = {}
        self.config_fingerprint: str | None = None
        self._random_states: dict[str, Any] | None = None
        self._metrics: dict[str, float] = {}  # of the last validation, also of one before the run was resumed

    @property
    def parts(self) -> dict[str, Part]:
        """The exchangeable parts by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Part)}

    def part(self, name: str) -> Part:
        """The part called `name`.

        Raises:
            UserError: If there is none.
        """
        if name not in self.parts:
            raise UserError(f"{type(self).__name__} has no part {name!r}; it has: {', '.join(self.parts)}")
        return self.parts[name]

    def reads_tokens(self, name: str) -> bool:
        """Whether the part called `name` reads or writes the data's tokens."""
        return hasattr(self.part(name), "vocab_size")

    def init_part(self, name: str, checkpoint: Checkpoint) -> None:
        """Loads the weights of a part from an earlier stage, and records the stage as its ancestor."""
        checkpoint.fill(self.part(name), name)
        self.ancestors[name] = checkpoint.lineage

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data that the stage is attached to."""
        return self.data.tokenizer

    @property
    def units(self) -> CTCVocabulary:
        """The same for data of speech: the units of its transcripts."""
        return self.data.tokenizer

    @property
    def data(self) -> Any:
        """The data module that the stage is attached to."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def lineage(self) -> Lineage:
        """Where the weights come from, up to this step."""
        recipes = json.dumps({name: part.recipe for name, part in self.parts.items()}, sort_keys=True, default=str)
        return {
            "stage": type(self).__name__,
            "step": self.global_step,
            "config": self.config_fingerprint or hashlib.sha256(recipes.encode()).hexdigest(),
            "data": self.data.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "ancestors": self.ancestors,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the parts; leaves out pretrained weights (see `Part.omitted_weights`)."""
        checkpoint["state_dict"] = without_omitted(checkpoint["state_dict"], self.parts)
        checkpoint["parts"] = {name: part.recipe for name, part in self.parts.items()}
        checkpoint["origins"] = {name: part.origin for name, part in self.parts.items() if part.origin is not None}
        checkpoint["tokenizer"] = self.tokenizer.state()
        checkpoint["lineage"] = self.lineage
        metrics = self.trainer.callback_metrics
        self._metrics |= {name: float(value) for name, value in metrics.items() if name.startswith("val/")}
        checkpoint["metrics"] = dict(self._metrics)
        if any(getattr(part, "num_mels", 0) for part in self.parts.values()):  # they read or write spectrograms
            checkpoint["audio"] = mel_constants()
        checkpoint["rng"] = {"ranks": gather_objects(random_state(self.device))}

    def check_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Refuses a checkpoint of another stage, of other parts, or of parts of other shapes.

        Raises:
            UserError: Naming what differs.
        """
        checkpoint.check_lineage()
        stage = checkpoint.lineage["stage"]
        if stage != type(self).__name__:
            raise UserError(
                f"{checkpoint} is a checkpoint of stage {stage}, which {type(self).__name__} cannot continue; "
                "to start from its parts, give --init_from",
                page="explanation/resume.md",
            )
        for name, part in self.parts.items():
            checkpoint.check_fit(part, name)
        if more := sorted(checkpoint.content["parts"].keys() - self.parts.keys()):
            raise UserError(
                f"{checkpoint} also holds {', '.join(more)}, which this configuration lacks: add "
                f"model.init_args.{more[0]}, or start from some of its parts by --init_from",
                page="explanation/resume.md",
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the lineage and keeps the random states; refuses the checkpoint of another tokenizer."""
        lineage: Lineage = checkpoint["lineage"]
        if lineage["tokenizer"] != self.tokenizer.fingerprint:
            raise UserError(
                "the data's tokenizer is not the one this checkpoint was trained with: set data.init_args.tokenizer "
                "(of text) or data.init_args.units (of speech) to the checkpoint",
                page="explanation/lineage.md",
            )
        self.ancestors = lineage["ancestors"]
        self._metrics = dict(checkpoint.get("metrics", {}))
        self._random_states = checkpoint.get("rng")  # a folder of weights has none

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in `torch.nn.Module`; pretrained weights (see `Part.omitted_weights`) may be missing."""
        parts, own, state_dict = self.parts, self.state_dict(), with_current_names(state_dict)
        omitted = {f"{name}.{key}" for name, part in parts.items() for key in part.omitted_weights} - state_dict.keys()
        for name, part in parts.items():
            given = {key.removeprefix(f"{name}."): w for key, w in state_dict.items() if key.startswith(f"{name}.")}
            part.keep_weights(set(given))
            part.adapt_to(given)
        return super().load_state_dict({**state_dict, **{key: own[key] for key in omitted}}, strict, assign)

    def on_train_start(self) -> None:
        """Restores the random states of the checkpoint, or seeds the generators of each rank."""
        states, self._random_states = self._random_states, None
        if states is None:
            start_random_numbers(rank=self.global_rank)
        elif reason := resume_random_numbers(states, self.device, step=self.global_step):
            rank_zero_info(f"{reason}: random numbers, such as dropout's, start from a new seed")
