"""Options of the verbs that may speak their answers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TalkerOptions:
    """The voice.

    Args:
        voice: A Talker's checkpoint; not needed if the model's checkpoint holds a Talker.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder.
        speaker: The number or name of a voice, for a Talker with several.
    """

    voice: str | None = None
    vocoder: str | None = None
    speaker: int | str | None = None
