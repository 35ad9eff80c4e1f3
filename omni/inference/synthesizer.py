"""Text-to-speech with a trained Talker, codec and vocoder; whole or streamed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.talker import Frame, SpeechSampling, utterances
from omni.decoding.talker import speak as speak_frames
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.speech import Speech, SpeechChunk, WordTimer, shifted
from omni.inference.speech_renderer import SpeechRenderer
from omni.inference.talker_conditioning import Conditioner
from omni.media.audio import SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim
from omni.models.part import Part
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.speech_codec import CausalCodec, SpeechCodec
from omni.models.speech_vocoder import SpeechVocoder, streams
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.spelling import SpeechSegment, speech_segments

GRIFFIN_LIM = "griffin-lim"
SLOWEST, FASTEST = 0.25, 4.0  # speeds


class Synthesizer:
    """A Talker, its codec, and a vocoder.

    Args:
        talker: The model, in eval mode.
        codec: The codec it was trained with, a `SpeechCodec`.
        vocoder: Makes audio of spectrograms, a `SpeechVocoder`.
        units: The vocabulary of the Talker.
        speakers: Names of the Talker's speakers, by number.
        conditioner: Computes hidden states of a Thinker, for a Talker that was trained with them.
        device: Device of all of them.

    Raises:
        UserError: If codec, vocoder and Talker do not match.
    """

    def __init__(
        self,
        talker: Talker,
        codec: Any,
        vocoder: Any,
        units: CTCVocabulary,
        *,
        speakers: Sequence[str] = (),
        conditioner: Conditioner | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.talker, self.units, self.speakers = talker.to(device), units, list(speakers)
        self.conditioner = conditioner
        if conditioner is not None:
            conditioner.thinker.to(device)
        self.codec: SpeechCodec = codec.to(device)
        self.vocoder: SpeechVocoder = vocoder.to(device)
        for name in ("num_codebooks", "codebook_size", "frame_rate"):
            here, there = getattr(talker, name), getattr(codec, name)
            if here != there:
                raise UserError(
                    f"{name} of the Talker is {here} and of the codec {there}: give the codec of its training"
                )
        if vocoder.num_mels != codec.num_mels:
            raise UserError(
                f"the vocoder takes {vocoder.num_mels} mel filters and the codec outputs {codec.num_mels}: give a "
                f"vocoder that was trained with num_mels {codec.num_mels}, or {GRIFFIN_LIM}"
            )

    @property
    def causal(self) -> bool:
        """Whether codec and vocoder are causal: `stream` then yields audio before a sentence is complete."""
        return isinstance(self.codec, CausalCodec) and streams(self.vocoder)

    def read(self, text: str | Sequence[SpeechSegment]) -> list[SpeechSegment]:
        """The segments of a text, see `omni.text.spelling.speech_segments`; segments are returned as they are."""
        return speech_segments(text, self.units) if isinstance(text, str) else list(text)

    def speaker_id(self, speaker: int | str | None) -> int | None:
        """The number of a speaker: by name, by number, or the first by default; None if the Talker has only one.

        Raises:
            UserError: If the Talker has no such speaker.
        """
        count = self.talker.num_speakers
        if speaker is None:
            return 0 if count else None
        if not count:
            raise UserError("the Talker has one voice only: leave speaker out")
        if isinstance(speaker, str):
            if speaker not in self.speakers:
                some = ", ".join(self.speakers[:10])
                raise UserError(f"there is no speaker {speaker!r}: the Talker has {count}, such as {some}")
            return self.speakers.index(speaker)
        if not 0 <= speaker < count:
            raise UserError(f"there is no speaker {speaker}: the Talker has 0 to {count - 1}")
        return speaker

    def speak(
        self,
        texts: str | Sequence[str | Sequence[SpeechSegment]],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        speed: float = 1.0,
        batch_size: int = 16,
    ) -> list[Speech]:
        """Synthesises texts of any length; arguments as in `sentences`.

        Returns:
            The speech of each.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        said: list[list[Speech]] = [[] for _ in texts]
        options: dict[str, Any] = {"speaker": speaker, "sampling": sampling, "speed": speed, "batch_size": batch_size}
        for number, part in self.sentences(texts, **options):
            said[number].append(part)
        return [Speech.join(parts) for parts in said]

    @torch.no_grad()
    def sentences(
        self,
        texts: Sequence[str | Sequence[SpeechSegment]],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        speed: float = 1.0,
        batch_size: int = 16,
    ) -> Iterator[tuple[int, Speech]]:
        """Synthesises texts sentence by sentence, in order and in batches.

        The speech of a text does not depend on the other texts.

        Args:
            texts: Texts, or their segments from `read`.
            speaker: Number or name of a speaker, for a Talker with several; the first by default.
            sampling: Sampling options.
            speed: Tempo, 0.25 to 4; 2 takes half the time. The codes are those of tempo 1.
            batch_size: Most sentences per batch.

        Yields:
            The number of a text, and its next sentence with the pause after it.

        Raises:
            UserError: If a text cannot be spoken, before any is synthesised; or there is no such speaker or speed.
        """
        chosen, renderer = self.speaker_id(speaker), self._renderer(speed)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be 1 or more")
        queue = [(number, turn, one) for number, text in enumerate(texts) for turn, one in enumerate(self.read(text))]
        for first in range(0, len(queue), batch_size):
            numbers, turns, group = zip(*queue[first : first + batch_size], strict=True)
            units = [segment.units for segment in group]
            found = utterances(
                self.talker,
                units,
                hidden=None if self.conditioner is None else self.conditioner(units),
                speakers=None if chosen is None else [chosen] * len(group),
                sampling=sampling,
                numbers=turns,
            )
            for number, segment, utterance in zip(numbers, group, found, strict=True):
                timer = self._timer(segment, speed)
                for position in utterance.positions.tolist():
                    timer.add(position)
                samples, words = renderer.render(utterance.codes, timer)
                audio = torch.cat((samples, _silence(segment.pause / speed)))
                yield number, Speech(audio=audio, codes=utterance.codes.cpu(), words=words)

    def stream(self, text: str | Sequence[SpeechSegment], **options: Any) -> Iterator[Tensor]:
        """The samples of `stream_chunks`, with its arguments; empty ones are left out."""
        for samples, _ in self.stream_chunks(text, **options):
            if len(samples):
                yield samples

    @torch.no_grad()
    def stream_chunks(
        self,
        text: str | Sequence[SpeechSegment],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        speed: float = 1.0,
        chunk: float = 0.64,
        first: int = 0,
    ) -> Iterator[SpeechChunk]:
        """Synthesises a text and yields audio as it is made; joined, it is the audio of `speak`, and so are the words.

        With a causal codec and vocoder the first audio comes after a few frames; otherwise, as with Griffin–Lim,
        sentence by sentence.

        Args:
            text: A text, or its segments from `read`.
            speaker: As in `sentences`.
            sampling: As in `sentences`.
            speed: As in `sentences`.
            chunk: Most seconds per chunk; the first chunks are shorter.
            first: Number of sentences of the same text before this one.

        Yields:
            Samples with the words that end in them.

        Raises:
            UserError: As in `sentences`.
        """
        if not 0 < chunk < float("inf"):
            raise UserError(f"chunk is {chunk} seconds: it must be over 0")
        chosen, spoken, renderer = self.speaker_id(speaker), 0, self._renderer(speed)
        chunk_frames = max(1, round(chunk * self.talker.frame_rate * speed))
        for turn, segment in enumerate(self.read(text), start=first):
            frames = speak_frames(
                self.talker,
                [segment.units],
                hidden=None if self.conditioner is None else self.conditioner([segment.units]),
                speakers=None if chosen is None else [chosen],
                sampling=sampling,
                numbers=[turn],
            )
            timer, before = self._timer(segment, speed), spoken
            codes = _codes(frames, timer)
            if self.causal:
                parts = renderer.stream(codes, timer, chunk_frames=chunk_frames)
            else:
                parts = iter([renderer.render(torch.cat([*codes], dim=1)[0], timer)])
            for samples, words in parts:
                if len(samples) or words:
                    yield SpeechChunk(samples, shifted(words, before))
                    spoken += len(samples)
            if segment.pause:
                pause = _silence(segment.pause / speed)
                yield SpeechChunk(pause)
                spoken += len(pause)

    def _renderer(self, speed: float) -> SpeechRenderer:
        check_speed(speed)
        return SpeechRenderer(self.codec, self.vocoder, speed=speed)

    def _timer(self, segment: SpeechSegment, speed: float) -> WordTimer:
        return WordTimer(segment.units, self.units, SAMPLE_RATE / self.talker.frame_rate / speed)


def _codes(frames: Iterator[Frame], timer: WordTimer) -> Iterator[Tensor]:
    """The codes of frames of a single text, (1, 1, codebooks) each; their positions go to the timer."""
    for frame in frames:
        timer.add(int(frame.positions))
        yield frame.codes[:, None]


def _silence(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * SAMPLE_RATE))


def check_speed(speed: float) -> None:
    """Checks a tempo of speech.

    Raises:
        UserError: If it is out of range.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise UserError(f"speed is {speed:g}: it must be between {SLOWEST:g} and {FASTEST:g}")


def load_synthesizer(path: Source, *, vocoder: Source = GRIFFIN_LIM, device: str = "auto") -> Synthesizer:
    """Loads a Talker with the codec and vocabulary of its checkpoint.

    Args:
        path: A checkpoint with a Talker.
        vocoder: `griffin-lim`, or a checkpoint with a vocoder.
        device: `auto`, or a name that PyTorch knows; see `omni.devices.resolve`.

    Raises:
        UserError: If a checkpoint is missing, damaged or lacks a part, parts do not match, or there is no such device.
    """
    checkpoint = Checkpoint.open(path)
    talker, codec = checkpoint.part("talker", Talker), checkpoint.part("codec", Part)
    units, conditioner = checkpoint.ctc_vocabulary, None
    if talker.condition is not None:
        thinker = checkpoint.part("thinker", Thinker, PretrainedThinker)
        conditioner = Conditioner(thinker, checkpoint.thinker_tokenizer, units)
    if not isinstance(codec, SpeechCodec):
        raise UserError(f"codec of {path} is a {type(codec).__name__}, which is not a SpeechCodec")
    talker.transpose_weights_for_decoding()
    loaded = load_vocoder(vocoder, codec.num_mels, opened=checkpoint)
    speakers = checkpoint.content.get("speakers", ())
    return Synthesizer(talker, codec, loaded, units, speakers=speakers, conditioner=conditioner, device=resolve(device))


def load_vocoder(name: Source, num_mels: int, *, opened: Checkpoint | None = None) -> torch.nn.Module:
    """A vocoder in eval mode.

    Args:
        name: `griffin-lim`, or a checkpoint with a vocoder.
        num_mels: Mel filters, for Griffin–Lim.
        opened: An open checkpoint, used if it is the one of `name`.

    Raises:
        UserError: If `name` is neither.
    """
    if str(name) == GRIFFIN_LIM:
        return GriffinLim(num_mels)
    if not isinstance(name, Checkpoint) and not Path(name).exists():
        raise UserError(f"vocoder {name} does not exist: give {GRIFFIN_LIM}, or a checkpoint with a vocoder")
    vocoder = Checkpoint.open(name, opened=opened).part("vocoder", Part)
    if not isinstance(vocoder, SpeechVocoder):
        raise UserError(f"vocoder of {name} is a {type(vocoder).__name__}, which is not a SpeechVocoder")
    return vocoder


def speak(
    texts: str | Sequence[str],
    checkpoint: str | Path,
    *,
    speaker: int | str | None = None,
    vocoder: str | Path = GRIFFIN_LIM,
    sampling: SpeechSampling | None = None,
    speed: float = 1.0,
    device: str = "auto",
) -> list[Speech]:
    """Synthesises one or several texts of any length; see `Synthesizer.speak`.

    Args:
        texts: One text or several.
        checkpoint: A checkpoint with a Talker.
        speaker: Number or name of a speaker, for a Talker with several; the first by default.
        vocoder: `griffin-lim`, or a checkpoint with a vocoder.
        sampling: Sampling options; the defaults of `SpeechSampling` if None.
        speed: Tempo, 0.25 to 4.
        device: As in `load_synthesizer`.
    """
    synthesizer = load_synthesizer(checkpoint, vocoder=vocoder, device=device)
    return synthesizer.speak(texts, speaker=speaker, sampling=sampling, speed=speed)
