"""A pretrained speaker encoder: equal to its own library, and what is no such model."""

import json
import sys
from pathlib import Path

import pytest
import torch
import toy_pretrained as toy

from omni.errors import UserError
from omni.models.pretrained.audio_encoder import PretrainedAudioEncoder
from omni.models.pretrained.speaker_encoder import PretrainedSpeakerEncoder

transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
SECOND = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quiet():
    """Disables progress bars of loading weights."""
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("kind", ["WavLM", "Wav2Vec2"])
def test_embeddings_are_those_of_the_library(kind, tmp_path):
    encoder = PretrainedSpeakerEncoder(source=toy.speaker_encoder(tmp_path / "encoder", kind))
    model = transformers.AutoModelForAudioXVector.from_pretrained(tmp_path / "encoder").eval()
    normalized = (SECOND - SECOND.mean()) / (SECOND.var(unbiased=False) + 1e-7).sqrt()
    with torch.no_grad():
        expected = model(normalized[None]).embeddings[0]
    torch.testing.assert_close(encoder(SECOND), expected, rtol=1e-4, atol=1e-5)
    assert len(expected) == encoder.dim == 12
    assert encoder(SECOND[:8_000]).isfinite().all()  # the shortest that is judged
    torch.testing.assert_close(encoder(3 * SECOND), encoder(SECOND), rtol=1e-3, atol=1e-4)
    assert torch.nn.functional.cosine_similarity(encoder(SECOND.cumsum(0)), expected, dim=0) < 0.999
    assert encoder.version == str(tmp_path / "encoder")


def test_other_models_are_refused(tmp_path):
    def refused(folder, **options):
        with pytest.raises(UserError) as error:
            PretrainedSpeakerEncoder(source=folder, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "a whisper is not a speaker encoder" in refused(toy.encoder(tmp_path / "whisper"))
    assert "weights of a WavLMForXVector are missing" in refused(toy.speaker_encoder(tmp_path / "bare", head=False))
    fast = toy.speaker_encoder(tmp_path / "fast", sampling_rate=8_000)
    assert "its sampling rate is 8,000 Hz" in refused(fast)
    lacking = Path(toy.speaker_encoder(tmp_path / "lacking"))
    (lacking / "preprocessor_config.json").unlink()
    assert "lacking: cannot be loaded" in refused(str(lacking))
    damaged = Path(toy.speaker_encoder(tmp_path / "damaged"))
    config = json.loads((damaged / "config.json").read_text(encoding="utf-8"))
    (damaged / "config.json").write_text(json.dumps({**config, "tdnn_dilation": [99] * 5}), encoding="utf-8")
    assert "damaged: cannot be loaded" in refused(str(damaged))


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    folder = toy.speaker_encoder(tmp_path / "encoder")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hf\]'"):
        PretrainedSpeakerEncoder(source=folder)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # the library's own, of WavLM's masks
def test_wavlm_which_has_no_sdpa_is_an_audio_encoder(tmp_path):
    encoder = PretrainedAudioEncoder(source=toy.speaker_encoder(tmp_path / "wavlm", head=False)).eval()
    long = SECOND.reshape(1, 100, 160)
    short = torch.cat((long[:, :40], torch.full((1, 60, 160), 3.0)), 1)  # arbitrary padding
    together = encoder(torch.cat((long, short)), torch.tensor([100, 40])).hidden
    alone = encoder(long[:, :40], torch.tensor([40])).hidden[0]
    torch.testing.assert_close(together[1, :20], alone, rtol=1e-4, atol=1e-4)
    assert (together[0, :20] - alone).abs().max() > 1e-3
