"""`omni chat`: a conversation in the terminal, or over a pipe."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omni.checkpoints.checkpoint import Checkpoint
from omni.commands.generate import answers_questions, print_response
from omni.commands.talker_options import TalkerOptions
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.images import read_image
from omni.media.video import read_video

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
) -> None:
    """Converse about text, images and audio, in the terminal; /help lists the commands.

    Each line of standard input is a question, or a command that starts with a slash. An error is printed in one line
    and the conversation continues; if standard input is not a terminal, the exit code is then 2. When the conversation
    exceeds the context, its oldest exchanges are dropped, with a note.

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt.
        system: A system message before the conversation.
        speak: Speak the answers into numbered files in this folder.
        talker: The voice.
        max_tokens: Most tokens of an answer.
        sampling: How tokens are chosen.
        context: Most tokens of a conversation; by default as in training.
        device: cpu, cuda, or auto.
    """
    opened = Checkpoint(checkpoint)
    if not answers_questions(opened):
        raise UserError(f"{checkpoint} only continues texts (`omni generate`): give a checkpoint of stage E")
    assistant = Assistant.from_pretrained(
        opened, voice=talker.voice, vocoder=talker.vocoder, system=system, context=context, device=device
    )
    options = {"max_tokens": max_tokens, "sampling": sampling, "speaker": talker.speaker}
    session = Session(assistant, options, folder=speak)
    if not session.run() and not sys.stdin.isatty():
        raise SystemExit(2)


class Session:
    """A conversation that is read from standard input.

    Args:
        assistant: The model.
        options: Options of `Assistant.chat`.
        folder: Folder for spoken answers; None: they are not spoken.

    Raises:
        UserError: If answers are to be spoken and there is no Talker.
    """

    def __init__(self, assistant: Assistant, options: dict[str, Any], *, folder: Path | None = None) -> None:
        self.assistant, self.options = assistant, options
        self.folder: Path | None = None
        self.attached: dict[str, list[Any]] = {}
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/audio": self._audio,
            "/video": self._video,
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
            print_response(response, out)
        finally:
            response.close()

    # ------------------------------------------------------------------ commands

    def _image(self, file: str) -> None:
        pixels = read_image(_path(file, "/image"))
        self._attach("image", pixels, f"{file}, {pixels.shape[2]} × {pixels.shape[1]} pixels")

    def _audio(self, file: str) -> None:
        samples = read_audio(_path(file, "/audio"))
        self._attach("audio", samples, f"{file}, {len(samples) / SAMPLE_RATE:.1f} s")

    def _video(self, file: str) -> None:
        frames, times = read_video(_path(file, "/video"))
        self._attach("video", {"frames": frames, "times": times}, f"{file}, {len(frames)} frames")

    def _attach(self, kind: str, medium: Any, description: str) -> None:
        self.attached.setdefault(kind, []).append(medium)
        print(f"(attached {description})", file=sys.stderr)

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
