"""Conversations with exported graphs: text, images and recordings in; text and speech out, streamed."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from omni.decoding.sampling_options import Sampling, SpeechSampling
from omni.errors import UserError
from omni.media.image_file import read_rgb
from omni.media.mel_scale import SAMPLE_RATE
from omni.runtime.audio import log_mel, read_audio
from omni.runtime.decoder import Inputs, inputs_of, text_of
from omni.runtime.exported import ExportedPart, parts_of
from omni.runtime.image_classifier import square
from omni.runtime.synthesizer import PARTS, Synthesizer
from omni.runtime.text_generator import OMNI_THINKER
from omni.text.chat_template import Template, encode_chat, exchanges
from omni.text.media_spans import SpanArray, audio_span, expand, video_span
from omni.text.segment_queue import SegmentQueue
from omni.text.tokenizer import Tokenizer

Samples = NDArray[np.float32]
Media = str | Path | bytes
Recording = Media | Samples


class Embedded(NamedTuple):
    """An image or a recording as the Thinker reads it.

    Attributes:
        embeddings: (tokens, dim).
        span: Positions of its tokens.
    """

    embeddings: NDArray[np.float32]
    span: SpanArray


class Turn(NamedTuple):
    """A message and its media.

    Attributes:
        message: See `omni.text.chat_template.encode_chat`.
        media: In the order of its parts.
    """

    message: Mapping[str, Any]
    media: tuple[Embedded, ...] = ()


@final
class Reply:
    """The pieces of an answer while it is generated: text as `str`, speech as samples (samples,).

    Attributes:
        sample_rate: Of the speech in Hz.
        forgotten: Number of the oldest messages that did not fit into the context.
        unspoken: Why parts of the answer were not spoken, one line each.
    """

    def __init__(
        self,
        pieces: Generator[str | Samples],
        forgotten: int,
        unspoken: list[str],
        *,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        self.forgotten, self.unspoken, self.sample_rate = forgotten, unspoken, sample_rate
        self._pieces = pieces

    def __iter__(self) -> Iterator[str | Samples]:
        return self._pieces

    def close(self) -> None:
        """Aborts the answer; the text so far stays in the history."""
        self._pieces.close()


@final
class Assistant:
    """A model of stage E in an exported folder, with its voice if it has one, and the history of a conversation.

    Args:
        folder: As `omni export OMNI --to onnx --voice TALKER --vocoder VOCODER` writes it.
        system: System message of every conversation.
        context: Most tokens of a conversation; by default as in training.
        variant: `fp32` or `int8`; by default, for each part, the one that the export chose.
        threads: Number of threads; 0: one for each core.

    Attributes:
        voice: Speaks answers; None where the folder has none, or one that is conditioned on a Thinker.

    Raises:
        UserError: If the folder is not a complete export of a model of stage E.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        system: str | None = None,
        context: int | None = None,
        variant: str | None = None,
        threads: int = 0,
    ) -> None:
        held, options = parts_of(folder), {"variant": variant, "threads": threads}
        self._thinker = ExportedPart(folder, OMNI_THINKER, **options)
        self._readers = {
            kind: ExportedPart(folder, f"{kind}_embeddings", **options)
            for kind in ("image", "audio")
            if f"{kind}_embeddings" in held
        }
        if "audio" in self._readers:
            self._thinker.check_mel(self._readers["audio"].constants["mel"])
        speaks = all(name in held for name in PARTS) and "conditioner" not in held
        self.voice = Synthesizer(folder, **options) if speaks else None
        self.tokenizer: Tokenizer = self._thinker.vocabulary(Tokenizer)
        self._template: Template = self._thinker.constants["template"]
        self._context: int = context or self._thinker.constants["context"]
        self._system = [] if system is None else [Turn({"role": "system", "content": system})]
        self._turns: list[Turn] = []

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """The messages of the conversation so far, without the system message."""
        return [turn.message for turn in self._turns]

    def reset(self) -> None:
        """Clears the history; the system message stays."""
        self._turns = []

    def chat(
        self,
        text: str = "",
        *,
        image: Sequence[Media] = (),
        audio: Sequence[Recording] = (),
        speak: bool = False,
        max_tokens: int = 128,
        sampling: Sampling | None = None,
        speaker: int | str | None = None,
        speech: SpeechSampling | None = None,
        row: int = 0,
    ) -> Reply:
        """Answers a question, which continues the history.

        The oldest exchanges that do not fit into the context are dropped. Media are read at the call; the answer is
        generated during the iteration.

        Args:
            text: The question.
            image: Images, as files or their contents.
            audio: Recordings, which may contain the question: files, their contents, or samples (samples,) at 16 kHz.
            speak: Whether to speak the answer, from its first clause on.
            max_tokens: Most tokens of the answer.
            sampling: Sampling options; greedy by default.
            speaker: Number or name of a speaker, for a Talker with several.
            speech: Sampling options of the Talker.
            row: Number of the random stream.

        Raises:
            UserError: If the question is empty or too long, or a medium cannot be read.
        """
        if speak and self.voice is None:
            raise UserError(
                "the exported folder has no voice that speaks alone: export with --voice and --vocoder, and a Talker "
                "that is not conditioned on a Thinker"
            )
        if speak and self.voice is not None:
            self.voice.speaker_id(speaker)
        asked = self._asked(text, image, audio)
        prompt, forgotten = self._prompt([*self._system, *self._turns, asked], max_tokens)
        queue = SegmentQueue(self.voice.units) if speak and self.voice is not None else None
        answer = text_of(
            self._thinker.run,
            prompt,
            self._thinker.constants,
            self.tokenizer,
            max_tokens=max_tokens,
            sampling=sampling or Sampling(temperature=0),
            row=row,
            turn=True,
        )
        pieces = self._pieces(answer, asked, queue, speaker, speech)
        sample_rate = SAMPLE_RATE if self.voice is None else self.voice.sample_rate
        return Reply(pieces, forgotten, [] if queue is None else queue.unspoken, sample_rate=sample_rate)

    def _asked(self, text: str, image: Sequence[Media], audio: Sequence[Recording]) -> Turn:
        kinds = ["image"] * len(image) + ["audio"] * len(audio)
        parts: list[dict[str, Any]] = [{"type": kind} for kind in kinds]
        if text:
            parts.append({"type": "text", "text": text})
        if not parts:
            raise UserError("there is nothing to answer: give a text, an image or a recording")
        media = (*map(self._see, image), *map(self._hear, audio))
        return Turn({"role": "user", "content": parts}, media)

    def _reader(self, kind: str) -> ExportedPart:
        if kind not in self._readers:
            raise UserError(f"the exported model reads no {kind}: its folder has no {kind}_embeddings")
        return self._readers[kind]

    def _see(self, file: Media) -> Embedded:
        part = self._reader("image")
        pixels = np.asarray(square(read_rgb(file), part.constants["size"], part.constants["fit"]), dtype=np.float32)
        (embeddings,) = part.run({"images": pixels.transpose(2, 0, 1)[None] / np.float32(255)})
        rows, columns = part.constants["grid"]
        return Embedded(embeddings[0], video_span((0.0,), (rows, columns)))

    def _hear(self, file: Recording) -> Embedded:
        part = self._reader("audio")
        samples = file if isinstance(file, np.ndarray) else read_audio(file)
        span = audio_span(-(-len(samples) // (SAMPLE_RATE // 100)), part.constants["mel_frames"])
        if span.offsets.shape[1] > self._context:
            longest = self._context / span.offsets.shape[1] * len(samples) / SAMPLE_RATE
            name = file if isinstance(file, str | Path) else "the audio"
            raise UserError(
                f"{name} takes {span.offsets.shape[1]:,} tokens, and the context is {self._context:,}: give less than "
                f"{longest:,.0f} s"
            )
        mels = log_mel(samples, part.constants["mel"]["num_mels"])
        embeddings, counts = part.run({"mels": mels[None], "lengths": np.array([len(mels)], dtype=np.int64)})
        return Embedded(embeddings[0, : int(counts[0])], span)

    def _prompt(self, turns: Sequence[Turn], answer: int) -> tuple[Inputs, int]:
        """The inputs of the Thinker, without the oldest exchanges that do not fit; and how many messages these have."""
        head, starts = exchanges([turn.message["role"] for turn in turns])
        size = 0
        for start in starts:
            kept = [*turns[:head], *turns[start:]]
            media = [one for turn in kept for one in turn.media]
            messages = [turn.message for turn in kept]
            chat = encode_chat(self.tokenizer, messages, template=self._template, add_generation_prompt=True)
            counts, positions = expand(chat.tokens, [one.span for one in media])
            if (size := int(counts.sum())) + answer <= self._context:
                tokens = np.repeat(chat.tokens, counts)
                return self._laid(tokens, media, positions), start - head
        raise UserError(
            f"the question takes {size:,} tokens, and {max(0, self._context - answer):,} fit: the context is "
            f"{self._context:,}, and {answer:,} are reserved for the answer"
        )

    def _laid(self, tokens: NDArray[np.int64], media: Sequence[Embedded], positions: NDArray[np.float32]) -> Inputs:
        constants = self._thinker.constants
        laid = np.zeros((len(tokens), constants["dim"]), dtype=np.float32)
        if media:
            slots = np.isin(tokens, (constants["image_token"], constants["audio_token"]))
            laid[slots] = np.concatenate([one.embeddings for one in media])
        return inputs_of(tokens.tolist(), constants, media=laid, positions=positions)

    def _pieces(
        self,
        answer: Iterator[str],
        asked: Turn,
        queue: SegmentQueue | None,
        speaker: int | str | None,
        speech: SpeechSampling | None,
    ) -> Generator[str | Samples]:
        """The answer; at most one piece of speech for each of text while the Thinker generates."""
        said: list[str] = []
        spoken = iter(()) if queue is None else self._spoken(queue, speaker, speech)
        try:
            for text in answer:
                if text:
                    said.append(text)
                    yield text
                if queue is not None:
                    queue.push(text)
                    if (samples := next(spoken, None)) is not None:
                        yield samples
            if queue is not None:
                queue.finish()
                while (samples := next(spoken, None)) is not None:
                    yield samples
        finally:
            self._turns += [asked, Turn({"role": "assistant", "content": "".join(said)})]

    def _spoken(
        self, queue: SegmentQueue, speaker: int | str | None, speech: SpeechSampling | None
    ) -> Generator[Samples | None]:
        """The speech of what is in a queue; None where more text is needed."""
        assert self.voice is not None
        while True:
            if (queued := queue.take()) is None:
                yield None
                continue
            yield np.zeros(round(queued.pause * self.voice.sample_rate), dtype=np.float32)
            yield from self.voice.stream([queued.segment], speaker=speaker, sampling=speech, first=queued.number)
