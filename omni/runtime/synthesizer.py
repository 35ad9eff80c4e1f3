"""Text-to-speech by exported graphs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from omni.decoding.sampling_options import SpeechSampling, random_stream
from omni.decoding.speech_options import speaker_number
from omni.errors import UserError
from omni.media.trimming import Trimmer
from omni.runtime.exported import ExportedPart, parts_of
from omni.runtime.talker import frames
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.spelling import SpeechSegment, speech_segments

_LEAD = 0.16  # seconds that are decoded at once, as in `omni.inference.speech_renderer`
PARTS = ("talker_text", "talker", "codec_decoder", "vocoder")

Samples = NDArray[np.float32]


@final
class Synthesizer:
    """The Talker, the codec and the vocoder of an exported folder.

    Args:
        folder: As `omni export TALKER --to onnx --vocoder VOCODER` writes it.
        variant: `fp32` or `int8`; by default, for each part, the one that the export chose.
        threads: Number of threads; 0: one for each core.

    Attributes:
        units: The vocabulary of the Talker.
        speakers: Names of the Talker's speakers, by number.
        sample_rate: Of the speech in Hz.

    Raises:
        UserError: If the folder is not a complete export of them, or the Talker needs a Thinker.
    """

    def __init__(self, folder: str | Path, *, variant: str | None = None, threads: int = 0) -> None:
        held = parts_of(folder)
        if missing := [name for name in PARTS if name not in held]:
            raise UserError(f"{folder} cannot speak: it has no {', '.join(missing)}; export with --voice and --vocoder")
        parts = [ExportedPart(folder, name, variant=variant, threads=threads) for name in PARTS]
        self._text, self._talker, self._codec, self._vocoder = parts
        self._constants = self._talker.constants
        if self._constants["thinker_dim"]:
            raise UserError(f"the Talker of {folder} is conditioned on a Thinker: speak with its checkpoint")
        self.units: CTCVocabulary = self._talker.vocabulary(CTCVocabulary)
        self.speakers: list[str] = self._constants["speakers"]
        self.sample_rate = int(self._vocoder.constants["sample_rate"])

    def read(self, text: str) -> list[SpeechSegment]:
        """The segments of a text; see `omni.text.spelling.speech_segments`."""
        return speech_segments(text, self.units)

    def speaker_id(self, speaker: int | str | None) -> int | None:
        """The number of a speaker; see `omni.decoding.speech_options.speaker_number`."""
        return speaker_number(speaker, self.speakers, self._constants["num_speakers"])

    def speak(self, text: str, *, speaker: int | str | None = None, sampling: SpeechSampling | None = None) -> Samples:
        """The speech (samples,) of a text of any length; arguments as in `stream`."""
        return np.concatenate([*self.stream(text, speaker=speaker, sampling=sampling), np.zeros(0, dtype=np.float32)])

    def stream(
        self,
        text: str | Sequence[SpeechSegment],
        *,
        speaker: int | str | None = None,
        sampling: SpeechSampling | None = None,
        first: int = 0,
        chunk: float = 0.64,
    ) -> Iterator[Samples]:
        """Synthesises a text in pieces, the first as soon as it has a sound.

        Args:
            text: The text, or its segments.
            speaker: Number or name of a speaker, for a Talker with several.
            sampling: Sampling of codes and pace.
            first: Number of the first segment's random stream.
            chunk: Longest piece of a sentence in seconds.

        Yields:
            (samples,), within ±1; may be empty.

        Raises:
            UserError: If the text cannot be spoken, or there is no such speaker.
        """
        number, sampling = self.speaker_id(speaker), sampling or SpeechSampling()
        for segment in self.read(text) if isinstance(text, str) else text:
            if segment.units:
                yield from self._spoken(segment.units, number, first, sampling, chunk)
                first += 1
            yield np.zeros(round(segment.pause * self.sample_rate), dtype=np.float32)

    def _spoken(
        self, units: Sequence[int], speaker: int | None, number: int, sampling: SpeechSampling, chunk: float
    ) -> Iterator[Samples]:
        """The sound of a segment, without silence at both ends."""
        trimmer, waiting, rate = Trimmer(self.sample_rate), [], self._constants["frame_rate"]
        longest = max(1, round(chunk * rate))
        size = max(1, min(longest, round(_LEAD * rate)))
        state = _Rendering(self._codec, self._vocoder)
        for codes in self._codes(units, speaker, number, sampling):
            waiting.append(codes)
            if len(waiting) == size:
                yield trimmer.push(state.decode(waiting))
                waiting, size = [], min(2 * size, longest) if trimmer.started else 1
        if waiting:
            yield trimmer.push(state.decode(waiting))
        yield trimmer.push(state.flush())
        yield trimmer.finish()

    def _codes(
        self, units: Sequence[int], speaker: int | None, number: int, sampling: SpeechSampling
    ) -> Iterator[NDArray[np.int64]]:
        inputs = {"text": np.array([units], dtype=np.int64), "text_lengths": np.array([len(units)], dtype=np.int64)}
        if speaker is not None:
            inputs["speakers"] = np.array([speaker], dtype=np.int64)
        (encoded,) = self._text.run(inputs)
        steps = frames(
            self._talker.run,
            encoded,
            self._talker.start("past"),
            frame_rate=self._constants["frame_rate"],
            num_codebooks=self._constants["num_codebooks"],
            draws=random_stream(sampling.first.seed, number),
            sampling=sampling,
        )
        return (frame.codes for frame in steps)


class _Rendering:
    """Codes to samples, as a stream."""

    def __init__(self, codec: ExportedPart, vocoder: ExportedPart) -> None:
        self._codec, self._vocoder = codec, vocoder
        self._decoded = codec.start("past")
        self._past, self._tail = vocoder.start("past"), vocoder.start("tail")
        self._delay = self._skip = int(vocoder.constants["delay"])

    def decode(self, codes: Sequence[NDArray[np.int64]]) -> Samples:
        """The samples of frames."""
        mels, self._decoded = self._codec.run({"codes": np.stack(codes)[None], "past": self._decoded})
        samples, self._past, self._tail = self._vocoder.run({"mels": mels, "past": self._past, "tail": self._tail})
        kept = samples[0, self._skip :]
        self._skip -= samples.shape[1] - len(kept)
        return kept

    def flush(self) -> Samples:
        """The end, after all frames."""
        return self._tail[0, : self._delay]
