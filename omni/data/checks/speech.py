"""Checks of speech, which read all of it."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omni.data.checks.findings import Kind, Report, first_names, map_threads, spread
from omni.data.speech.manifests import Utterance, Utterances
from omni.decoding.ctc import least_subframes
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, audio_info, native_blocks, read_audio
from omni.media.container import AudioError, AudioFault, AudioSource, audio_remarks, ogg_ends_early
from omni.media.speech_spans import speech_spans, steadiness
from omni.media.stream_parts import Remark
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.normalization import invisible_characters

SPEECH_KINDS = {
    "bad row": Kind("error", "Correct the manifest: `fit` leaves it out, or stops there (`bad_rows: error`)."),
    "missing": Kind("error", "Correct the path, or remove the row: `fit` leaves it out."),
    "folder": Kind("error", "Name a file in it: `fit` leaves the row out."),
    "empty": Kind("error", "Without samples: get the file again, or remove the row."),
    "unreadable": Kind("error", "Not audio, or of an unknown format: convert it, or remove the row."),
    "truncated": Kind("error", "The end of the audio is missing: get the file again, or remove the row."),
    "not finite": Kind("error", "Samples are NaN or infinite: write the file again, or remove the row."),
    "silent": Kind("error", "Nothing is above -60 dBFS: record it again, or remove the row."),
    "no text": Kind("error", "Add the transcript, or remove the row: `fit` leaves it out."),
    "outside vocabulary": Kind("error", "Add the characters to the units, or normalise the text: `fit` leaves it out."),
    "infeasible": Kind("error", "The text is too long for its audio: is it of another row? `fit` leaves the row out."),
    "wrong duration": Kind("error", "More than a second off: correct the manifest, or leave `duration` out of it."),
    "contradiction": Kind("error", "The same audio with a different text: keep the right one."),
    "leak": Kind("error", "The same audio is in two splits: remove it from one of them."),
    "clipped": Kind("warning", "Samples are at full scale: record or convert it at a lower level."),
    "perhaps cut": Kind("warning", "The Ogg stream has no last page: compare it with its source."),
    "opposite phase": Kind("warning", "Its channels cancel out: one is read. Check how it was recorded."),
    "joined": Kind("warning", "Several files end to end, which are read as one: is that meant?"),
    "integer scale": Kind("warning", "Floating-point samples with the range of integers are scaled: write it again."),
    "no speech found": Kind(
        "warning", "Spectra stay alike for 100 ms, or nothing is above the noise: music? Listen to some."
    ),
    "duplicate": Kind("warning", "The same audio again: remove one of them."),
    "inexact duration": Kind("warning", "Correct the manifest, or leave `duration` out of it."),
    "too long": Kind("warning", "`fit` leaves it out: split it into utterances, or raise max_duration."),
    "too short": Kind("warning", "`fit` leaves it out."),
    "odd format": Kind("warning", "Unlike most of its split: is it from the same source?"),
    "speaker overlap": Kind(
        "warning", "The same speakers are in two splits: results do not hold for new speakers.", of_rows=False
    ),
    "no length": Kind("note", "Its header states no length: it is read to its end."),
    "invisible characters": Kind("note", "Soft hyphens, marks of direction and the like are removed from the text."),
    "low rate": Kind("note", "Resampled to 16 kHz; its spectrum ends at half of its rate.", of_rows=False),
    "odd speed": Kind("note", "Three times faster or slower than most: is the text complete, and of this audio?"),
}

_SILENT = 1e-3  # −60 dBFS
_FULL = 0.999  # of full scale
_CLIPPED = 1e-3  # share of samples in runs of three or more at full scale
_ODD_SPEED = 3.0
_STEADY = 0.86  # of `steadiness`: 700 utterances of AN4 over 2 s are at most 0.854, LibriSpeech and LJSpeech 0.67
_SEARCHED = (2.5, 20.0)  # seconds: shorter recordings are not searched for speech, of longer ones their start is


class SpeechRules(NamedTuple):
    """What speech is checked against.

    Attributes:
        units: Encodes the texts.
        downsampling: Mel frames for each frame of the encoder.
        subframes: Output frames for each frame of the encoder.
        min_duration: Shorter utterances, in seconds, are left out of training.
        max_duration: Longer ones are left out.
    """

    units: CTCVocabulary
    downsampling: int
    subframes: int
    min_duration: float
    max_duration: float


class _AudioStats(NamedTuple):
    """Properties of an utterance's audio that has been read."""

    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    peak: float = 0.0
    clipped: float = 0.0  # share of the samples
    digest: bytes = b""
    ends_early: bool = False
    speech: bool = True
    remarks: Sequence[Remark] = ()
    fault: AudioFault | None = None
    message: str = ""


class _Place(NamedTuple):
    """The first row of some audio."""

    split: str
    where: str
    text: str


class SpeechCheck:
    """Checks split after split, and compares each with those before.

    Args:
        rules: Limits and vocabulary.
        report: Gets the findings.
    """

    def __init__(self, rules: SpeechRules, report: Report):
        self.rules = rules
        self.report = report
        self._first_seen: dict[bytes, _Place] = {}  # by a hash of the audio
        self._speakers: dict[str, set[str]] = {}
        self._texts: dict[str, set[str]] = {}

    def split(self, name: str, sources: Sequence[Utterances]) -> None:
        """Reads a split.

        Args:
            name: What to call it.
            sources: Its utterances.
        """
        readable: list[tuple[Utterance, _AudioStats]] = []
        speeds: list[tuple[float, str]] = []
        outside: Counter[str] = Counter()
        texts: set[str] = set()
        rows = ((one, number, row) for one in sources for number, row in enumerate(one.rows_or_errors()))
        for row, audio in map_threads(_read, rows, name, "utterances"):
            self.report.rows += 1
            if isinstance(row, UserError):
                self.report.add_error("bad row", row)
                continue
            text = self._check_text(row, outside)
            texts.add(text)
            if audio.fault is not None:
                self.report.add(audio.fault, row.where, audio.message)
                continue
            self._check_audio(row, audio)
            self._check_content(name, row, audio, text)
            self._check_feasible(row, audio)
            if text:
                speeds.append((len(text) / audio.seconds, row.where))
            readable.append((row, audio._replace(digest=b"")))
        self._check_formats(name, readable)
        self._check_speeds(speeds)
        self._compare(name, {row.speaker for row, _ in readable if row.speaker is not None}, texts)
        self.report.figures[name] = self._figures(name, readable, speeds, outside)

    # ------------------------------------------------------------------ rows

    def _check_text(self, row: Utterance, outside: Counter[str]) -> str:
        """The normalised text; empty if it cannot be normalised."""
        try:
            text, strange = self.rules.units.normalize(row.text), self.rules.units.outside(row.text)
        except UserError as error:
            self.report.add("outside vocabulary", row.where, str(error))
            return ""
        if invisible := invisible_characters(row.text):
            self.report.add(
                "invisible characters", row.where, f"{' '.join(map(ascii, invisible))} in {row.text[:60]!r}"
            )
        if not text:
            self.report.add(
                "no text", row.where, f"nothing is left of {row.text!r}" if row.text else "its text is empty"
            )
        if strange:
            self.report.add("outside vocabulary", row.where, f"{' '.join(sorted(strange))!r} in {row.text[:60]!r}")
            outside.update(character for character in text if character in strange)
        return text

    def _check_audio(self, row: Utterance, audio: _AudioStats) -> None:
        add, where = self.report.add, row.where
        if audio.peak < _SILENT:
            level = f"at most {20 * np.log10(audio.peak):.0f} dBFS" if audio.peak else "digital silence"
            add("silent", where, f"{row.audio}: {level} in {audio.seconds:.2f} s")
        if audio.clipped > _CLIPPED:
            add("clipped", where, f"{row.audio}: {audio.clipped:.1%} of its samples")
        for remark in audio.remarks:
            add(remark.kind, where, f"{row.audio}: {remark.text}")
        if not audio.speech:
            add("no speech found", where, f"{row.audio}: {audio.seconds:.1f} s")
        if audio.ends_early:
            add("perhaps cut", where, row.audio)
        if row.duration is not None and (off := abs(row.duration - audio.seconds)) > 0.1:
            both = f"{row.audio}: {audio.seconds:.2f} s instead of the stated {row.duration:.2f} s"
            add("wrong duration" if off > 1 else "inexact duration", where, both)
        if audio.seconds > self.rules.max_duration:
            add("too long", where, f"{row.audio}: {audio.seconds:.1f} s, over {self.rules.max_duration:g} s")
        if audio.seconds < self.rules.min_duration:
            add("too short", where, f"{row.audio}: {audio.seconds:.3f} s, under {self.rules.min_duration:g} s")

    def _check_content(self, split: str, row: Utterance, audio: _AudioStats, text: str) -> None:
        """Compares the audio with that of the rows before it."""
        place = _Place(split, row.where, text)
        before = self._first_seen.setdefault(audio.digest, place)
        if before is place or audio.peak < _SILENT:  # digital silences of equal length are alike
            return
        if before.split != split:
            self.report.add("leak", row.where, f"{row.audio} is in {before.split} too: {before.where}")
        elif before.text != text:
            what = f"{row.audio}: {text[:40]!r}, and {before.text[:40]!r} in {before.where}"
            self.report.add("contradiction", row.where, what)
        else:
            self.report.add("duplicate", row.where, f"{row.audio} is the same as in {before.where}")

    def _check_feasible(self, row: Utterance, audio: _AudioStats) -> None:
        try:
            needed = least_subframes(self.rules.units.encode(row.text))
        except UserError:  # reported by _check_text
            return
        frames = -(-round(audio.seconds * SAMPLE_RATE) // HOP_LENGTH)
        given = -(-frames // self.rules.downsampling) * self.rules.subframes
        if needed > given:
            what = f"{row.text[:40]!r} needs {needed} sub-frames, and {audio.seconds:.2f} s have {given}"
            self.report.add("infeasible", row.where, what)

    # ------------------------------------------------------------------ splits

    def _check_formats(self, name: str, readable: Sequence[tuple[Utterance, _AudioStats]]) -> None:
        formats = Counter((audio.sample_rate, audio.channels) for _, audio in readable)
        if not formats:
            return
        usual = formats.most_common(1)[0][0]
        for row, audio in readable:
            found = audio.sample_rate, audio.channels
            strange = audio.channels > 2 or audio.sample_rate > 48_000
            if strange or (found != usual and formats[found] < len(readable) / 5):
                self.report.add("odd format", row.where, f"{row.audio}: {_format(found)}; most: {_format(usual)}")
        if low := sum(number for (rate, _), number in formats.items() if rate < SAMPLE_RATE):
            self.report.add("low rate", name, f"{low:,} of {len(readable):,} utterances are below 16 kHz")

    def _check_speeds(self, speeds: Sequence[tuple[float, str]]) -> None:
        if not speeds:
            return
        median = statistics.median(speed for speed, _ in speeds)
        for speed, where in speeds:
            if not median / _ODD_SPEED <= speed <= median * _ODD_SPEED:
                self.report.add("odd speed", where, f"{speed:.1f} characters a second; the median is {median:.1f}")

    def _compare(self, name: str, speakers: set[str], texts: set[str]) -> None:
        for other, known in self._speakers.items():
            if both := known & speakers:
                what = f"{len(both)} of {len(speakers)} speakers: {first_names(both)}"
                self.report.add("speaker overlap", f"{other} and {name}", what)
        self._speakers[name], self._texts[name] = speakers, texts

    def _figures(
        self,
        name: str,
        readable: Sequence[tuple[Utterance, _AudioStats]],
        speeds: Sequence[tuple[float, str]],
        outside: Counter[str],
    ) -> dict[str, Any]:
        if not readable:
            return {"utterances": 0}
        seconds = [audio.seconds for _, audio in readable]
        rules = self.rules
        figures: dict[str, Any] = {
            "utterances": len(readable),
            "hours": sum(seconds) / 3600,
            "speakers": len(self._speakers[name]) or "unknown",
            "seconds": spread(seconds),
            "formats": {
                _format(found): number
                for found, number in Counter((audio.sample_rate, audio.channels) for _, audio in readable).most_common()
            },
            "sub-frames a second": SAMPLE_RATE / HOP_LENGTH / rules.downsampling * rules.subframes,
        }
        if speeds:
            figures["characters a second, median"] = statistics.median(speed for speed, _ in speeds)
        if outside:
            figures["characters outside the vocabulary"] = {repr(char): n for char, n in outside.most_common()}
        for other, known in self._texts.items():
            if other != name:
                shared = len(known & self._texts[name]) / max(1, len(self._texts[name]))
                figures[f"texts that {other} has too"] = f"{shared:.0%}"
        return figures


def _read(item: tuple[Utterances, int, Utterance | UserError]) -> tuple[Utterance | UserError, _AudioStats]:
    """Reads the audio of a row, given its source and number, block by block."""
    source, number, row = item
    if isinstance(row, UserError):
        return row, _AudioStats()
    try:
        audio = source.audio(number, row)
        info, remarks = audio_info(audio), audio_remarks(audio)
        digest = hashlib.blake2b(str(info.sample_rate).encode(), digest_size=16)
        peak, clipped, length = 0.0, 0, 0
        for block in native_blocks(audio):
            samples = block.numpy()
            digest.update(samples.data)
            length += len(samples)
            high, low = float(samples.max()), float(samples.min())
            peak = max(peak, high, -low)
            clipped += _in_runs(samples >= _FULL) if high >= _FULL else 0
            clipped += _in_runs(samples <= -_FULL) if low <= -_FULL else 0
    except AudioError as error:
        return row, _AudioStats(fault=error.fault, message=str(error))
    form = info.duration, info.sample_rate, info.channels
    speech = peak < _SILENT or info.duration <= _SEARCHED[0] or _has_speech(audio)
    return row, _AudioStats(*form, peak, clipped / length, digest.digest(), _ends_early(audio), speech, remarks)


def _has_speech(audio: AudioSource) -> bool:
    """Whether the start of a recording may be speech, rather than music or noise."""
    samples = read_audio(audio, duration=_SEARCHED[1])
    return steadiness(samples) <= _STEADY and bool(speech_spans(samples))


def _in_runs(mask: np.ndarray) -> int:
    """Number of true values in runs of three or more."""
    middle = mask[:-2] & mask[1:-1] & mask[2:]  # a run of n has n − 2 of them
    starts = int(middle[:1].sum()) + int((middle[1:] & ~middle[:-1]).sum())
    return int(middle.sum()) + 2 * starts


def _ends_early(audio: AudioSource) -> bool:
    return not isinstance(audio, bytes) and ogg_ends_early(Path(audio))


def _format(found: tuple[int, int]) -> str:
    rate, channels = found
    return f"{rate} Hz {'mono' if channels == 1 else 'stereo' if channels == 2 else f'{channels} channels'}"
