"""`omni generate`: continues a text, or answers a question about text, images and audio."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omni.commands.inputs import read_text
from omni.commands.talker_options import TalkerOptions
from omni.decoding.sampling_options import Sampling
from omni.errors import UserError
from omni.media.audio_writer import audio_format, samples_writer
from omni.runtime.assistant import Assistant as ExportedAssistant
from omni.runtime.assistant import Reply
from omni.runtime.exported import check_cpu, parts_of, uses_onnx
from omni.runtime.text_generator import OMNI_THINKER, TextGenerator

if TYPE_CHECKING:  # with PyTorch, which an exported folder does not need
    from omni.checkpoints.checkpoint import Checkpoint
    from omni.inference.assistant import Assistant
    from omni.inference.response import StreamedResponse


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
    runtime: Literal["auto", "onnx", "torch"] = "auto",
) -> None:
    """Continue a text with a trained Thinker, or answer questions about text, images and audio; prints as it generates.

    A checkpoint of stage A continues texts. One of stage E answers: each text is a question about the given images,
    recordings and videos. Several prompts run in one batch and are printed in order.

    Example:
        omni generate --checkpoint lightning_logs/omni/best.ckpt --image a.png --text "What is this?"

    Args:
        checkpoint: A checkpoint that holds a Thinker, such as lightning_logs/thinker/best.ckpt or omni/best.ckpt; or a
            folder of `omni export --to onnx`, which runs without PyTorch on the CPU.
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
        runtime: `onnx`: `checkpoint` must be an exported folder; `torch`: a checkpoint; auto: either.
    """
    if num_samples < 1:
        raise UserError(f"num_samples must be 1 or more, not {num_samples}")
    prompts = [prompt for prompt in _prompts(text, file) for _ in range(num_samples)]
    files = {"image": image or [], "audio": audio or [], "video": video or []}
    options: dict[str, Any] = {"max_tokens": max_tokens, "sampling": sampling}
    answered = {"speak": speak, "system": system}
    if uses_onnx(checkpoint, runtime):
        check_cpu(device)
        talker.check_exported()
        if OMNI_THINKER in parts_of(checkpoint):
            _answer_exported(checkpoint, prompts, files, answered, talker.speaker, temperature, options)
            return
        if unusable := [name for name, value in {**files, "speak": speak}.items() if value]:
            raise UserError(f"an exported Thinker reads and writes text: --{unusable[0]} needs a model of stage E")
        _generate_exported(TextGenerator(checkpoint), prompts, system, temperature, options)
        return
    _generate_by_torch(checkpoint, prompts, files, answered, talker, temperature, options, device)


def _generate_by_torch(
    checkpoint: str,
    prompts: Sequence[str],
    files: Mapping[str, list[str]],
    answered: Mapping[str, Any],
    talker: TalkerOptions,
    temperature: float | None,
    options: dict[str, Any],
    device: str,
) -> None:
    """Prints continuations or answers of a checkpoint; `answered` are the options `speak` and `system` of answers."""
    from omni.checkpoints.checkpoint import Checkpoint
    from omni.inference.assistant import Assistant
    from omni.inference.text import load

    opened = Checkpoint(checkpoint)
    answering = answers_questions(opened)
    options["sampling"] = _with_temperature(options["sampling"], temperature, answering)
    if answering:
        _check_speak(answered["speak"], prompts)
        assistant = Assistant.from_pretrained(
            opened, voice=talker.voice, vocoder=talker.vocoder, system=answered["system"], device=device
        )
        _print_answers(assistant, prompts, files, answered["speak"], talker.speaker, options)
        return
    _only_continues(checkpoint, {**files, **answered})
    _print_continuations(prompts, load(opened, device=device).stream(prompts, **options))


def _check_speak(speak: Path | None, prompts: Sequence[str]) -> None:
    """Checks the file of a spoken answer, before all the work."""
    if speak is not None:
        audio_format(speak)
        if len(prompts) > 1:
            raise UserError(f"--speak takes one answer, and there are {len(prompts)}: ask one question")


def _answer_exported(
    folder: str,
    prompts: Sequence[str],
    files: Mapping[str, list[str]],
    answered: Mapping[str, Any],
    speaker: int | str | None,
    temperature: float | None,
    options: dict[str, Any],
) -> None:
    """Prints answers of an exported model of stage E; `answered` as in `_generate_by_torch`."""
    if files["video"]:
        raise UserError("an exported model reads images and recordings: --video needs the checkpoint")
    speak = answered["speak"]
    _check_speak(speak, prompts)
    assistant = ExportedAssistant(folder, system=answered["system"])
    options["sampling"] = _with_temperature(options["sampling"], temperature, answering=True)
    unspoken = False
    for number, prompt in enumerate(prompts):
        assistant.reset()
        if number:
            print(_SEPARATOR)
        asked = {"image": files["image"], "audio": files["audio"], "row": number % _BATCH}
        reply = assistant.chat(prompt, **asked, speak=speak is not None, speaker=speaker, **options)
        print_reply(reply, speak)
        unspoken = unspoken or bool(reply.unspoken)
    if unspoken:
        raise SystemExit(2)


def _with_temperature(sampling: Sampling, temperature: float | None, answering: bool) -> Sampling:
    return replace(sampling, temperature=(0.0 if answering else 0.8) if temperature is None else temperature)


def _only_continues(checkpoint: str, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value:
            raise UserError(f"{checkpoint} only continues texts: --{name} needs a checkpoint of stage E")


def _generate_exported(
    model: TextGenerator, prompts: Sequence[str], system: str | None, temperature: float | None, options: dict[str, Any]
) -> None:
    """Prints continuations or answers of an exported Thinker."""
    options["sampling"] = _with_temperature(options["sampling"], temperature, model.template is not None)
    if model.template is None:
        _only_continues("the exported Thinker", {"system": system})
        _print_continuations(prompts, model.stream(prompts, **options))
        return
    head = [{"role": "system", "content": system}] if system else []
    for number, prompt in enumerate(prompts):
        if number:
            print(_SEPARATOR)
        for text in model.answer([*head, {"role": "user", "content": prompt}], row=number % _BATCH, **options):
            print(text, end="", flush=True)
        print()


def answers_questions(checkpoint: "Checkpoint") -> bool:
    """Whether a checkpoint's Thinker answers questions, rather than continues texts."""
    checkpoint.check_lineage()
    multimodal = "vision_projector" in checkpoint or "audio_projector" in checkpoint
    return multimodal or checkpoint.lineage["stage"] == "OmniTuning"


def print_response(response: "StreamedResponse", out: Path | None = None) -> None:
    """Prints an answer while it is generated, and writes its speech into an audio file."""
    from omni.inference.response import TextDelta

    pieces = (one.text if isinstance(one, TextDelta) else one.samples.numpy() for one in response)
    _print_pieces(pieces, response.unspoken, out, response.sample_rate)


def print_reply(reply: Reply, out: Path | None = None) -> None:
    """As `print_response`, of an exported model."""
    _print_pieces(reply, reply.unspoken, out, reply.sample_rate)


def _print_pieces(pieces: Iterable[Any], unspoken: Sequence[str], out: Path | None, sample_rate: int) -> None:
    """Prints the texts of an answer, and writes its samples."""
    samples = 0
    with ExitStack() as stack:
        write = None if out is None else stack.enter_context(samples_writer(out, sample_rate=sample_rate))
        try:
            for piece in pieces:
                if isinstance(piece, str):
                    print(piece, end="", flush=True)
                elif write is not None:
                    write(piece)
                    samples += len(piece)
        finally:
            print(flush=True)
    for line in unspoken:
        print(f"omni: {line}", file=sys.stderr)
    if out is not None:
        print(f"{out}: {samples / sample_rate:.2f} s{'' if samples else ', silent'}")


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
    assistant: "Assistant",
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
    from omni.inference.prompt import question

    questions = [assistant.prompt([question(prompt, **files)], max_tokens=options["max_tokens"]) for prompt in prompts]
    for first in range(0, len(questions), _BATCH):
        for number, answer in enumerate(assistant.answer(questions[first : first + _BATCH], **options), start=first):
            print(f"{_SEPARATOR}\n{answer}" if number else answer)


def _print_continuations(prompts: Sequence[str], deltas: Iterator[tuple[int, str]]) -> None:
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
