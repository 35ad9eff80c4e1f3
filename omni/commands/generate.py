"""`omni generate`: continues a text, or answers a question about text, images and audio."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from omni.checkpoints.checkpoint import Checkpoint
from omni.commands.inputs import read_text
from omni.commands.talker_options import TalkerOptions
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.inference.prompt import question
from omni.inference.response import StreamedResponse, TextDelta
from omni.inference.text import Delta, load
from omni.media.audio import SAMPLE_RATE, audio_format, audio_writer

_BATCH = 16  # questions
_SEPARATOR = "-" * 8


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
    talker: TalkerOptions = TalkerOptions(),  # noqa: B008  immutable
    max_tokens: int = 128,
    temperature: float | None = None,
    sampling: Sampling = Sampling(top_p=0.95),  # noqa: B008  immutable
    num_samples: int = 1,
    device: str = "auto",
) -> None:
    """Continue a text with a trained Thinker, or answer questions about text, images and audio; prints as it generates.

    A checkpoint of stage A continues texts. One of stage E answers: each text is a question about the given images,
    recordings and videos. Several prompts run in one batch and are printed in order.

    Args:
        checkpoint: A checkpoint that holds a Thinker, such as lightning_logs/thinker/best.ckpt or omni/best.ckpt.
        text: A text to continue or a question, or several: '[one, another]'. If missing, documents are generated.
        file: A file with one prompt per line; `-` reads standard input.
        image: Images that the question is about (JPEG, PNG, WebP, ...).
        audio: Recordings that it is about (WAV, FLAC, OGG, MP3, ...); they may contain the question.
        video: Animated images, or folders of frames one second apart. Eight frames of each are used.
        system: A system message before the question.
        speak: Speak the answer into this audio file (.wav, .flac, ...), starting with its first clause.
        talker: The voice.
        max_tokens: Most new tokens.
        temperature: Divides the logits; 0 takes the likeliest token. Default: 0.8 for texts, 0 for answers.
        sampling: How tokens are chosen.
        num_samples: Number of results for each prompt.
        device: cpu, cuda, or auto.
    """
    if num_samples < 1:
        raise UserError(f"num_samples must be 1 or more, not {num_samples}")
    prompts = [prompt for prompt in _prompts(text, file) for _ in range(num_samples)]
    opened = Checkpoint(checkpoint)
    answering = answers_questions(opened)
    sampling = replace(sampling, temperature=(0.0 if answering else 0.8) if temperature is None else temperature)
    options: dict[str, Any] = {"max_tokens": max_tokens, "sampling": sampling}
    files = {"image": image or [], "audio": audio or [], "video": video or []}
    if answering:
        if speak is not None:
            audio_format(speak)  # before all the work
            if len(prompts) > 1:
                raise UserError(f"--speak takes one answer, and there are {len(prompts)}: ask one question")
        assistant = Assistant.from_pretrained(
            opened, voice=talker.voice, vocoder=talker.vocoder, system=system, device=device
        )
        _print_answers(assistant, prompts, files, speak, talker.speaker, options)
        return
    for name, value in {**files, "speak": speak, "system": system}.items():
        if value:
            raise UserError(f"{checkpoint} only continues texts: --{name} needs a checkpoint of stage E")
    _print_continuations(prompts, load(opened, device=device).stream(prompts, **options))


def answers_questions(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's Thinker answers questions, rather than continues texts."""
    multimodal = "vision_projector" in checkpoint or "audio_projector" in checkpoint
    return multimodal or checkpoint.lineage["stage"] == "OmniTuning"


def print_response(response: StreamedResponse, out: Path | None = None) -> None:
    """Prints an answer while it is generated, and writes its speech into an audio file."""
    samples = 0
    with ExitStack() as stack:
        write = None if out is None else stack.enter_context(audio_writer(out))
        try:
            for delta in response:
                if isinstance(delta, TextDelta):
                    print(delta.text, end="", flush=True)
                elif write is not None:
                    write(delta.samples)
                    samples += len(delta.samples)
        finally:
            print(flush=True)
    for line in response.unspoken:
        print(f"omni: {line}", file=sys.stderr)
    if out is not None:
        print(f"{out}: {samples / SAMPLE_RATE:.2f} s{'' if samples else ', silent'}")


def _prompts(text: list[str] | str | None, file: str | None) -> list[str]:
    if text is not None and file is not None:
        raise UserError("give either text or file, not both")
    if file is None:
        return text if isinstance(text, list) else [text or ""]
    lines = read_text(file).splitlines()
    if not lines:
        raise UserError(f"{file} is empty: write one prompt per line")
    return lines


def _print_answers(
    assistant: Assistant,
    prompts: Sequence[str],
    files: Mapping[str, list[str]],
    speak: Path | None,
    speaker: int | str | None,
    options: dict[str, Any],
) -> None:
    if len(prompts) == 1:
        response = assistant.chat(text=prompts[0], **files, speak=speak is not None, speaker=speaker, **options)
        print_response(response, speak)
        if response.unspoken:
            raise SystemExit(2)
        return
    questions = [assistant.prompt([question(prompt, **files)], max_tokens=options["max_tokens"]) for prompt in prompts]
    for first in range(0, len(questions), _BATCH):
        for number, answer in enumerate(assistant.answer(questions[first : first + _BATCH], **options), start=first):
            print(f"{_SEPARATOR}\n{answer}" if number else answer)


def _print_continuations(prompts: Sequence[str], deltas: Iterator[Delta]) -> None:
    """Prints the first row as it is generated; the others follow once it is complete."""
    rows = [[prompt] for prompt in prompts]
    print(prompts[0], end="", flush=True)
    for row, text in deltas:
        if row:
            rows[row].append(text)
        else:
            print(text, end="", flush=True)
    print()
    for row in rows[1:]:
        print(_SEPARATOR, "".join(row), sep="\n")
