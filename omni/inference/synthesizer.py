"""A trained Talker at work, without Lightning: texts in, sound out, whole or as it is made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.decoding.talker import SpeechSampling, speak_codes
from omni.decoding.talker import speak as speak_frames
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.talker_conditioning import Conditioner
from omni.media.audio import SAMPLE_RATE, write_audio
from omni.media.griffin_lim import GriffinLim
from omni.media.trimming import Trimmer, trimmed
from omni.models.part import Part
from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.speech_codec import CausalCodec, SpeechCodec
from omni.models.speech_vocoder import CausalVocoder, SpeechVocoder, streams
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.spelling import SpeechSegment, speech_segments

GRIFFIN_LIM = "griffin-lim"


@dataclass(frozen=True, kw_only=True, eq=False)
class Speech:
    """What was said.

    Attributes:
        audio: (samples,), float32 within ±1, on the CPU.
        codes: (frames, codebooks), int64: the codec's, of all sentences one behind the other, silence included.
        sample_rate: In Hz.
    """

    audio: Tensor
    codes: Tensor
    sample_rate: int = SAMPLE_RATE

    def save(self, path: str | Path) -> None:
        """Writes an audio file; see `omni.media.audio.write_audio`."""
        write_audio(path, self.audio, sample_rate=self.sample_rate)


class Synthesizer:
    """A Talker, the codec whose codes it speaks, and a vocoder.

    Args:
        talker: The model, in eval mode.
        codec: The codec it was trained with, a `SpeechCodec`.
        vocoder: Makes spectrograms sound.
        units: What the Talker reads.
        voices: Names of the Talker's voices, by number.
        condition: Gives the hidden states of a Thinker, for a Talker that was trained with them.
        device: Where all of them run.

    Raises:
        UserError: If they do not fit each other.
    """

    def __init__(
        self,
        talker: Talker,
        codec: Any,
        vocoder: Any,
        units: CTCVocabulary,
        *,
        voices: Sequence[str] = (),
        condition: Conditioner | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.talker, self.units, self.voices = talker.to(device), units, list(voices)
        self.condition = condition
        if condition is not None:
            condition.thinker.to(device)
        self.codec: SpeechCodec = codec.to(device)
        self.vocoder: SpeechVocoder = vocoder.to(device)
        for name in ("num_codebooks", "codebook_size", "frame_rate"):
            here, there = getattr(talker, name), getattr(codec, name)
            if here != there:
                raise UserError(
                    f"the Talker's {name} is {here} and the codec's {there}: give the codec of its training"
                )
        if vocoder.num_mels != codec.num_mels:
            raise UserError(
                f"the vocoder reads {vocoder.num_mels} mel filters and the codec writes {codec.num_mels}: give a "
                f"vocoder that was trained with num_mels {codec.num_mels}, or {GRIFFIN_LIM}"
            )

    @property
    def streams(self) -> bool:
        """Whether codec and vocoder are causal: `stream` then yields a sentence's sound while it is being made."""
        return isinstance(self.codec, CausalCodec) and streams(self.vocoder)

    # ------------------------------------------------------------------ reading

    def read(self, text: str | Sequence[SpeechSegment]) -> list[SpeechSegment]:
        """What a text is made of, see `omni.text.spelling.breaths`; what has been read stays as it is."""
        return speech_segments(text, self.units) if isinstance(text, str) else list(text)

    def voice(self, speaker: int | str | None) -> int | None:
        """The number of a voice: of its name, of itself, or of the first one; None where the Talker has one only.

        Raises:
            UserError: If the Talker has no such voice.
        """
        count = self.talker.num_speakers
        if speaker is None:
            return 0 if count else None
        if not count:
            raise UserError("the Talker has one voice only: give no speaker")
        if isinstance(speaker, str):
            if speaker not in self.voices:
                some = ", ".join(self.voices[:10])
                raise UserError(f"there is no speaker {speaker!r}: the Talker has {count}, such as {some}")
            return self.voices.index(speaker)
        if not 0 <= speaker < count:
            raise UserError(f"there is no speaker {speaker}: the Talker has 0 to {count - 1}")
        return speaker

    # ------------------------------------------------------------------ speaking

    def speak(
        self,
        texts: str | Sequence[str | Sequence[SpeechSegment]],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        batch_size: int = 16,
    ) -> list[Speech]:
        """Says texts of any length; arguments as in `parts`.

        Returns:
            The speech of each.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        said: list[list[Speech]] = [[] for _ in texts]
        for number, part in self.parts(texts, speaker=speaker, sampling=sampling, batch_size=batch_size):
            said[number].append(part)
        return [
            Speech(audio=torch.cat([part.audio for part in each]), codes=torch.cat([part.codes for part in each]))
            for each in said
        ]

    @torch.no_grad()
    def parts(
        self,
        texts: Sequence[str | Sequence[SpeechSegment]],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        batch_size: int = 16,
    ) -> Iterator[tuple[int, Speech]]:
        """Says texts sentence by sentence, in order, several at a time.

        A text sounds the same, whatever is said beside it.

        Args:
            texts: Any texts, or what has been read of them.
            speaker: The number of a voice, or its name, for a Talker that has several; the first if not given.
            sampling: How codes and pace are chosen.
            batch_size: Most sentences spoken at a time.

        Yields:
            The number of a text, and its next sentence with the pause behind it.

        Raises:
            UserError: If a text cannot be spoken, before any is; or there is no such voice.
        """
        voice = self.voice(speaker)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be 1 or more")
        queue = [(number, turn, one) for number, text in enumerate(texts) for turn, one in enumerate(self.read(text))]
        for first in range(0, len(queue), batch_size):
            numbers, turns, group = zip(*queue[first : first + batch_size], strict=True)
            said = [breath.units for breath in group]
            codes = speak_codes(
                self.talker,
                said,
                hidden=None if self.condition is None else self.condition(said),
                speakers=None if voice is None else [voice] * len(group),
                sampling=sampling,
                numbers=turns,
            )
            for number, breath, row in zip(numbers, group, codes, strict=True):
                sound = trimmed(self._sound(row))
                audio = torch.cat((sound, sound.new_zeros(round(breath.pause * SAMPLE_RATE)))).cpu()
                yield number, Speech(audio=audio, codes=row.cpu())

    @torch.no_grad()
    def stream(
        self,
        text: str | Sequence[SpeechSegment],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        chunk: float = 0.64,
        first: int = 0,
    ) -> Iterator[Tensor]:
        """Says a text, and yields its sound as it is made; joined it is what `speak` gives.

        With a causal codec and a causal vocoder the first sound comes after a few frames; else, as with Griffin–Lim,
        which looks at the whole sentence, sentence by sentence.

        Args:
            text: Any text, or what has been read of it.
            speaker: As in `parts`.
            sampling: As in `parts`.
            chunk: Most seconds that are made at a time; the first chunks are shorter.
            first: How many sentences of the same text have been said before these.

        Yields:
            (samples,), float32 within ±1, on the CPU.

        Raises:
            UserError: As in `parts`.
        """
        if not 0 < chunk < float("inf"):
            raise UserError(f"chunk is {chunk} seconds: it must be over 0")
        voice = self.voice(speaker)
        most = max(1, round(chunk * self.talker.frame_rate))
        for turn, breath in enumerate(self.read(text), start=first):
            frames = speak_frames(
                self.talker,
                [breath.units],
                hidden=None if self.condition is None else self.condition([breath.units]),
                speakers=None if voice is None else [voice],
                sampling=sampling,
                numbers=[turn],
            )
            codes = (frame.codes[:, None] for frame in frames)
            sounds = self._flow(codes, most) if self.streams else [trimmed(self._sound(torch.cat([*codes], dim=1)[0]))]
            for sound in sounds:
                if len(sound):
                    yield sound.cpu()
            if breath.pause:
                yield torch.zeros(round(breath.pause * SAMPLE_RATE))

    def _flow(self, frames: Iterator[Tensor], most: int) -> Iterator[Tensor]:
        """Sound of frames of codes (1, 1, codebooks), a few at a time: one by one until there is something to hear."""
        codec: Any = self.codec
        vocoder: Any = self.vocoder
        assert isinstance(codec, CausalCodec)
        assert isinstance(vocoder, CausalVocoder)
        trimmer, waiting, size = Trimmer(), [], 1
        with codec.streaming() as decoder, vocoder.streaming() as player:
            for frame in frames:
                waiting.append(frame)
                if len(waiting) == size:
                    yield trimmer.push(player.decode(decoder.decode(torch.cat(waiting, dim=1)))[0])
                    waiting, size = [], min(2 * size, most) if trimmer.begun else 1
            if waiting:
                yield trimmer.push(player.decode(decoder.decode(torch.cat(waiting, dim=1)))[0])
            yield trimmer.push(player.flush()[0])
            yield trimmer.finish()

    def _sound(self, codes: Tensor) -> Tensor:
        """(samples,) of a sentence's codes (frames, codebooks)."""
        return self.vocoder(self.codec.decode(codes[None]))[0]


def load_synthesizer(path: Source, *, vocoder: Source = GRIFFIN_LIM, device: str = "auto") -> Synthesizer:
    """Loads a Talker, with the codec and the characters that travel in its checkpoint.

    Args:
        path: The checkpoint of a Talker, or of a model that speaks with one.
        vocoder: `griffin-lim`, or a checkpoint that holds a vocoder.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        UserError: If a checkpoint is missing, damaged or lacks a part, parts do not fit, or the device is not there.
    """
    checkpoint = Checkpoint.open(path)
    talker, codec = checkpoint.part("talker", Talker), checkpoint.part("codec", Part)
    units, condition = checkpoint.ctc_vocabulary, None
    if talker.condition is not None:
        thinker = checkpoint.part("thinker", Thinker, PretrainedThinker)
        condition = Conditioner(thinker, checkpoint.thinker_tokenizer, units)
    if not isinstance(codec, SpeechCodec):
        raise UserError(f"codec of {path} is a {type(codec).__name__}, which is no codec of speech")
    talker.transpose_weights_for_decoding()
    sounding = load_vocoder(vocoder, codec.num_mels, opened=checkpoint)
    voices = checkpoint.content.get("speakers", ())
    return Synthesizer(talker, codec, sounding, units, voices=voices, condition=condition, device=resolve(device))


def load_vocoder(name: Source, num_mels: int, *, opened: Checkpoint | None = None) -> torch.nn.Module:
    """A vocoder in eval mode.

    Args:
        name: `griffin-lim`, or a checkpoint that holds a vocoder.
        num_mels: Mel filters that Griffin–Lim is to read.
        opened: A checkpoint that is read already, and may be the one.

    Raises:
        UserError: If it is neither.
    """
    if str(name) == GRIFFIN_LIM:
        return GriffinLim(num_mels)
    if not isinstance(name, Checkpoint) and not Path(name).exists():
        raise UserError(f"vocoder {name} does not exist: give {GRIFFIN_LIM}, or a checkpoint that holds a vocoder")
    vocoder = Checkpoint.open(name, opened=opened).part("vocoder", Part)
    if not isinstance(vocoder, SpeechVocoder):
        raise UserError(f"vocoder of {name} is a {type(vocoder).__name__}, which is no vocoder")
    return vocoder


def speak(
    texts: str | Sequence[str],
    checkpoint: str | Path,
    *,
    speaker: int | str | None = None,
    vocoder: str | Path = GRIFFIN_LIM,
    sampling: SpeechSampling | None = None,
    device: str = "auto",
) -> list[Speech]:
    """Says one or several texts of any length; see `Synthesizer.speak`.

    Args:
        texts: Any texts.
        checkpoint: Of a Talker.
        speaker: The number of a voice, or its name, for a Talker that has several; the first if not given.
        vocoder: `griffin-lim`, or a checkpoint that holds a vocoder.
        sampling: How codes and pace are chosen; the defaults of `SpeechSampling` if not given.
        device: `cpu`, `cuda`, or `auto`.
    """
    return load_synthesizer(checkpoint, vocoder=vocoder, device=device).speak(texts, speaker=speaker, sampling=sampling)
