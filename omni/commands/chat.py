"""`omni chat`: a conversation in the terminal, or over a pipe."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sized
from functools import partial
from pathlib import Path
from typing import Any, Literal

from omni.commands.generate import answers_questions, print_reply, print_response
from omni.commands.talker_options import TalkerOptions
from omni.decoding.sampling_options import Sampling
from omni.errors import UserError
from omni.media.mel_scale import SAMPLE_RATE
from omni.runtime.exported import check_cpu, uses_onnx

Reader = Callable[[Path], tuple[Any, str]]

HELP = """\
  /image FILE      attach an image to the next question; may be repeated
  /audio FILE      attach a recording, which may contain the question: an empty line then sends it
  /video FILE      attach an animated image, or a folder of frames
  /speak FOLDER    speak the next answers, into FOLDER/0001.wav, 0002.wav, ...
  /speak off       stop speaking them
  /history         print the conversation
  /reset           start a new conversation
  /help            print this
  /quit            exit, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(
    checkpoint: str,
    *,
    system: str | None = None,
    speak: Path | None = None,
    talker: TalkerOptions = TalkerOptions(),  # noqa: B008  immutable
    max_tokens: int = 128,
    sampling: Sampling = Sampling(temperature=0.0, top_p=0.95),  # noqa: B008  immutable
    context: int | None = None,
    device: str = "auto",
    runtime: Literal["auto", "onnx", "torch"] = "auto",
) -> None:
    """Converse about text, images and audio, in the terminal; /help lists the commands.

    Each line of standard input is a question, or a command that starts with a slash. An error is printed in one line
    and the conversation continues; if standard input is not a terminal, the exit code is then 2. When the conversation
    exceeds the context, its oldest exchanges are dropped, with a note.

    Example:
        omni chat --checkpoint lightning_logs/omni/best.ckpt

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt; or a folder of
            `omni export --to onnx`, which runs without PyTorch on the CPU.
        system: A system message before the conversation.
        speak: Speak the answers into numbered files in this folder.
        talker: The voice.
        max_tokens: Most tokens of an answer.
        sampling: How tokens are chosen.
        context: Most tokens of a conversation; by default as in training.
        device: cpu, cuda, or auto.
        runtime: `onnx`: `checkpoint` must be an exported folder; `torch`: a checkpoint; auto: either.
    """
    options = {"max_tokens": max_tokens, "sampling": sampling, "speaker": talker.speaker}
    given: dict[str, Any] = {"system": system, "context": context}
    if uses_onnx(checkpoint, runtime):
        check_cpu(device)
        talker.check_exported()
        session = _session_of_export(checkpoint, options, speak, **given)
    else:
        session = _session_of_checkpoint(checkpoint, options, speak, talker, device=device, **given)
    if not session.run() and not sys.stdin.isatty():
        raise SystemExit(2)


def _session_of_checkpoint(
    checkpoint: str, options: dict[str, Any], speak: Path | None, talker: TalkerOptions, **given: Any
) -> "Session":
    from omni.checkpoints.checkpoint import Checkpoint
    from omni.inference.assistant import Assistant
    from omni.media.audio import read_audio
    from omni.media.images import read_image
    from omni.media.video import read_video

    def image(path: Path) -> tuple[Any, str]:
        pixels = read_image(path)
        return pixels, f"{pixels.shape[2]} × {pixels.shape[1]} pixels"

    def audio(path: Path) -> tuple[Any, str]:
        samples = read_audio(path)
        return samples, _seconds(samples)

    def video(path: Path) -> tuple[Any, str]:
        frames, times = read_video(path)
        return {"frames": frames, "times": times}, f"{len(frames)} frames"

    opened = Checkpoint(checkpoint)
    if not answers_questions(opened):
        raise UserError(f"{checkpoint} only continues texts (`omni generate`): give a checkpoint of stage E")
    assistant = Assistant.from_pretrained(opened, voice=talker.voice, vocoder=talker.vocoder, **given)
    readers = {"image": image, "audio": audio, "video": video}
    return Session(assistant, options, readers, print_response, folder=speak)


def _session_of_export(folder: str, options: dict[str, Any], speak: Path | None, **given: Any) -> "Session":
    from omni.media.image_file import read_bytes, read_rgb
    from omni.runtime.assistant import Assistant
    from omni.runtime.audio import read_audio

    def image(path: Path) -> tuple[Any, str]:
        content = read_bytes(path)
        width, height = read_rgb(content, name=str(path)).size
        return content, f"{width} × {height} pixels"

    def audio(path: Path) -> tuple[Any, str]:
        samples = read_audio(path)
        return samples, _seconds(samples)

    def video(path: Path) -> tuple[Any, str]:
        raise UserError("an exported model reads images and recordings: /video needs the checkpoint")

    readers = {"image": image, "audio": audio, "video": video}
    return Session(Assistant(folder, **given), options, readers, print_reply, folder=speak)


def _seconds(samples: Sized) -> str:
    return f"{len(samples) / SAMPLE_RATE:.1f} s"


class Session:
    """A conversation that is read from standard input.

    Args:
        assistant: The model.
        options: Options of `Assistant.chat`.
        readers: By kind of media, a function that reads a file and returns what the model takes, and its size in words.
        show: Prints an answer while it is generated, and writes its speech into a file.
        folder: Folder for spoken answers; None: they are not spoken.

    Raises:
        UserError: If answers are to be spoken and there is no Talker.
    """

    def __init__(
        self,
        assistant: Any,
        options: dict[str, Any],
        readers: Mapping[str, Reader],
        show: Callable[[Any, Path | None], None],
        *,
        folder: Path | None = None,
    ) -> None:
        self.assistant, self.options, self.readers, self.show = assistant, options, readers, show
        self.folder: Path | None = None
        self.attached: dict[str, list[Any]] = {}
        self.commands: dict[str, Callable[[str], None]] = {
            **{f"/{kind}": partial(self._attach, kind) for kind in readers},
            "/speak": self._speak,
            "/history": self._history,
            "/reset": self._reset,
            "/help": lambda argument: print(HELP),
        }
        if folder is not None:
            self._speak(str(folder))

    def run(self) -> bool:
        """Answers until the input ends or /quit; returns whether there were no errors."""
        terminal, succeeded = sys.stdin.isatty(), True
        if terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  line editing and history
            print("Ask a question; /help lists the commands.")
        while True:
            line = ""
            try:
                line = self._line(terminal)
                if line is None or line.strip() == "/quit":
                    return succeeded
                self._handle(line.strip())
            except UserError as error:
                print(f"omni: {error}", file=sys.stderr)
                succeeded = False
            except KeyboardInterrupt:
                if not (terminal or line):  # between two answers of a pipe: nobody can type /quit
                    raise
                print("(stopped; /quit exits)", file=sys.stderr)

    def _line(self, terminal: bool) -> str | None:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            print()
            return None
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not UTF-8 (byte {error.start})") from error
        return line if line or terminal else None

    def _handle(self, line: str) -> None:
        if line.startswith("/"):
            command, _, argument = line.partition(" ")
            if command not in self.commands:
                raise UserError(f"unknown command {command}: /help lists the commands")
            self.commands[command](argument.strip())
        elif line or self.attached:
            self._answer(line)

    def _answer(self, question: str) -> None:
        files, self.attached = self.attached, {}
        out = None if self.folder is None else _next_file(self.folder)
        response = self.assistant.chat(text=question, **files, speak=out is not None, **self.options)
        if response.forgotten:
            print(f"(the first {response.forgotten} messages do not fit any more and are left out)", file=sys.stderr)
        try:
            self.show(response, out)
        finally:
            response.close()

    # ------------------------------------------------------------------ commands

    def _attach(self, kind: str, file: str) -> None:
        medium, size = self.readers[kind](_path(file, f"/{kind}"))
        self.attached.setdefault(kind, []).append(medium)
        print(f"(attached {file}, {size})", file=sys.stderr)

    def _speak(self, folder: str) -> None:
        if not folder:
            where = f"into {self.folder}" if self.folder else "not"
            print(f"answers are {where} spoken", file=sys.stderr)
        elif folder == "off":
            self.folder = None
        elif self.assistant.voice is None:
            raise UserError("no Talker to speak with: start with --voice and a Talker's checkpoint")
        else:
            self.folder = Path(folder)
            self.folder.mkdir(parents=True, exist_ok=True)

    def _history(self, argument: str) -> None:
        for message in self.assistant.history:
            content = message["content"]
            parts = [{"text": content}] if isinstance(content, str) else content
            print(f"{message['role']}:", *(part.get("text") or f"[{part['type']}]" for part in parts))

    def _reset(self, argument: str) -> None:
        self.assistant.reset()
        self.attached = {}


def _next_file(folder: Path) -> Path:
    number = 1
    while (file := folder / f"{number:04d}.wav").exists():
        number += 1
    return file


def _path(file: str, command: str) -> Path:
    if not file:
        raise UserError(f"{command} needs a file: {command} FILE")
    return Path(file).expanduser()
