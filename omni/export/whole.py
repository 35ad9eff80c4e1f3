"""A whole model of several checkpoints: which parts of each are exported together, and whether they fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.export.onnx_folder import find_parts
from omni.export.parts.codec import CodecDecoderPart, CodecEncoderPart
from omni.export.parts.part import OnnxPart
from omni.export.parts.recognizer import RecognizerPart
from omni.export.parts.talker import ConditionerPart, TalkerStepPart, TalkerTextPart
from omni.export.parts.vocoder import VocoderPart
from omni.models.codec import Codec
from omni.models.vocoder import Vocos

ROLES: dict[str, tuple[type[OnnxPart], ...]] = {
    "voice": (TalkerTextPart, TalkerStepPart, ConditionerPart, CodecEncoderPart, CodecDecoderPart),
    "vocoder": (VocoderPart,),
    "recognizer": (RecognizerPart,),
}


class Member(NamedTuple):
    """A checkpoint of a whole model.

    Attributes:
        role: `checkpoint`, or the option that named it: one of `ROLES`.
        checkpoint: The checkpoint.
        parts: Those of its parts that are exported.
    """

    role: str
    checkpoint: Checkpoint
    parts: list[type[OnnxPart]]


def gather(checkpoint: Checkpoint, others: Mapping[str, str | None]) -> list[Member]:
    """The parts of a whole model, in the order of their export.

    Args:
        checkpoint: All its parts are exported.
        others: Checkpoints by role (see `ROLES`), of which only parts of that role are exported; None: none.

    Raises:
        UserError: If a checkpoint holds no part of its role, two hold the same part, or vocoder and codec differ in
            their spectrograms.
    """
    members = [Member("checkpoint", checkpoint, find_parts(checkpoint))]
    for role, name in others.items():
        if name is not None:
            opened = Checkpoint(Path(name).expanduser())
            members.append(Member(role, opened, find_parts(opened, among=ROLES[role])))
    holders: dict[str, Member] = {}
    for member in members:
        for part in member.parts:
            if part.name in holders:
                other = holders[part.name].checkpoint
                raise UserError(f"{other} and {member.checkpoint} both hold {part.name}: leave --{member.role} out")
            holders[part.name] = member
    _check_mels(holders)
    return members


def _check_mels(holders: Mapping[str, Member]) -> None:
    """Checks that a vocoder reads the spectrograms of its codec."""
    if not {VocoderPart.name, CodecDecoderPart.name} <= holders.keys():
        return
    codec, vocoder = (holders[part.name].checkpoint for part in (CodecDecoderPart, VocoderPart))
    made, read = codec.part("codec", Codec).num_mels, vocoder.part("vocoder", Vocos).num_mels
    if made != read:
        raise UserError(
            f"the vocoder of {vocoder} takes {read} mel filters, and the codec of {codec} outputs {made}: give a "
            f"vocoder that was trained with num_mels {made}"
        )
