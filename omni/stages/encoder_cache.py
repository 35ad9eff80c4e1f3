"""A cache on disk of the output of a frozen audio encoder, the most expensive part of training a projector."""

import hashlib
import json
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.batch import ConversationBatch
from omni.checkpoints.weights import weights_fingerprint
from omni.files import atomic_write
from omni.media.mel_scale import mel_constants
from omni.models.audio_encoder import AudioFeatures
from omni.models.omni import Omni


@final
class FeatureCache:
    """The encoder's frames, one file per recording, in a folder for the encoder and its precision.

    The folder's name is a hash of the encoder's weights, its class and arguments, and the constants of the spectrogram.

    Args:
        folder: The parent of these folders.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        self._encoder_folder: Path | None = None

    def features(self, batch: ConversationBatch, omni: Omni) -> AudioFeatures:
        """The encoder's frames of a batch, from disk where they are cached.

        Args:
            batch: A batch with audio and `audio_keys`.
            omni: The model.
        """
        assert batch.mels is not None
        assert batch.mel_lengths is not None
        paths = [self._path(key, omni, batch.mels.device) for key in batch.audio_keys]
        missing = [index for index, path in enumerate(paths) if not path.is_file()]
        if missing:
            chosen = torch.tensor(missing, device=batch.mels.device)
            lengths = batch.mel_lengths[chosen]
            encoded = omni.encode_audio(batch.mels[chosen, : int(lengths.max())], lengths)
            for index, hidden, length in zip(missing, encoded.hidden, encoded.lengths.tolist(), strict=True):
                _write(paths[index], hidden[:length])
        rows: list[Any] = [torch.load(path, map_location=batch.mels.device, weights_only=True) for path in paths]
        lengths = torch.tensor([len(row) for row in rows], device=batch.mels.device)
        return AudioFeatures(pad_sequence(rows, batch_first=True), lengths)

    def _path(self, key: str, omni: Omni, device: torch.device) -> Path:
        if self._encoder_folder is None:
            encoder: Any = omni.audio_encoder
            own = {name: weight for name, weight in encoder.state_dict().items() if name not in encoder.omitted_weights}
            origin = encoder.origin["fingerprint"] if encoder.origin else ""
            recipe = json.dumps([encoder.recipe, mel_constants()], sort_keys=True, default=str)
            digest = hashlib.sha256(f"{origin} {weights_fingerprint(own)} {recipe}".encode()).hexdigest()
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else next(encoder.parameters()).dtype
            self._encoder_folder = self.folder / f"{digest[:32]}-{str(dtype).removeprefix('torch.')}"
        return self._encoder_folder / key[:2] / f"{key}.pt"


def _write(path: Path, hidden: Tensor) -> None:
    """Writes atomically: several processes may encode the same recording."""
    with atomic_write(path, sync=False) as file:
        torch.save(hidden.detach().cpu().clone(), file)
