"""A trained model that converses, without Lightning: text, images and sound in; text and speech out, as they come."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.sampling import Sampling
from omni.decoding.talker import SpeechSampling
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.prompt import Message, Prompt, PromptReader, Turn, question
from omni.inference.responder import Responder
from omni.inference.response import AudioChunk, StreamedResponse, TextDelta
from omni.inference.speech_streamer import SpeechStreamer
from omni.inference.synthesizer import GRIFFIN_LIM, Speech, Synthesizer, load_synthesizer
from omni.media.images import Preprocessing
from omni.models.interfaces import ImageEncoder, SpeechEncoder
from omni.models.omni import Omni
from omni.models.part import Part
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.projector import Projector
from omni.models.thinker import Thinker
from omni.text.chat_template import Template, stop_token
from omni.text.tokenizer import Tokenizer

CONTEXT = 512  # tokens, where a checkpoint does not tell
MAX_TOKENS = 128  # of an answer

_ENCODERS: dict[str, type[Part]] = {"vision": ImageEncoder, "audio": SpeechEncoder}


class Assistant:
    """A Thinker with eyes and ears, a voice if there is one, and the history of a conversation.

    Args:
        omni: The model, in eval mode.
        tokenizer: Its Thinker's.
        preprocessing: Brings images to its size; None for a model that sees none.
        context: Most tokens of a conversation, the answer counted.
        template: How conversations are laid out, as in training; see `omni.text.chat_template.encode_chat`.
        system: What every conversation begins with, as a message of role system.
        voice: Says answers aloud.
        device: Where the model runs.
    """

    def __init__(
        self,
        omni: Omni,
        tokenizer: Tokenizer,
        *,
        preprocessing: Preprocessing | None = None,
        context: int = CONTEXT,
        template: Template = "chat",
        system: str | None = None,
        voice: Synthesizer | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        stop = stop_token(tokenizer, template)
        self.writer, self.voice = Responder(omni, tokenizer, context=context, stop=stop, device=device), voice
        self.reader = PromptReader(
            tokenizer,
            omni.layout,
            preprocessing=preprocessing,
            num_mels=None if omni.audio_encoder is None else omni.audio_encoder.num_mels,
            context=context,
            template=template,
        )
        self._head = [] if system is None else self.reader.turns([{"role": "system", "content": system}])
        self._turns: list[Turn] = []
        self._reply: StreamedResponse | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: Source,
        *,
        voice: Source | None = None,
        vocoder: Source | None = None,
        system: str | None = None,
        context: int | None = None,
        device: str = "auto",
    ) -> "Assistant":
        """Loads a model from the checkpoint of stage E; what is pretrained in it, from where it came.

        Args:
            path: The checkpoint.
            voice: The checkpoint of a Talker; if not given, the one that holds the model, where it holds a Talker too.
            vocoder: `griffin-lim`, or a checkpoint that holds a vocoder; if not given, the voice's checkpoint where it
                holds one, else Griffin–Lim.
            system: See `Assistant`.
            context: As long as conversations were in training, if not given.
            device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

        Raises:
            UserError: If a checkpoint is missing, damaged or lacks a part, or the device is not there.
        """
        opened = Checkpoint.open(path)
        checkpoint = opened.content
        thinker, tokenizer = opened.part("thinker", Thinker, PretrainedThinker), opened.tokenizer
        parts: dict[str, Any] = {}
        for sense, encoder in _ENCODERS.items():
            if f"{sense}_projector" in opened:
                parts[f"{sense}_encoder"] = opened.part(f"{sense}_encoder", encoder)
                parts[f"{sense}_projector"] = opened.part(f"{sense}_projector", Projector)
        seen = checkpoint.get("images") if "vision_encoder" in parts else None
        thinker.transpose_weights_for_decoding()
        if voice is None and "talker" in opened and "codec" in opened:
            voice = opened
        speaks = None
        if voice is not None:
            speaker = Checkpoint.open(voice, opened=opened)
            if vocoder is None:
                vocoder = speaker if "vocoder" in speaker else GRIFFIN_LIM
            elif str(vocoder) == str(opened):
                vocoder = opened
            speaks = load_synthesizer(speaker, vocoder=vocoder, device=device)
        return cls(
            Omni(thinker, **parts).eval(),
            tokenizer,
            preprocessing=None if seen is None else Preprocessing(seen["size"], seen["fit"]),
            context=context or checkpoint.get("context", CONTEXT),
            template=checkpoint.get("template", "chat"),
            system=system,
            voice=speaks,
            device=resolve(device),
        )

    # ------------------------------------------------------------------ conversing

    @property
    def history(self) -> list[Message]:
        """The messages of the conversation so far, the system's left out."""
        return [turn.message for turn in self._turns]

    def reset(self) -> None:
        """Forgets the conversation; the system message stays."""
        self._settle()
        self._turns = []

    def chat(
        self,
        messages: Sequence[Message] | None = None,
        *,
        text: str | None = None,
        image: Any = None,
        audio: Any = None,
        video: Any = None,
        speak: bool = False,
        max_tokens: int = MAX_TOKENS,
        sampling: Sampling | None = None,
        speaker: int | str | None = None,
        speech: SpeechSampling | None = None,
    ) -> StreamedResponse:
        """Answers: either a question, which goes on with the history, or messages, which stand for themselves.

        What does not fit into the context is forgotten, the oldest exchange first; see `PromptReader.prompt`. Input is
        read at once; the answer is made while one iterates over it.

        Args:
            messages: A whole conversation, its last message a user's; see `PromptReader.turns`. The history is neither
                read nor written.
            text: What is asked.
            image: An image, or several: files, their contents as bytes, or pixels (3, height, width) of uint8. With
                `messages`, those of parts that name none.
            audio: A recording, or several: files, their contents, or samples (samples,) at 16 kHz; as `image`.
            video: See `omni.media.video.read_video`; one or several.
            speak: Whether the answer is also said, from its first clause on.
            max_tokens: Most tokens of the answer.
            sampling: How they are chosen; always the likeliest if not given.
            speaker: The number or name of a voice, for a Talker that has several.
            speech: How speech is made.

        Returns:
            The answer, in pieces as they come.

        Raises:
            UserError: If there is nothing to answer, something cannot be read, taken in or said, or is too long.
        """
        self._settle()
        if max_tokens < 1:
            raise UserError(f"max_tokens must be 1 or more, not {max_tokens}")
        files = {"image": _several(image), "audio": _several(audio)}
        if messages is not None:
            if text is not None or video is not None:
                raise UserError("give either messages, or text and video: put these into the messages")
            turns, asked = self._read(messages, files), None
        else:
            asked = self.reader.turns([question(text, **files, video=_several(video))])
            turns = [*self._head, *self._turns, *asked]
        prompt = self.reader.prompt(turns, answer=max_tokens)
        aloud = self._aloud(speaker, speech) if speak else None
        pieces = self._pieces(prompt, asked, aloud, max_tokens, sampling)
        self._reply = StreamedResponse(pieces, prompt.forgotten, [] if aloud is None else aloud.unspoken)
        return self._reply

    def speak(self, text: str, *, speaker: int | str | None = None, speech: SpeechSampling | None = None) -> Speech:
        """Says a text as `chat` says an answer, all at once.

        Raises:
            UserError: If there is no voice.
        """
        return self._aloud(speaker, speech).whole(text)

    # ------------------------------------------------------------------ many at a time

    def prompt(self, messages: Sequence[Message], *, max_tokens: int = MAX_TOKENS) -> Prompt:
        """Reads a whole conversation, apart from the history, for `answer`; arguments and errors as of `chat`."""
        return self.reader.prompt(self._read(messages), answer=max_tokens)

    def answer(
        self,
        prompts: Sequence[Prompt | Sequence[Message]],
        *,
        max_tokens: int = MAX_TOKENS,
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Answers conversations together, apart from the history.

        Args:
            prompts: From `prompt`, or messages as `chat` takes them.
            max_tokens: Most tokens of an answer.
            sampling: How they are chosen; always the likeliest if not given.

        Returns:
            The answer to each.

        Raises:
            UserError: As of `chat`.
        """
        if not prompts:
            return []
        ready = [one if isinstance(one, Prompt) else self.prompt(one, max_tokens=max_tokens) for one in prompts]
        return self.writer.answer(ready, max_tokens=max_tokens, sampling=sampling)

    # ------------------------------------------------------------------ inside

    def _read(self, messages: Sequence[Message], files: Mapping[str, Sequence[Any]] | None = None) -> list[Turn]:
        turns = self.reader.turns(messages, files)
        return turns if turns[0].message["role"] == "system" else [*self._head, *turns]

    def _settle(self) -> None:
        """Ends an answer that nobody has heard to its end."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _aloud(self, speaker: int | str | None, speech: SpeechSampling | None) -> SpeechStreamer:
        if self.voice is None:
            raise UserError("there is no voice to speak with: give a Talker's checkpoint as voice")
        return SpeechStreamer(self.voice, speaker=speaker, sampling=speech)

    def _pieces(
        self,
        prompt: Prompt,
        asked: list[Turn] | None,
        aloud: SpeechStreamer | None,
        max_tokens: int,
        sampling: Sampling | None,
    ) -> Generator[TextDelta | AudioChunk]:
        """The answer; while the Thinker writes, a chunk is said for each of its tokens."""
        said: list[str] = []
        try:
            for text in self.writer.stream(prompt, max_tokens=max_tokens, sampling=sampling):
                if text:
                    said.append(text)
                    yield TextDelta(text)
                if aloud is not None:
                    aloud.push(text)
                    if (sound := aloud.next()) is not None:
                        yield AudioChunk(sound)
            if aloud is not None:
                aloud.finish()
                while (sound := aloud.next()) is not None:
                    yield AudioChunk(sound)
        finally:
            if asked is not None:
                self._turns += [*asked, Turn({"role": "assistant", "content": "".join(said)})]


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]
