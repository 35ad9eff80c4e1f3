"""Audio as people have it: headers without a length, joined files, odd encodings, opposite phase, pipes, odd names."""

import builtins
import io
import os
import resource
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from omni.commands.inputs import media_source
from omni.errors import UserError
from omni.media.audio import (
    SAMPLE_RATE,
    audio_blocks,
    audio_info,
    native_blocks,
    read_audio,
    write_audio,
)
from omni.media.audio_writer import written_by_omni
from omni.media.container import AudioError, audio_remarks

TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
NOISE = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)


def encoded(format, subtype=None, samples=TONE, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format=format, subtype=subtype, **options)
    return file.getvalue()


def with_size(size, riff=None, tail=b""):
    """A WAV file with another size of its samples in the header."""
    content = bytearray(encoded("WAV", "PCM_16"))
    at = content.index(b"data") + 4
    content[at : at + 4] = size.to_bytes(4, "little")
    if riff is not None:
        content[4:8] = riff.to_bytes(4, "little")
    return bytes(content) + tail


def rf64_without_sizes():
    content = bytearray(encoded("RF64", "PCM_16"))
    if content[:4] != b"RF64":  # libsndfile writes small files as WAV
        content = bytearray(b"RF64\xff\xff\xff\xffWAVEds64" + (28).to_bytes(4, "little") + bytes(28))
        content += encoded("WAV", "PCM_16")[12:]
    content[20:36] = bytes(16)
    return bytes(content)


def mp3_without_header(mode="CONSTANT"):
    content = encoded("MP3", samples=np.concatenate([TONE, NOISE]), bitrate_mode=mode)
    second = content.index(content[:2], 4)
    return b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + content[second:]


def muxed(format, codec="aac", seconds=1.0, rate=SAMPLE_RATE, channels=1, **options):
    """A tone of 440 Hz, encoded by PyAV."""
    av = pytest.importorskip("av")
    file, layout = io.BytesIO(), {1: "mono", 2: "stereo"}[channels]
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        samples = (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.tile(samples, (channels, 1)), format="fltp", layout=layout)
        frame.rate = rate
        size = stream.codec_context.frame_size
        resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    return file.getvalue()


# name -> content of a second, decoded by PyAV
DECODED = {
    "AAC in MP4": partial(muxed, "mp4"),
    "AAC in M4A, 44.1 kHz, stereo": partial(muxed, "ipod", rate=44_100, channels=2),
    "AAC in MOV": partial(muxed, "mov"),
    "AAC in 3GP": partial(muxed, "3gp"),
    "AAC without a container": partial(muxed, "adts"),
    "AAC in Matroska": partial(muxed, "matroska"),
    "Opus in WebM": partial(muxed, "webm", "libopus", rate=48_000),
    "Opus in WebM, stereo": partial(muxed, "webm", "libopus", rate=48_000, channels=2),
    "Opus in WebM without a length, as browsers record it": partial(muxed, "webm", "libopus", rate=48_000, live="1"),
}


# name -> content, samples, tolerance of their number, kinds of remarks
KINDS = {
    "data size 0": (lambda: with_size(0, riff=0), 16_000, 0, ["no length"]),
    "data size 0, size of an empty file": (lambda: with_size(0, riff=36), 16_000, 0, ["no length"]),
    "data size 0xFFFFFFFF": (lambda: with_size(0xFFFFFFFF, riff=0xFFFFFFFF), 16_000, 0, ["no length"]),
    "RF64 without sizes": (rf64_without_sizes, 16_000, 0, ["no length"]),
    "extensible": (lambda: encoded("WAVEX", "PCM_24"), 16_000, 0, []),
    "RF64": (lambda: encoded("RF64"), 16_000, 0, []),
    "A-law": (lambda: encoded("WAV", "ALAW"), 16_000, 0, []),
    "µ-law": (lambda: encoded("WAV", "ULAW"), 16_000, 0, []),
    "IMA ADPCM": (lambda: encoded("WAV", "IMA_ADPCM"), 16_000, 512, []),
    "MS ADPCM": (lambda: encoded("WAV", "MS_ADPCM"), 16_000, 512, []),
    "GSM 6.10, which cannot be sought in": (lambda: encoded("WAV", "GSM610"), 16_000, 320, []),
    "24 bits": (lambda: encoded("WAV", "PCM_24"), 16_000, 0, []),
    "floats": (lambda: encoded("WAV", "FLOAT"), 16_000, 0, []),
    "floats with the range of int16": (
        lambda: encoded("WAV", "FLOAT", TONE * 32767),
        16_000,
        0,
        ["integer scale"],
    ),
    "trailing chunk": (lambda: encoded("WAV") + b"LIST\x04\0\0\0INFO", 16_000, 0, []),
    "trailing garbage": (lambda: encoded("WAV") + b"\0" * 37, 16_000, 0, []),
    "MP3 without a length": (mp3_without_header, 32_000, 1200, ["no length"]),
    "MP3 of variable bit rate without a length": (lambda: mp3_without_header("VARIABLE"), 32_000, 1200, ["no length"]),
    "two MP3": (lambda: encoded("MP3") * 2, 32_000, 0, ["joined"]),
    "two MP3 without lengths": (lambda: mp3_without_header() * 2, 64_000, 2400, ["no length"]),
    "MP3 with, then one without a length": (lambda: encoded("MP3") + mp3_without_header(), 48_000, 2400, ["no length"]),
    "two FLAC": (lambda: encoded("FLAC") * 2, 32_000, 0, ["joined"]),
    "two WAV": (lambda: encoded("WAV") * 2, 32_000, 0, ["joined"]),
    "chained Opus": (lambda: encoded("OGG", "OPUS") * 2, 32_000, 0, ["joined"]),
    "chained Vorbis": (lambda: encoded("OGG", "VORBIS") * 2, 32_000, 0, ["joined"]),
    "opposite phase": (
        lambda: encoded("WAV", samples=np.stack([TONE, -0.9 * TONE], 1)),
        16_000,
        0,
        ["opposite phase"],
    ),
    "stereo with a silent channel": (lambda: encoded("WAV", samples=np.stack([TONE, 0 * TONE], 1)), 16_000, 0, []),
    **{name: (make, 16_000, 2048, []) for name, make in DECODED.items()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_have_is_read_to_its_end(kind, tmp_path):
    make, samples, tolerance, remarks = KINDS[kind]
    content = make()
    path = tmp_path / "sound"
    path.write_bytes(content)
    whole = read_audio(path)
    assert abs(len(whole) - samples) <= tolerance
    assert audio_info(path).duration == pytest.approx(len(whole) / SAMPLE_RATE, abs=1e-4)
    assert torch.equal(read_audio(content), whole)
    assert [remark.kind for remark in audio_remarks(path)] == remarks
    blocks = torch.cat(list(audio_blocks(path, 0.3)))
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-6)  # on some CPUs rounding depends on a block's length
    native, rate = torch.cat(list(native_blocks(path, 0.3))), audio_info(path).sample_rate
    assert len(native) / rate == pytest.approx(audio_info(path).duration)
    assert rate != SAMPLE_RATE or torch.allclose(native, whole)
    start = len(whole) - 4800
    part = read_audio(path, start=start / SAMPLE_RATE, duration=0.2)
    assert torch.allclose(part, whole[start : start + 3200], atol=1e-4)
    level = 0.15 if "silent channel" in kind else 0.3
    assert whole[2000:14_000].abs().max().item() == pytest.approx(level, abs=0.1)
    assert whole[-6000:-2000].abs().max() > 0.1  # the end of the last part is there


def test_the_louder_of_opposite_channels_is_taken():
    samples = np.concatenate([np.zeros((7 * SAMPLE_RATE, 2), np.float32), np.stack([0.9 * TONE, -TONE], 1)])
    audio = read_audio(encoded("WAV", "FLOAT", samples))
    assert np.abs(audio.numpy()[7 * SAMPLE_RATE :] + TONE).max() < 1e-6


def test_an_empty_wav_file_stays_empty():
    empty = encoded("WAV", samples=TONE[:0])
    for content in (empty, empty + b"LIST\x04\0\0\0INFO"):
        content = content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:]
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(content)


@pytest.mark.parametrize("name", ["sound.raw", "SOUND.RAW", "sound.pcm"])
def test_samples_without_a_header_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes((TONE * 32767).astype("<i2").tobytes())
    with pytest.raises(AudioError, match=rf"{name}: has no header that states rate and format: convert it.*ffmpeg"):
        read_audio(tmp_path / name)
    (tmp_path / name).write_bytes(encoded("WAV"))
    assert len(read_audio(tmp_path / name)) == 16_000


def test_joined_files_of_different_rates_are_refused():
    other = io.BytesIO()
    soundfile.write(other, TONE, 8000, format="FLAC")
    with pytest.raises(AudioError, match="2 files of different rates or channels are joined: convert it"):
        read_audio(encoded("FLAC") + other.getvalue())


def test_a_joined_file_that_is_cut_off_is_truncated(tmp_path):
    with pytest.raises(AudioError, match="cut off") as error:
        read_audio(encoded("FLAC", samples=NOISE) + encoded("FLAC", samples=NOISE)[:-5000])
    assert error.value.fault == "truncated"


@pytest.fixture
def without_pyav(monkeypatch):
    """A function after which PyAV cannot be imported."""
    original = builtins.__import__

    def absent(name, *rest):
        if name == "av":
            raise ImportError(name)
        return original(name, *rest)

    return lambda: monkeypatch.setattr(builtins, "__import__", absent)


def test_without_pyav_the_line_says_how_to_convert(without_pyav):
    content = b"\0\0\0\x1cftypM4A " + bytes(100)
    with pytest.raises(AudioError, match="is no audio that can be read"):
        read_audio(content)
    without_pyav()
    with pytest.raises(AudioError, match=r"needs PyAV: run `pip install -e '.\[media\]'`.*ffmpeg -i FILE FILE.wav"):
        read_audio(content)


@pytest.mark.parametrize("name", DECODED)
def test_the_samples_are_those_that_were_encoded(name):
    """Apart from the start, where encoders of AAC without a list of edits leave their delay."""
    middle = read_audio(DECODED[name]())[4000:12_000]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle)))
    assert int(spectrum.abs().argmax()) == 220  # bins of 2 Hz
    assert float(middle.abs().max()) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("name", DECODED)
def test_without_pyav_each_is_refused_with_advice(name, without_pyav, tmp_path):
    content, _ = DECODED[name](), without_pyav()
    (tmp_path / "sound").write_bytes(content)
    for source in (content, tmp_path / "sound"):
        with pytest.raises(AudioError, match=r"needs PyAV: run `pip install .*ffmpeg -i FILE FILE.wav") as error:
            audio_info(source)
        assert error.value.fault == "unreadable"


@pytest.mark.parametrize("name", [name for name in DECODED if "without" not in name])
def test_a_file_that_is_cut_off_is_refused(name):
    content = DECODED[name](seconds=4.0)
    for share in (0.2, 0.5, 0.8):
        with pytest.raises(AudioError) as error:
            read_audio(content[: int(len(content) * share)])
        assert error.value.fault in ("truncated", "unreadable")


def test_a_named_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(encoded("WAV"),))
    writer.start()
    source = media_source(str(path))
    writer.join(10)
    assert audio_info(source).duration == 1.0
    assert len(read_audio(source)) == 16_000


def test_names_in_any_bytes(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9.wav")
    write_audio(name, torch.from_numpy(TONE))
    assert len(read_audio(name)) == 16_000
    assert written_by_omni(name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_files_of_omni_have_its_mark(tmp_path, name):
    write_audio(tmp_path / name, torch.from_numpy(TONE))
    assert written_by_omni(tmp_path / name)
    soundfile.write(tmp_path / name, TONE, SAMPLE_RATE)
    assert not written_by_omni(tmp_path / name)
    (tmp_path / name).write_bytes(b"text")
    assert not written_by_omni(tmp_path / name)


@contextmanager
def full_disk(room):
    """Files cannot grow over a number of bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_full_disk_keeps_what_stood_there(tmp_path, name):
    (tmp_path / name).write_bytes(b"the user's")
    with full_disk(1000), pytest.raises((UserError, OSError), match=name):
        write_audio(tmp_path / name, torch.from_numpy(NOISE))
    assert (tmp_path / name).read_bytes() == b"the user's"
    assert len(list(tmp_path.iterdir())) == 1
