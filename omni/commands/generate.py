"""The verb `generate`: a text goes on, or a question about text, images and sound is answered."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omni.checkpoints.checkpoint import Checkpoint
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.inference.prompt import question
from omni.inference.response import StreamedResponse, TextDelta
from omni.inference.text import Delta, load
from omni.media.audio import SAMPLE_RATE, audio_format, audio_writer

_TOGETHER = 16  # questions answered at a time
_SENSES = {"vision_projector", "audio_projector"}


def generate(
    checkpoint: str,
    text: list[str] | str | None = None,
    *,
    file: str | None = None,
    image: list[str] | None = None,
    audio: list[str] | None = None,
    video: list[str] | None = None,
    system: str | None = None,
    speak: Path | None = None,
    voice: str | None = None,
    vocoder: str | None = None,
    speaker: int | str | None = None,
    max_tokens: int = 128,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    num_samples: int = 1,
    device: str = "auto",
) -> None:
    """Continue a text with a trained Thinker, or answer about text, images and sound; print it as it comes.

    A checkpoint of stage A continues texts. One of stage E answers: each text is a question about the images, the
    recordings and the videos. Several are worked on together, and each is printed whole once those before it are.

    Args:
        checkpoint: A checkpoint that holds a Thinker, such as lightning_logs/thinker/best.ckpt or omni/best.ckpt.
        text: A text to continue or a question, or several: '[one, another]'. Without one, documents are begun.
        file: A file with one prompt a line; `-` reads standard input.
        image: Images that the question is about (JPEG, PNG, WebP, ...).
        audio: Recordings that it is about (WAV, FLAC, OGG, MP3, ...); they may hold the question.
        video: Videos: animated images, or folders with frames a second apart. Of each, eight frames are seen.
        system: A system message, in front of the question.
        speak: Say the answer into this file (.wav, .flac, ...), from its first clause on.
        voice: The checkpoint of a Talker that speaks; not needed where the model's holds one.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder.
        speaker: The number of a voice, or its name, for a Talker that has several.
        max_tokens: Most tokens to add.
        temperature: Spread of the choice; 0 always takes the likeliest token. By default 0.8 for continuing, 0 for
            answers.
        top_k: Choose among this many tokens; 0 means all.
        top_p: Choose among the likeliest tokens that together hold this probability.
        repetition_penalty: Over 1, tokens already said become less likely.
        seed: The same seed gives the same text.
        num_samples: Continuations of each prompt.
        device: cpu, cuda, or auto.
    """
    converses = Path(checkpoint).exists() and answers(checkpoint)
    temperature = (0.0 if converses else 0.8) if temperature is None else temperature
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
    )
    if num_samples < 1:
        raise UserError(f"num_samples must be 1 or more, not {num_samples}")
    prompts = [prompt for prompt in _prompts(text, file) for _ in range(num_samples)]
    options: dict[str, Any] = {"max_tokens": max_tokens, "sampling": sampling}
    files: dict[str, list[str]] = {"image": image or [], "audio": audio or [], "video": video or []}
    if not converses:
        model = load(checkpoint, device=device)
        if given := [f"--{name}" for name, some in {**files, "speak": speak, "system": system}.items() if some]:
            raise UserError(f"{checkpoint} only continues texts: {given[0]} needs a checkpoint of stage E")
        _print(prompts, model.stream(prompts, **options))
        return
    if speak is not None:
        audio_format(speak)  # before all the work
        if len(prompts) > 1:
            raise UserError(f"--speak says one answer, and there are {len(prompts)}: ask one question")
    assistant = Assistant.from_pretrained(checkpoint, voice=voice, vocoder=vocoder, system=system, device=device)
    if len(prompts) == 1:
        reply = assistant.chat(text=prompts[0], **files, speak=speak is not None, speaker=speaker, **options)
        show(reply, speak)
        if reply.unspoken:
            raise SystemExit(2)
        return
    asked = [assistant.prompt([question(one, **files)], max_tokens=max_tokens) for one in prompts]
    for first in range(0, len(asked), _TOGETHER):
        some = assistant.answer(asked[first : first + _TOGETHER], **options)
        print(("-" * 8 + "\n" if first else "") + ("\n" + "-" * 8 + "\n").join(some))


def answers(checkpoint: str) -> bool:
    """Whether a checkpoint's Thinker answers, rather than continues texts."""
    held = Checkpoint(checkpoint).content
    return held["lineage"]["stage"] == "OmniTuning" or bool(_SENSES & held["parts"].keys())


def show(reply: StreamedResponse, out: Path | None = None) -> None:
    """Prints an answer as it comes, and writes what is said of it into an audio file."""
    samples = 0
    with ExitStack() as stack:
        write = None if out is None else stack.enter_context(audio_writer(out))
        try:
            for piece in reply:
                if isinstance(piece, TextDelta):
                    print(piece.text, end="", flush=True)
                elif write is not None:
                    write(piece.samples)
                    samples += len(piece.samples)
        finally:
            print(flush=True)
    for line in reply.unspoken:
        print(f"omni: {line}", file=sys.stderr)
    if out is not None:
        print(f"{out}: {samples / SAMPLE_RATE:.2f} s{'' if samples else ', silent'}")


def _prompts(text: list[str] | str | None, file: str | None) -> list[str]:
    if text is not None and file is not None:
        raise UserError("give either text or file, not both")
    if text is not None:
        return [text] if isinstance(text, str) else text
    if file is None:
        return [""]
    try:
        lines = (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).splitlines()
    except OSError as error:
        raise UserError(f"prompts {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompts {file} are not UTF-8 (byte {error.start})") from error
    if not lines:
        raise UserError(f"prompts {file} are empty: write one prompt a line")
    return lines


def _print(prompts: list[str], deltas: Iterator[Delta]) -> None:
    """Prints the first unfinished row as it comes, and what the others said meanwhile once it is their turn."""
    waiting = [[prompt] for prompt in prompts]
    current = 0
    print(prompts[0], end="", flush=True)
    for row, piece in deltas:
        if row == current:
            print(piece, end="", flush=True)
        else:
            waiting[row].append(piece)
    print()
    for row in range(1, len(prompts)):
        print("-" * 8 + "\n" + "".join(waiting[row]))
