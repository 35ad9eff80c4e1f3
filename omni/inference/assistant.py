"""Conversations with a trained model: text, images and audio in; text and speech out, streamed."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.prompt import Message, Prompt, PromptReader, Turn, question
from omni.inference.responder import Responder
from omni.inference.response import AudioChunk, StreamedResponse, TextDelta
from omni.inference.speech import Speech
from omni.inference.speech_streamer import SpeechStreamer
from omni.inference.synthesizer import Synthesizer, load_synthesizer
from omni.media.images import Preprocessing
from omni.models.interfaces import ImageEncoder, SpeechEncoder
from omni.models.omni import Omni
from omni.models.part import Part
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.projector import Projector
from omni.models.thinker import Thinker
from omni.text.chat_template import Template, stop_token
from omni.text.tokenizer import Tokenizer

CONTEXT = 512  # tokens, for a checkpoint without an entry
MAX_TOKENS = 128  # per answer

_ENCODERS: dict[str, type[Part]] = {"vision": ImageEncoder, "audio": SpeechEncoder}


class Assistant:
    """A model, optionally a synthesiser, and the history of a conversation.

    Args:
        omni: The model, in eval mode.
        tokenizer: The tokenizer of its Thinker.
        preprocessing: Of images; None for a model without a vision encoder.
        context: Most tokens of a conversation, the answer included.
        template: Chat template of training; see `omni.text.chat_template.encode_chat`.
        system: System message of every conversation.
        voice: Synthesises answers.
        device: Device of the model.
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
        self.responder, self.voice = Responder(omni, tokenizer, context=context, stop=stop, device=device), voice
        self.prompt_reader = PromptReader(
            tokenizer,
            omni.layout,
            preprocessing=preprocessing,
            num_mels=None if omni.audio_encoder is None else omni.audio_encoder.num_mels,
            context=context,
            template=template,
        )
        self._system = [] if system is None else self.prompt_reader.turns([{"role": "system", "content": system}])
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
        """Loads a model from a checkpoint of stage E, and pretrained weights from their source.

        Args:
            path: The checkpoint.
            voice: A checkpoint with a Talker; by default `path`, if it has one.
            vocoder: `griffin-lim`, or a checkpoint with a vocoder; by default `voice`, if it has one, else Griffin–Lim.
            system: See `Assistant`.
            context: See `Assistant`; by default that of training.
            device: `auto`, or a name that PyTorch knows; see `omni.devices.resolve`.

        Raises:
            UserError: If a checkpoint is missing, damaged or lacks a part, or there is no such device.
        """
        opened = Checkpoint.open(path)
        checkpoint = opened.content
        thinker, tokenizer = opened.part("thinker", Thinker, PretrainedThinker), opened.tokenizer
        parts: dict[str, Any] = {}
        for modality, encoder in _ENCODERS.items():
            if f"{modality}_projector" in opened:
                parts[f"{modality}_encoder"] = opened.part(f"{modality}_encoder", encoder)
                parts[f"{modality}_projector"] = opened.part(f"{modality}_projector", Projector)
        images = checkpoint.get("images") if "vision_encoder" in parts else None
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
            preprocessing=None if images is None else Preprocessing(images["size"], images["fit"]),
            context=context or checkpoint.get("context", CONTEXT),
            template=checkpoint.get("template", "chat"),
            system=system,
            voice=speaks,
            device=resolve(device),
        )

    @property
    def history(self) -> list[Message]:
        """The messages of the conversation so far, without the system message."""
        return [turn.message for turn in self._turns]

    def reset(self) -> None:
        """Clears the history; the system message stays."""
        self._close_reply()
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
        """Answers a question, which continues the history, or messages, which are independent of it.

        The oldest exchanges that do not fit into the context are dropped; see `PromptReader.prompt`. Input is read at
        the call; the answer is generated during the iteration.

        Args:
            messages: A whole conversation that ends with a message of the user; see `PromptReader.turns`. The history
                is neither read nor written.
            text: The question.
            image: One or several images: files, their contents as bytes, or pixels (3, height, width) of uint8. With
                `messages`, those of parts that name no file.
            audio: One or several recordings: files, their contents, or samples (samples,) at 16 kHz; as `image`.
            video: One or several videos; see `omni.media.video.read_video`.
            speak: Whether to synthesise the answer, from its first clause on.
            max_tokens: Most tokens of the answer.
            sampling: Sampling options; greedy by default.
            speaker: Number or name of a speaker, for a Talker with several.
            speech: Sampling options of the Talker.

        Returns:
            The answer, streamed.

        Raises:
            UserError: If the question is empty, a medium cannot be read or encoded, or the question is too long.
        """
        self._close_reply()
        if max_tokens < 1:
            raise UserError(f"max_tokens must be 1 or more, not {max_tokens}")
        files = {"image": _as_list(image), "audio": _as_list(audio)}
        if messages is not None:
            if text is not None or video is not None:
                raise UserError("give either messages, or text and video: put these into the messages")
            turns, asked = self._load(messages, files), None
        else:
            asked = self.prompt_reader.turns([question(text, **files, video=_as_list(video))])
            turns = [*self._system, *self._turns, *asked]
        prompt = self.prompt_reader.prompt(turns, answer=max_tokens)
        streamer = self._speech_streamer(speaker, speech) if speak else None
        pieces = self._pieces(prompt, asked, streamer, max_tokens, sampling)
        heard = {} if streamer is None else {"sample_rate": streamer.sample_rate}
        unspoken = [] if streamer is None else streamer.unspoken
        self._reply = StreamedResponse(pieces, prompt.forgotten, unspoken, **heard)
        return self._reply

    def speak(self, text: str, *, speaker: int | str | None = None, speech: SpeechSampling | None = None) -> Speech:
        """Synthesises a text as `chat` synthesises an answer.

        Raises:
            UserError: If there is no voice.
        """
        return self._speech_streamer(speaker, speech).synthesize(text)

    # ------------------------------------------------------------------ batches

    def prompt(self, messages: Sequence[Message], *, max_tokens: int = MAX_TOKENS) -> Prompt:
        """Loads a conversation, independent of the history, for `answer`; arguments and errors as in `chat`."""
        return self.prompt_reader.prompt(self._load(messages), answer=max_tokens)

    def prompt_of(self, turns: Sequence[Turn], *, max_tokens: int = MAX_TOKENS) -> Prompt:
        """As `prompt`, for messages whose media `PromptReader.turns` has loaded."""
        return self.prompt_reader.prompt(self._with_system(turns), answer=max_tokens)

    def answer(
        self,
        prompts: Sequence[Prompt | Sequence[Message]],
        *,
        max_tokens: int = MAX_TOKENS,
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Answers conversations as one batch, independent of the history.

        Args:
            prompts: From `prompt`, or messages as `chat` takes them.
            max_tokens: Most tokens per answer.
            sampling: Sampling options; greedy by default.

        Returns:
            An answer per conversation.

        Raises:
            UserError: As in `chat`.
        """
        if not prompts:
            return []
        ready = [one if isinstance(one, Prompt) else self.prompt(one, max_tokens=max_tokens) for one in prompts]
        return self.responder.answer(ready, max_tokens=max_tokens, sampling=sampling)

    def _load(self, messages: Sequence[Message], files: Mapping[str, Sequence[Any]] | None = None) -> list[Turn]:
        return self._with_system(self.prompt_reader.turns(messages, files))

    def _with_system(self, turns: Sequence[Turn]) -> list[Turn]:
        return [*turns] if turns[0].message["role"] == "system" else [*self._system, *turns]

    def _close_reply(self) -> None:
        """Aborts an answer that is still being generated."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _speech_streamer(self, speaker: int | str | None, speech: SpeechSampling | None) -> SpeechStreamer:
        if self.voice is None:
            raise UserError("there is no voice: give a checkpoint with a Talker as voice")
        return SpeechStreamer(self.voice, speaker=speaker, sampling=speech)

    def _pieces(
        self,
        prompt: Prompt,
        asked: list[Turn] | None,
        streamer: SpeechStreamer | None,
        max_tokens: int,
        sampling: Sampling | None,
    ) -> Generator[TextDelta | AudioChunk]:
        """The answer; yields at most one audio chunk per token while the Thinker generates."""
        texts: list[str] = []
        try:
            for text in self.responder.stream(prompt, max_tokens=max_tokens, sampling=sampling):
                if text:
                    texts.append(text)
                    yield TextDelta(text)
                if streamer is not None:
                    streamer.push(text)
                    if (chunk := streamer.next_chunk()) is not None:
                        yield AudioChunk(*chunk)
            if streamer is not None:
                streamer.finish()
                while (chunk := streamer.next_chunk()) is not None:
                    yield AudioChunk(*chunk)
        finally:
            if asked is not None:
                self._turns += [*asked, Turn({"role": "assistant", "content": "".join(texts)})]


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]
