"""`omni codec encode` and `omni codec decode`: files of speech to files of codes, and back."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint
from omni.devices import resolve
from omni.errors import UserError
from omni.inference.codec_files import Coded, decode, encode, vocode
from omni.media.audio import SAMPLE_RATE, LogMel, read_audio, write_audio
from omni.media.griffin_lim import GriffinLim
from omni.models.codec import Codec
from omni.models.vocoder import Vocos


def encode_files(
    files: list[str],
    checkpoint: str,
    *,
    out: Path | None = None,
    codebooks: int | None = None,
    device: str = "auto",
) -> None:
    """Write speech as codes, one .npz file for each audio file.

    Each holds `codes` (frames, codebooks), `num_samples`, `frame_rate`, `codebook_size`, and `codec`, the fingerprint
    of the codec, which alone can read them.

    Args:
        files: Audio of any rate, length and number of channels (WAV, FLAC, OGG, MP3, ...).
        checkpoint: A checkpoint that holds a codec, such as lightning_logs/codec/best.ckpt.
        out: A folder, or an .npz file for a single input; otherwise beside the audio.
        codebooks: Keep so many codebooks, the first ones; all if not given.
        device: cpu, cuda, or auto.
    """
    codec, chosen = _load(checkpoint, device)
    if codebooks is not None and not 1 <= codebooks <= codec.num_codebooks:
        raise UserError(f"codebooks is {codebooks}: the codec of {checkpoint} has {codec.num_codebooks}")
    log_mel, fingerprint = LogMel(codec.num_mels).to(chosen), codec.fingerprint
    for file, target in zip(files, _targets(files, out, ".npz"), strict=True):
        audio = read_audio(Path(file))
        codes = encode(codec, log_mel(audio.to(chosen)))[:, :codebooks]
        coded = Coded(codes.int().cpu().numpy(), len(audio), codec.frame_rate, codec.codebook_size, fingerprint)
        coded.save(target)
        print(f"{target}: {codes.shape[0]} × {codes.shape[1]} codes for {len(audio) / SAMPLE_RATE:.2f} s")


def decode_files(
    files: list[str],
    checkpoint: str,
    *,
    vocoder: str | None = None,
    out: Path | None = None,
    codebooks: int | None = None,
    iterations: int = 32,
    device: str = "auto",
) -> None:
    """Make sound of codes, one WAV file for each .npz file, by the codec and a vocoder or Griffin–Lim.

    Args:
        files: Files that `omni codec encode` wrote.
        checkpoint: The checkpoint they were written with.
        vocoder: A checkpoint that holds a vocoder, such as lightning_logs/vocoder/best.ckpt; Griffin–Lim if not given.
        out: A folder, or an audio file for a single input; otherwise beside the codes.
        codebooks: Use so many codebooks, the first ones; all if not given.
        iterations: Of Griffin–Lim's search for phases; a vocoder has none.
        device: cpu, cuda, or auto.
    """
    if iterations < 0:
        raise UserError(f"iterations is {iterations}: it must be 0 or more")
    codec, chosen = _load(checkpoint, device)
    sound, fingerprint = _sound(codec, vocoder, iterations, chosen), codec.fingerprint
    for file, target in zip(files, _targets(files, out, ".wav"), strict=True):
        coded = Coded.load(Path(file))
        _check(coded, codec, fingerprint, file, codebooks)
        mels = decode(codec, torch.from_numpy(coded.codes[:, :codebooks]).long().to(chosen))
        audio = sound(mels)[: coded.num_samples]
        write_audio(target, audio)
        print(f"{target}: {len(audio) / SAMPLE_RATE:.2f} s")


def _sound(codec: Codec, vocoder: str | None, iterations: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What makes sound (samples,) of a spectrogram (frames, num_mels)."""
    if vocoder is None:
        griffin_lim = GriffinLim(codec.num_mels, iterations=iterations).to(device)
        return lambda mels: griffin_lim(mels[None])[0]
    trained = Checkpoint(vocoder).part("vocoder", Vocos)
    if trained.num_mels != codec.num_mels:
        raise UserError(
            f"the vocoder of {vocoder} takes {trained.num_mels} mel filters and the codec makes {codec.num_mels}: give "
            "one that was trained with as many"
        )
    return partial(vocode, trained.to(device))


def _load(checkpoint: str, device: str) -> tuple[Codec, torch.device]:
    codec = Checkpoint(checkpoint).part("codec", Codec)
    found = resolve(device)
    return codec.to(found), found


def _check(coded: Coded, codec: Codec, fingerprint: str, file: str, codebooks: int | None) -> None:
    if coded.codec != fingerprint:
        raise UserError(f"{file}: was written by another codec: give the checkpoint that it was encoded with")
    codes = coded.codes
    if codes.ndim != 2 or not 1 <= codes.shape[1] <= codec.num_codebooks or codes.dtype.kind not in "iu":
        raise UserError(f"{file}: the codes are {codes.dtype} of shape {codes.shape}, not integers (frames, codebooks)")
    if not len(codes) or codes.min() < 0 or codes.max() >= codec.codebook_size:
        raise UserError(f"{file}: codes must lie between 0 and {codec.codebook_size - 1}, and be some")
    frames = int(codec.num_frames(LogMel.num_frames(coded.num_samples)))
    if frames != len(codes):
        raise UserError(
            f"{file}: {len(codes)} frames of codes cannot be {coded.num_samples} samples, which are {frames} frames"
        )
    if codebooks is not None and not 1 <= codebooks <= codes.shape[1]:
        raise UserError(f"codebooks is {codebooks}: {file} has {codes.shape[1]}")


def _targets(files: Sequence[str], out: Path | None, ending: str) -> list[Path]:
    """The file for each input: beside it, or in the folder `out`, or `out` itself."""
    if out is not None and not out.is_dir() and out.suffix:
        if len(files) > 1:
            raise UserError(f"{len(files)} files cannot all be written to {out}: give a folder as --out")
        return [out]
    place: Callable[[Path], Path] = (lambda file: file) if out is None else (lambda file: out / file.name)
    targets = [place(Path(file)).with_suffix(ending) for file in files]
    seen: dict[Path, Any] = {}
    for file, target in zip(files, targets, strict=True):
        if target in seen:
            raise UserError(f"{seen[target]} and {file} would both be written to {target}: use different folders")
        seen[target] = file
    return targets
