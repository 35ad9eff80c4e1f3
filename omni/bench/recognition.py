"""Word errors of a recogniser on live audio by its look-ahead, and on speech whose tempo is changed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import torch
import torchaudio
from torch import Tensor
from tqdm import tqdm

from omni import __version__
from omni.bench.race import aligned
from omni.data.speech.opening import open_utterances
from omni.errors import UserError
from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.recognizer import Recognizer, load_recognizer
from omni.media.audio import SAMPLE_RATE, LogMel, read_audio
from omni.media.griffin_lim import GriffinLim
from omni.media.tempo import change_tempo

_PIECE = 1600  # samples: live audio arrives in tenths of a second
_PAUSE = 0.5  # seconds of silence between two sentences of a recording
_N_FFT, _HOP = 512, 128  # of the phase vocoder


@dataclass(frozen=True)
class WordErrorReport:
    """Word error rates by an argument.

    Attributes:
        conditions: What was run.
        heads: Names of the columns; the first is that of the argument.
        rows: A name, and a rate for each column.
        conclusion: What follows.
    """

    conditions: dict[str, str]
    heads: list[str]
    rows: list[tuple[str, list[float]]]
    conclusion: str

    def table(self) -> str:
        """The report as text."""
        cells = [[name, *(f"{100 * rate:.1f}" for rate in rates), ""] for name, rates in self.rows]
        return "\n".join(
            [*aligned([*self.conditions.items()]), "", *aligned([[*self.heads, ""], *cells]), "", self.conclusion]
        )


@dataclass(frozen=True)
class Recording:
    """Audio and what is said in it.

    Attributes:
        audio: (samples,) at 16 kHz.
        text: Normalised.
    """

    audio: Tensor
    text: str


@dataclass(frozen=True, kw_only=True)
class RecognitionTest(ABC):
    """Abstract: a measurement of a recogniser.

    Attributes:
        recognizer: A checkpoint of stage B.
        data: Speech with transcripts that the recogniser was not trained on.
        rows: Most utterances, the first ones.
        beam: Beam width of the recogniser; 1: greedy.
        threads: Number of threads on a CPU; by default PyTorch's own choice.
        json: File to write all numbers to.
    """

    recognizer: str = "lightning_logs/audio/best.ckpt"
    data: str = "data/world/speech/val.jsonl"
    rows: int = 120
    beam: int = 1
    threads: int | None = None
    json: Path | None = None

    @abstractmethod
    def run(self) -> WordErrorReport:
        """Runs the measurement.

        Raises:
            UserError: If an argument is wrong, or a file is missing.
        """

    def load(self, least: int) -> tuple[Recognizer, list[Recording]]:
        """The recogniser and at least some utterances."""
        if self.rows < least:
            raise UserError(f"rows is {self.rows}: give {least} or more")
        recognizer = load_recognizer(self.recognizer, device="cpu", beam=self.beam)
        (source,) = open_utterances([self.data], split="test")
        found: list[Recording] = []
        for number, row in enumerate(source.rows()):
            if len(found) == self.rows:
                break
            if text := recognizer.units.normalize(row.text):
                found.append(Recording(read_audio(source.audio(number, row)), text))
        if len(found) < least:
            raise UserError(f"{self.data} has {len(found)} utterances: {least} are needed")
        return recognizer, found

    def conditions(self, recordings: Sequence[Recording], **others: str) -> dict[str, str]:
        """What was run."""
        seconds = sum(len(one.audio) for one in recordings) / SAMPLE_RATE
        words = sum(len(one.text.split()) for one in recordings)
        return {
            "versions": f"omni {__version__}, torch {torch.__version__}",
            "recogniser": f"{self.recognizer}, beam {self.beam}",
            "data": f"{self.data}: {words:,} words, {seconds:.0f} s",
            **others,
        }


@dataclass(frozen=True, kw_only=True)
class LookAheadTest(RecognitionTest):
    """Word errors of `LiveRecognizer` by its look-ahead.

    Attributes:
        look_aheads: Seconds to try.
        step: Seconds of new audio after which the window is read again.
        context: Seconds of audio before the first word that is not output yet.
        sentences: Utterances of a recording, with pauses of 0.5 s between them.
    """

    look_aheads: tuple[float, ...] = (0.0, 0.16, 0.32, 0.48, 0.64, 0.96)
    step: float = 0.32
    context: float = 4.0
    sentences: int = 5

    def run(self) -> WordErrorReport:
        """Chooses the look-ahead on the first half of the recordings, and reports it on the second.

        Raises:
            UserError: If an argument is wrong, or a file is missing.
        """
        if self.sentences < 1 or not self.look_aheads:
            raise UserError(f"sentences is {self.sentences} and look_aheads {[*self.look_aheads]}: give at least one")
        recognizer, single = self.load(2 * self.sentences)
        groups = [single[i : i + self.sentences] for i in range(0, len(single), self.sentences)]
        recordings = [_joined(group) for group in groups if len(group) == self.sentences]
        half = len(recordings) // 2

        def halves(texts: list[str]) -> list[float]:
            return [_wer(recordings[:half], texts[:half]), _wer(recordings[half:], texts[half:])]

        rates: dict[float, list[float]] = {}
        for look_ahead in tqdm(sorted(set(self.look_aheads)), desc="look-ahead", leave=False, disable=None):
            options = {"step": self.step, "look_ahead": look_ahead, "context": self.context}
            rates[look_ahead] = halves([_live(LiveRecognizer(recognizer, **options), one.audio) for one in recordings])
        whole = halves([recognizer.transcribe(one.audio)[0].text for one in recordings])
        best = min(rates, key=lambda value: (rates[value][0], value))
        rows = [(f"{value:.2f}", found) for value, found in rates.items()]
        parts = (
            f"{half} recordings of {self.sentences} sentences to choose, the next {len(recordings) - half} to report"
        )
        return WordErrorReport(
            self.conditions(single, halves=parts, live=f"step {self.step:g} s, context {self.context:g} s"),
            ["look-ahead, s", "WER % to choose", "to report"],
            [*rows, ("whole", whole)],
            f"The first half chooses {best:.2f} s: WER {100 * rates[best][1]:.1f} % on the second half, "
            f"and {100 * whole[1]:.1f} % of its whole recordings.",
        )


@dataclass(frozen=True, kw_only=True)
class TempoTest(RecognitionTest):
    """Word errors on speech whose tempo is changed on its spectrogram, beside torchaudio's phase vocoder.

    Attributes:
        speeds: Tempos to try; 2 takes half the time.
        num_mels: Mel filters of the spectrograms.
    """

    rows: int = 64
    speeds: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    num_mels: int = 80

    def run(self) -> WordErrorReport:
        """Measures all speeds.

        Raises:
            UserError: If an argument is wrong, or a file is missing.
        """
        if not self.speeds or not all(0.25 <= speed <= 4 for speed in self.speeds):
            raise UserError(f"speeds are {[*self.speeds]}: give tempos of 0.25 to 4")
        recognizer, recordings = self.load(1)
        log_mel, vocoder = LogMel(self.num_mels), GriffinLim(self.num_mels)

        def on_spectrogram(audio: Tensor, speed: float) -> Tensor:
            return vocoder(change_tempo(log_mel(audio[None]), speed))[0]

        def wer(change: Callable[[Tensor, float], Tensor], speed: float) -> float:
            changed = [change(one.audio, speed) for one in recordings]
            return _wer(recordings, [one.text for one in recognizer.transcribe(changed)])

        speeds = tqdm(sorted(set(self.speeds)), desc="speed", leave=False, disable=None)
        rows = [(f"{speed:g}", [wer(on_spectrogram, speed), wer(phase_vocoder, speed)]) for speed in speeds]
        recorded = _wer(recordings, [one.text for one in recognizer.transcribe([one.audio for one in recordings])])
        described = f"{self.num_mels} filters and Griffin–Lim; phase vocoder of window {_N_FFT} and hop {_HOP}"
        return WordErrorReport(
            self.conditions(recordings, spectrograms=described),
            ["speed", "WER % by spectrogram", "by phase vocoder"],
            rows,
            f"The recordings as they are: WER {100 * recorded:.1f} %.",
        )


def phase_vocoder(audio: Tensor, speed: float) -> Tensor:
    """Changes the tempo of (samples,) by torchaudio's phase vocoder."""
    window = torch.hann_window(_N_FFT)
    spectrum = torch.stft(audio, _N_FFT, _HOP, window=window, return_complex=True)
    advance = torch.linspace(0, torch.pi * _HOP, _N_FFT // 2 + 1)[:, None]
    return torch.istft(torchaudio.functional.phase_vocoder(spectrum, speed, advance), _N_FFT, _HOP, window=window)


def _joined(group: Sequence[Recording]) -> Recording:
    def parts() -> Iterator[Tensor]:
        for one in group:
            yield one.audio
            yield torch.zeros(round(_PAUSE * SAMPLE_RATE))

    return Recording(torch.cat([*parts()]), " ".join(one.text for one in group))


def _live(recognizer: LiveRecognizer, audio: Tensor) -> str:
    return "".join(map(recognizer.push, audio.split(_PIECE))) + recognizer.finish()


def _wer(recordings: Sequence[Recording], texts: Sequence[str]) -> float:
    return jiwer.wer([one.text for one in recordings], [*texts])
