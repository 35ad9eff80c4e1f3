"""Recordings: utterances as WAV files, resumed after an interruption without synthesizing them again.

`speech/origin.json` records the generator, the seed and the version of eSpeak NG: recordings of another origin are
replaced. `cd speech && sha256sum --check train.sha256` checks the audio.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from omni.synthetic import espeak
from omni.synthetic.languages.spoken import SpokenLanguage
from omni.synthetic.media_folder import Job, MediaFolder, Row
from omni.synthetic.pool import processes_for
from omni.synthetic.speech import SAMPLE_RATE, Utterance, utterance_at, wav

_CHUNK = 16  # utterances that a process makes at a time, 0.2 s: Ctrl-C waits for two chunks
_WORTHWHILE = 150  # utterances made while another process starts and imports PyTorch: 3 s


@dataclass(frozen=True, slots=True)
class RecordingJob(Job):
    """One recording to make.

    Attributes:
        folder: The folder of the manifest.
        checksum: SHA-256 of the file after the last complete run; None if there was none.
        language: The language; None for the English of the scenes.
        utterance: Its utterance; None: one of the world.
    """

    folder: Path
    checksum: str | None
    language: SpokenLanguage | None = None
    utterance: Utterance | None = None


def write_recordings(
    folder: MediaFolder,
    *,
    generator: int,
    seed: int,
    sizes: dict[str, int],
    language: SpokenLanguage | None = None,
    processes: int | None = None,
) -> dict[str, float]:
    """Writes the speech of a world; audio files that exist already are kept.

    Args:
        folder: Where manifests and audio go.
        generator: Version of the generator.
        seed: Seed of the world.
        sizes: Number of utterances in each split that has any.
        language: The language; None for the English of the scenes.
        processes: Number of processes; by default one for each CPU, or fewer for little work.

    Returns:
        Seconds of audio in each split.

    Raises:
        UserError: If eSpeak NG is missing, or a process was killed.
    """
    if not sizes:
        folder.remove()
        return {}
    origin = {} if language is None else language.origin()
    folder.set_origin({"generator": generator, "seed": seed, "espeak": espeak.version(), **origin})
    jobs = []
    for split, size in sizes.items():
        known = folder.checksums(split)
        keys = (Job(seed, split, index) for index in range(size))
        jobs += [RecordingJob(seed, split, key.index, folder.path, known.get(_file(key)), language) for key in keys]
    return _write(folder, jobs, processes)


def write_readings(
    folder: MediaFolder,
    utterances: Mapping[str, Sequence[Utterance]],
    origin: Mapping[str, Any],
    *,
    processes: int | None = None,
) -> dict[str, float]:
    """Writes given utterances; audio files that exist already are kept.

    Args:
        folder: Where manifests and audio go.
        utterances: Of each split, in the order of their ids (see `omni.synthetic.scene.row_id`).
        origin: What the utterances depend on; files of another origin are replaced.
        processes: As in `write_recordings`.

    Returns:
        Seconds of audio in each split.

    Raises:
        UserError: If eSpeak NG is missing, or a process was killed.
    """
    folder.set_origin({**origin, "espeak": espeak.version()})
    jobs = []
    for split, spoken in utterances.items():
        known = folder.checksums(split)
        for index, utterance in enumerate(spoken):
            checksum = known.get(_file(Job(0, split, index)))
            jobs.append(RecordingJob(0, split, index, folder.path, checksum, utterance=utterance))
    return _write(folder, jobs, processes)


def _write(folder: MediaFolder, jobs: Sequence[RecordingJob], processes: int | None) -> dict[str, float]:
    missing = sum(not (folder.path / _file(job)).exists() for job in jobs)
    rows = folder.write(make_row, jobs, processes=processes or processes_for(missing, _WORTHWHILE), chunk=_CHUNK)
    seconds: dict[str, float] = {job.split: 0.0 for job in jobs}
    for job, row in zip(jobs, rows, strict=True):
        seconds[job.split] += row["duration"]
    return {split: round(duration, 1) for split, duration in seconds.items()}


def make_row(job: RecordingJob) -> Row:
    """The row of a recording and its file: the one that exists, if it is intact, or a new one."""
    sample = utterance_at if job.language is None else job.language.utterance_at
    utterance, name = job.utterance or sample(job.seed, job.split, job.index), _file(job)
    path = job.folder / name
    content = path.read_bytes() if path.is_file() else b""
    if not _is_intact(content, job.checksum):
        content = wav(utterance)
    duration = round(soundfile.info(io.BytesIO(content)).frames / SAMPLE_RATE, 4)
    row = {"audio": name, "text": utterance.text, "speaker": utterance.speaker, "duration": duration}
    row["id"] = utterance.id
    return Row(row, {name: content})


def _is_intact(content: bytes, checksum: str | None) -> bool:
    if checksum is None:  # files are replaced as a whole, so the length in the header is enough
        return content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 == len(content)
    return hashlib.sha256(content).hexdigest() == checksum


def _file(job: Job) -> str:
    return f"{job.split}/{job.id}.wav"
