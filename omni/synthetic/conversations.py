"""Conversations: questions about the world's pictures and speech, and their answers, on disk.

`conversations/<split>.jsonl` are the conversations. They use the pictures in `images` and the audio in `speech`; what
they need beside these lies in `conversations/<split>/`, with its checksums in `conversations/<split>.sha256`.
"""

import hashlib
import io
import json
import re
from pathlib import Path

import soundfile
from tqdm import tqdm

from omni.errors import UserError
from omni.files import atomic_write
from omni.synthetic.dialogues import Job, talk
from omni.synthetic.disk import refuse_foreign
from omni.synthetic.pool import cpus, in_order
from omni.synthetic.speech import SAMPLE_RATE, samples

SPLITS = ("train", "val")
CHUNK = 32  # conversations that a process makes at a time
WORTHWHILE = 1500  # conversations that one process makes while another starts and imports PyTorch
_OWN = re.compile(r"world-\w+-\d{6,}(-(\d+|answer))?\.(png|wav)|\.world-.*\.part")


def write_conversations(
    folder: Path,
    *,
    seed: int,
    sizes: dict[str, int],
    pictures: dict[str, int],
    utterances: dict[str, int],
    processes: int | None = None,
) -> None:
    """Write the conversations of a world; pictures and audio of theirs that are there already stay as they are.

    Args:
        folder: where they go, beside the folders of pictures and speech; ask `refuse` about it before.
        seed: of the world.
        sizes: conversations of each split; a split of none gets no file.
        pictures: pictures of each split.
        utterances: recordings of each split.
        processes: how many to use; by default one for each CPU, or fewer for little work.

    Raises:
        OSError: they cannot be written.
        UserError: eSpeak NG is missing, or a process was ended from outside.
    """
    jobs = [
        Job(folder, seed, split, index, pictures[split], utterances[split])
        for split, size in sizes.items()
        for index in range(size)
    ]
    for split in SPLITS:
        for suffix in ("jsonl", "sha256"):
            (folder / f"{split}.{suffix}").unlink(missing_ok=True)
    for split in sizes:
        (folder / split).mkdir(parents=True, exist_ok=True)
    if processes is None:
        processes = max(1, min(cpus(), len(jobs) // WORTHWHILE))
    rows: dict[str, list[bytes]] = {split: [] for split in sizes}
    sums: dict[str, dict[str, str]] = {split: {} for split in sizes}
    with tqdm(total=len(jobs), desc="conversations", unit=" rows", leave=False, disable=None) as progress:
        for job, (row, files) in zip(jobs, in_order(make, jobs, processes, CHUNK), strict=True):
            rows[job.split].append(row)
            sums[job.split] |= files
            progress.update()
    for split in SPLITS:
        _sweep(folder, split, set(sums.get(split, ())))
    for split, files in sums.items():
        with atomic_write(folder / f"{split}.sha256", sync=False) as file:
            file.writelines(f"{checksum}  {name}\n".encode() for name, checksum in files.items())
        with atomic_write(folder / f"{split}.jsonl", sync=False) as file:
            file.writelines(rows[split])


def make(job: Job) -> tuple[bytes, dict[str, str]]:
    """One conversation: its line, and the SHA-256 of the files that are made for it."""
    made, files = talk(job), {}
    if made.picture is not None:
        packed = io.BytesIO()
        made.picture.save(packed, "PNG", compress_level=6)
        files[f"{job.split}/{job.id}.png"] = packed.getvalue()
    for said in (*made.said, *([made.answered] if made.answered else [])):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples(said), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        files[f"{job.split}/{said.id}.wav"] = buffer.getvalue()
    for name, data in files.items():
        path = job.folder / name
        if not path.is_file() or path.read_bytes() != data:
            with atomic_write(path, sync=False) as file:
                file.write(data)
    row = {"id": job.id, "task": made.task, "messages": made.messages}
    line = f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    return line, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def refuse(folder: Path) -> None:
    """Keep what somebody else wrote.

    Raises:
        UserError: a list of conversations or a folder of their files holds what is not the world's.
    """
    for split in SPLITS:
        refuse_foreign(folder / f"{split}.jsonl")
        for path in sorted((folder / split).iterdir()) if (folder / split).is_dir() else ():
            if not _OWN.fullmatch(path.name):
                raise UserError(f"{path} was not written by `omni data world`: move it, or choose another --out")


def remove(folder: Path) -> None:
    """Take away all conversations that were written here, and the folder unless something else is in it."""
    for split in SPLITS:
        for suffix in ("jsonl", "sha256"):
            (folder / f"{split}.{suffix}").unlink(missing_ok=True)
        _sweep(folder, split, set())
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sweep(folder: Path, split: str, kept: set[str]) -> None:
    """Remove a split's files but those to be kept, and then an empty folder."""
    if not (folder / split).is_dir():
        return
    for path in (folder / split).iterdir():
        if _OWN.fullmatch(path.name) and f"{split}/{path.name}" not in kept:
            path.unlink()
    if not any((folder / split).iterdir()):
        (folder / split).rmdir()
