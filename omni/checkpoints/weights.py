"""Weights of parts: compared with a part, loaded strictly, and identified by a fingerprint."""

import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omni.models.part import Part

_OLD_NAMES = (
    (re.compile(r"(_projector\.(?:former\.)?)places$"), r"\1learned_positions"),
    (re.compile(r"^audio_encoder\.ear\."), "audio_encoder.front_end."),
)


def with_current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a stage under their present names."""
    found = dict(weights)
    for pattern, replacement in _OLD_NAMES:
        found = {pattern.sub(replacement, name): weight for name, weight in found.items()}
    return found


def weights_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """The sha256, in hex, of weights and buffers by their names in a part."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def without_omitted(state: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """A stage's state dict without the pretrained weights of its parts (see `Part.omitted_weights`)."""
    omitted = {f"{name}.{key}" for name, part in parts.items() for key in part.omitted_weights}
    return {key: weight for key, weight in state.items() if key not in omitted}


def load_weights(part: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights into a part, strictly: only those in `Part.omitted_weights` may be missing, and are kept."""
    if not isinstance(part, Part):
        part.load_state_dict(weights)
        return
    omitted = {key: weight for key, weight in part.state_dict().items() if key in part.omitted_weights}
    part.load_state_dict({**omitted, **weights})
    part.keep_weights(set(weights))


def differences(part: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Weights whose names or shapes differ from the part's: a phrase for each; omitted ones may be missing."""
    optional = part.omitted_weights - weights.keys() if isinstance(part, Part) else set()
    own = {key: weight for key, weight in part.state_dict().items() if key not in optional}
    return [
        f"{key} is {_shape(weights.get(key))} there and {_shape(own.get(key))} here"
        for key in sorted({*own, *weights})
        if _shape(weights.get(key)) != _shape(own.get(key))
    ]


def _shape(weight: Tensor | None) -> str:
    return "missing" if weight is None else "×".join(map(str, weight.shape)) or "a scalar"
