"""Recordings: the world's speech on disk, made by several processes, and going on where a run was cut.

`speech/<split>.jsonl` are the manifests, `speech/<split>/` the audio, and `speech/<split>.sha256` the audio's
checksums (`cd speech && sha256sum --check train.sha256`). `speech/origin.json` says what they all were made of, from
the first file on: what was made of something else is not kept.
"""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import soundfile
from tqdm import tqdm

from omni.errors import UserError
from omni.files import atomic_write
from omni.synthetic import espeak
from omni.synthetic.disk import checksums, refuse_foreign
from omni.synthetic.pool import cpus, in_order
from omni.synthetic.speech import SAMPLE_RATE, SPEAKERS, samples, utterance

ORIGIN = "origin.json"
CHUNK = 16  # utterances that a process makes at a time, 0.2 s: Ctrl-C waits for two of them
WORTHWHILE = 150  # utterances that one process makes while another starts and imports PyTorch, 3 s
_AUDIO = re.compile(r"world-\w+-\d{6,}\.wav|\.world-.*\.part")


@dataclass(frozen=True, slots=True)
class Job:
    """One audio file to make.

    Attributes:
        folder: holds the folders of the splits.
        seed: of the world.
        split: of `omni.synthetic.speech.SPEAKERS`.
        index: the utterance's number in its split.
        checksum: of the file when it was made; None where no run came as far as to note it.
    """

    folder: Path
    seed: int
    split: str
    index: int
    checksum: str | None


@dataclass(frozen=True, slots=True)
class Recording:
    """One audio file that is there.

    Attributes:
        row: of the manifest.
        checksum: the file's SHA-256.
    """

    row: dict[str, str | float]
    checksum: str


def record(
    folder: Path, *, generator: int, seed: int, sizes: dict[str, int], processes: int | None = None
) -> dict[str, float]:
    """Write the speech of a world, all but the audio files that are there already.

    Args:
        folder: where manifests and audio go; ask `refuse` about it before.
        generator: the generator's number; the audio of another is written anew, as is that of
        seed: another seed.
        sizes: utterances of each split; a split of none gets no manifest.
        processes: how many to use; by default one for each CPU, or fewer for little work.

    Returns:
        Seconds of audio in each split that has any.

    Raises:
        UserError: eSpeak NG is missing, or a process was ended from outside.
    """
    sizes = {split: size for split, size in sizes.items() if size}
    _begin(folder, {"generator": generator, "seed": seed, "espeak": espeak.version()}, sizes)
    jobs = []
    for split, size in sizes.items():
        known = checksums(folder, split)
        jobs += [Job(folder, seed, split, index, known.get(_name(split, index))) for index in range(size)]
    if processes is None:
        missing = sum(not (folder / _name(job.split, job.index)).exists() for job in jobs)
        processes = max(1, min(cpus(), missing // WORTHWHILE))
    made: dict[str, list[Recording]] = {split: [] for split in sizes}
    with tqdm(total=len(jobs), desc="speech", unit=" utterances", leave=False, disable=None) as progress:
        for job, recording in zip(jobs, in_order(make, jobs, processes, CHUNK), strict=True):
            made[job.split].append(recording)
            progress.update()
    for split, recordings in made.items():
        with atomic_write(folder / f"{split}.sha256", sync=False) as file:
            file.writelines(f"{one.checksum}  {one.row['audio']}\n".encode() for one in recordings)
        with atomic_write(folder / f"{split}.jsonl", sync=False) as file:
            file.writelines((json.dumps(one.row, ensure_ascii=False) + "\n").encode() for one in recordings)
    return {split: round(sum(float(one.row["duration"]) for one in made[split]), 1) for split in sizes}


def make(job: Job) -> Recording:
    """One recording: the file that is there, if it is as it was written, or else a new one."""
    said = utterance(job.seed, job.split, job.index)
    name = _name(job.split, job.index)
    path = job.folder / name
    data = path.read_bytes() if path.is_file() else b""
    if not _kept(data, job.checksum):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples(said), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        data = buffer.getvalue()
        with atomic_write(path, sync=False) as file:
            file.write(data)
    duration = soundfile.info(io.BytesIO(data)).frames / SAMPLE_RATE
    row = {"audio": name, "text": said.text, "speaker": said.speaker, "duration": round(duration, 4), "id": said.id}
    return Recording(row, hashlib.sha256(data).hexdigest())


def _kept(data: bytes, checksum: str | None) -> bool:
    if checksum is None:  # files take their place when they are whole: to be as long as the header says is enough
        return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 == len(data)
    return hashlib.sha256(data).hexdigest() == checksum


def _name(split: str, index: int) -> str:
    return f"{split}/world-{split}-{index:06d}.wav"


def refuse(folder: Path) -> None:
    """Keep what somebody else wrote.

    Raises:
        UserError: a manifest or an audio folder holds what is not the world's.
    """
    for split in SPEAKERS:
        refuse_foreign(folder / f"{split}.jsonl")
        for path in sorted((folder / split).iterdir()) if (folder / split).is_dir() else ():
            if not _AUDIO.fullmatch(path.name):
                raise UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")


def remove(folder: Path) -> None:
    """Take away all speech that was written here, and the folder unless something else is in it."""
    for split in SPEAKERS:
        _remove_audio(folder, split, 0)
        for name in (f"{split}.jsonl", f"{split}.sha256"):
            (folder / name).unlink(missing_ok=True)
    (folder / ORIGIN).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _begin(folder: Path, origin: dict[str, object], sizes: dict[str, int]) -> None:
    """Take away what is of another origin, what is too much, and what a run that was cut left half made."""
    try:
        same = json.loads((folder / ORIGIN).read_text(encoding="utf-8")) == origin
    except (FileNotFoundError, ValueError):
        same = False
    if not same:
        remove(folder)
    for split in SPEAKERS:
        _remove_audio(folder, split, sizes.get(split, 0))
        (folder / f"{split}.jsonl").unlink(missing_ok=True)
        if split in sizes:
            (folder / split).mkdir(parents=True, exist_ok=True)
        else:
            (folder / f"{split}.sha256").unlink(missing_ok=True)
    with atomic_write(folder / ORIGIN, sync=False) as file:
        file.write((json.dumps(origin) + "\n").encode())


def _remove_audio(folder: Path, split: str, size: int) -> None:
    """Remove what is not among the first `size` recordings, and then an empty folder."""
    if not (folder / split).is_dir():
        return
    kept = {_name(split, index) for index in range(size)}
    for path in (folder / split).iterdir():
        if _AUDIO.fullmatch(path.name) and f"{split}/{path.name}" not in kept:
            path.unlink()
    if not any((folder / split).iterdir()):
        (folder / split).rmdir()
