"""`omni codec encode` and `omni codec decode`: audio files to files of codes, and back."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint
from omni.commands.inputs import media_source, reported_errors
from omni.devices import resolve
from omni.errors import UserError
from omni.files import check_free
from omni.inference.codec_files import Coded, decode, encode, vocode
from omni.media.audio import SAMPLE_RATE, LogMel, read_audio, write_audio
from omni.media.audio_writer import written_by_omni
from omni.media.griffin_lim import GriffinLim
from omni.media.mel_scale import samples_of
from omni.models.codec import Codec
from omni.models.vocoder import Vocos


def encode_files(
    files: list[str],
    checkpoint: str,
    *,
    out: Path | None = None,
    codebooks: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> None:
    """Encode speech with a trained codec, one .npz file of codes for each audio file.

    Each holds `codes` (frames, codebooks), `num_samples`, `frame_rate`, `codebook_size`, and `codec`, the fingerprint
    of the codec that can decode them. A file that cannot be read is reported in one line, the others are encoded, and
    the exit code is 2.

    Example:
        omni codec encode talk.wav --checkpoint lightning_logs/codec/best.ckpt --out talk.npz

    Args:
        files: Audio of any rate, length and number of channels (WAV, FLAC, OGG, MP3, ...).
        checkpoint: A checkpoint that holds a codec, such as lightning_logs/codec/best.ckpt.
        out: A folder, or an .npz file for a single input; by default beside the audio.
        codebooks: Number of codebooks to keep, the first ones; by default all.
        overwrite: Replace files that omni did not write.
        device: cpu, cuda, or auto.
    """
    target_device = resolve(device)
    targets = _targets(files, out, ".npz")
    check_free(targets, overwrite=overwrite, is_ours=_is_coded)
    codec = Checkpoint(checkpoint).part("codec", Codec).to(target_device)
    _check_codebooks(codebooks, codec.num_codebooks, f"the codec of {checkpoint}")
    log_mel, fingerprint = LogMel(codec.num_mels).to(target_device), codec.fingerprint
    with reported_errors() as reported:
        for file, target in zip(files, targets, strict=True):
            with reported():
                audio = read_audio(media_source(file))
                codes = encode(codec, log_mel(audio.to(target_device)))[:, :codebooks]
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
    overwrite: bool = False,
    device: str = "auto",
) -> None:
    """Decode codes to audio with the codec and a vocoder or Griffin-Lim, one WAV file for each .npz file.

    A file that cannot be decoded is reported in one line, the others are decoded, and the exit code is 2.

    Example:
        omni codec decode talk.npz --checkpoint lightning_logs/codec/best.ckpt --out again.wav

    Args:
        files: Files from `omni codec encode`.
        checkpoint: The checkpoint that encoded them.
        vocoder: A checkpoint that holds a vocoder, such as lightning_logs/vocoder/best.ckpt; by default Griffin-Lim.
        out: A folder, or an audio file for a single input; by default beside the codes.
        codebooks: Number of codebooks to use, the first ones; by default all.
        iterations: Iterations of Griffin-Lim.
        overwrite: Replace files that omni did not write.
        device: cpu, cuda, or auto.
    """
    if iterations < 0:
        raise UserError(f"iterations is {iterations}: it must be 0 or more")
    target_device = resolve(device)
    targets = _targets(files, out, ".wav")
    check_free(targets, overwrite=overwrite, is_ours=written_by_omni)
    codec = Checkpoint(checkpoint).part("codec", Codec).to(target_device)
    synthesize, sample_rate = _vocoder(codec, vocoder, iterations, target_device)
    fingerprint = codec.fingerprint
    with reported_errors() as reported:
        for file, target in zip(files, targets, strict=True):
            with reported():
                coded = Coded.load(Path(file))
                _check(coded, codec, fingerprint, file)
                _check_codebooks(codebooks, coded.codes.shape[1], file)
                codes = torch.from_numpy(coded.codes[:, :codebooks]).long().to(target_device)
                audio = synthesize(decode(codec, codes))[: samples_of(coded.num_samples, sample_rate)]
                write_audio(target, audio, sample_rate=sample_rate)
                print(f"{target}: {len(audio) / sample_rate:.2f} s")


def _vocoder(
    codec: Codec, checkpoint: str | None, iterations: int, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int]:
    """A function from a spectrogram (frames, num_mels) to audio (samples,), and its sample rate in Hz."""
    if checkpoint is None:
        griffin_lim = GriffinLim(codec.num_mels, iterations=iterations).to(device)
        return lambda mels: griffin_lim(mels[None])[0], SAMPLE_RATE
    vocoder = Checkpoint(checkpoint).part("vocoder", Vocos)
    if vocoder.num_mels != codec.num_mels:
        raise UserError(
            f"the vocoder of {checkpoint} reads {vocoder.num_mels} mel filters and the codec outputs {codec.num_mels}: "
            "give a vocoder with the codec's num_mels"
        )
    return partial(vocode, vocoder.to(device)), vocoder.sample_rate


def _check_codebooks(codebooks: int | None, available: int, owner: str) -> None:
    if codebooks is not None and not 1 <= codebooks <= available:
        raise UserError(f"codebooks is {codebooks}: {owner} has {available}")


def _check(coded: Coded, codec: Codec, fingerprint: str, file: str) -> None:
    if coded.codec != fingerprint:
        raise UserError(f"{file} was encoded by another codec: give the checkpoint that encoded it")
    codes = coded.codes
    if codes.ndim != 2 or not 1 <= codes.shape[1] <= codec.num_codebooks or codes.dtype.kind not in "iu":
        raise UserError(f"{file}: the codes are {codes.dtype} of shape {codes.shape}, not integers (frames, codebooks)")
    if not len(codes) or codes.min() < 0 or codes.max() >= codec.codebook_size:
        raise UserError(f"{file}: codes must be at least one frame of values from 0 to {codec.codebook_size - 1}")
    frames = int(codec.num_frames(LogMel.num_frames(coded.num_samples)))
    if frames != len(codes):
        raise UserError(f"{file}: {coded.num_samples} samples are {frames} frames of codes, and there are {len(codes)}")


def _is_coded(path: Path) -> bool:
    try:
        Coded.load(path)
    except UserError:
        return False
    return True


def _targets(files: Sequence[str], out: Path | None, suffix: str) -> list[Path]:
    """The file for each input: beside it, or in the folder `out`, or `out` itself."""
    if out is not None and not out.is_dir() and out.suffix:
        if len(files) > 1:
            raise UserError(f"{len(files)} files cannot all be written to {out}: give a folder as --out")
        return [out]
    targets = [(out or Path(file).parent) / Path(file).with_suffix(suffix).name for file in files]
    for number, target in enumerate(targets):
        if (first := targets.index(target)) < number:
            raise UserError(f"{files[first]} and {files[number]} would both be written to {target}: give --out")
    return targets
