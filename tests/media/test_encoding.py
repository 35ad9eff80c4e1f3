"""Encoded audio is the same when it is decoded, streamed or whole; errors are one line."""

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from omni.errors import UserError
from omni.media import container, encoding
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.encoding import FormatEncoder, content_type, encode_audio
from omni.media.resampling import Resampler, resample

FORMATS = ["wav", "pcm", "flac", "opus", "mp3"]
LEAST_SNR = {"wav": 80, "pcm": 60, "flac": 80, "opus": 15, "mp3": 15}  # dB of a sweep, decoded
MP3_DELAY = 576  # samples of silence before a streamed MP3, of LAME


def sweep(seconds=1.0, rate=SAMPLE_RATE):
    time = torch.arange(round(seconds * rate)) / rate
    return 0.3 * torch.sin(2 * torch.pi * (200 * time + 400 * time**2))


def streamed(samples, format, size=777, **options):
    encoder = FormatEncoder(format, **options)
    return b"".join([encoder.push(part) for part in samples.split(size)] + [encoder.finish()])


def decoded(content, format):
    if format == "pcm":
        samples = torch.from_numpy(np.frombuffer(content, "<i2").astype(np.float32) / 32767)
        return resample(samples, encoding.PCM_RATE, SAMPLE_RATE)
    return read_audio(content)


def snr(samples, reference):
    return 10 * torch.log10(reference.square().sum() / (samples - reference).square().sum()).item()


@pytest.mark.parametrize("format", FORMATS)
def test_decoded_audio_is_the_same(format):
    audio = sweep()
    whole = decoded(encode_audio(audio, format), format)
    assert abs(len(whole) - len(audio)) <= (1 if format == "pcm" else 0)
    assert snr(whole[: len(audio)], audio) > LEAST_SNR[format]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [1, 777, 100_000])
def test_a_stream_is_the_same_as_the_whole(format, size):
    audio = sweep(0.3)
    stream, whole = decoded(streamed(audio, format, size), format), decoded(encode_audio(audio, format), format)
    stream = stream[MP3_DELAY if format == "mp3" else 0 :][: len(whole)]
    assert (stream - whole[: len(stream)]).abs().max() < 1e-4
    if format != "mp3":  # no header says how many samples of the last frame are padding
        assert len(stream) == len(whole)
    assert len(stream) > len(whole) - 10


@pytest.mark.parametrize(
    ("format", "delay"), [("wav", 0.0), ("pcm", 0.001), ("flac", 0.08), ("opus", 0.09), ("mp3", 0.2)]
)
def test_output_follows_the_input_within_the_delay(format, delay):
    encoder, silent = FormatEncoder(format), 0
    for part in sweep().split(160):
        silent = 0 if encoder.push(part) else silent + 160
        assert silent <= delay * SAMPLE_RATE


def test_headers_state_the_length_if_it_is_known():
    audio = sweep(0.1)
    whole, stream = encode_audio(audio, "wav"), streamed(audio, "wav")
    assert struct.unpack("<4xI32xI", whole[:44]) == (36 + 2 * len(audio), 2 * len(audio))
    assert struct.unpack("<4xI32xI", stream[:44]) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert whole[44:] == stream[44:]
    assert soundfile.info(io.BytesIO(encode_audio(audio, "flac"))).frames == len(audio)
    assert soundfile.info(io.BytesIO(streamed(audio, "flac"))).frames > 1 << 62
    assert len(streamed(audio, "flac")) == len(encode_audio(audio, "flac"))  # no second header


@pytest.mark.parametrize("format", FORMATS)
def test_rates_of_the_formats(format):
    encoder = FormatEncoder(format)
    assert encoder.sample_rate == (24_000 if format == "pcm" else 16_000)
    content = encode_audio(sweep(1.0), format)
    if format == "pcm":
        assert len(content) == 2 * 24_000
    else:
        assert soundfile.info(io.BytesIO(content)).samplerate == 16_000
    at_24_khz = encode_audio(sweep(1.0, 24_000), format, sample_rate=24_000)
    assert snr(decoded(at_24_khz, format)[:16_000], sweep()) > min(LEAST_SNR[format], 30)


def test_pcm_is_little_endian():
    assert encode_audio(torch.tensor([1 / 32767, -2 / 32767]), "pcm", sample_rate=24_000) == b"\x01\x00\xfe\xff"


@pytest.mark.parametrize("format", FORMATS)
def test_samples_outside_of_1_are_clipped(format):
    audio = decoded(streamed(10 * sweep(), format), format)
    assert audio.abs().max() < 1.5
    assert audio.std() > 0.5


def test_content_types():
    assert [content_type(format) for format in FORMATS] == [
        "audio/wav",
        "audio/pcm",
        "audio/flac",
        "audio/ogg",
        "audio/mpeg",
    ]
    assert FormatEncoder("mp3").content_type == "audio/mpeg"


def test_errors_are_one_line(monkeypatch):
    with pytest.raises(UserError, match="audio format is 'aac': it must be one of wav, pcm, flac, opus, mp3"):
        FormatEncoder("aac")
    with pytest.raises(UserError, match="audio format is 'aac'"):
        content_type("aac")
    with pytest.raises(UserError, match="audio cannot be encoded as opus at 22050 Hz") as error:
        FormatEncoder("opus", sample_rate=22_050)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"audio of shape \(1, 5\): give \(samples,\)"):
        FormatEncoder("mp3").push(torch.zeros(1, 5))
    with pytest.raises(UserError, match="finite"):
        encode_audio(torch.tensor([0.0, torch.nan]), "wav")
    monkeypatch.setitem(encoding._FORMATS, "mp3", encoding._Format("", {"format": "MP9", "subtype": "MPEG_LAYER_III"}))
    with pytest.raises(UserError, match="audio cannot be encoded as mp3 at 16000 Hz"):
        FormatEncoder("mp3")


def test_a_flac_stream_of_any_length_is_bounded(monkeypatch, tmp_path):
    content = streamed(sweep(2.5), "flac")
    (tmp_path / "a.flac").write_bytes(content)
    assert torch.equal(read_audio(tmp_path / "a.flac"), read_audio(content))
    assert torch.equal(read_audio(content, start=1.0, duration=0.5), read_audio(content)[16_000:24_000])
    tag = b"ID3\x04\0\0\0\0\0\x0afLaC" + bytes(6)
    with pytest.raises(UserError, match="does not state its length: convert it"):
        read_audio(tag + content)
    monkeypatch.setattr(container, "_MOST_SAMPLES", 32_000)
    with pytest.raises(
        UserError,
        match=r"audio of .* bytes: does not state its length, and is no FLAC of up to 32,000 samples: convert it",
    ):
        read_audio(content)


@pytest.mark.parametrize(("rate", "new_rate"), [(16_000, 24_000), (44_100, 16_000), (16_000, 16_000)])
@pytest.mark.parametrize("size", [1, 641, 16_000])
def test_resampled_blocks_equal_the_whole(rate, new_rate, size):
    audio, resampler = torch.randn(2000, generator=torch.Generator().manual_seed(0)), Resampler(rate, new_rate)
    parts = [resampler.push(part) for part in audio.split(size)] + [resampler.finish()]
    whole = resample(audio, rate, new_rate)
    assert torch.cat(parts).shape == whole.shape
    torch.testing.assert_close(torch.cat(parts), whole, atol=2e-6, rtol=0)
    assert len(Resampler(rate, new_rate).finish()) == 0
