"""What a frozen audio encoder hears, kept on disk: hearing is by far the largest part of training a projector."""

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
from omni.media.audio import mel_constants
from omni.models.audio_encoder import AudioFeatures
from omni.models.omni import Omni


@final
class FeatureCache:
    """Frames of recordings, a file for each, in a folder named for the encoder and the precision it computes in.

    The folder's name covers the encoder's weights, its recipe (class and arguments: what the weights do not tell, such
    as the seconds that it encodes at once) and the constants of the spectrogram.

    Args:
        folder: Where such folders are made.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        self._of_encoder: Path | None = None

    def features(self, batch: ConversationBatch, omni: Omni) -> AudioFeatures:
        """What the encoder hears in a batch: from disk, or heard now and kept.

        Args:
            batch: With audio and its keys.
            omni: Hears.
        """
        assert batch.mels is not None
        assert batch.mel_lengths is not None
        paths = [self._path(key, omni, batch.mels.device) for key in batch.audio_keys]
        missing = [index for index, path in enumerate(paths) if not path.is_file()]
        if missing:
            chosen = torch.tensor(missing, device=batch.mels.device)
            lengths = batch.mel_lengths[chosen]
            heard = omni.hear(batch.mels[chosen, : int(lengths.max())], lengths)
            for index, hidden, length in zip(missing, heard.hidden, heard.lengths.tolist(), strict=True):
                _write(paths[index], hidden[:length])
        rows: list[Any] = [torch.load(path, map_location=batch.mels.device, weights_only=True) for path in paths]
        lengths = torch.tensor([len(row) for row in rows], device=batch.mels.device)
        return AudioFeatures(pad_sequence(rows, batch_first=True), lengths)

    def _path(self, key: str, omni: Omni, device: torch.device) -> Path:
        if self._of_encoder is None:
            encoder: Any = omni.audio_encoder
            own = {name: weight for name, weight in encoder.state_dict().items() if name not in encoder.lent}
            origin = encoder.origin["fingerprint"] if encoder.origin else ""
            made = json.dumps([encoder.recipe, mel_constants()], sort_keys=True, default=str)
            digest = hashlib.sha256(f"{origin} {weights_fingerprint(own)} {made}".encode()).hexdigest()
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else next(encoder.parameters()).dtype
            self._of_encoder = self.folder / f"{digest[:32]}-{str(dtype).removeprefix('torch.')}"
        return self._of_encoder / key[:2] / f"{key}.pt"


def _write(path: Path, hidden: Tensor) -> None:
    """The file appears when it is whole: several processes may hear the same."""
    with atomic_write(path, sync=False) as file:
        torch.save(hidden.detach().cpu().clone(), file)
