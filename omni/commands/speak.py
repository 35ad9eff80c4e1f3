"""`omni speak`: texts to audio files, or to samples on standard output."""

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omni.commands.inputs import read_text
from omni.commands.transcribe import Format, formatted
from omni.decoding.sampling_options import Sampling, SpeechSampling
from omni.decoding.speech_options import GRIFFIN_LIM, check_speed
from omni.errors import UserError
from omni.files import check_free, write_text
from omni.media.audio_writer import audio_format, samples_writer, written_by_omni
from omni.runtime.exported import check_cpu, uses_onnx
from omni.text.transcript import Transcript

if TYPE_CHECKING:  # with PyTorch, which an exported folder does not need
    from omni.inference.speech import Speech


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
    refine: int = 0,
    speed: float = 1.0,
    temperature: float = 0.7,
    seed: int = 0,
    timestamps: Literal["word"] | None = None,
    format: Format = "text",
    batch_size: int = 16,
    overwrite: bool = False,
    device: str = "auto",
    compile: bool = False,
    int8: bool = False,
    runtime: Literal["auto", "onnx", "torch"] = "auto",
) -> None:
    """Speak texts with a trained Talker.

    Texts may have any length: they are spoken sentence by sentence. `[pause 0.5]` in a text is half a second of
    silence, 10 seconds at most. If --out is a folder, a line that cannot be spoken is reported, the others are spoken,
    and the exit code is 2.

    Example:
        omni speak "The first words." --out words.wav --checkpoint lightning_logs/talker/best.ckpt

    Args:
        checkpoint: A checkpoint that holds a Talker and its codec, such as lightning_logs/talker/best.ckpt; or a folder
            of `omni export --to onnx --vocoder VOCODER`, which runs without PyTorch on the CPU.
        text: The text; `-` reads it from standard input.
        file: A file with one text per line instead; `-` reads standard input. Empty lines are skipped.
        out: An audio file (.wav, .flac, ...) for all texts, or a folder for one WAV file per line, named by its number.
        stream: Write raw samples to standard output as they are generated: 16 bits, little-endian, mono, 16 kHz or the
            vocoder's rate. Griffin-Lim outputs whole sentences; a causal vocoder starts after the first frames of a
            sentence.
        speaker: The number or name of a voice, for a Talker with several; by default the first.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder, such as lightning_logs/vocoder/best.ckpt.
        refine: Iterations that bring the audio closer to the spectrogram, such as 32; they take about as long as
            Griffin-Lim, and sentences are then output whole.
        speed: Tempo, 0.25 to 4: 2 takes half the time. The pitch stays.
        temperature: Divides the logits of all choices; 0 takes the likeliest.
        seed: The same seed gives the same speech.
        timestamps: Write the times of the words next to each audio file, to NAME.words.txt (or .json, .srt, .vtt).
        format: Format of that file, as in `omni transcribe`: lines of `start end text`, JSON, or subtitles.
        batch_size: Most sentences per batch, unless streaming.
        overwrite: Replace files that omni did not write.
        device: cpu, cuda, or auto.
        compile: Compile the Talker's steps: up to a minute the first time, worth it for a long text on a CPU.
        int8: Multiply single frames by weights of 8 bits on a CPU: faster, and the voice may differ a little.
        runtime: `onnx`: `checkpoint` must be an exported folder; `torch`: a checkpoint; auto: either.
    """
    to_file = _check_outputs(out, stream, timestamps, format)  # before all the work
    check_speed(speed)
    choice = Sampling(temperature=temperature, seed=seed)
    sampling = SpeechSampling(first=choice, rest=choice, pace=choice)
    options: dict[str, Any] = {"sampling": sampling, "speaker": speaker}
    lines = _lines(text, file)
    files = {} if out is None else _files(lines, out, to_file)
    check_free(files.values(), overwrite=overwrite, is_ours=written_by_omni)
    if uses_onnx(checkpoint, runtime):
        _check_exported(vocoder, refine, speed, timestamps, device)
        if compile or int8:
            raise UserError("an exported folder runs as it was exported: leave --compile and --int8 out")
        from omni.runtime.synthesizer import Synthesizer

        synthesizer: Any = Synthesizer(checkpoint)
    else:
        from omni.decoding.acceleration import accelerate
        from omni.inference.synthesizer import load_synthesizer

        synthesizer = load_synthesizer(checkpoint, vocoder=vocoder, refine=refine, device=device)
        if compile:
            print("omni: compiling the Talker's steps, which takes up to a minute the first time", file=sys.stderr)
        accelerate([synthesizer.talker], compile=compile, int8=int8)
        options["speed"] = speed
    synthesizer.speaker_id(speaker)
    if out is None:
        _stream(lines, synthesizer, options)
        return
    spoken = lines if to_file else [line for line in lines if _can_be_spoken(line, synthesizer)]
    targets = [files[line.number] for line in spoken]
    texts = [line.text for line in spoken]
    if uses_onnx(checkpoint, runtime):
        streams = ((number, synthesizer.stream(text, **options)) for number, text in enumerate(texts))
        _write_streams(streams, targets, synthesizer.sample_rate)
    else:
        parts = synthesizer.sentences(texts, batch_size=batch_size, **options)
        _write(parts, targets, synthesizer.sample_rate, None if timestamps is None else format)
    if len(spoken) < len(lines):
        raise SystemExit(2)


def _check_exported(vocoder: str, refine: int, speed: float, timestamps: str | None, device: str) -> None:
    """Refuses what exported graphs cannot do."""
    check_cpu(device)
    if vocoder != GRIFFIN_LIM:
        raise UserError("an exported folder has its own vocoder: leave --vocoder out, or export with it")
    if refine:
        raise UserError("an exported folder makes its audio in one go: --refine needs the checkpoint")
    if speed != 1:
        raise UserError("an exported Talker speaks at its own tempo: --speed needs the checkpoint")
    if timestamps is not None:
        raise UserError("an exported Talker has no times of words: --timestamps needs the checkpoint")


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


def _can_be_spoken(line: Line, synthesizer: Any) -> bool:
    try:
        synthesizer.read(line.text)
    except UserError as error:
        print(f"omni: line {line.number}: {error}", file=sys.stderr)
        return False
    return True


def _stream(lines: list[Line], synthesizer: Any, options: dict[str, Any]) -> None:
    for line in lines:
        synthesizer.read(line.text)  # all errors before the first sample
    for line in lines:
        for samples in synthesizer.stream(line.text, **options):
            sys.stdout.buffer.write(_pcm(np.asarray(samples)))
            sys.stdout.buffer.flush()


def _write(parts: Iterable[tuple[int, "Speech"]], targets: list[Path], sample_rate: int, format: Format | None) -> None:
    """Writes speech to files as it is generated; consecutive texts may share a file.

    Args:
        parts: Speech, with the number of its text.
        targets: The file of each text.
        sample_rate: Of the speech in Hz.
        format: Of a further file with the times of the words; None: no such file.
    """
    from omni.inference.speech import shifted

    for target, group in groupby(parts, key=lambda part: targets[part[0]]):
        samples, words = 0, []
        with samples_writer(target, sample_rate=sample_rate) as write:
            for _, speech in group:
                write(speech.audio.numpy())
                words += shifted(speech.words, samples / sample_rate)
                samples += len(speech.audio)
        report = _report(target, samples / sample_rate)
        if format is not None:
            transcript = Transcript(" ".join(word.text for word in words), tuple(words), samples / sample_rate)
            times = target.with_suffix(f".words.{'txt' if format == 'text' else format}")
            write_text(times, formatted(transcript, format) + "\n")
            report += f", times of the words in {times}"
        print(report)


def _write_streams(
    parts: Iterable[tuple[int, Iterable[NDArray[np.float32]]]], targets: list[Path], sample_rate: int
) -> None:
    """As `_write`, of samples that arrive in pieces."""
    for target, group in groupby(parts, key=lambda part: targets[part[0]]):
        samples = 0
        with samples_writer(target, sample_rate=sample_rate) as write:
            for piece in (piece for _, pieces in group for piece in pieces):
                write(piece)
                samples += len(piece)
        print(_report(target, samples / sample_rate))


def _report(target: Path, seconds: float) -> str:
    return f"{target}: {seconds:.2f} s{'' if seconds else ', silent'}"


def _pcm(samples: NDArray[np.float32]) -> bytes:
    return np.round(samples * 32767).astype("<i2").tobytes()
