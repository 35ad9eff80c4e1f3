"""The turn detector against silero-vad: turns of held-out voices in noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from omni import __version__
from omni.bench.race import aligned
from omni.data.speech.manifests import SpeechManifest
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.turn_detector import TurnDetector

MARGINS = (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 15.0)  # dB, of `TurnDetector`
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # probabilities of silero-vad
NOISES = ("none", "white", "pink", "babble")
_SILENCE = 0.5  # seconds that end a turn, of both
_NEAR = 0.3  # seconds: a turn is found if its start and its end are this near
_CHUNK = 512  # samples: silero-vad's at 16 kHz
_PER_SCENE = 6  # utterances
_QUIET = 0.03  # of the peak level of an utterance: less is silence around it

Turns = list[tuple[float, float]]
Found = Callable[[Tensor, float], Turns]  # turns of audio, by a threshold


class Scene(NamedTuple):
    """Utterances with pauses, in noise.

    Attributes:
        audio: (samples,) at 16 kHz.
        turns: Starts and ends of the utterances, in seconds.
        noise: Kind of noise.
    """

    audio: Tensor
    turns: Turns
    noise: str


class TurnScore(NamedTuple):
    """How turns are found.

    Attributes:
        detector: Name of the detector.
        noise: Kind of noise.
        threshold: Chosen on the training recordings, over all kinds of noise.
        found: Share of the turns whose start and end are near.
        false: Turns that are none, per true turn.
        start: Median seconds by which a start is wrong, of turns that are found.
        end: Of an end.
    """

    detector: str
    noise: str
    threshold: float
    found: float
    false: float
    start: float
    end: float


@dataclass(frozen=True)
class TurnReport:
    """The result of a comparison.

    Attributes:
        conditions: What was compared.
        scores: By detector and kind of noise.
    """

    conditions: dict[str, str]
    scores: list[TurnScore]

    def table(self) -> str:
        """The report as text."""
        rows = [("detector", "noise", "threshold", "found", "false", "start", "end")]
        for one in self.scores:
            errors = (f"{1000 * one.start:.0f} ms", f"{1000 * one.end:.0f} ms")
            rows.append(
                (one.detector, one.noise, f"{one.threshold:g}", f"{one.found:.1%}", f"{one.false:.1%}", *errors)
            )
        return "\n".join([*aligned([*self.conditions.items()]), "", *aligned(rows)])


@dataclass(frozen=True, kw_only=True)
class TurnComparison:
    """A comparison.

    Attributes:
        train: Manifest of recordings on which the thresholds are chosen.
        val: Manifest of recordings of other voices, which are reported.
        scenes: Scenes of six recordings each, in each kind of noise, of either manifest.
        snr: Speech over noise, in dB.
        seed: Of pauses and noise.
        json: File to write all numbers to.
    """

    train: Path = Path("data/world/speech/train.jsonl")
    val: Path = Path("data/world/speech/val.jsonl")
    scenes: int = 10
    snr: float = 10.0
    seed: int = 0
    json: Path | None = None

    def run(self) -> TurnReport:
        """Chooses thresholds on one manifest, and reports on the other.

        Raises:
            UserError: If a manifest is missing, or both have a speaker in common.
        """
        if self.scenes < 1:
            raise UserError(f"scenes is {self.scenes}: give 1 or more")
        choose, report = (self._made(path) for path in (self.train, self.val))
        if shared := choose[1] & report[1]:
            raise UserError(f"{self.train} and {self.val} have the speakers {', '.join(sorted(shared))} in common")
        detectors: dict[str, tuple[Found, Sequence[float]]] = {"omni": (_found_by_level, MARGINS)}
        conditions = {
            "versions": f"omni {__version__}",
            "scenes": f"{self.scenes} of {_PER_SCENE} recordings in each noise, {self.snr:g} dB, seed {self.seed}",
            "thresholds": f"chosen on {self.train}; reported on {self.val}, of other speakers",
            "found": f"start and end within {1000 * _NEAR:.0f} ms; {1000 * _SILENCE:.0f} ms of silence end a turn",
        }
        try:
            detectors["silero-vad"] = (_Silero(), THRESHOLDS)
        except ModuleNotFoundError:
            conditions["peer"] = "silero-vad is not installed: run `pip install silero-vad`"
        scores = []
        for name, (found, thresholds) in detectors.items():
            best = max(
                tqdm(thresholds, desc=f"{name}: choosing", leave=False, disable=None),
                key=lambda value: _overall(choose[0], found, value),
            )
            scores += [_score(name, noise, best, report[0], found) for noise in NOISES]
        return TurnReport(conditions, scores)

    def _made(self, manifest: Path) -> tuple[list[Scene], set[str]]:
        """Scenes of a manifest, and its speakers."""
        source = SpeechManifest(manifest)
        rows = list(source.rows())
        if not rows:
            raise UserError(f"{manifest} has no recordings")
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(rows), generator=generator).tolist()
        speech = [read_audio(source.audio(place, rows[place])) for place in order[: self.scenes * _PER_SCENE]]
        parts = [speech[start : start + _PER_SCENE] for start in range(0, len(speech), _PER_SCENE)]
        scenes = []
        for part in parts:
            clean, turns = _joined(part, generator)
            scenes += [Scene(_noisy(clean, kind, self.snr, speech, generator), turns, kind) for kind in NOISES]
        return scenes, {row.speaker or "" for row in rows} - {""}


def _joined(speech: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, Turns]:
    """Utterances with pauses of 1 to 2.5 s, and where they are."""
    parts, turns, count = [], [], 0
    for utterance in speech:
        pause = round((1 + 1.5 * torch.rand((), generator=generator).item()) * SAMPLE_RATE)
        heard = (utterance.abs() > _QUIET * utterance.abs().max()).nonzero()
        turns.append(tuple((count + pause + int(heard[place])) / SAMPLE_RATE for place in (0, -1)))
        parts += [torch.zeros(pause), utterance]
        count += pause + len(utterance)
    return torch.cat((*parts, torch.zeros(2 * SAMPLE_RATE))), turns


def _noisy(clean: Tensor, kind: str, snr: float, speech: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    if kind == "none":
        return clean
    noise = torch.randn(len(clean), generator=generator)
    if kind == "pink":
        spectrum = torch.fft.rfft(noise)
        spectrum[1:] /= torch.arange(1, len(spectrum)).sqrt()
        noise = torch.fft.irfft(spectrum, len(clean))
    elif kind == "babble":  # of many voices at once
        noise = torch.zeros(len(clean))
        for number, utterance in enumerate(speech):
            noise += utterance.roll(number * 997).repeat(math.ceil(len(clean) / len(utterance)))[: len(clean)]
    level = clean[clean != 0].square().mean().sqrt() * 10 ** (-snr / 20)
    return clean + noise * level / noise.square().mean().sqrt()


def _found_by_level(audio: Tensor, threshold: float) -> Turns:
    events = TurnDetector(silence=_SILENCE, margin=threshold).push(audio)
    starts = [event.seconds for event in events if event.kind == "start"]
    ends = [event.seconds for event in events if event.kind == "end"]
    return list(zip(starts, ends, strict=False))


class _Silero:
    """silero-vad as it is used live; probabilities of a recording are computed once."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        from silero_vad import load_silero_vad  # pyright: ignore[reportMissingImports]  optional

        self._model = load_silero_vad()
        torch.set_num_threads(threads)  # the package sets one at its import
        self._known: dict[int, tuple[Tensor, list[float]]] = {}

    def __call__(self, audio: Tensor, threshold: float) -> Turns:
        from silero_vad import VADIterator  # pyright: ignore[reportMissingImports]

        probabilities = iter(self._probabilities(audio))
        silence = round(1000 * _SILENCE)
        options: dict[str, Any] = {"threshold": threshold, "min_silence_duration_ms": silence, "speech_pad_ms": 0}
        stored = _Stored(lambda: next(probabilities))
        detector = VADIterator(stored, sampling_rate=SAMPLE_RATE, **options)
        events = [detector(chunk) for chunk in _chunks(audio)]
        starts = [event["start"] / SAMPLE_RATE for event in events if event and "start" in event]
        ends = [event["end"] / SAMPLE_RATE for event in events if event and "end" in event]
        return list(zip(starts, ends, strict=False))

    def _probabilities(self, audio: Tensor) -> list[float]:
        known = self._known.get(id(audio))
        if known is None:
            self._model.reset_states()
            with torch.inference_mode():
                values = [self._model(chunk, SAMPLE_RATE).item() for chunk in _chunks(audio)]
            known = self._known[id(audio)] = (audio, values)
        return known[1]


class _Stored:
    """A model whose outputs are known."""

    def __init__(self, output: Callable[[], float]) -> None:
        self._output = output

    def __call__(self, chunk: Tensor, rate: int) -> Tensor:
        return torch.tensor(self._output())

    def reset_states(self) -> None:
        """There is no state."""


def _chunks(audio: Tensor) -> list[Tensor]:
    return [*audio[: len(audio) // _CHUNK * _CHUNK].split(_CHUNK)]


def _matches(true: Turns, found: Turns) -> list[tuple[float, float]]:
    """Errors of start and end of the turns that are found."""
    errors = []
    for start, end in true:
        near = [(abs(a - start), abs(b - end)) for a, b in found]
        near = [pair for pair in near if max(pair) <= _NEAR]
        errors += [min(near)] if near else []
    return errors


def _overall(scenes: Sequence[Scene], found: Found, threshold: float) -> float:
    """Share of turns that are found less false ones, over all noises."""
    right = wrong = count = 0
    for scene in scenes:
        turns = found(scene.audio, threshold)
        matched = len(_matches(scene.turns, turns))
        right, wrong, count = right + matched, wrong + len(turns) - matched, count + len(scene.turns)
    return (right - wrong) / count


def _score(name: str, noise: str, threshold: float, scenes: Sequence[Scene], found: Found) -> TurnScore:
    errors, count, extra = [], 0, 0
    for scene in scenes:
        if scene.noise == noise:
            turns = found(scene.audio, threshold)
            matched = _matches(scene.turns, turns)
            errors += matched
            count += len(scene.turns)
            extra += len(turns) - len(matched)
    middle = torch.tensor(errors or [(math.nan, math.nan)]).median(0).values.tolist()
    return TurnScore(name, noise, threshold, len(errors) / count, extra / count, *middle)
