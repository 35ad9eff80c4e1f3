"""Arguments and classes that were renamed, moved or removed: old checkpoints load, old YAML is refused with a hint.

A checkpoint records each part's class and arguments (see `omni.models.part.Part.recipe`), so that an older one holds
the old names; `current_recipe` maps them. An old key or class path in YAML is refused with one line that names the
new one (`explained` and `moved_class`, which `omni.errors.one_line` calls).
"""

import re
from collections.abc import Mapping
from typing import Any

# Projectors were one class whose `kind` chose among these, each with its own arguments beside the common ones.
_PROJECTORS: dict[str, tuple[str, set[str]]] = {
    "linear": ("LinearProjector", set()),
    "mlp": ("MLPProjector", {"hidden_dim"}),
    "swiglu": ("SwiGLUProjector", {"hidden_dim"}),
    "mosa": ("MoSAProjector", {"hidden_dim", "num_experts"}),
    "moe": ("MoEProjector", {"hidden_dim", "num_experts", "experts_per_token"}),
    "qformer": ("QFormerProjector", {"hidden_dim", "queries", "num_layers", "num_heads"}),
}
_OLD_PROJECTOR = "omni.models.projector.Projector"
_OF_ONE_KIND = set.union(*(own for _, own in _PROJECTORS.values()))

# Class -> old name -> new name.
RENAMED: dict[str, dict[str, str]] = {
    **{name: {"stack": "frame_stacking", "places": "learned_positions"} for name, _ in _PROJECTORS.values()},
    "AudioEncoder": {"inner_ctc": "intermediate_ctc_block"},
    "ImageAugmentation": {"crop": "min_crop_area"},
    "CodecTraining": {"samples": "shown", "measured": "quality_utterances"},
    "ConversationData": {"silence": "noise_share"},
    "ImageData": {"bad_images": "bad_rows"},
    "OmniTuning": {"samples": "shown", "blank_controls": "modality_ablation", "apart": "excluded_tasks"},
    "SpeechRecognition": {"samples": "shown", "inner_weight": "intermediate_ctc_weight"},
    "TalkerTraining": {"samples": "sentences"},
    "VisionPretraining": {"samples": "shown"},
    "VocoderTraining": {"samples": "shown", "measured": "quality_utterances"},
}

# Class -> removed name -> the value that had no effect, with which old checkpoints still load.
REMOVED: dict[str, dict[str, Any]] = {
    "AudioEncoder": {"attention_span": 0},
    "Codec": {"cosine": False},
    "ImageAugmentation": {"erase": 0.0},
    "OmniTuning": {"router_z": 1e-3},
    "TextEncoder": {"activation": "gelu"},
    "Thinker": {"activation": "swiglu", "logit_softcap": None, "qk_norm": True, "rope_theta": 10_000.0},
    "VisionEncoder": {"activation": "gelu", "pooling": "mean", "qk_norm": True, "rope_theta": 100.0},
}

# Argument -> old value -> new value.
VALUES: dict[str, dict[str, str]] = {"bad_rows": {"fail": "error"}}

# Old path of a class, or of the module of several -> new path.
MOVED: dict[str, str] = {
    "omni.callbacks.CliffNote": "omni.training.callbacks.LossDropNote",
    "omni.callbacks": "omni.training.callbacks",
    "omni.data.codes.data": "omni.data.talker.data",
    "omni.data.text.TextData": "omni.data.text.data.TextData",
}

_NO_CLASS = re.compile(r"Expected an instantiatable class, but omni\.models\.projector\.Projector is abstract")
_KIND = re.compile(r"\w+Projector: Option 'kind' is not accepted")
_NOT_ACCEPTED = re.compile(r"(?:(\w+): )?Option '(?:[\w.]+\.)?(\w+)' is not accepted")
_VALUE = re.compile(r"(\w+): Expected a typing\.Literal\[[^]]*\], got (\w+)")
_OLD_PATH = re.compile(rf"\b({'|'.join(map(re.escape, MOVED))})(\.\w+)?\b")  # the longer of two paths stands first


def current_recipe(recipe: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The present class path and arguments of a part's recipe (see `Part.recipe`)."""
    class_path, arguments = recipe["class_path"], dict(recipe["init_args"])
    if class_path == _OLD_PROJECTOR:
        name, own = _PROJECTORS[arguments.pop("kind", "mlp")]
        class_path = class_path.replace("Projector", name)
        arguments = {key: value for key, value in arguments.items() if key in own or key not in _OF_ONE_KIND}
    return class_path, current_arguments(class_path.rpartition(".")[2], arguments)


def current_arguments(class_name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an old recipe with their present names and values; removed ones without effect are dropped.

    A removed argument with another value than the one without effect is kept, so that the class refuses it.
    """
    renamed, removed = RENAMED.get(class_name, {}), REMOVED.get(class_name, {})
    current = {
        renamed.get(name, name): value
        for name, value in arguments.items()
        if name not in removed or value != removed[name]
    }
    return {
        name: VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value
        for name, value in current.items()
    }


def explained(message: str) -> str:
    """A parser's message, with the present name where it refuses an old one."""
    classes = ", ".join(f"{name} ({kind})" for kind, (name, _) in _PROJECTORS.items())
    message = _NO_CLASS.sub(f"a projector needs a class_path, with its arguments in init_args: {classes}", message)
    message = _KIND.sub(f"`kind` is now the class_path: {classes}", message)
    message = _VALUE.sub(_with_present_value, message)
    return _NOT_ACCEPTED.sub(_with_present_name, message)


def moved_class(message: str) -> str:
    """A line with the present path of a class if a parser's message refuses an old one; empty otherwise."""
    match = _OLD_PATH.search(message)
    return "" if match is None else f"`{match.group()}` is now `{MOVED[match[1]]}{match[2] or ''}`"


def _with_present_value(refusal: re.Match[str]) -> str:
    name, value = refusal.groups()
    new = VALUES.get(name, {}).get(value)
    return refusal.group() if new is None else f"{name}: `{value}` is now called `{new}`"


def _with_present_name(refusal: re.Match[str]) -> str:
    class_name, name = refusal.groups()
    classes = [class_name] if class_name else [*RENAMED, *REMOVED]
    start = f"{class_name}: " if class_name else ""
    for new in {RENAMED[one][name] for one in classes if name in RENAMED.get(one, {})}:
        return f"{start}`{name}` is now called `{new}`"
    if any(name in REMOVED.get(one, {}) for one in classes):
        return f"{start}`{name}` no longer exists: leave it out"
    return refusal.group()
