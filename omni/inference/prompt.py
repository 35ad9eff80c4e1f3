"""A conversation as a model reads it before it answers: media read, all laid out, what does not fit forgotten."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.attachments import Medium, hash_of, media_of
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, SILENCE, audio_info, read_audio
from omni.media.images import GREY, Preprocessing, read_image, to_pixels
from omni.media.speech_preprocessing import speech_preprocessing
from omni.media.video import read_video
from omni.text.chat_template import ChatTokens, Template, encode_chat, turns_of
from omni.text.media_positions import MediaLayout, MediaSpan, PositionedTokens, expand_placeholders
from omni.text.tokenizer import AUDIO, IMAGE, Tokenizer

Message = Mapping[str, Any]

_OPEN = ("image", "audio")  # what parts may leave to be given beside the messages


class Attached(NamedTuple):
    """A medium that has been read.

    Attributes:
        kind: `image`, `audio` or `video`.
        images: (3, size, size) of uint8 each: the image, or the frames of the video.
        mel: (mel frames, num_mels) of audio, or its waveform in frames; see `omni.media.speech_preprocessing`.
        span: The place that it takes.
        digest: Changes when what is seen or heard changes.
        silence: What stands for it in `mel`.
    """

    kind: str
    images: tuple[Tensor, ...]
    mel: Tensor | None
    span: MediaSpan
    digest: str
    silence: float = SILENCE


class Turn(NamedTuple):
    """A message, and its media.

    Attributes:
        message: As `omni.text.chat_template.encode_chat` takes it.
        media: In the order of its parts.
    """

    message: Message
    media: tuple[Attached, ...] = ()


class Prompt(NamedTuple):
    """What a model reads before it answers.

    Attributes:
        laid: With a token for each feature of the media.
        media: In the order of their placeholders.
        forgotten: How many of the oldest messages did not fit.
        blank: The kind of media that the model is not shown, as a control: images are grey, audio is silent.
    """

    laid: PositionedTokens
    media: tuple[Attached, ...]
    forgotten: int = 0
    blank: str | None = None

    @property
    def tokens(self) -> list[int]:
        """Its tokens."""
        return self.laid.tokens.tolist()

    @property
    def kinds(self) -> set[str]:
        """What is in it: `image`, for frames of videos too, and `audio`."""
        return {"audio" if one.kind == "audio" else "image" for one in self.media}

    def images(self) -> list[Tensor]:
        """Of all images and frames, pixels (3, height, width) from 0 to 1."""
        shown = [to_pixels(image[None])[0] for one in self.media for image in one.images]
        return [torch.full_like(image, GREY) for image in shown] if self.blank == "image" else shown

    def mels(self) -> list[Tensor]:
        """Of all audio, (mel frames, num_mels)."""
        heard = [(one.mel, one.silence) for one in self.media if one.mel is not None]
        return [torch.full_like(mel, silence) if self.blank == "audio" else mel for mel, silence in heard]

    def behind(self, number: int) -> "Prompt":
        """What is left of it behind so many tokens, which end in no medium's midst."""
        slots = (self.laid.tokens == IMAGE) | (self.laid.tokens == AUDIO)
        known, media = int(slots[:number].sum()), list(self.media)
        while known:
            known -= media.pop(0).span.tokens
        laid = PositionedTokens(self.laid.tokens[number:], self.laid.scored[number:], self.laid.positions[:, number:])
        return self._replace(laid=laid, media=tuple(media))

    def keys(self) -> list[Hashable]:
        """What the model reads in each place: where the keys of two prompts begin alike, so does what it remembers."""
        features: Iterator[Hashable] = (
            (one.digest, self.blank, number) for one in self.media for number in range(one.span.tokens)
        )
        return [next(features) if token in (IMAGE, AUDIO) else token for token in self.tokens]


class PromptReader:
    """Reads conversations for a model.

    Args:
        tokenizer: The model's.
        layout: How it takes media in.
        preprocessing: Brings images to its size; None for a model that sees none.
        num_mels: Mel filters that it hears, 0 of waveforms; None for a model that hears nothing.
        context: Most tokens that it takes, its answer counted.
        template: As it was trained with; see `omni.text.chat_template.encode_chat`.

    Raises:
        ValueError: If it sees and there is no preprocessing, or it hears and mel filters are not told.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        layout: MediaLayout,
        *,
        preprocessing: Preprocessing | None,
        num_mels: int | None,
        context: int,
        template: Template = "chat",
    ) -> None:
        for name, takes, how in (("image", layout.image_grid, preprocessing), ("audio", layout.mel_frames, num_mels)):
            if takes is not None and how is None:
                raise ValueError(f"the model takes in {name}s: tell how they are prepared for it")
        self.tokenizer, self.layout, self.context = tokenizer, layout, context
        self.preprocessing = preprocessing
        self.template: Template = template
        self.hearing = None if num_mels is None else speech_preprocessing(num_mels)

    def turns(self, messages: Sequence[Message], files: Mapping[str, Sequence[Any]] | None = None) -> list[Turn]:
        """Reads messages and their media.

        Args:
            messages: With `role` and `content`; see `omni.text.chat_template.encode_chat`. Media are files, their
                contents as bytes, or tensors: pixels (3, height, width) of uint8, samples (samples,) at 16 kHz.
            files: By kind, the media of those parts that name none, in order.

        Raises:
            UserError: If it is no conversation, or a medium is missing, unreadable or longer than the context.
        """
        turns_of(messages)
        shelves = {kind: list((files or {}).get(kind, ())) for kind in _OPEN}
        _check_shelves(messages, shelves)
        media = media_of(messages, where="the messages", shelves={kind: iter(some) for kind, some in shelves.items()})
        pairs = zip(messages, media, strict=True)
        return [Turn(message, tuple(self._read(one) for one in some)) for message, some in pairs]

    def prompt(self, turns: Sequence[Turn], *, answer: int) -> Prompt:
        """Lays a conversation out for its next answer.

        Where it does not fit into the context, the oldest exchanges, a question and its answer, are forgotten, as many
        as they must; system messages at the beginning stay.

        Args:
            turns: The conversation; its last message is a user's.
            answer: Tokens that are kept for the answer.

        Raises:
            UserError: If the last message is no user's, or does not fit alone.
        """
        if turns[-1].message["role"] != "user":
            role = turns[-1].message["role"]
            raise UserError(f"the last message is of role {role}, and there is nothing to answer: end with a user's")
        roles = [turn.message["role"] for turn in turns]
        head = next(number for number, role in enumerate(roles) if role != "system")
        begins = [n for n in range(head, len(turns)) if n == head or (roles[n], roles[n - 1]) == ("user", "assistant")]
        room = self.context - answer
        for begin in begins:
            kept = [*turns[:head], *turns[begin:]]
            spans = [one.span for turn in kept for one in turn.media]
            chat = self._encoded(kept)
            if len(chat.tokens) + sum(span.tokens - 1 for span in spans) <= room:
                media = tuple(one for turn in kept for one in turn.media)
                return Prompt(expand_placeholders(chat, spans), media, begin - head)
        raise self._too_long(turns[:head], turns[begins[-1] :], answer)

    def _encoded(self, turns: Sequence[Turn]) -> ChatTokens:
        messages = [turn.message for turn in turns]
        return encode_chat(self.tokenizer, messages, template=self.template, add_generation_prompt=True)

    def _read(self, medium: Medium) -> Attached:
        if medium.kind == "audio":
            return self._hear(medium.files[0])
        span = self.layout.video(medium.times)
        assert self.preprocessing is not None
        images = tuple(self.preprocessing(_pixels(file)) for file in medium.files)
        content = b"".join(image.numpy().tobytes() for image in images)
        return Attached(medium.kind, images, None, span, f"{medium.times} {hash_of(content)}")

    def _hear(self, file: Any) -> Attached:
        seconds = len(file) / SAMPLE_RATE if isinstance(file, Tensor) else audio_info(file).duration
        takes = self.layout.audio(max(1, round(seconds * SAMPLE_RATE / HOP_LENGTH))).tokens
        if takes > self.context:
            most = self.context / takes * seconds
            name = "the audio" if isinstance(file, bytes | Tensor) else file
            raise UserError(
                f"{name} lasts {seconds:,.1f} s and takes {takes:,} tokens, and the context is {self.context:,}: "
                f"give less than {most:,.0f} s"
            )
        assert self.hearing is not None
        prepare, silence = self.hearing
        mel = prepare(_samples(file))
        return Attached("audio", (), mel, self.layout.audio(len(mel)), hash_of(mel.numpy().tobytes()), silence)

    def _too_long(self, head: Sequence[Turn], question: Sequence[Turn], answer: int) -> UserError:
        turns = [*head, *question]
        counts, takes = Counter[str](), Counter[str]()
        for one in (one for turn in turns for one in turn.media):
            counts[one.kind] += 1
            takes[one.kind] += one.span.tokens
        text = len(self._encoded(turns).tokens) - sum(counts.values())
        of = "".join(f", {takes[kind]:,} of them for {counts[kind]} × {kind}" for kind in counts)
        return UserError(
            f"the question takes {text + sum(takes.values()):,} tokens{of}, and {max(0, self.context - answer):,} fit: "
            f"the context is {self.context:,}, of which {answer:,} are kept for the answer"
        )


def question(
    text: str | None = None, *, image: Sequence[Any] = (), audio: Sequence[Any] = (), video: Sequence[Any] = ()
) -> Message:
    """A user's message: images, videos and recordings, and behind them a text.

    Raises:
        UserError: If there is nothing in it, or a video cannot be read.
    """
    parts: list[dict[str, Any]] = [{"type": "image", "image": one} for one in image]
    for one in video:
        clip = one if isinstance(one, Mapping) else dict(zip(("frames", "times"), read_video(one), strict=True))
        parts.append({"type": "video", **clip})
    parts += [{"type": "audio", "audio": one} for one in audio]
    if text:
        parts.append({"type": "text", "text": text})
    if not parts:
        raise UserError("there is nothing to answer: give a text, an image, a recording or a video")
    return {"role": "user", "content": parts}


def _check_shelves(messages: Sequence[Message], shelves: Mapping[str, Sequence[Any]]) -> None:
    """Refuses more or fewer media than there are parts that name none."""
    parts = [part for message in messages if message["role"] != "assistant" for part in _parts(message)]
    for kind, given in shelves.items():
        open_parts = sum(part.get("type") == kind and not {kind, "path"} & part.keys() for part in parts)
        if given and open_parts != len(given):
            raise UserError(
                f"the messages leave room for {open_parts} × {kind}, and {len(given)} are given: give as many"
            )


def _parts(message: Message) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [] if isinstance(content, str) else list(content)


def _pixels(file: Any) -> Tensor:
    if not isinstance(file, Tensor):
        return read_image(file)
    if file.ndim != 3 or len(file) != 3 or file.dtype != torch.uint8 or not file.numel():
        raise UserError(f"an image of shape {tuple(file.shape)} and {file.dtype}: give (3, height, width) of uint8")
    return file


def _samples(file: Any) -> Tensor:
    if not isinstance(file, Tensor):
        return read_audio(file)
    if file.ndim != 1 or not file.is_floating_point() or not len(file):
        raise UserError(f"audio of shape {tuple(file.shape)} and {file.dtype}: give (samples,) of floats at 16 kHz")
    return file
