"""The codec: rows are independent, it is causal, and streaming equals the whole."""

import math

import pytest
import torch
from torch import Tensor

from omni.models.codec import Codec

TOY = {
    "num_mels": 16,
    "dim": 24,
    "mel_layers": 1,
    "num_layers": 1,
    "num_codebooks": 3,
    "codebook_size": 8,
    "codebook_dim": 6,
}
VARIANTS = [{}, {"downsampling": 8, "num_codebooks": 2}, {"downsampling": 2, "kernel_size": 3}]


@pytest.fixture(params=VARIANTS, ids=str)
def codec(request: pytest.FixtureRequest) -> Codec:
    """A codec whose codebooks are trained on some noise."""
    torch.manual_seed(0)
    codec = Codec(**TOY | request.param)
    for _ in range(3):
        codec(torch.randn(8, 64, 16))
    return codec.eval()


def ragged(*lengths: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows, and a batch of them with random values as padding."""
    rows = [torch.randn(length, 16) for length in lengths]
    mels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=50.0)
    return rows, mels, torch.tensor(lengths)


@torch.no_grad()
def test_a_batch_equals_single_rows(codec):
    rows, mels, lengths = ragged(50, 1, 23, 48)
    together, codes = codec(mels, lengths), codec.encode(mels, lengths)
    assert torch.equal(codes, together.codes)
    for number, row in enumerate(rows):
        frames = codec.num_frames(len(row))
        alone = codec(row[None])
        assert torch.equal(alone.codes[0], codes[number, :frames])
        assert not codes[number, frames:].any()
        torch.testing.assert_close(alone.mels[0], together.mels[number, : len(row)], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.commitment[0], together.commitment[number, :frames], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_encoding_under_autocast_gives_the_codes_of_the_reconstruction(dtype):
    torch.manual_seed(0)
    codec = Codec(**TOY | {"codebook_size": 256})  # close entries: distances in low precision would select another one
    codec(torch.randn(16, 128, 16))
    _, mels, lengths = ragged(400, 64, 400)
    with torch.autocast("cpu", dtype), codec.eval().streaming() as stream:
        rebuilt = codec(mels, lengths)
        assert torch.equal(codec.encode(mels, lengths), rebuilt.codes)
        assert torch.equal(stream.encode(mels[:1]), rebuilt.codes[:1])


@torch.no_grad()
def test_decoding_codes_gives_the_reconstruction(codec):
    _, mels, lengths = ragged(40, 17)
    rebuilt = codec(mels, lengths)
    decoded = codec.decode(rebuilt.codes)
    assert decoded.shape == (2, math.ceil(40 / codec.downsampling) * codec.downsampling, 16)
    for number, length in enumerate(lengths):
        torch.testing.assert_close(decoded[number, :length], rebuilt.mels[number, :length], atol=1e-6, rtol=1e-5)
    for levels in range(1, codec.num_codebooks):
        assert codec.decode(rebuilt.codes[..., :levels]).shape == decoded.shape


@torch.no_grad()
def test_it_is_causal(codec):
    mels = torch.randn(1, 64, 16)
    changed = mels.clone()
    changed[:, 33:] = torch.randn(1, 31, 16)
    one, other = codec(mels), codec(changed)
    before = 33 // codec.downsampling
    assert torch.equal(one.codes[:, :before], other.codes[:, :before])
    assert not torch.equal(one.codes[:, before:], other.codes[:, before:])
    before *= codec.downsampling
    torch.testing.assert_close(one.mels[:, :before], other.mels[:, :before], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 45, [45], [7, 1, 30, 7], [44, 1], [3, 42]], ids=str)
def test_streaming_equals_the_whole(codec, pieces):
    mels = torch.randn(2, 45, 16)
    with torch.no_grad():
        whole = codec.encode(mels)
        decoded = codec.decode(whole)
    with codec.streaming() as stream:
        codes = [stream.encode(piece) for piece in mels.split(pieces, dim=1)] + [stream.flush()]
        assert torch.equal(torch.cat(codes, dim=1), whole)
        mels = torch.cat([stream.decode(piece) for piece in codes], dim=1)
    assert (mels - decoded).abs().max() < 1e-5


def test_two_simultaneous_streams_are_independent(codec):
    one, other = torch.randn(2, 1, 32, 16)
    with codec.streaming() as a, codec.streaming() as b:
        codes = [(a.encode(x), b.encode(y)) for x, y in zip(one.split(8, 1), other.split(8, 1), strict=True)]
        for parts, mels in zip(zip(*codes, strict=True), (one, other), strict=True):
            assert torch.equal(torch.cat(parts, dim=1), codec.encode(mels))
        assert a.flush().shape[1] == 0


def test_nothing_to_flush_is_an_error(codec):
    with codec.streaming() as stream, pytest.raises(ValueError, match="nothing was encoded"):
        stream.flush()


def test_every_parameter_gets_a_gradient(codec):
    codec.train()
    mels, lengths = torch.randn(4, 48, 16), torch.tensor([48, 40, 9, 3])
    rebuilt = codec(mels, lengths)
    (rebuilt.mels.square().mean() + rebuilt.commitment.mean()).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_rates():
    codec = Codec(downsampling=8, num_codebooks=2, codebook_size=128)
    assert codec.frame_rate == 12.5
    assert codec.bit_rate == 175
    assert Codec().bit_rate == 800
    with pytest.raises(ValueError, match="2, 4 or 8"):
        Codec(downsampling=3)  # pyright: ignore[reportArgumentType]


def test_flops_are_six_for_each_weight_and_use():
    codec = Codec(**TOY)
    at_mels = 2 * 16 * 24 + 2 * (24 * 7 + 2 * 24 * 72)
    at_codes = 2 * 4 * 24 * 24 + 2 * (24 * 7 + 2 * 24 * 72) + 2 * 24 * 6
    assert codec.flops_per_second == 6 * (100 * at_mels + 25 * at_codes)


def test_codes_belong_to_their_codec(codec):
    other = Codec(**codec.recipe["init_args"])
    assert other.fingerprint != codec.fingerprint
    other.load_state_dict(codec.state_dict())
    assert other.fingerprint == codec.fingerprint


def test_autocast_leaves_spectrograms_and_codebooks_in_fp32(codec):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rebuilt = codec.train()(torch.randn(2, 32, 16))
    assert rebuilt.mels.dtype == rebuilt.commitment.dtype == codec.quantizer.codebooks.dtype == torch.float32
