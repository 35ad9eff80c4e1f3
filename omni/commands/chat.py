"""The verb `chat`: a conversation in the terminal, or over a pipe."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omni.commands.generate import answers, show
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.images import read_image
from omni.media.video import read_video

HELP = """\
  /image FILE      show it with the next question; as often as you like
  /audio FILE      the same with a recording, which may hold the question: an empty line then sends it
  /video FILE      the same with an animated image, or a folder with frames
  /speak FOLDER    say the answers from now on, into FOLDER/0001.wav, 0002.wav, ...
  /speak off       and no longer
  /history         what was said
  /reset           begin anew
  /help            this
  /quit            end, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(
    checkpoint: str,
    *,
    system: str | None = None,
    speak: Path | None = None,
    voice: str | None = None,
    vocoder: str | None = None,
    speaker: int | str | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    context: int | None = None,
    device: str = "auto",
) -> None:
    """Converse about text, images and sound, in the terminal; /help tells how.

    Lines of standard input are questions, or commands that begin with a slash. A mistake is told in one line and the
    conversation goes on; if standard input is no terminal, the exit code then is 2. What no longer fits into the
    model's context is forgotten, the oldest exchange first, and told.

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt.
        system: A system message, in front of the conversation.
        speak: Say the answers into numbered files in this folder.
        voice: The checkpoint of a Talker that speaks; not needed where the model's holds one.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder.
        speaker: The number of a voice, or its name, for a Talker that has several.
        max_tokens: Most tokens of an answer.
        temperature: Spread of the choice; 0 always takes the likeliest token.
        top_k: Choose among this many tokens; 0 means all.
        top_p: Choose among the likeliest tokens that together hold this probability.
        repetition_penalty: Over 1, tokens already said become less likely.
        seed: The same seed gives the same answers.
        context: Most tokens that the model takes; as many as in training, if not given.
        device: cpu, cuda, or auto.
    """
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
    )
    if not answers(checkpoint):
        raise UserError(f"{checkpoint} only continues texts (`omni generate`): give a checkpoint of stage E")
    assistant = Assistant.from_pretrained(
        checkpoint, voice=voice, vocoder=vocoder, system=system, context=context, device=device
    )
    session = Session(assistant, {"max_tokens": max_tokens, "sampling": sampling, "speaker": speaker}, folder=speak)
    if not session.run() and not sys.stdin.isatty():
        raise SystemExit(2)


class Session:
    """A conversation that is read from standard input.

    Args:
        assistant: Answers.
        options: Of its answers.
        folder: Where they are spoken to; None: they are not.

    Raises:
        UserError: If they are to be spoken and there is no voice.
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
            "/help": lambda rest: print(HELP),
        }
        if folder is not None:
            self._speak(str(folder))

    def run(self) -> bool:
        """Answers until the input ends or /quit; returns whether all went well."""
        terminal, well = sys.stdin.isatty(), True
        if terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  lines can be edited and come back
            print("Ask; /help tells more.")
        while True:
            line = ""
            try:
                line = self._line(terminal)
                if line is None or line.strip() == "/quit":
                    return well
                self._answer(line.strip())
            except UserError as error:
                print(f"omni: {error}", file=sys.stderr)
                well = False
            except KeyboardInterrupt:
                if not (terminal or line):  # between two answers, and nobody there to type /quit
                    raise
                print("(stopped; /quit ends)", file=sys.stderr)

    def _line(self, terminal: bool) -> str | None:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            print()
            return None
        except UnicodeDecodeError as error:
            raise UserError(f"standard input is not UTF-8 (byte {error.start})") from error
        return line if line or terminal else None

    def _answer(self, line: str) -> None:
        if line.startswith("/"):
            name, _, rest = line.partition(" ")
            if name not in self.commands:
                raise UserError(f"there is no command {name}: /help tells what there is")
            self.commands[name](rest.strip())
            return
        if not line and not self.attached:
            return
        files, self.attached = self.attached, {}
        out = self._next_file()
        reply = self.assistant.chat(text=line, **files, speak=out is not None, **self.options)
        if reply.forgotten:
            print(f"(the first {reply.forgotten} messages do not fit any more and are left out)", file=sys.stderr)
        try:
            show(reply, out)
        finally:
            reply.close()

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

    def _attach(self, kind: str, medium: Any, told: str) -> None:
        self.attached.setdefault(kind, []).append(medium)
        print(f"({told}: ask about it)", file=sys.stderr)

    def _speak(self, folder: str) -> None:
        if not folder:
            where = f"into {self.folder}" if self.folder else "not"
            print(f"answers are {where} spoken", file=sys.stderr)
        elif folder == "off":
            self.folder = None
        elif self.assistant.voice is None:
            raise UserError("there is no voice to speak with: start with --voice, a Talker's checkpoint")
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.folder = Path(folder)

    def _next_file(self) -> Path | None:
        if self.folder is None:
            return None
        number = 1
        while (file := self.folder / f"{number:04d}.wav").exists():
            number += 1
        return file

    def _history(self, rest: str) -> None:
        for message in self.assistant.history:
            content = message["content"]
            parts = (
                [content] if isinstance(content, str) else [part.get("text") or f"[{part['type']}]" for part in content]
            )
            print(f"{message['role']}: {' '.join(parts)}")

    def _reset(self, rest: str) -> None:
        self.assistant.reset()
        self.attached = {}


def _path(file: str, command: str) -> Path:
    if not file:
        raise UserError(f"{command} needs a file: {command} FILE")
    return Path(file).expanduser()
