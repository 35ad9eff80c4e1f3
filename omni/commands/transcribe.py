"""`omni transcribe`: audio files to text, JSON or subtitles."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from omni.commands.inputs import files_of_folders, media_source
from omni.decoding.fusion_options import FusionOptions
from omni.errors import UserError
from omni.files import check_free, write_text
from omni.inference.subtitles import subtitles
from omni.media.container import audio_remarks
from omni.runtime.exported import check_cpu, uses_onnx
from omni.text.transcript import Timestamps, Transcript

Format = Literal["text", "json", "srt", "vtt"]


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
    overwrite: bool = False,
    device: str = "auto",
    live: bool = False,
    rate: int | None = None,
    min_confidence: float | None = None,
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    fusion: FusionOptions = FusionOptions(),  # noqa: B008  immutable
) -> None:
    """Transcribe audio files with a recogniser of stage B, or audio as it comes.

    A file that cannot be read is reported in one line, the others are transcribed, and the exit code is 2.

    Example:
        omni transcribe talk.mp3 --checkpoint lightning_logs/audio/best.ckpt --format srt

    Args:
        files: Audio of any rate, length and number of channels (WAV, FLAC, OGG, MP3, ...), or folders of such files;
            `-` reads standard input. With --live one of `-`, a named pipe (WAV or 16-bit PCM), and `microphone`.
        checkpoint: A checkpoint that holds an audio encoder, such as lightning_logs/audio/best.ckpt; or a folder of
            `omni export --to onnx`, which runs without PyTorch on the CPU.
        timestamps: Times of words or characters in `json`, and in `text` as lines of `start end text`.
        format: Plain text, JSON lines, or subtitles (one file per recording).
        out: Write to this file, or into this folder, one file per recording; by default to standard output.
        window: Longer audio is transcribed in windows of this many seconds.
        overlap: Overlap of consecutive windows, in seconds.
        beam: Beam size; 1: greedy decoding.
        overwrite: Replace existing files.
        device: cpu, cuda, or auto.
        live: Print words while they are spoken, a line for each turn, until the audio ends or Ctrl-C.
        rate: Sample rate in Hz of live audio without a WAV header.
        min_confidence: With `json`: write a manifest that a recogniser can be trained on (pseudo-labels). Each row has
            `confidence`, the mean probability of its units; less certain transcripts and empty ones are left out.
        runtime: `onnx`: `checkpoint` must be an exported folder; `torch`: a checkpoint; auto: either.
        fusion: A language model and hotwords.
    """
    if live and (timestamps, format, out, len(files)) != (None, "text", None, 1):
        raise UserError("--live prints the text of one source: leave out other files, --timestamps, --format and --out")
    if rate is not None and not live:
        raise UserError("--rate is of live audio: give --live, or leave it out")
    files = files if live else files_of_folders(files)
    timed, to_folder = format in ("srt", "vtt"), out is not None and out.is_dir()
    labels = _PseudoLabels.checked(min_confidence, format, out)
    _check_subtitles(format, timestamps, len(files), to_folder)
    targets = _targets(files, out, format) if out is not None and to_folder else None
    if out is not None:
        check_free([out] if targets is None else targets, overwrite=overwrite)
    options: dict[str, Any] = {"window": window, "overlap": overlap}
    if uses_onnx(checkpoint, runtime):
        times = timestamps is not None or timed or labels is not None
        _check_exported(live=live, times=times, fused=fusion.used, device=device)
        from omni.runtime.recognizer import Recognizer

        recognizer: Any = Recognizer(checkpoint, beam=beam)
    else:
        from omni.inference.recognizer import load_recognizer

        recognizer = load_recognizer(checkpoint, device=device, beam=beam, fusion=fusion)
        options["timestamps"] = timestamps or ("word" if timed or labels else None)
    if live:
        from omni.commands.transcribe_live import transcribe_live

        return transcribe_live(files[0], recognizer, rate)
    found = dict(_transcripts(recognizer, files, options))
    if labels is not None:
        texts = labels.rows(found, files)
    else:
        named = len(files) > 1
        texts = {number: formatted(one, format, file=files[number] if named else None) for number, one in found.items()}
    _write(texts, targets, out)
    _print_remarks(files)
    if len(found) < len(files):
        raise SystemExit(2)
    return None


class _PseudoLabels(NamedTuple):
    """Transcripts as rows of a manifest."""

    min_confidence: float
    manifest: Path | None

    @staticmethod
    def checked(min_confidence: float | None, format: Format, out: Path | None) -> "_PseudoLabels | None":
        """None without `min_confidence`.

        Raises:
            UserError: If it is out of range, or the output is not a manifest.
        """
        if min_confidence is None:
            return None
        if not 0 <= min_confidence <= 1:
            raise UserError(f"min_confidence is {min_confidence}: it must lie between 0 and 1")
        if format != "json" or (out is not None and out.is_dir()):
            raise UserError("--min_confidence writes one manifest: give --format json, and a .jsonl file as --out")
        return _PseudoLabels(min_confidence, out)

    def rows(self, transcripts: Mapping[int, Transcript], files: Sequence[str]) -> dict[int, str]:
        """The rows of certain transcripts; the number of the others is printed. File names are relative to the file."""
        folder = None if self.manifest is None else self.manifest.absolute().parent
        kept, seconds = {}, 0.0
        for number, one in transcripts.items():
            confidence = round(one.confidence or 0.0, 4)
            if one.text and confidence >= self.min_confidence:
                file = files[number] if folder is None else os.path.relpath(Path(files[number]).absolute(), folder)
                row = {"audio": file, "text": one.text, "duration": round(one.duration, 3)}
                kept[number] = json.dumps(row | {"confidence": confidence}, ensure_ascii=False)
                seconds += one.duration
        print(
            f"{len(kept)} of {len(transcripts)} transcripts have a confidence of {self.min_confidence:g} or more: "
            f"{seconds / 3600:.2f} hours",
            file=sys.stderr,
        )
        return kept


def _transcripts(recognizer: Any, files: Sequence[str], options: Mapping[str, Any]) -> Iterator[tuple[int, Transcript]]:
    """The transcripts of the files that can be read, by number; a line is printed for each other."""
    with tqdm(desc="transcribed", unit=" s", unit_scale=True, leave=False, disable=None) as bar:
        sources = [media_source(file) for file in files]
        for number, transcript in recognizer.stream(sources, progress=lambda seconds: bar.update(seconds), **options):
            if isinstance(transcript, UserError):
                bar.write(f"omni: {transcript}", file=sys.stderr)
            else:
                yield number, transcript


def _check_exported(*, live: bool, times: bool, fused: bool, device: str) -> None:
    if live or times or fused:
        what = "language model or hotwords" if fused else "times of words (--timestamps and subtitles)"
        raise UserError(f"an exported folder has no {'--live' if live else what}: give the checkpoint")
    check_cpu(device)


def _check_subtitles(format: Format, timestamps: Timestamps | None, count: int, to_folder: bool) -> None:
    if format not in ("srt", "vtt"):
        return
    if timestamps == "char":
        raise UserError(f"{format} subtitles have times of words: leave --timestamps out")
    if count > 1 and not to_folder:
        raise UserError(f"{format} subtitles of {count} files need a folder: give --out FOLDER")


def _print_remarks(files: Sequence[str]) -> None:
    """Prints what is unusual about the recordings; those that cannot be read are reported already."""
    for file in files:
        with suppress(UserError):
            for remark in audio_remarks(Path(file)) if Path(file).is_file() else ():
                print(f"note: {file}: {remark.text}", file=sys.stderr)


def formatted(transcript: Transcript, format: Format, *, file: str | None = None) -> str:
    """A transcript in one of the formats.

    Args:
        transcript: The transcript.
        format: The format.
        file: The recording's name, to be included.
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
    return subtitles(transcript.words, format)


def _write(texts: Mapping[int, str], targets: Sequence[Path] | None, out: Path | None) -> None:
    """Writes transcripts by the number of their recording: to a file each, to one file, or to standard output."""
    if targets is not None:
        for number, text in texts.items():
            write_text(targets[number], text + "\n")
    else:
        lines = [texts[number] for number in sorted(texts)]
        if out is not None:
            write_text(out, "\n".join(lines) + "\n")
        elif lines:
            print("\n".join(lines))


def _targets(files: Sequence[str], folder: Path, format: Format) -> list[Path]:
    """The file for each transcript: by its recording's name, and in its folders where names repeat."""
    suffix = "txt" if format == "text" else format
    names = [Path("stdin") if file == "-" else Path(file).absolute().with_suffix("") for file in files]
    if len({name.name for name in names}) == len(names):
        names = [Path(name.name) for name in names]
    else:
        shared = os.path.commonpath([name.parent for name in names if name.is_absolute()])
        names = [name.relative_to(shared) if name.is_absolute() else name for name in names]
    for number, name in enumerate(names):
        if (first := names.index(name)) < number:
            raise UserError(
                f"{files[first]} and {files[number]} would both be written to {folder / name}.{suffix}: "
                "transcribe them into different folders"
            )
    return [folder / f"{name}.{suffix}" for name in names]
