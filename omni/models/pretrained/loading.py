"""Loading models of `transformers`, and the weights that checkpoints leave out."""

import hashlib
import os
import re
from abc import ABC
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omni.errors import UserError, install_hint
from omni.models.part import Part
from omni.models.pretrained.cache import has_cache

Precision = Literal["float32", "bfloat16", "float16"]
_UNUSED = re.compile(
    r"pool|masked_spec_embed|mask_token"
)  # weights that many checkpoints lack and that are not used here
_SAMPLE = 256  # values of a tensor in the fingerprint
# Otherwise transformers asks at the terminal whether it may run a model's own code.
NO_FOREIGN_CODE: dict[str, Any] = {"trust_remote_code": False}


class PretrainedPart(Part, ABC):
    """Abstract: a part around a model of `transformers`.

    Checkpoints leave out the weights that are still the pretrained ones, and name their source instead.

    Args:
        source: Name on the Hub, or a folder from `save_pretrained`.
        revision: Commit, branch or tag on the Hub.
        dtype: Dtype of the weights; `float32` if they are trained. Frozen ones need half the memory in `bfloat16`.
    """

    def __init__(self, *, source: str, revision: str | None = None, dtype: Precision = "float32") -> None:
        super().__init__()
        self.source, self.revision = source, revision
        self.dtype: Precision = dtype
        self._omitted: set[str] = set()
        self._fingerprint = ""

    def load(self, auto: str) -> Any:
        """The pretrained model in train mode, by the name of one of transformers' auto classes.

        On the meta device or with fake tensors, as for `omni plan`, it is made from its configuration.

        Raises:
            UserError: If it cannot be loaded.
        """
        # Attention is by default SDPA, or that of the models which do not support it, such as WavLM.
        options: dict[str, Any] = {"dtype": getattr(torch, self.dtype)}
        with source_errors(self.source):
            import transformers

            cls = getattr(transformers, auto)
            if _without_values():
                config = transformers.AutoConfig.from_pretrained(self.source, revision=self.revision, **NO_FOREIGN_CODE)
                return cls.from_config(config, **options).train()
            options |= {"revision": self.revision, "output_loading_info": True, **NO_FOREIGN_CODE}
            model, found = cls.from_pretrained(self.source, **options)
            missing = {name for name in found["missing_keys"] if not _UNUSED.search(name)}
            if missing:
                raise UserError(
                    f"{self.source}: {len(missing)} weights of a {type(model).__name__} are missing, such as "
                    f"{min(missing)}: it holds another kind of model, or a part of one"
                )
            for name in found["missing_keys"]:  # random values would differ each time
                model.get_parameter(name).data.zero_()
        # They are loaded in eval mode, which silently disables gradient checkpointing.
        return model.train()

    def _record_fingerprint(self, model: nn.Module) -> None:
        """Stores the fingerprint of the pretrained model; called once, before anything is added to it."""
        self._fingerprint = fingerprint(model)

    def _omit_pretrained(self) -> None:
        """Marks all weights as pretrained but those of LoRA."""
        self._omitted = {name for name in self.state_dict() if "lora_" not in name}

    @property
    def omitted_weights(self) -> set[str]:
        """See `Part.omitted_weights`."""
        return self._omitted

    def keep_weights(self, names: set[str]) -> None:
        """See `Part.keep_weights`."""
        if names & self._omitted:
            state = self.state_dict(keep_vars=True)
            tied = {id(state[name]) for name in names & state.keys()}  # one matrix may have two names
            self._omitted -= {name for name, weight in state.items() if id(weight) in tied}
            self._omitted -= {name for name, _ in self.named_buffers()}  # training changes them as well

    @property
    def origin(self) -> dict[str, Any] | None:
        """See `Part.origin`."""
        return {"source": self.source, "revision": self.revision, "fingerprint": self._fingerprint}


def load_other(auto: str, source: str, revision: str | None, **options: Any) -> Any:
    """A tokenizer, feature extractor or image processor; raises as `PretrainedPart.load` does."""
    with source_errors(source):
        import transformers

        return getattr(transformers, auto).from_pretrained(source, revision=revision, **options, **NO_FOREIGN_CODE)


class source_errors:
    """Turns the errors of loading a pretrained model into a `UserError` of one line."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __enter__(self) -> None:
        path = Path(self.source).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise UserError(f"{self.source}: config.json is missing: give the folder of a downloaded model")
        elif path.is_file() or self.source.startswith(("/", ".", "~")) or self.source.count("/") > 1:
            raise UserError(f"{self.source}: is not a folder: give the folder of a model, or OWNER/NAME on the Hub")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ImportError):
            raise UserError(
                f"{self.source}: pretrained parts need more packages: {install_hint('hf')} ({error})"
            ) from error
        if not isinstance(error, Exception) or isinstance(error, UserError):
            return  # damaged files make the library raise nearly any of them
        if os.path.isdir(self.source):
            raise UserError(f"{self.source}: cannot be loaded ({_first_line(error)})") from error
        raise UserError(
            f"{self.source}: cannot be loaded from the Hub ({_first_line(error)}); without network, download it "
            f"elsewhere (`hf download {self.source} --local-dir FOLDER`) and give the folder",
            page="howto/llm.md",
        ) from error


def checkpoint_layers(model: nn.Module, source: str) -> None:
    """Recomputes the activations of a model's layers in the backward pass, in train and eval mode.

    The library's own gradient checkpointing is silently off in eval mode, which a frozen model is in.

    Raises:
        UserError: If the model's layers are not known.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"{source}: gradient_checkpointing is not supported for this model: set it to false")
    for layer in layers:
        layer.forward = partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled() or has_cache(kwargs):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _first_line(error: BaseException) -> str:
    """The first sentence of the first line: without the library's advice after it."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ")[0].rstrip(".")


def _without_values() -> bool:
    key = torch._C._TorchDispatchModeKey.FAKE
    return torch.get_default_device().type == "meta" or torch._C._get_dispatch_mode(key) is not None


def fingerprint(model: nn.Module) -> str:
    """A sha256, in hex, of the names and shapes of a model's weights and of some values of each.

    All values of a large model would take a minute. `""` on the meta device or with fake tensors.
    """
    if _without_values():
        return ""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(_some(weight).cpu().numpy().tobytes())
    return digest.hexdigest()


def _some(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLE)].float()
