"""Text-to-speech with a trained Talker, codec and vocoder; whole or streamed."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.speech_options import GRIFFIN_LIM, speaker_number
from omni.decoding.talker import Frame, utterances
from omni.decoding.talker import speak as speak_frames
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.speech import Speech, SpeechChunk, WordTimer, shifted
from omni.inference.speech_renderer import SpeechRenderer
from omni.inference.talker_conditioning import Conditioner
from omni.media.griffin_lim import GriffinLim
from omni.models.part import Part
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.speech_codec import CausalCodec, SpeechCodec
from omni.models.speech_vocoder import SpeechVocoder, sample_rate_of, streams
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.models.waveform_refiner import RefinedVocoder
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.spelling import SpeechSegment, speech_segments


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
        # Of streams; with `BatchedTalker.speak` those that are read in turns share the steps of the Talker.
        self.speak_frames: Callable[..., Iterator[Frame]] = partial(speak_frames, self.talker)
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
    def sample_rate(self) -> int:
        """Sample rate of the audio in Hz, which is the vocoder's."""
        return sample_rate_of(self.vocoder)

    @property
    def causal(self) -> bool:
        """Whether codec and vocoder are causal: `stream` then yields audio before a sentence is complete."""
        return isinstance(self.codec, CausalCodec) and streams(self.vocoder)

    def read(self, text: str | Sequence[SpeechSegment]) -> list[SpeechSegment]:
        """The segments of a text, see `omni.text.spelling.speech_segments`; segments are returned as they are.

        Marks such as `[pause 0.5]` in the text are pauses in seconds, 0 to 10.
        """
        return speech_segments(text, self.units) if isinstance(text, str) else list(text)

    def speaker_id(self, speaker: int | str | None) -> int | None:
        """The number of a speaker: by name, by number, or the first by default; None if the Talker has only one.

        Raises:
            UserError: If the Talker has no such speaker.
        """
        return speaker_number(speaker, self.speakers, self.talker.num_speakers)

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
        chosen, renderer = self.speaker_id(speaker), SpeechRenderer(self.codec, self.vocoder, speed=speed)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be 1 or more")
        queue = [(number, *one) for number, text in enumerate(texts) for one in _numbered(self.read(text))]
        for first in range(0, len(queue), batch_size):
            batch = queue[first : first + batch_size]
            turns = [turn for _, turn, segment in batch if segment.units]
            units = [segment.units for _, _, segment in batch if segment.units]
            options = self._options(units, turns, chosen, sampling)
            found = iter(utterances(self.talker, units, **options) if units else ())
            for number, _, segment in batch:
                pause = self._silence(segment.silence(speed))
                if not segment.units:
                    codes = torch.zeros(0, self.talker.num_codebooks, dtype=torch.long)
                    yield number, Speech(audio=pause, codes=codes, sample_rate=self.sample_rate)
                    continue
                utterance, timer = next(found), self._timer(segment, speed)
                for position in utterance.positions.tolist():
                    timer.add(position)
                samples, words = renderer.render(utterance.codes, timer)
                audio, codes = torch.cat((samples, pause)), utterance.codes.cpu()
                yield number, Speech(audio=audio, codes=codes, words=words, sample_rate=self.sample_rate)

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
        chosen, spoken, renderer = self.speaker_id(speaker), 0, SpeechRenderer(self.codec, self.vocoder, speed=speed)
        chunk_frames = max(1, round(chunk * self.talker.frame_rate * speed))
        for turn, segment in _numbered(self.read(text), first):
            before, parts = spoken, self._stream_segment(segment, turn, chosen, sampling, renderer, chunk_frames)
            for samples, words in parts:
                if len(samples) or words:
                    yield SpeechChunk(samples, shifted(words, before / self.sample_rate))
                    spoken += len(samples)

    def _stream_segment(
        self,
        segment: SpeechSegment,
        turn: int,
        speaker: int | None,
        sampling: SpeechSampling | None,
        renderer: SpeechRenderer,
        chunk_frames: int,
    ) -> Iterator[SpeechChunk]:
        """A segment and its pause; times of words since its start."""
        if segment.units:
            timer, units = self._timer(segment, renderer.speed), [segment.units]
            frames = self.speak_frames(units, **self._options(units, [turn], speaker, sampling))
            codes = _codes(frames, timer)
            if self.causal:
                yield from renderer.stream(codes, timer, chunk_frames=chunk_frames)
            else:
                yield renderer.render(torch.cat([*codes], dim=1)[0], timer)
        yield SpeechChunk(self._silence(segment.silence(renderer.speed)))

    def _options(
        self, units: Sequence[list[int]], turns: Sequence[int], speaker: int | None, sampling: SpeechSampling | None
    ) -> dict[str, Any]:
        """Arguments of `omni.decoding.talker.speak` for segments with these numbers in their texts."""
        return {
            "hidden": self.conditioner(units) if self.conditioner is not None and units else None,
            "speakers": None if speaker is None else [speaker] * len(units),
            "sampling": sampling,
            "numbers": turns,
        }

    def _timer(self, segment: SpeechSegment, speed: float) -> WordTimer:
        rate = self.sample_rate
        return WordTimer(segment.units, self.units, rate / self.talker.frame_rate / speed, sample_rate=rate)

    def _silence(self, seconds: float) -> Tensor:
        return torch.zeros(round(seconds * self.sample_rate))


def _numbered(segments: Sequence[SpeechSegment], first: int = 0) -> Iterator[tuple[int, SpeechSegment]]:
    """Segments with their numbers; a mark of a pause does not count, so that it does not change the speech after it."""
    for segment in segments:
        yield first, segment
        first += bool(segment.units)


def _codes(frames: Iterator[Frame], timer: WordTimer) -> Iterator[Tensor]:
    """The codes of frames of a single text, (1, 1, codebooks) each; their positions go to the timer."""
    for frame in frames:
        timer.add(int(frame.positions))
        yield frame.codes[:, None]


def load_synthesizer(
    path: Source, *, vocoder: Source = GRIFFIN_LIM, refine: int = 0, device: str = "auto"
) -> Synthesizer:
    """Loads a Talker with the codec and vocabulary of its checkpoint.

    Args:
        path: A checkpoint with a Talker.
        vocoder: `griffin-lim`, or a checkpoint with a vocoder.
        refine: Iterations of `RefinedVocoder`; 0: none.
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
    loaded = RefinedVocoder(loaded, refine) if refine else loaded
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
