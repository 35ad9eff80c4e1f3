"""Prompts: conversations with their media loaded and encoded, truncated to the context of the model."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.attachments import Medium, hash_of, media_of
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, audio_info, read_audio
from omni.media.images import GREY, Preprocessing, read_image, to_pixels
from omni.media.mel_scale import SILENCE
from omni.media.speech_preprocessing import speech_preprocessing
from omni.media.video import read_video
from omni.text.chat_template import ChatTokens, Template, encode_chat, exchanges, turns_of
from omni.text.media_positions import MediaLayout, MediaSpan, PositionedTokens, expand_placeholders
from omni.text.tokenizer import AUDIO, IMAGE, Tokenizer

Message = Mapping[str, Any]

_UNNAMED = ("image", "audio")  # kinds of media that may be given beside the messages


class LoadedMedium(NamedTuple):
    """A medium, preprocessed for the model.

    Attributes:
        kind: `image`, `audio` or `video`.
        images: (3, size, size) of uint8 each: the image, or the frames of the video.
        mel: (mel frames, num_mels) of audio, or its waveform in frames; see `omni.media.speech_preprocessing`.
        span: Its tokens and their positions.
        digest: Hash of the preprocessed content.
        silence: Value of silence in `mel`.
    """

    kind: str
    images: tuple[Tensor, ...]
    mel: Tensor | None
    span: MediaSpan
    digest: str
    silence: float = SILENCE


class Turn(NamedTuple):
    """A message and its media.

    Attributes:
        message: See `omni.text.chat_template.encode_chat`.
        media: In the order of its parts.
    """

    message: Message
    media: tuple[LoadedMedium, ...] = ()


class Prompt(NamedTuple):
    """Input of a model for an answer.

    Attributes:
        encoded: Tokens and positions, with one token per feature of the media.
        media: In the order of their placeholders.
        forgotten: Number of the oldest messages that did not fit.
        blank: Kind of media that is replaced as a control: images by grey, audio by silence.
    """

    encoded: PositionedTokens
    media: tuple[LoadedMedium, ...]
    forgotten: int = 0
    blank: str | None = None

    @property
    def tokens(self) -> list[int]:
        """Token ids."""
        return self.encoded.tokens.tolist()

    @property
    def kinds(self) -> set[str]:
        """Kinds of media in it: `image` (videos included) and `audio`."""
        return {"audio" if one.kind == "audio" else "image" for one in self.media}

    def images(self) -> list[Tensor]:
        """Pixels (3, height, width) from 0 to 1 of all images and video frames."""
        pixels = [to_pixels(image[None])[0] for one in self.media for image in one.images]
        return [torch.full_like(image, GREY) for image in pixels] if self.blank == "image" else pixels

    def mels(self) -> list[Tensor]:
        """Spectrograms (mel frames, num_mels) of all audio."""
        mels = [(one.mel, one.silence) for one in self.media if one.mel is not None]
        return [torch.full_like(mel, silence) if self.blank == "audio" else mel for mel, silence in mels]

    def suffix(self, start: int) -> "Prompt":
        """The prompt from token `start` on, which must not lie inside a medium."""
        slots = (self.encoded.tokens == IMAGE) | (self.encoded.tokens == AUDIO)
        skipped, media = int(slots[:start].sum()), list(self.media)
        while skipped:
            skipped -= media.pop(0).span.tokens
        tokens, scored, positions = self.encoded
        encoded = PositionedTokens(tokens[start:], scored[start:], positions[:, start:])
        return self._replace(encoded=encoded, media=tuple(media))

    def keys(self) -> list[Hashable]:
        """A key per position: prompts with a common prefix of keys share that prefix of the KV cache."""
        features: Iterator[Hashable] = (
            (one.digest, self.blank, number) for one in self.media for number in range(one.span.tokens)
        )
        return [next(features) if token in (IMAGE, AUDIO) else token for token in self.tokens]


class PromptReader:
    """Makes prompts of conversations.

    Args:
        tokenizer: The tokenizer of the model.
        layout: Tokens per medium; see `MediaLayout`.
        preprocessing: Of images; None for a model without a vision encoder.
        num_mels: Mel filters of the audio encoder, 0 for waveforms; None for a model without one.
        context: Most tokens of a prompt and its answer.
        template: Chat template of training; see `omni.text.chat_template.encode_chat`.

    Raises:
        ValueError: If the preprocessing of images or `num_mels` is missing.
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
        for name, size, needed in (("image", layout.image_grid, preprocessing), ("audio", layout.mel_frames, num_mels)):
            if size is not None and needed is None:
                raise ValueError(f"the model takes {name}s: give their preprocessing")
        self.tokenizer, self.layout, self.context = tokenizer, layout, context
        self.preprocessing = preprocessing
        self.template: Template = template
        self.speech = None if num_mels is None else speech_preprocessing(num_mels)

    def turns(self, messages: Sequence[Message], files: Mapping[str, Sequence[Any]] | None = None) -> list[Turn]:
        """Loads the media of messages.

        Args:
            messages: With `role` and `content`; see `omni.text.chat_template.encode_chat`. Media are files, their
                contents as bytes, or tensors: pixels (3, height, width) of uint8, samples (samples,) at 16 kHz.
            files: By kind, the media of parts that name no file, in order.

        Raises:
            UserError: If the messages are invalid, or a medium is missing, unreadable or longer than the context.
        """
        turns_of(messages)
        unnamed = {kind: list((files or {}).get(kind, ())) for kind in _UNNAMED}
        _check_unnamed(messages, unnamed)
        media = media_of(messages, where="the messages", shelves={kind: iter(some) for kind, some in unnamed.items()})
        pairs = zip(messages, media, strict=True)
        return [Turn(message, tuple(self._load(one) for one in some)) for message, some in pairs]

    def prompt(self, turns: Sequence[Turn], *, answer: int) -> Prompt:
        """Encodes a conversation for its next answer.

        If it does not fit into the context, the oldest exchanges (question and answer) are dropped; system messages at
        the start are kept.

        Args:
            turns: The conversation; the last message is the user's.
            answer: Tokens reserved for the answer.

        Raises:
            UserError: If the last message is not the user's, or does not fit alone.
        """
        if turns[-1].message["role"] != "user":
            role = turns[-1].message["role"]
            raise UserError(f"the last message is of role {role}: the last one must be of role user")
        roles = [turn.message["role"] for turn in turns]
        head, starts = exchanges(roles)
        room = self.context - answer
        for start in starts:
            kept = [*turns[:head], *turns[start:]]
            spans = [one.span for turn in kept for one in turn.media]
            chat = self._encoded(kept)
            if len(chat.tokens) + sum(span.tokens - 1 for span in spans) <= room:
                media = tuple(one for turn in kept for one in turn.media)
                return Prompt(expand_placeholders(chat, spans), media, start - head)
        raise self._too_long(turns[:head], turns[starts[-1] :], answer)

    def _encoded(self, turns: Sequence[Turn]) -> ChatTokens:
        messages = [turn.message for turn in turns]
        return encode_chat(self.tokenizer, messages, template=self.template, add_generation_prompt=True)

    def _load(self, medium: Medium) -> LoadedMedium:
        if medium.kind == "audio":
            return self._load_audio(medium.files[0])
        span = self.layout.video(medium.times)
        assert self.preprocessing is not None
        images = tuple(self.preprocessing(_pixels(file)) for file in medium.files)
        content = b"".join(image.numpy().tobytes() for image in images)
        return LoadedMedium(medium.kind, images, None, span, f"{medium.times} {hash_of(content)}")

    def _load_audio(self, file: Any) -> LoadedMedium:
        seconds = len(file) / SAMPLE_RATE if isinstance(file, Tensor) else audio_info(file).duration
        num_tokens = self.layout.audio(max(1, round(seconds * SAMPLE_RATE / HOP_LENGTH))).tokens
        if num_tokens > self.context:
            longest = self.context / num_tokens * seconds
            name = "the audio" if isinstance(file, bytes | Tensor) else file
            raise UserError(
                f"{name} lasts {seconds:,.1f} s and takes {num_tokens:,} tokens, and the context is {self.context:,}: "
                f"give less than {longest:,.0f} s"
            )
        assert self.speech is not None
        extract, silence = self.speech
        mel = extract(_samples(file))
        return LoadedMedium("audio", (), mel, self.layout.audio(len(mel)), hash_of(mel.numpy().tobytes()), silence)

    def _too_long(self, head: Sequence[Turn], question: Sequence[Turn], answer: int) -> UserError:
        turns = [*head, *question]
        counts, sizes = Counter[str](), Counter[str]()
        for one in (one for turn in turns for one in turn.media):
            counts[one.kind] += 1
            sizes[one.kind] += one.span.tokens
        text = len(self._encoded(turns).tokens) - sum(counts.values())
        of = "".join(f", {sizes[kind]:,} of them for {counts[kind]} × {kind}" for kind in counts)
        return UserError(
            f"the question takes {text + sum(sizes.values()):,} tokens{of}, and {max(0, self.context - answer):,} fit: "
            f"the context is {self.context:,}, and {answer:,} are reserved for the answer"
        )


def reusable(cached: Sequence[Hashable], keys: Sequence[Hashable]) -> int:
    """Entries of a KV cache that a prompt can reuse: the longest common prefix, without a part of a medium.

    A medium is encoded as a whole, and the last token of a prompt is always computed.

    Args:
        cached: Keys of what the cache holds; see `Prompt.keys`.
        keys: Keys of the prompt.
    """
    pairs = enumerate(zip(cached, keys[:-1], strict=False))
    differs = next((number for number, (one, other) in pairs if one != other), None)
    known = min(len(cached), len(keys) - 1) if differs is None else differs
    key = keys[known]
    return known - (key[-1] if isinstance(key, tuple) else 0)


def question(
    text: str | None = None, *, image: Sequence[Any] = (), audio: Sequence[Any] = (), video: Sequence[Any] = ()
) -> Message:
    """A message of the user: images, videos and recordings, then a text.

    Raises:
        UserError: If it is empty, or a video cannot be read.
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


def _check_unnamed(messages: Sequence[Message], unnamed: Mapping[str, Sequence[Any]]) -> None:
    """Raises an error unless there is one medium per part that names no file."""
    parts = [part for message in messages if message["role"] != "assistant" for part in _parts(message)]
    for kind, given in unnamed.items():
        num_open = sum(part.get("type") == kind and not {kind, "path"} & part.keys() for part in parts)
        if given and num_open != len(given):
            raise UserError(f"{num_open} parts of type {kind} name no file, and {len(given)} are given: give as many")


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
