"""The verb `transcribe`: audio files in; text, JSON or subtitles out."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from omni.errors import UserError
from omni.inference.long_form import Timestamps, Transcript, Word
from omni.inference.recognizer import load_recognizer
from omni.media.audio import AudioSource

Format = Literal["text", "json", "srt", "vtt"]

# A subtitle: two lines of 42 characters, 7 seconds, and a new one after a pause (as broadcasters have it).
_LINE, _SECONDS, _PAUSE = 42, 7.0, 0.8


def transcribe_files(
    files: list[str],
    checkpoint: str,
    *,
    timestamps: Timestamps | None = None,
    format: Format = "text",
    out: Path | None = None,
    window: float = 20.0,
    overlap: float = 4.0,
    beam: int = 8,
    device: str = "auto",
) -> None:
    """Write down what is said in audio files, with a recogniser trained by stage B.

    A file that cannot be read is told in one line, the others are transcribed, and the exit code is 2.

    Args:
        files: Audio of any rate, length and number of channels (WAV, FLAC, OGG, MP3, ...); `-` reads standard input.
        checkpoint: A checkpoint that holds an audio encoder, such as lightning_logs/audio/best.ckpt.
        timestamps: Times of words, or of characters; in `json`, and as lines of `start end text` in `text`. Subtitles
            have those of words.
        format: Plain text, one JSON object a line, or subtitles of one file.
        out: Write to this file, or, if it is a folder, to one file each; otherwise to standard output.
        window: Longer audio is heard in windows of so many seconds.
        overlap: Seconds that two windows share.
        beam: Prefixes that the search for a transcript keeps; 1: the likeliest unit of each sub-frame is taken.
        device: cpu, cuda, or auto.
    """
    recognizer = load_recognizer(checkpoint, device=device, beam=beam)
    subtitles = format in ("srt", "vtt")
    to_folder = out is not None and out.is_dir()
    if subtitles and timestamps == "char":
        raise UserError(f"{format} subtitles are made of words: leave --timestamps out")
    if subtitles and len(files) > 1 and not to_folder:
        raise UserError(f"{format} subtitles of {len(files)} files need a folder: give --out FOLDER")
    targets = _targets(files, out, format) if out is not None and to_folder else None
    sources: list[AudioSource] = [sys.stdin.buffer.read() if file == "-" else Path(file) for file in files]
    wanted = timestamps or ("word" if subtitles else None)
    found: dict[int, str] = {}
    failed = 0
    with tqdm(desc="heard", unit=" s", unit_scale=True, leave=False, disable=None) as bar:
        stream = recognizer.stream(
            sources, timestamps=wanted, window=window, overlap=overlap, progress=lambda seconds: bar.update(seconds)
        )
        for number, transcript in stream:
            if isinstance(transcript, UserError):
                failed += 1
                bar.write(f"omni: {transcript}", file=sys.stderr)
                continue
            found[number] = written(transcript, format, file=files[number] if len(files) > 1 else None)
    _put(found, targets, out)
    if failed:
        raise SystemExit(2)


def written(transcript: Transcript, format: Format, *, file: str | None = None) -> str:
    """A transcript in one of the formats.

    Args:
        transcript: What is said.
        format: How to write it.
        file: The file's name, where it must be told.
    """
    if format == "json":
        words = [word._replace(start=round(word.start, 3), end=round(word.end, 3)) for word in transcript.words]
        row = {"audio": file} if file else {}
        row |= {"text": transcript.text, "duration": round(transcript.duration, 3)}
        return json.dumps(row | ({"words": [word._asdict() for word in words]} if words else {}), ensure_ascii=False)
    if format == "text":
        name = f"{file}: " if file else ""
        if not transcript.words:
            return name + transcript.text
        lines = [f"{word.start:.2f} {word.end:.2f} {word.text}" for word in transcript.words]
        return "\n".join([name.strip(), *lines] if name else lines)
    blocks = ["WEBVTT"] if format == "vtt" else []
    for number, group in enumerate(captions(transcript.words), start=1):
        start, end = (_clock(seconds, format) for seconds in (group[0].start, group[-1].end))
        numbered = [str(number)] if format == "srt" else []
        blocks.append("\n".join([*numbered, f"{start} --> {end}", *_lines([word.text for word in group])]))
    return "\n\n".join(blocks)


def captions(words: Sequence[Word]) -> list[list[Word]]:
    """Groups words into subtitles: parted at pauses, no longer than two lines and some seconds."""
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        longer = [*(other.text for other in group), word.text]
        if (
            not group
            or word.start - group[-1].end > _PAUSE
            or word.end - group[0].start > _SECONDS
            or len(_lines(longer)) > 2
        ):
            groups.append([word])
        else:
            group.append(word)
    return groups


def _lines(words: Sequence[str]) -> list[str]:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _LINE:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _clock(seconds: float, format: Format) -> str:
    """Hours, minutes, seconds and milliseconds, as SubRip (comma) or WebVTT (point) write them."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    mark = "," if format == "srt" else "."
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"


def _targets(files: Sequence[str], folder: Path, format: Format) -> list[Path]:
    """The file for each transcript: by its audio's name, and folders where names repeat."""
    ending = {"text": "txt"}.get(format, format)
    names = [Path("stdin") if file == "-" else Path(file).absolute().with_suffix("") for file in files]
    if len({name.name for name in names}) == len(names):
        names = [Path(name.name) for name in names]
    else:
        shared = os.path.commonpath([name.parent for name in names if name.is_absolute()])
        names = [name.relative_to(shared) if name.is_absolute() else name for name in names]
    for number, name in enumerate(names):
        if (first := names.index(name)) < number:
            raise UserError(
                f"{files[first]} and {files[number]} would both be written to {folder / name}.{ending}: "
                "transcribe them into different folders"
            )
    return [folder / f"{name}.{ending}" for name in names]


def _put(found: dict[int, str], targets: Sequence[Path] | None, out: Path | None) -> None:
    ordered = [found[number] for number in sorted(found)]
    if out is None:
        for text in ordered:
            print(text)
    elif targets is not None:
        for number, text in found.items():
            targets[number].parent.mkdir(parents=True, exist_ok=True)
            targets[number].write_text(text + "\n", encoding="utf-8")
    else:
        out.write_text("\n".join(ordered) + "\n", encoding="utf-8")
