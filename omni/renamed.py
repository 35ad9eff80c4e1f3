"""Arguments that were renamed or removed, by class: old checkpoints load, and old YAML keys are refused with a hint.

A checkpoint records each part's class and arguments (see `omni.models.part.Part.recipe`), so that one written before a
renaming holds the old names; `current_arguments` maps them. A YAML key with an old name is refused with a line that
names the new one (`explained`, which `omni.errors.one_line` calls).
"""

import re
from collections.abc import Mapping
from typing import Any

# Class -> old name -> new name.
RENAMED: dict[str, dict[str, str]] = {
    "AudioEncoder": {"inner_ctc": "intermediate_ctc_block"},
    "ImageAugmentation": {"crop": "min_crop_area"},
    "CodecTraining": {"samples": "shown"},
    "ConversationData": {"silence": "noise_share"},
    "OmniTuning": {"samples": "shown", "blank_controls": "modality_ablation"},
    "SpeechRecognition": {"samples": "shown", "inner_weight": "intermediate_ctc_weight"},
    "TalkerTraining": {"samples": "sentences"},
    "VisionPretraining": {"samples": "shown"},
    "VocoderTraining": {"samples": "shown"},
}

# Class -> removed name -> the value that changed nothing, with which old checkpoints still load.
REMOVED: dict[str, dict[str, Any]] = {}

_NOT_ACCEPTED = re.compile(r"(?:(\w+): )?Option '(?:[\w.]+\.)?(\w+)' is not accepted")


def current_arguments(class_name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an old recipe under their present names; removed ones are dropped where they changed nothing.

    A removed argument with another value stays, so that the class refuses it.
    """
    renamed, removed = RENAMED.get(class_name, {}), REMOVED.get(class_name, {})
    return {
        renamed.get(name, name): value
        for name, value in arguments.items()
        if name not in removed or value != removed[name]
    }


def explained(message: str) -> str:
    """A parser's message, with the present name where it refuses an old one."""
    return _NOT_ACCEPTED.sub(_with_present_name, message)


def _with_present_name(refusal: re.Match[str]) -> str:
    class_name, name = refusal.groups()
    classes = [class_name] if class_name else [*RENAMED, *REMOVED]
    start = f"{class_name}: " if class_name else ""
    for new in {RENAMED[one][name] for one in classes if name in RENAMED.get(one, {})}:
        return f"{start}`{name}` is now called `{new}`"
    if any(name in REMOVED.get(one, {}) for one in classes):
        return f"{start}`{name}` no longer exists: leave it out"
    return refusal.group()
