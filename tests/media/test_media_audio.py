"""Audio: reading and writing of all formats, errors, and the log-mel spectrogram."""

import math
import shutil
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from omni.errors import UserError
from omni.media.audio import (
    FLOOR,
    SAMPLE_RATE,
    STD,
    LogMel,
    audio_blocks,
    audio_info,
    audio_writer,
    native_blocks,
    read_audio,
    write_audio,
)
from omni.media.container import AudioError
from omni.media.mel_scale import SILENCE


def sine(seconds, rate=SAMPLE_RATE, hertz=440.0, channels=1):
    """A tone of amplitude 0.5, faded in and out: (samples, channels)."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * hertz * time) * np.minimum(1, np.minimum(time, seconds - time) / 0.05)
    return np.repeat(tone[:, None], channels, 1).astype(np.float32)


def noise(samples, seed=0, level=0.1):
    return np.random.default_rng(seed).normal(0, level, samples).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def save(name, samples, rate=SAMPLE_RATE, **options):
        soundfile.write(tmp_path / name, samples, rate, **options)
        return tmp_path / name

    return save


class TestReading:
    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000, 192_000])
    @pytest.mark.parametrize("channels", [1, 2, 6])
    def test_any_rate_and_channels_become_the_same_16_khz_mono(self, save, rate, channels):
        audio = read_audio(save("a.wav", sine(0.5, rate, channels=channels), rate))
        expected = torch.from_numpy(sine(0.5)[:, 0])
        assert audio.dtype == torch.float32
        assert len(audio) == pytest.approx(0.5 * SAMPLE_RATE, abs=2)
        length = min(len(audio), len(expected))
        tolerance = 2e-3 if rate != 44_101 else 2e-2  # relative to 44,100
        torch.testing.assert_close(audio[:length], expected[:length], atol=tolerance, rtol=0)

    def test_channels_are_averaged(self, save):
        left, right = noise(4000), noise(4000, seed=1)
        heard = read_audio(save("a.wav", np.stack([left, right], 1), subtype="FLOAT"))
        torch.testing.assert_close(heard, torch.from_numpy((left + right) / 2))

    @pytest.mark.parametrize(
        ("name", "tolerance"),
        [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.aiff", 1e-4), ("a.au", 1e-4), ("a.ogg", 0.05), ("a.mp3", 0.05)],
    )
    def test_formats_and_bytes_are_read_alike(self, save, name, tolerance):
        path = save(name, sine(1.0))
        heard = read_audio(path)
        torch.testing.assert_close(heard, torch.from_numpy(sine(1.0)[:, 0]), atol=tolerance, rtol=0)
        assert torch.equal(read_audio(path.read_bytes()), heard)
        assert torch.equal(read_audio(str(path)), heard)
        assert audio_info(path) == audio_info(path.read_bytes()) == (1.0, SAMPLE_RATE, 1)

    def test_the_format_is_detected_from_the_content(self, save, tmp_path):
        shutil.copy(save("a.flac", sine(0.2)), tmp_path / "b.wav")
        assert torch.equal(read_audio(tmp_path / "b.wav"), read_audio(tmp_path / "a.flac"))

    @pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
    def test_a_part_equals_that_part_of_the_whole(self, save, rate):
        path = save("a.wav", noise(2 * rate), rate)
        whole = read_audio(path)
        for start, duration in [(0.0, 0.3), (0.7, 0.5), (1.23456, 0.1), (1.9, 5.0), (0.5, None)]:
            first = round(start * SAMPLE_RATE)
            last = None if duration is None else round((start + duration) * SAMPLE_RATE)
            part = read_audio(path, start=start, duration=duration)
            torch.testing.assert_close(part, whole[first:last], atol=2e-6, rtol=0)

    def test_reading_past_the_end_gives_nothing(self, save):
        with pytest.raises(UserError, match=r"a\.wav: has 1\.00 s, nothing from 2\.00 s on"):
            read_audio(save("a.wav", noise(16_000)), start=2)

    def test_one_sample_is_audio(self, save):
        assert len(read_audio(save("a.wav", noise(1)))) == 1

    def test_a_stream_without_a_length_in_its_header(self, save):
        content = bytearray(save("a.wav", noise(1600)).read_bytes())
        for size in (0xFFFFFFFF, 0x7FFFFFFF):
            at = content.index(b"data") + 4
            content[at : at + 4] = size.to_bytes(4, "little")
            assert len(read_audio(bytes(content))) == 1600


class TestBlocks:
    @pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
    def test_joined_blocks_equal_the_whole(self, save, rate, monkeypatch):
        monkeypatch.setattr("omni.media.audio._BLOCK_SECONDS", 0.25)
        path = save("a.wav", noise(3 * rate + 7), rate)
        whole = read_audio(path)
        for seconds in (0.1, 0.7, 5.0):
            torch.testing.assert_close(torch.cat(list(audio_blocks(path, seconds))), whole, atol=2e-6, rtol=0)

    def test_blocks_overlap_and_each_brings_something_new(self, save):
        path = save("a.wav", noise(16_000))
        for seconds, overlap in [(0.5, 0.25), (0.4, 0.1), (1.0, 0.5), (0.3, 0.0)]:
            blocks = list(audio_blocks(path, seconds, overlap))
            shared = round(overlap * SAMPLE_RATE)
            for one, other in pairwise(blocks):
                assert torch.equal(one[len(one) - shared :], other[:shared])
                assert len(other) > shared
            joined = torch.cat([blocks[0], *(block[shared:] for block in blocks[1:])])
            assert torch.equal(joined, read_audio(path))

    def test_native_blocks_keep_rate_and_channels(self, save):
        samples = noise(30_000)
        blocks = list(native_blocks(save("a.wav", samples, 22_050, subtype="FLOAT"), 0.5))
        assert len(blocks) == 3
        assert torch.equal(torch.cat(blocks), torch.from_numpy(samples))

    @pytest.mark.parametrize("read", [lambda path: audio_blocks(path, 30.0), native_blocks])
    def test_memory_does_not_grow_with_the_file(self, tmp_path, read):
        minute = np.zeros(8_000 * 60, dtype=np.int16)
        with soundfile.SoundFile(tmp_path / "a.flac", "w", 8_000, 1) as file:
            for _ in range(30):
                file.write(minute)
        tracemalloc.start()
        longest = 0
        for block in read(tmp_path / "a.flac"):  # tracemalloc does not see tensors, so their size is checked
            longest = max(longest, len(block))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert longest <= 30 * SAMPLE_RATE
        assert peak < 8_000_000  # the file holds 57.6 MB of float32


class TestWriting:
    @pytest.mark.parametrize("name", ["a.wav", "new/folder/a.flac"])
    def test_written_audio_is_read_back(self, tmp_path, name):
        audio = torch.from_numpy(noise(5000)) * 20  # outside of ±1
        write_audio(tmp_path / name, audio)
        torch.testing.assert_close(read_audio(tmp_path / name), audio.clamp(-1, 1), atol=4e-5, rtol=0)

    def test_channels_and_rate(self, tmp_path):
        write_audio(tmp_path / "a.wav", torch.zeros(2, 800), sample_rate=8_000)
        assert audio_info(tmp_path / "a.wav") == (0.1, 8_000, 2)

    def test_a_failed_write_keeps_the_old_file_only(self, tmp_path, monkeypatch):
        write_audio(tmp_path / "a.wav", torch.ones(100))
        before = (tmp_path / "a.wav").read_bytes()

        write = soundfile.SoundFile.write

        def half(file, samples):
            write(file, samples[:50])
            raise OSError("disk full")

        monkeypatch.setattr(soundfile.SoundFile, "write", half)
        with pytest.raises(OSError, match="disk full"):
            write_audio(tmp_path / "a.wav", torch.zeros(100))
        assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]
        assert (tmp_path / "a.wav").read_bytes() == before

    @pytest.mark.parametrize("channels", [1, 2])
    def test_pieces_are_written_like_the_whole(self, tmp_path, channels):
        audio = torch.randn(channels, 1000).squeeze(0)  # some of it clips
        write_audio(tmp_path / "whole.wav", audio)
        with audio_writer(tmp_path / "folder/pieces.wav", channels=channels) as write:
            for piece in audio.split(300, dim=-1):
                write(piece)
            assert not (tmp_path / "folder/pieces.wav").exists()
        assert (tmp_path / "folder/pieces.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()

    def test_unknown_extensions_are_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"cannot be written as \.txt: use \.wav, \.flac"):
            write_audio(tmp_path / "a.txt", torch.zeros(100))


def cut(name, samples, share=0.5, rate=SAMPLE_RATE):
    def write(folder):
        soundfile.write(folder / "whole", samples, rate, format=name.split(".")[1].upper())
        content = (folder / "whole").read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])
        return folder / name

    return write


def written(name, content):
    def write(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return write


def sound(name, samples, **options):
    def write(folder):
        soundfile.write(folder / name, samples, SAMPLE_RATE, **options)
        return folder / name

    return write


NAN = np.where(np.arange(800) == 40, np.nan, 0.1).astype(np.float32)


@pytest.mark.parametrize(
    ("write", "fault", "message"),
    [
        (lambda folder: folder / "a.wav", "missing", "does not exist"),
        (lambda folder: folder, "folder", "is a folder, and an audio file is needed"),
        (written("a.wav", b""), "empty", r"is empty \(0 bytes\)"),
        (sound("a.wav", np.zeros(0, np.float32)), "empty", "holds no samples"),
        (written("a.wav", b"this is text, not audio\n" * 50), "unreadable", "is no audio that can be read"),
        (cut("a.flac", noise(48_000)), "truncated", "is cut off or damaged"),
        (cut("a.wav", noise(48_000)), "truncated", "is cut off: its header declares 48,022 more bytes"),
        (cut("a.aiff", noise(48_000)), "truncated", "is cut off: its header declares 48,027 more bytes"),
        (cut("a.mp3", noise(48_000)), "truncated", "of 48,000 samples are there"),
        (sound("a.wav", NAN, subtype="FLOAT"), "not finite", "holds samples that are no finite numbers"),
    ],
)
def test_unreadable_audio_is_reported_in_one_line(tmp_path, write, fault, message, capfd):
    path = write(tmp_path)
    readers = [read_audio, lambda source: list(audio_blocks(source, 1.0)), lambda source: list(native_blocks(source))]
    for read in readers:
        with pytest.raises(AudioError, match=message) as error:
            read(path)
        assert error.value.fault == fault
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    if path.is_file():
        with pytest.raises(AudioError, match=f"audio of {path.stat().st_size} bytes: .*{message}"):
            read_audio(path.read_bytes())


class TestLogMel:
    @pytest.fixture(params=[80, 128])
    def log_mel(self, request):
        return LogMel(request.param)

    def test_no_filter_is_empty(self, log_mel):
        assert log_mel.filters.shape == (257, log_mel.num_mels)
        assert (log_mel.filters.sum(0) > 0).all()

    def test_a_frame_every_10_ms(self, log_mel):
        for samples, frames in [(1, 1), (160, 1), (161, 2), (1600, 10), (16_001, 101)]:
            mel = log_mel(torch.from_numpy(noise(samples)))
            assert mel.shape == (frames, log_mel.num_mels)
            assert LogMel.num_frames(samples) == frames
            assert LogMel.num_frames(torch.tensor([samples])).tolist() == [frames]

    def test_a_zero_padded_batch_equals_single_recordings(self, log_mel):
        rows = [torch.from_numpy(noise(length, seed=length)) for length in (4800, 1, 3333)]
        batch = log_mel(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
        for row, heard in zip(rows, batch, strict=True):
            frames = LogMel.num_frames(len(row))
            torch.testing.assert_close(heard[:frames], log_mel(row), atol=1e-4, rtol=1e-4)
            # windows cover 3.2 frames: after the second frame of padding there is silence
            torch.testing.assert_close(heard[frames + 2 :], torch.full_like(heard[frames + 2 :], SILENCE))

    def test_silence_is_constant(self, log_mel):
        mel = log_mel(torch.zeros(8000))
        torch.testing.assert_close(mel, torch.full_like(mel, SILENCE))
        assert pytest.approx((math.log(FLOOR) + 3) / STD) == SILENCE

    @pytest.mark.parametrize("hertz", [200, 440, 1_000, 3_000, 7_000])
    def test_a_tone_is_strongest_in_its_filter(self, log_mel, hertz):
        mel = log_mel(torch.from_numpy(sine(1.0, hertz=hertz)[:, 0]))
        center = (log_mel.filters * torch.linspace(0, 8000, 257)[:, None]).sum(0) / log_mel.filters.sum(0)
        assert (center[mel[50].argmax()] - hertz).abs() < max(40, 0.06 * hertz)

    def test_doubling_the_amplitude_adds_a_constant(self, log_mel):
        audio = torch.from_numpy(noise(8000, level=0.3))
        quiet, loud = log_mel(audio), log_mel(2 * audio)
        torch.testing.assert_close(loud - quiet, torch.full_like(quiet, math.log(2) / STD), atol=1e-4, rtol=0)

    def test_autocast_changes_nothing(self, log_mel):
        audio = torch.from_numpy(noise(3200))
        with torch.autocast("cpu", torch.bfloat16):
            mel = log_mel(audio)
        assert mel.dtype == torch.float32
        assert torch.equal(mel, log_mel(audio))

    def test_later_audio_does_not_change_earlier_frames(self, log_mel):
        audio = torch.from_numpy(noise(8000))
        torch.testing.assert_close(log_mel(audio[:4000])[:23], log_mel(audio)[:23], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_mels", [16, 80, 128])
def test_filters_are_those_of_torchaudio(num_mels):
    options: dict[str, Any] = {"n_mels": num_mels, "norm": None, "mel_scale": "slaney"}
    filters = torchaudio.functional.melscale_fbanks(257, 0.0, 8000.0, sample_rate=16_000, **options)
    torch.testing.assert_close(LogMel(num_mels).filters, filters, atol=2e-5, rtol=0)  # torchaudio's rounding


def test_a_file_that_is_deleted_after_the_check_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("omni.media.container._check_place", lambda source: None)
    with pytest.raises(UserError, match=r"gone\.wav: does not exist"):
        read_audio(tmp_path / "gone.wav")
