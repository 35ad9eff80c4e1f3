"""Writes the data set of a voice: utterances as WAV files, and manifests of training, validation and test."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omni.checkpoints.weights import weights_fingerprint
from omni.data.speech.rows import chosen_by_hash
from omni.errors import UserError
from omni.files import write_text
from omni.inference.recognizer import Recognizer
from omni.media.audio import SAMPLE_RATE, write_audio
from omni.pipeline.voice.recordings import CheckedRecordings, Recording
from omni.pipeline.voice.utterances import Candidate, candidates, fitting, of_other_pitch, of_two_voices

RECORD = "voice.json"
SPLITS = ("train", "val", "test")
MISFIT = "does not fit its transcript"
LOW_RATE = f"sampled at {SAMPLE_RATE:,} Hz or less"
_SENTENCES = {"test": 50, "val": 30}  # of each split; at most `_SHARE` of all
_SHARE = 0.15
_FEWEST = 8  # utterances of a voice
_VERSION = 1  # changes when the same recordings give other utterances


@dataclass(frozen=True, kw_only=True)
class VoiceSplits:
    """The data set of a voice.

    Attributes:
        utterances: Number of utterances by split.
        seconds: Seconds of speech by split.
        transcribed: Number of utterances whose text is the recogniser's.
        other_pitch: Number of utterances whose pitch is far from that of most, see `of_other_pitch`.
        left_out: Number of recordings or parts of them that are left out, by reason.
        two_voices: Number of utterances in which two voices seem to speak at once, see `of_two_voices`.
    """

    utterances: dict[str, int]
    seconds: dict[str, float]
    transcribed: int
    other_pitch: int
    left_out: dict[str, int]
    two_voices: int = 0  # earlier versions did not count them


class _Chosen(NamedTuple):
    """The utterances of a split."""

    split: str
    found: list[Candidate]


def earlier_splits(out: Path, key: str) -> VoiceSplits | None:
    """The data set that a folder holds already, if it was made with the same `key`.

    Raises:
        UserError: If the folder holds other files than those of a voice.
    """
    if not out.exists():
        return None
    if not (out / RECORD).is_file():
        if out.is_dir() and not any(out.iterdir()):
            return None
        raise UserError(f"{out} is not a folder of `omni adapt voice`: give another --out")
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        complete = record["key"] == key and all((out / f"{split}.jsonl").is_file() for split in SPLITS)
        return VoiceSplits(**record["splits"]) if complete else None
    except (ValueError, KeyError, TypeError):
        return None


def key_of(checked: CheckedRecordings, recognizer: Recognizer, longest: float, sample_rate: int) -> str:
    """Identifies recordings, transcripts, recogniser and options, in hex."""
    digest = hashlib.sha256(f"{_VERSION} {longest} {weights_fingerprint(recognizer.encoder.state_dict())}".encode())
    digest.update(f"{recognizer.units.fingerprint} {recognizer.beam}".encode())
    if sample_rate != SAMPLE_RATE:
        digest.update(f"{sample_rate} Hz".encode())
    for one in checked.usable:
        digest.update(f"{one.source.audio_version(one.row)} {one.row.text}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def write_splits(
    out: Path,
    checked: CheckedRecordings,
    recognizer: Recognizer,
    *,
    key: str,
    longest: float,
    sample_rate: int = SAMPLE_RATE,
    progress: Callable[[Sequence[Recording]], Any] = lambda recordings: recordings,
) -> VoiceSplits:
    """Cuts, aligns and splits recordings; writes `wavs/`, a manifest of each split, and `voice.json`, the record.

    No sentence is in two splits. Rows have `audio`, `text`, `speaker`, `duration`, `id`, and where they are `from`.

    Args:
        out: The folder; an earlier data set in it is replaced.
        checked: The recordings.
        recognizer: Aligns, transcribes, and decides which transcripts fit.
        key: Of `key_of`.
        longest: Most seconds of an utterance.
        sample_rate: Highest rate of the WAV files in Hz. Above 16 kHz, recordings of 16 kHz or less are left out.
        progress: Wraps the recordings while they are read.

    Raises:
        UserError: If too few utterances are left; it says why the others are left out.
    """
    left_out = {reason: list(places) for reason, places in checked.left_out.items()}
    found: list[Candidate] = []
    for recording in progress(checked.usable):
        if sample_rate > SAMPLE_RATE >= recording.sample_rate:
            left_out.setdefault(LOW_RATE, []).append(recording.row.where)
            continue
        for one in candidates(recording, recognizer, longest):
            if isinstance(one, Candidate):
                found.append(one)
            else:
                left_out.setdefault(one[1], []).append(one[0])
    fits = fitting(found, recognizer)
    for one, fit in zip(found, fits, strict=True):
        if not fit:
            left_out.setdefault(MISFIT, []).append(one.where)
    kept = [one for one, fit in zip(found, fits, strict=True) if fit]
    _check_enough(kept, left_out)
    chosen, strange, mixed = _split(kept), of_other_pitch(kept), of_two_voices(kept)
    splits = VoiceSplits(
        utterances={each.split: len(each.found) for each in chosen},
        seconds={each.split: sum(len(one.audio) for one in each.found) / SAMPLE_RATE for each in chosen},
        transcribed=sum(one.transcribed for one in kept),
        other_pitch=len(strange),
        left_out={reason: len(places) for reason, places in left_out.items()},
        two_voices=len(mixed),
    )
    _write(out, chosen, sample_rate)
    record = {"key": key, "splits": asdict(splits), "left_out": left_out}
    record |= {"other_pitch": [one.where for one in strange], "two_voices": [one.where for one in mixed]}
    write_text(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return splits


def _check_enough(kept: Sequence[Candidate], left_out: Mapping[str, Sequence[str]]) -> None:
    misfits = len(left_out.get(MISFIT, ()))
    if misfits > len(kept):
        raise UserError(
            f"{misfits} of {misfits + len(kept)} recordings do not fit their transcripts (the first: "
            f"{left_out[MISFIT][0]}): are these of other recordings? Or the recogniser does not know this language",
            page="voice.md#what-is-left-out",
        )
    if len({one.text for one in kept}) >= _FEWEST:
        return
    reasons = ", ".join(f"{reason} ({len(places)})" for reason, places in left_out.items())
    raise UserError(
        f"only {len(kept)} utterances can be used, and a voice needs at least {_FEWEST} with different texts"
        + (f"; left out: {reasons}" if reasons else ""),
        page="voice.md#what-is-left-out",
    )


def _split(kept: Sequence[Candidate]) -> list[_Chosen]:
    """Holds sentences out for test and validation."""
    parts, rest = {}, list(kept)
    for split, count in _SENTENCES.items():
        sentences = chosen_by_hash(Counter(one.text for one in rest), min(_SHARE, count / len(kept)))
        parts[split] = [one for one in rest if one.text in set(sentences)]
        rest = [one for one in rest if one.text not in set(sentences)]
    return [_Chosen(split, {"train": rest, **parts}[split]) for split in SPLITS]


def _write(out: Path, chosen: Sequence[_Chosen], sample_rate: int) -> None:
    """Writes sounds and manifests."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RECORD, "{}\n")  # not complete, and the folder is ours
    shutil.rmtree(out / "wavs", ignore_errors=True)
    for split, found in chosen:
        rows = []
        for number, one in enumerate(found):
            name, seconds = f"{split}-{number:05d}", len(one.audio) / SAMPLE_RATE
            audio, rate = one.audio, SAMPLE_RATE
            if sample_rate > SAMPLE_RATE:
                rate = min(sample_rate, one.recording.sample_rate)
                audio = one.recording.read(one.span.start, one.span.end, rate)
            write_audio(out / "wavs" / f"{name}.wav", audio, sample_rate=rate)
            row = {"audio": f"wavs/{name}.wav", "text": one.text, "speaker": "voice", "duration": round(seconds, 4)}
            rows.append(json.dumps({**row, "id": name, "from": one.where}, ensure_ascii=False) + "\n")
        write_text(out / f"{split}.jsonl", "".join(rows))
