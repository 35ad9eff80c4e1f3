"""The disk cache of a frozen encoder's outputs; its name covers everything that they depend on."""

from types import SimpleNamespace
from typing import Any

import torch

from omni.models.audio_encoder import AudioEncoder
from omni.stages.encoder_cache import FeatureCache

SIZES: dict[str, Any] = {"num_mels": 16, "dim": 16, "num_layers": 3, "num_heads": 2, "ffn_dim": 32, "conv_channels": 4}


def encoder(**options: Any) -> AudioEncoder:
    torch.manual_seed(0)
    part = AudioEncoder(**SIZES, **{"intermediate_ctc_block": 1, **options}).eval()
    torch.nn.init.normal_(part.feedback.weight)  # pyright: ignore
    return part


def features(folder: Any, part: AudioEncoder, key: str = "abc") -> torch.Tensor:
    mels = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(int(key, 16)))
    batch: Any = SimpleNamespace(mels=mels, mel_lengths=torch.tensor([64]), audio_keys=(key,))
    omni: Any = SimpleNamespace(audio_encoder=part, encode_audio=part)
    with torch.no_grad():
        return FeatureCache(folder).features(batch, omni).hidden


def test_another_encoder_with_the_same_weights_has_its_own_features(tmp_path):
    first, other = encoder(), encoder(intermediate_ctc_block=2)
    other.load_state_dict(first.state_dict())
    kept = features(tmp_path, first)
    assert torch.equal(features(tmp_path, first), kept)
    assert len([*tmp_path.iterdir()]) == 1
    assert not torch.allclose(features(tmp_path, other), kept)
    assert len([*tmp_path.iterdir()]) == 2


def test_each_precision_has_its_own_features(tmp_path):
    part = encoder()
    kept = features(tmp_path, part)
    with torch.autocast("cpu", torch.bfloat16):
        assert features(tmp_path, part).dtype == torch.bfloat16
    assert kept.dtype == torch.float32
    assert sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir()) == ["bfloat16", "float32"]


def test_each_recording_has_its_own_file(tmp_path):
    """Another process reads the recordings in another order."""
    part = encoder()
    first, second = (features(tmp_path, part, key) for key in ("abc", "def"))
    assert not torch.allclose(first, second)
    assert torch.equal(features(tmp_path, part, "def"), second)
    assert torch.equal(features(tmp_path, part, "abc"), first)
