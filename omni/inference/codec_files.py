"""Files of codes, and encoding and decoding of long recordings in chunks."""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from omni.errors import UserError
from omni.files import atomic_write
from omni.models.codec import Codec
from omni.models.vocoder import Vocos

_SCALARS = {"num_samples": int, "frame_rate": float, "codebook_size": int, "codec": str}
_DAMAGED = (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError, OverflowError)
_DAMAGED += (MemoryError, zipfile.BadZipFile, zlib.error)
_CHUNK = 3000  # mel frames: 30 s, so that memory does not grow with the file


class Coded(NamedTuple):
    """Speech as codes, stored as an `.npz` file.

    Attributes:
        codes: (frames, codebooks), int32.
        num_samples: Number of samples at 16 kHz.
        frame_rate: Frames of codes per second.
        codebook_size: Number of entries per codebook.
        codec: Fingerprint of the codec.
    """

    codes: np.ndarray
    num_samples: int
    frame_rate: float
    codebook_size: int
    codec: str

    def save(self, path: Path) -> None:
        """Writes an `.npz` file atomically."""
        with atomic_write(path) as file:
            np.savez_compressed(file, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> "Coded":
        """Reads what `save` wrote.

        Raises:
            UserError: If the file is missing, damaged, or not a file of codes.
        """
        if not path.is_file():
            raise UserError(f"{path}: does not exist, or is not a file")
        try:
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                kept = {name: file[name] for name in cls._fields}
                scalars = {name: kind(kept[name].item()) for name, kind in _SCALARS.items()}
        except _DAMAGED as error:
            raise UserError(f"{path}: not a file of codes: give an .npz file of `omni codec encode`") from error
        return cls(kept["codes"], **scalars)


def encode(codec: Codec, mels: Tensor) -> Tensor:
    """Encodes a spectrogram of any length in chunks: (mel frames, num_mels) to (frames, num_codebooks)."""
    with codec.streaming() as stream:
        pieces = [stream.encode(piece) for piece in mels[None].split(_CHUNK, dim=1)]
        return torch.cat([*pieces, stream.flush()], dim=1)[0]


def decode(codec: Codec, codes: Tensor) -> Tensor:
    """Decodes codes of any length in chunks: (frames, codebooks) to (mel frames, num_mels)."""
    with codec.streaming() as stream:
        pieces = codes[None].split(_CHUNK // codec.downsampling, dim=1)
        return torch.cat([stream.decode(piece) for piece in pieces], dim=1)[0]


def vocode(vocoder: Vocos, mels: Tensor) -> Tensor:
    """Audio of a spectrogram, in chunks if the vocoder is causal: (frames, num_mels) to (samples,)."""
    if not vocoder.causal:
        with torch.no_grad():
            return vocoder(mels[None])[0]
    with vocoder.streaming() as stream:
        pieces = [stream.decode(piece) for piece in mels[None].split(_CHUNK, dim=1)]
        return torch.cat([*pieces, stream.flush()], dim=1)[0]
