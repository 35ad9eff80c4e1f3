"""Options of the verbs that may speak their answers."""

from dataclasses import dataclass

from omni.errors import UserError


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

    def check_exported(self) -> None:
        """Checks the options for an exported folder, which has its own voice.

        Raises:
            UserError: If another one is given.
        """
        for name in ("voice", "vocoder"):
            if getattr(self, name) is not None:
                raise UserError(f"an exported folder has its own voice: leave --{name} out, or export with it")
