"""`omni speak`: texts to audio files, or to samples on standard output."""

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from omni.commands.inputs import read_text
from omni.commands.transcribe import Format, formatted
from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.files import check_free, write_text
from omni.inference.speech import Speech, shifted
from omni.inference.speech_renderer import check_speed
from omni.inference.synthesizer import GRIFFIN_LIM, Synthesizer, load_synthesizer
from omni.media.audio import SAMPLE_RATE, audio_format, audio_writer, written_by_omni
from omni.text.transcript import Transcript


class Line(NamedTuple):
    """A text to speak.

    Attributes:
        number: Line number in its file, from 1.
        text: The text.
    """

    number: int
    text: str


def speak_texts(
    checkpoint: str,
    text: str | None = None,
    *,
    file: str | None = None,
    out: Path | None = None,
    stream: bool = False,
    speaker: int | str | None = None,
    vocoder: str = GRIFFIN_LIM,
    speed: float = 1.0,
    temperature: float = 0.7,
    seed: int = 0,
    timestamps: Literal["word"] | None = None,
    format: Format = "text",
    batch_size: int = 16,
    overwrite: bool = False,
    device: str = "auto",
) -> None:
    """Speak texts with a trained Talker.

    Texts may have any length: they are spoken sentence by sentence. `[pause 0.5]` in a text is half a second of
    silence, 10 seconds at most. If --out is a folder, a line that cannot be spoken is reported, the others are spoken,
    and the exit code is 2.

    Args:
        checkpoint: A checkpoint that holds a Talker and its codec, such as lightning_logs/talker/best.ckpt.
        text: The text; `-` reads it from standard input.
        file: A file with one text per line instead; `-` reads standard input. Empty lines are skipped.
        out: An audio file (.wav, .flac, ...) for all texts, or a folder for one WAV file per line, named by its number.
        stream: Write raw samples to standard output as they are generated: 16 bits, little-endian, 16 kHz, mono.
            Griffin-Lim outputs whole sentences; a causal vocoder starts after the first frames of a sentence.
        speaker: The number or name of a voice, for a Talker with several; by default the first.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder, such as lightning_logs/vocoder/best.ckpt.
        speed: Tempo, 0.25 to 4: 2 takes half the time. The pitch stays.
        temperature: Divides the logits of all choices; 0 takes the likeliest.
        seed: The same seed gives the same speech.
        timestamps: Write the times of the words next to each audio file, to NAME.words.txt (or .json, .srt, .vtt).
        format: Format of that file, as in `omni transcribe`: lines of `start end text`, JSON, or subtitles.
        batch_size: Most sentences per batch, unless streaming.
        overwrite: Replace files that omni did not write.
        device: cpu, cuda, or auto.
    """
    to_file = _check_outputs(out, stream, timestamps, format)  # before all the work
    check_speed(speed)
    choice = Sampling(temperature=temperature, seed=seed)
    sampling = SpeechSampling(first=choice, rest=choice, pace=choice)
    options: dict[str, Any] = {"sampling": sampling, "speaker": speaker, "speed": speed}
    lines = _lines(text, file)
    files = {} if out is None else _files(lines, out, to_file)
    check_free(files.values(), overwrite=overwrite, is_ours=written_by_omni)
    synthesizer = load_synthesizer(checkpoint, vocoder=vocoder, device=device)
    synthesizer.speaker_id(speaker)
    if out is None:
        _stream(lines, synthesizer, options)
        return
    spoken = lines if to_file else [line for line in lines if _can_be_spoken(line, synthesizer)]
    parts = synthesizer.sentences([line.text for line in spoken], batch_size=batch_size, **options)
    _write(parts, [files[line.number] for line in spoken], None if timestamps is None else format)
    if len(spoken) < len(lines):
        raise SystemExit(2)


def _files(lines: Sequence[Line], out: Path, to_file: bool) -> dict[int, Path]:
    """The audio file of each line, by its number."""
    width = max(4, len(str(lines[-1].number)))
    return {line.number: out if to_file else out / f"{line.number:0{width}d}.wav" for line in lines}


def _check_outputs(out: Path | None, stream: bool, timestamps: str | None, format: Format) -> bool:
    """Whether all texts go to one file."""
    if stream == (out is not None):
        raise UserError("give either --out, a file or a folder, or --stream")
    if stream and sys.stdout.isatty():
        raise UserError("--stream writes samples, and standard output is a terminal: pipe it into a player or a file")
    if stream and timestamps is not None:
        raise UserError("--timestamps writes a file next to the audio: give --out")
    if timestamps is None and format != "text":
        raise UserError(f"--format {format} is the format of times: give --timestamps word")
    if out is None or not out.suffix or out.is_dir():
        return False
    audio_format(out)
    return True


def _lines(text: str | None, file: str | None) -> list[Line]:
    if text is not None and file is None:
        return [Line(1, read_text("-") if text == "-" else text)]
    if text is not None or file is None:
        raise UserError("give either a text or --file")
    lines = [Line(number, line) for number, line in enumerate(read_text(file).splitlines(), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{file} is empty: write one text per line")
    return lines


def _can_be_spoken(line: Line, synthesizer: Synthesizer) -> bool:
    try:
        synthesizer.read(line.text)
    except UserError as error:
        print(f"omni: line {line.number}: {error}", file=sys.stderr)
        return False
    return True


def _stream(lines: list[Line], synthesizer: Synthesizer, options: dict[str, Any]) -> None:
    for line in lines:
        synthesizer.read(line.text)  # all errors before the first sample
    for line in lines:
        for samples in synthesizer.stream(line.text, **options):
            sys.stdout.buffer.write(_pcm(samples))
            sys.stdout.buffer.flush()


def _write(parts: Iterable[tuple[int, Speech]], targets: list[Path], format: Format | None) -> None:
    """Writes speech to files as it is generated; consecutive texts may share a file.

    Args:
        parts: Speech, with the number of its text.
        targets: The file of each text.
        format: Of a further file with the times of the words; None: no such file.
    """
    for target, group in groupby(parts, key=lambda part: targets[part[0]]):
        samples, words = 0, []
        with audio_writer(target) as write:
            for _, speech in group:
                write(speech.audio)
                words += shifted(speech.words, samples)
                samples += len(speech.audio)
        report = f"{target}: {samples / SAMPLE_RATE:.2f} s{'' if samples else ', silent'}"
        if format is not None:
            transcript = Transcript(" ".join(word.text for word in words), tuple(words), samples / SAMPLE_RATE)
            times = target.with_suffix(f".words.{'txt' if format == 'text' else format}")
            write_text(times, formatted(transcript, format) + "\n")
            report += f", times of the words in {times}"
        print(report)


def _pcm(samples: Tensor) -> bytes:
    return (samples * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
