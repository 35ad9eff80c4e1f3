"""The models that a server has, and the names by which clients ask for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.acceleration import accelerate
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.inference.recognizer import Recognizer, load_recognizer
from omni.inference.synthesizer import Synthesizer, load_synthesizer
from omni.media.audio import SAMPLE_RATE
from omni.serving.errors import ApiError
from omni.text.spelling import SpeechSegment

# Names of OpenAI's models, which some clients cannot change.
_ALIASES = {
    "speech": ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
    "transcription": ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
}
OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip
DEFAULT_VOICE = "default"  # name of the only voice of a Talker


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The models to serve. Any of `checkpoint`, `voice` and `recognizer` will do.

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt.
        voice: A Talker's checkpoint; not needed if `checkpoint` holds a Talker.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder; by default that of the voice, else griffin-lim.
        recognizer: A checkpoint of stage B, for transcriptions.
        system: System message of conversations that have none.
        context: Most tokens of a conversation; by default as in training.
        device: cpu, cuda, or auto.
        compile: Compile the steps of Thinker and Talker; see `omni.decoding.acceleration.accelerate`.
        int8: Multiply single tokens and frames by weights of 8 bits on a CPU.
    """

    checkpoint: str | None = None
    voice: str | None = None
    vocoder: str | None = None
    recognizer: str | None = None
    system: str | None = None
    context: int | None = None
    device: str = "auto"
    compile: bool = False
    int8: bool = False


@dataclass(frozen=True)
class ModelName:
    """A model as clients see it.

    Attributes:
        id: Its name in requests.
        created: Seconds since 1970: when its checkpoint was written.
        uses: What it does: `chat`, `speech`, `transcription`.
    """

    id: str
    created: int
    uses: tuple[str, ...]

    @property
    def body(self) -> dict[str, Any]:
        """As `GET /v1/models` lists it; `uses` is not of OpenAI's."""
        return {"id": self.id, "object": "model", "created": self.created, "owned_by": "omni", "uses": self.uses}


@dataclass(frozen=True, kw_only=True)
class ServedModels:
    """The models of a server; any of them may be missing.

    Attributes:
        assistant: Answers questions about text, images and audio.
        synthesizer: Speaks texts and answers.
        recognizer: Transcribes recordings.
        names: Models by name.
    """

    assistant: Assistant | None = None
    synthesizer: Synthesizer | None = None
    recognizer: Recognizer | None = None
    names: Sequence[ModelName] = field(default=())

    def __post_init__(self) -> None:
        if self.assistant is None and self.synthesizer is None and self.recognizer is None:
            raise UserError("there is nothing to serve: give --checkpoint, --voice or --recognizer")

    @classmethod
    def load(cls, options: "ModelOptions") -> "ServedModels":
        """Loads checkpoints.

        Raises:
            UserError: If there is none, or one is missing, damaged or lacks a part.
        """
        uses: dict[str, Source] = {}
        checkpoint, voice, vocoder, device = options.checkpoint, options.voice, options.vocoder, options.device
        assistant = None
        if checkpoint is not None:
            system, context = options.system, options.context
            assistant = Assistant.from_pretrained(
                checkpoint, voice=voice, vocoder=vocoder, system=system, context=context, device=device
            )
            uses["chat"] = checkpoint
        synthesizer = None if assistant is None else assistant.voice
        if voice is not None and synthesizer is None:
            opened = Checkpoint.open(voice)
            chosen = vocoder or (opened if "vocoder" in opened else GRIFFIN_LIM)
            synthesizer = load_synthesizer(opened, vocoder=chosen, device=device)
        if vocoder is not None and synthesizer is None:
            raise UserError("--vocoder needs a Talker: give --voice")
        if synthesizer is not None and (speaker := checkpoint if voice is None else voice) is not None:
            uses["speech"] = speaker
        steps = (assistant and assistant.responder.omni.thinker, synthesizer and synthesizer.talker)
        accelerate(steps, compile=options.compile, int8=options.int8)
        recognizer = None
        if options.recognizer is not None:
            recognizer = load_recognizer(options.recognizer, device=device)
            uses["transcription"] = options.recognizer
        return cls(assistant=assistant, synthesizer=synthesizer, recognizer=recognizer, names=_names(uses))

    def warm_up(self) -> None:
        """Runs each model once: PyTorch's first call of each kind takes longer."""
        if self.assistant is not None:
            prompt = self.assistant.prompt([{"role": "user", "content": "a"}], max_tokens=2)
            for _ in self.assistant.responder.stream(prompt, max_tokens=2):
                pass
        if self.synthesizer is not None:
            units = self.synthesizer.units
            letter = next(unit for unit in range(1, units.vocab_size) if units.surface(unit).strip())
            for _ in self.synthesizer.stream([SpeechSegment([letter], 0.0)]):
                pass
        if self.recognizer is not None:
            self.recognizer.transcribe(torch.zeros(SAMPLE_RATE))

    def named(self, name: str) -> ModelName:
        """The model of a name.

        Raises:
            ApiError: If there is none.
        """
        for model in self.names:
            if model.id == name:
                return model
        raise self._unknown(name, self.names)

    def check(self, name: str, use: str) -> None:
        """Checks the name in a request: that of a model for this use, or a name of OpenAI's.

        Raises:
            ApiError: If there is no such model, or none for this use.
        """
        fitting = [model for model in self.names if use in model.uses]
        if not fitting:
            raise ApiError(404, f"This server has no model for {use}.", param="model", code="model_not_found")
        if name not in _ALIASES.get(use, ()) and all(model.id != name for model in fitting):
            raise self._unknown(name, fitting)

    def _unknown(self, name: str, known: Sequence[ModelName]) -> ApiError:
        names = ", ".join(model.id for model in known)
        message = f"There is no model {name!r} here: use {names}."
        return ApiError(404, message, param="model", code="model_not_found")

    @property
    def voices(self) -> list[str]:
        """Names of the voices."""
        if self.synthesizer is None:
            return []
        count = self.synthesizer.talker.num_speakers
        return (self.synthesizer.speakers or [str(number) for number in range(count)]) if count else [DEFAULT_VOICE]

    def speaker(self, voice: str | None, *, param: str) -> int | str | None:
        """The speaker of a voice: its name, its number, or a name of OpenAI's, which stand for voices in turn.

        Args:
            voice: The name in a request; the first voice by default.
            param: Its field, for errors.

        Raises:
            ApiError: If there is no such voice.
        """
        voices = self.voices
        if voice is None or voice == DEFAULT_VOICE:
            return None
        if voice in OPENAI_VOICES and voice not in voices:
            return None if voices == [DEFAULT_VOICE] else OPENAI_VOICES.index(voice) % len(voices)
        if voice in voices:
            return voices.index(voice)
        if voice.isascii() and voice.isdigit() and len(voice) < 9 and int(voice) < len(voices):
            return None if voices == [DEFAULT_VOICE] else int(voice)
        raise ApiError(400, f"There is no voice {voice!r}: use {', '.join(voices[:20])}.", param=param)


def _names(uses: Mapping[str, Source]) -> list[ModelName]:
    """The names of checkpoints: of their folders where files are called `best.ckpt` or `last.ckpt`."""
    found: dict[str, ModelName] = {}
    for use, source in uses.items():
        path = source.path if isinstance(source, Checkpoint) else Path(source)
        path = path.absolute()
        name = path.parent.name if path.stem in ("best", "last") else path.stem
        before = found.get(name)
        created = int(path.stat().st_mtime)
        found[name] = ModelName(name, created, (use,) if before is None else (*before.uses, use))
    return [*found.values()]
