"""The verbs `codec encode` and `codec decode`: audio files to files of codes, and back to sound."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from omni.errors import UserError
from omni.files import atomic_write
from omni.models.codec import Codec
from omni.models.vocoder import Vocos

_PIECE = 3000  # mel frames that are encoded or decoded at a time: 30 s, so that memory does not grow with the file


class Coded(NamedTuple):
    """Speech as codes, as an `.npz` file keeps it.

    Attributes:
        codes: (frames, codebooks), int32.
        num_samples: Samples at 16 kHz that they stand for.
        frame_rate: Frames of codes a second.
        codebook_size: What a code is less than.
        codec: Fingerprint of the codec that wrote them.
    """

    codes: np.ndarray
    num_samples: int
    frame_rate: float
    codebook_size: int
    codec: str

    def save(self, path: Path) -> None:
        """Writes an `.npz` file, which appears when it is whole."""
        with atomic_write(path) as file:
            np.savez_compressed(file, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> "Coded":
        """Reads what `save` wrote.

        Raises:
            UserError: If the file is missing, damaged, or holds no codes.
        """
        if not path.is_file():
            raise UserError(f"{path}: does not exist, or is no file")
        try:
            with np.load(path, allow_pickle=False) as file:
                kept = {name: file[name] for name in cls._fields}
                scalars = {name: kept[name].item() for name in cls._fields if name != "codes"}
        except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: is no file of codes: give an .npz that `omni codec encode` wrote") from error
        return cls(kept["codes"], **scalars)


def encode(codec: Codec, mels: Tensor) -> Tensor:
    """The codes of a spectrogram of any length, piece by piece: (mel frames, num_mels) to (frames, num_codebooks)."""
    with codec.streaming() as stream:
        pieces = [stream.encode(piece) for piece in mels[None].split(_PIECE, dim=1)]
        return torch.cat([*pieces, stream.flush()], dim=1)[0]


def decode(codec: Codec, codes: Tensor) -> Tensor:
    """The spectrogram of codes, piece by piece: (frames, codebooks) to (mel frames, num_mels)."""
    with codec.streaming() as stream:
        pieces = codes[None].split(_PIECE // codec.downsampling, dim=1)
        return torch.cat([stream.decode(piece) for piece in pieces], dim=1)[0]


def vocode(vocoder: Vocos, mels: Tensor) -> Tensor:
    """The sound of a spectrogram, piece by piece where it can be: (frames, num_mels) to (frames × 160,)."""
    if not vocoder.causal:
        with torch.no_grad():
            return vocoder(mels[None])[0]
    with vocoder.streaming() as stream:
        pieces = [stream.decode(piece) for piece in mels[None].split(_PIECE, dim=1)]
        return torch.cat([*pieces, stream.flush()], dim=1)[0]
