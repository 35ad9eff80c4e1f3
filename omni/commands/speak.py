"""The verb `speak`: texts in; audio files, or samples on standard output, out."""

import sys
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni.decoding.sampling import Sampling
from omni.decoding.talker import SpeechSampling
from omni.errors import UserError
from omni.inference.synthesizer import GRIFFIN_LIM, Synthesizer, load_synthesizer
from omni.media.audio import SAMPLE_RATE, audio_format, audio_writer


class Line(NamedTuple):
    """A text to be said.

    Attributes:
        number: Of the line in its file, from 1 on.
        text: What to say.
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
    temperature: float = 0.7,
    seed: int = 0,
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Say texts with a trained Talker.

    Texts may be of any length: they are said sentence by sentence. A line of a file that cannot be spoken into its
    folder is told, the others are spoken, and the exit code is 2.

    Args:
        checkpoint: A checkpoint that holds a Talker and its codec, such as lightning_logs/talker/best.ckpt.
        text: What to say; `-` reads it from standard input.
        file: A file with one text a line instead; `-` reads standard input. Empty lines are left out.
        out: An audio file (.wav, .flac, ...), into which all is said, or a folder, which gets a WAV file for each line,
            named by its number. Folders are made.
        stream: Write raw samples to standard output as they are made: 16 bits, little-endian, 16 kHz, mono. Griffin-Lim
            gives them sentence by sentence; a causal vocoder after the first frames of a sentence.
        speaker: The number of a voice, or its name, for a Talker that has several; the first if not given.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder, such as lightning_logs/vocoder/best.ckpt.
        temperature: Spread of all choices; 0 always takes the likeliest.
        seed: The same seed says a text in the same way.
        batch_size: Most sentences spoken at a time, where they are not streamed.
        device: cpu, cuda, or auto.
    """
    if stream == (out is not None):
        raise UserError("give either --out, a file or a folder, or --stream")
    if out is not None and out.suffix and not out.is_dir():
        audio_format(out)  # before all the work
    if stream and sys.stdout.isatty():
        raise UserError("--stream writes samples, and standard output is a terminal: pipe it into a player or a file")
    choice = Sampling(temperature=temperature, seed=seed)
    sampling = SpeechSampling(first=choice, rest=choice, pace=choice)
    lines = _lines(text, file)
    synthesizer = load_synthesizer(checkpoint, vocoder=vocoder, device=device)
    synthesizer.voice(speaker)
    if out is None:
        for line in lines:
            synthesizer.read(line.text)
        for line in lines:
            for sound in synthesizer.stream(line.text, speaker=speaker, sampling=sampling):
                sys.stdout.buffer.write(_pcm(sound))
                sys.stdout.buffer.flush()
        return
    options: dict[str, Any] = {"speaker": speaker, "sampling": sampling, "batch_size": batch_size}
    if out.suffix and not out.is_dir():
        _write([line.text for line in lines], [out] * len(lines), synthesizer, options)
        return
    spoken = [line for line in lines if _can_be_spoken(line, synthesizer)]
    width = max(4, len(str(lines[-1].number)))
    targets = [out / f"{line.number:0{width}d}.wav" for line in spoken]
    _write([line.text for line in spoken], targets, synthesizer, options)
    if len(spoken) < len(lines):
        raise SystemExit(2)


def _lines(text: str | None, file: str | None) -> list[Line]:
    if (text is None) == (file is None):
        raise UserError("give either a text or --file")
    if text is not None:
        return [Line(1, _content("-") if text == "-" else text)]
    assert file is not None
    content = _content(file)
    lines = [Line(number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if not lines:
        raise UserError(f"texts {file} are empty: write one text a line")
    return lines


def _content(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"texts {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"texts {file} are not UTF-8 (byte {error.start})") from error


def _can_be_spoken(line: Line, synthesizer: Synthesizer) -> bool:
    try:
        synthesizer.read(line.text)
    except UserError as error:
        print(f"omni: line {line.number}: {error}", file=sys.stderr)
        return False
    return True


def _write(texts: list[str], targets: list[Path], synthesizer: Synthesizer, options: dict[str, Any]) -> None:
    """Says texts into their files as they are made; neighbours may share one."""
    parts = synthesizer.parts(texts, **options)
    for target, said in groupby(parts, key=lambda part: targets[part[0]]):
        samples = 0
        with audio_writer(target) as write:
            for _, speech in said:
                write(speech.audio)
                samples += len(speech.audio)
        print(f"{target}: {samples / SAMPLE_RATE:.2f} s{'' if samples else ', silent'}")


def _pcm(sound: Tensor) -> bytes:
    return (sound * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
