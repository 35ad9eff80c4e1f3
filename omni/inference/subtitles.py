"""Subtitles of transcripts: words grouped as broadcasters do, in SubRip's and WebVTT's form."""

from collections.abc import Sequence
from typing import Literal

from omni.text.transcript import Word

SubtitleFormat = Literal["srt", "vtt"]

# Two lines of 42 characters, at most 7 seconds, split at pauses of 0.8 seconds.
_LINE, _SECONDS, _PAUSE = 42, 7.0, 0.8


def subtitles(words: Sequence[Word], format: SubtitleFormat) -> str:
    """Subtitles of words.

    Args:
        words: With their times.
        format: `srt` or `vtt`.
    """
    blocks = ["WEBVTT"] if format == "vtt" else []
    for number, group in enumerate(captions(words), start=1):
        start, end = (_clock(seconds, format) for seconds in (group[0].start, group[-1].end))
        numbered = [str(number)] if format == "srt" else []
        blocks.append("\n".join([*numbered, f"{start} --> {end}", *_wrapped(group)]))
    return "\n\n".join(blocks)


def captions(words: Sequence[Word]) -> list[list[Word]]:
    """Groups words into subtitles of at most two lines and some seconds, split at pauses."""
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        continues = group and word.start - group[-1].end <= _PAUSE and word.end - group[0].start <= _SECONDS
        if continues and len(_wrapped([*group, word])) <= 2:
            group.append(word)
        else:
            groups.append([word])
    return groups


def _wrapped(words: Sequence[Word]) -> list[str]:
    """The words on lines of at most 42 characters; a longer word has a line of its own."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word.text) > _LINE:
            lines.append("")
        lines[-1] += f" {word.text}" if lines[-1] else word.text
    return lines


def _clock(seconds: float, format: SubtitleFormat) -> str:
    """Hours, minutes, seconds and milliseconds, as SubRip (comma) or WebVTT (point) have them."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    mark = "," if format == "srt" else "."
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"
