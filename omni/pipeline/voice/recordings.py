"""The recordings of a folder, and those of them that `omni data check` finds fault with."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from omni.data.checks.findings import Report
from omni.data.checks.speech import SPEECH_KINDS, SpeechCheck, SpeechRules
from omni.data.speech.corpora import AudioFolder
from omni.data.speech.manifests import Utterance, Utterances
from omni.data.speech.opening import open_recordings
from omni.errors import UserError
from omni.inference.recognizer import Recognizer
from omni.media.audio import audio_info, read_audio
from omni.media.container import AUDIO_SUFFIXES

_LEFT_OUT = {"duplicate"}  # kinds of warnings whose rows are left out, as those of errors are
_HARMLESS = {"no text", "too long", "too short", "no speech found"}  # transcribed, cut, or left out part by part


class Recording(NamedTuple):
    """A recording.

    Attributes:
        source: Its source.
        number: Of the row in its source.
        row: The row; its text may be empty.
    """

    source: Utterances
    number: int
    row: Utterance

    @property
    def sample_rate(self) -> int:
        """Of its file, in Hz."""
        return audio_info(self.source.whole_audio(self.number, self.row)).sample_rate

    def read(self, start: float, end: float, sample_rate: int) -> Tensor:
        """The samples (samples,) from `start` to `end`, in seconds of the recording, at a rate in Hz."""
        file, first = self.source.whole_audio(self.number, self.row), (self.row.start or 0.0) + start
        return read_audio(file, start=first, duration=end - start, sample_rate=sample_rate)


class CheckedRecordings(NamedTuple):
    """The recordings of a folder.

    Attributes:
        usable: Those that can be used.
        left_out: Places of the others, by reason.
        warnings: Kinds of faults of usable recordings, with advice.
        others: Recordings of the other speakers of a manifest; they are not checked.
    """

    usable: list[Recording]
    left_out: dict[str, list[str]]
    warnings: list[str]
    others: Sequence[Recording] = ()


def read_recordings(path: Path, recognizer: Recognizer, *, speaker: str | None) -> CheckedRecordings:
    """Finds the recordings of a folder and reads all of them, as `omni data check` does.

    Args:
        path: A manifest, a corpus in a layout that `omni fit` reads, or a folder of audio files, each with or without a
            .txt of the same name beside it.
        recognizer: Its vocabulary has to have the characters of the transcripts.
        speaker: Only the recordings of this speaker of a manifest.

    Raises:
        UserError: If there are no recordings, or recordings of several speakers.
    """
    source = open_recordings(path)
    rows, left_out = [], {}
    for number, row in enumerate(source.rows_or_errors()):
        if isinstance(row, UserError):
            left_out.setdefault("bad row", []).append(str(row))
        else:
            rows.append(Recording(source, number, row))
    if not rows and not left_out:
        raise UserError(
            f"{path} has no recordings: give a folder of {', '.join(AUDIO_SUFFIXES[:5])} files, ...", page="voice.md"
        )
    others: list[Recording] = []
    if not isinstance(source, AudioFolder):  # whose subfolders may be anything
        if speaker is not None:
            others = [one for one in rows if one.row.speaker not in (None, speaker)]
        rows = _of_one_speaker(path, rows, speaker)
    elif speaker is not None:
        raise UserError(f"--speaker is for a manifest with speakers: give the folder of {speaker}'s recordings")
    report = _check(recognizer, rows, source.name)
    faults = {finding.where: finding.kind for finding in report.findings if _excludes(report, finding.kind)}
    for recording in rows:
        if kind := faults.get(recording.row.where):
            left_out.setdefault(kind, []).append(recording.row.where)
    kinds = Counter(finding.kind for finding in report.findings if finding.severity == "warning")
    warnings = [
        f"{kind}: {count}. {SPEECH_KINDS[kind].advice}"
        for kind, count in kinds.items()
        if kind not in _HARMLESS | _LEFT_OUT
    ]
    return CheckedRecordings([one for one in rows if one.row.where not in faults], left_out, warnings, others)


def _of_one_speaker(path: Path, rows: list[Recording], speaker: str | None) -> list[Recording]:
    counts = Counter(str(one.row.speaker) for one in rows if one.row.speaker is not None)
    if speaker is not None and speaker not in counts:
        raise UserError(f"--speaker: {path} has no speaker {speaker!r}; it has: {', '.join(sorted(counts)) or 'none'}")
    if speaker is None and len(counts) > 1:
        some = ", ".join(f"{name} ({count})" for name, count in counts.most_common(3))
        raise UserError(
            f"{path} has {len(counts)} speakers, and a voice is of one: name it with --speaker: {some}, ...",
            page="voice.md",
        )
    return rows if speaker is None else [one for one in rows if one.row.speaker == speaker]


class _Chosen(Utterances):
    """Some rows of a source.

    Args:
        rows: The rows.
        name: What messages call it.
    """

    def __init__(self, rows: Sequence[Recording], name: str) -> None:
        self.recordings, self.name = rows, name

    def rows_or_errors(self):
        return (one.row for one in self.recordings)

    def audio(self, number: int, row: Utterance):
        one = self.recordings[number]
        return one.source.audio(one.number, row)


def _check(recognizer: Recognizer, rows: Sequence[Recording], name: str) -> Report:
    encoder, report = recognizer.encoder, Report(SPEECH_KINDS)
    rules = SpeechRules(recognizer.units, encoder.downsampling, encoder.subframes, 0.0, float("inf"))
    SpeechCheck(rules, report).split("recordings", [_Chosen(rows, name)])
    return report


def _excludes(report: Report, kind: str) -> bool:
    """Whether rows with this kind of finding are left out."""
    known = report.kinds[kind]
    return kind in _LEFT_OUT or (known.of_rows and known.severity == "error" and kind not in _HARMLESS)
