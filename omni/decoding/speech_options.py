"""Options of speech: the voice of a Talker by name and number, the tempo, the vocoder."""

from collections.abc import Sequence

from omni.errors import UserError

GRIFFIN_LIM = "griffin-lim"  # the vocoder that needs no training
SLOWEST, FASTEST = 0.25, 4.0  # tempos: those of OpenAI's API


def speaker_number(speaker: int | str | None, names: Sequence[str], count: int) -> int | None:
    """The number of a speaker: by name, by number, or the first by default; None if the Talker has only one.

    Args:
        speaker: The name or number.
        names: Names of the speakers, by number.
        count: How many speakers the Talker has; 0: one voice without a number.

    Raises:
        UserError: If the Talker has no such speaker.
    """
    if speaker is None:
        return 0 if count else None
    if not count:
        raise UserError("the Talker has one voice only: leave speaker out")
    if isinstance(speaker, str):
        if speaker not in names:
            some = ", ".join(names[:10])
            raise UserError(f"there is no speaker {speaker!r}: the Talker has {count}, such as {some}")
        return names.index(speaker)
    if not 0 <= speaker < count:
        raise UserError(f"there is no speaker {speaker}: the Talker has 0 to {count - 1}")
    return speaker


def check_speed(speed: float) -> None:
    """Checks a tempo of speech before the work.

    Raises:
        UserError: If it is out of range.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise UserError(f"speed is {speed:g}: it must be between {SLOWEST:g} and {FASTEST:g}")
