"""The audio encoder: outputs depend on the order of frames and only on their own row."""

import pytest
import torch

from omni.decoding.ctc import ctc_nll
from omni.media.mel_scale import SILENCE
from omni.models.audio_encoder import AudioEncoder

TOY = {
    "vocab_size": 5,
    "num_mels": 16,
    "dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 48,
    "conv_channels": 4,
    "head_dim": 8,
}
VARIANTS = [
    {},
    {"downsampling": 4},
    {"conv_kernel": 3},
    {"subframes": 1},
    {"intermediate_ctc_block": 1},
]


@pytest.fixture(params=VARIANTS, ids=str)
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(**TOY | request.param).eval()


def hear(encoder: AudioEncoder, *rows: torch.Tensor, filling: float = SILENCE) -> list[torch.Tensor]:
    """Emissions of each row of a padded batch, padding cut off."""
    lengths = torch.tensor([len(row) for row in rows])
    mels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filling)
    with torch.no_grad():
        emissions = encoder.emit(encoder(mels, lengths))
    pairs = zip(emissions.log_probs, emissions.lengths.tolist(), strict=True)
    return [row[:length] for row, length in pairs]


def test_a_batch_equals_single_rows(encoder):
    rows = [torch.randn(length, 16) for length in (50, 1, 23, 48)]
    together = hear(encoder, *rows)
    for row, heard in zip(rows, together, strict=True):
        torch.testing.assert_close(heard, hear(encoder, row)[0], atol=1e-5, rtol=1e-4)


def test_padding_has_no_effect(encoder):
    rows = [torch.randn(length, 16) for length in (40, 17)]
    for one, other in zip(hear(encoder, *rows), hear(encoder, *rows, filling=100.0), strict=True):
        torch.testing.assert_close(one, other)


def test_order_matters(encoder):
    mel = torch.randn(64, 16)
    there, back = hear(encoder, mel)[0], hear(encoder, mel.flip(0))[0]
    assert (there.flip(0) - back).abs().max() > 0.01
    shuffled = hear(encoder, mel[torch.randperm(64)])[0]
    assert (there.exp().mean(0) - shuffled.exp().mean(0)).abs().max() > 1e-4


def test_the_number_of_subframes_is_as_announced(encoder):
    for length in range(1, 40):
        assert len(hear(encoder, torch.randn(length, 16))[0]) == encoder.num_subframes(length)


def test_rates():
    assert AudioEncoder(**TOY).subframe_seconds == pytest.approx(0.02)
    assert AudioEncoder(**TOY, downsampling=4, subframes=1).subframe_seconds == pytest.approx(0.04)
    with pytest.raises(ValueError, match="4 or 8"):
        AudioEncoder(**TOY, downsampling=3)  # pyright: ignore[reportArgumentType]


def test_every_parameter_gets_a_gradient_through_checkpointing_too(encoder):
    mels, lengths = torch.randn(2, 48, 16), torch.tensor([48, 40])
    targets = torch.tensor([[1, 2, 3], [4, 4, 0]])
    gradients = []
    for checkpointing in (False, True):
        encoder.transformer.gradient_checkpointing = checkpointing
        encoder.train().zero_grad()
        features = encoder(mels, lengths)
        assert (features.intermediate is not None) == (encoder.intermediate_ctc_block > 0)
        for emissions in filter(None, (encoder.emit(features), features.intermediate)):
            nll, feasible = ctc_nll(*emissions, targets, torch.tensor([3, 2]))
            assert feasible.all()
            nll.sum().backward(retain_graph=True)
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == dict(encoder.named_parameters()).keys()
    assert all(gradient.any() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_later_blocks_are_conditioned_on_intermediate_predictions():
    torch.manual_seed(0)
    plain, reading = AudioEncoder(**TOY).eval(), AudioEncoder(**TOY, intermediate_ctc_block=1).eval()
    plain.load_state_dict({name: w for name, w in reading.state_dict().items() if "feedback" not in name})
    mel = torch.randn(40, 16)
    torch.testing.assert_close(hear(plain, mel), hear(reading, mel))  # the conditioning is zero at first
    assert reading.feedback is not None
    torch.nn.init.normal_(reading.feedback.weight)
    assert (hear(plain, mel)[0] - hear(reading, mel)[0]).abs().max() > 0.01
    first = reading(mel[None], torch.tensor([40])).intermediate
    assert first.log_probs.shape == (1, 20, 5)
    torch.testing.assert_close(first.log_probs.exp().sum(-1), torch.ones(1, 20))
    with pytest.raises(ValueError, match="intermediate_ctc_block must be 0 or a block before the last of 2, not 2"):
        AudioEncoder(**TOY, intermediate_ctc_block=2)


def test_emissions_are_probabilities_in_fp32_under_autocast():
    encoder = AudioEncoder(**TOY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        emissions = encoder.emit(encoder(torch.randn(2, 32, 16), torch.tensor([32, 20])))
    assert emissions.log_probs.dtype == torch.float32
    torch.testing.assert_close(emissions.log_probs.exp().sum(-1), torch.ones(2, 16))


def test_flops_are_six_for_each_weight_and_use():
    encoder = AudioEncoder(**TOY)
    linear = sum(p.numel() for p in encoder.transformer.parameters()) + 32 * 4 * 8 + 4 * (11 * 8 * 8 + 8 * 5)
    convs = 100 * (9 * 4 * 8 / 2 + 9 * 4 * 8 * 4 / 4 + 9 * 8 * 16 * 2 / 8)
    expected = 6 * (12.5 * (linear + encoder.input.weight.numel()) + convs)
    assert encoder.flops_per_second == pytest.approx(expected)
    twice = 32 * 4 * 8 + 4 * (11 * 8 * 8 + 8 * 5) + 4 * 5 * 32
    assert AudioEncoder(**TOY, intermediate_ctc_block=1).flops_per_second == pytest.approx(expected + 6 * 12.5 * twice)
