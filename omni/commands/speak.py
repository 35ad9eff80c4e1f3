"""`omni speak`: texts to audio files, or to samples on standard output."""

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from omni.commands.inputs import read_text
from omni.decoding.sampling import Sampling
from omni.decoding.talker import SpeechSampling
from omni.errors import UserError
from omni.inference.speech import Speech
from omni.inference.synthesizer import GRIFFIN_LIM, Synthesizer, load_synthesizer
from omni.media.audio import SAMPLE_RATE, audio_format, audio_writer


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
    temperature: float = 0.7,
    seed: int = 0,
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Speak texts with a trained Talker.

    Texts may have any length: they are spoken sentence by sentence. If --out is a folder, a line that cannot be spoken
    is reported, the others are spoken, and the exit code is 2.

    Args:
        checkpoint: A checkpoint that holds a Talker and its codec, such as lightning_logs/talker/best.ckpt.
        text: The text; `-` reads it from standard input.
        file: A file with one text per line instead; `-` reads standard input. Empty lines are skipped.
        out: An audio file (.wav, .flac, ...) for all texts, or a folder for one WAV file per line, named by its number.
        stream: Write raw samples to standard output as they are generated: 16 bits, little-endian, 16 kHz, mono.
            Griffin-Lim outputs whole sentences; a causal vocoder starts after the first frames of a sentence.
        speaker: The number or name of a voice, for a Talker with several; by default the first.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder, such as lightning_logs/vocoder/best.ckpt.
        temperature: Divides the logits of all choices; 0 takes the likeliest.
        seed: The same seed gives the same speech.
        batch_size: Most sentences per batch, unless streaming.
        device: cpu, cuda, or auto.
    """
    if stream == (out is not None):
        raise UserError("give either --out, a file or a folder, or --stream")
    if stream and sys.stdout.isatty():
        raise UserError("--stream writes samples, and standard output is a terminal: pipe it into a player or a file")
    to_file = out is not None and bool(out.suffix) and not out.is_dir()
    if out is not None and to_file:
        audio_format(out)  # before all the work
    choice = Sampling(temperature=temperature, seed=seed)
    sampling = SpeechSampling(first=choice, rest=choice, pace=choice)
    lines = _lines(text, file)
    synthesizer = load_synthesizer(checkpoint, vocoder=vocoder, device=device)
    synthesizer.speaker_id(speaker)
    if out is None:
        _stream(lines, synthesizer, speaker, sampling)
        return
    spoken = lines if to_file else [line for line in lines if _can_be_spoken(line, synthesizer)]
    width = max(4, len(str(lines[-1].number)))
    targets = [out if to_file else out / f"{line.number:0{width}d}.wav" for line in spoken]
    texts = [line.text for line in spoken]
    _write(synthesizer.sentences(texts, speaker=speaker, sampling=sampling, batch_size=batch_size), targets)
    if len(spoken) < len(lines):
        raise SystemExit(2)


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


def _stream(lines: list[Line], synthesizer: Synthesizer, speaker: int | str | None, sampling: SpeechSampling) -> None:
    for line in lines:
        synthesizer.read(line.text)  # all errors before the first sample
    for line in lines:
        for samples in synthesizer.stream(line.text, speaker=speaker, sampling=sampling):
            sys.stdout.buffer.write(_pcm(samples))
            sys.stdout.buffer.flush()


def _write(parts: Iterable[tuple[int, Speech]], targets: list[Path]) -> None:
    """Writes speech to files as it is generated; consecutive texts may share a file."""
    for target, group in groupby(parts, key=lambda part: targets[part[0]]):
        samples = 0
        with audio_writer(target) as write:
            for _, speech in group:
                write(speech.audio)
                samples += len(speech.audio)
        print(f"{target}: {samples / SAMPLE_RATE:.2f} s{'' if samples else ', silent'}")


def _pcm(samples: Tensor) -> bytes:
    return (samples * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
