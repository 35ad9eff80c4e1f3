"""`omni transcribe --live`: text while the audio comes, from a pipe with a WAV header or without."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tones
from toy_server import wav
from toy_speech import ToneEncoder, save

from omni.cli import main
from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE
from omni.media.live_audio import microphone, piped_audio
from omni.media.resampling import resample
from omni.text.ctc_vocabulary import CharacterVocabulary

SILENCE = np.zeros(SAMPLE_RATE, dtype=np.float32)
TALK = np.concatenate((SILENCE, tones("abcabc"), SILENCE, tones("cab"), SILENCE))


def raw(samples):
    """16-bit PCM."""
    return (np.asarray(samples) * 32767).astype("<i2").tobytes()


def at(rate, samples=TALK):
    return resample(torch.from_numpy(samples), SAMPLE_RATE, rate).numpy()


class Dripping(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, content, size):
        self.rest, self.size = content, size

    def read(self, count=-1):
        taken = self.rest[: min(self.size, count)]
        self.rest = self.rest[len(taken) :]
        return taken


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "best.ckpt"
    return save(path, "audio_encoder", ToneEncoder(), CharacterVocabulary(" abc"))


@pytest.fixture
def piped(monkeypatch, checkpoint, capsys):
    """Runs the command with a pipe; returns what it prints."""

    def run(content, *options):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        main(["transcribe", "-", "--live", "--checkpoint", checkpoint, *options])
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
def test_a_turn_is_a_line(piped, rate):
    assert piped(raw(at(rate)), "--rate", str(rate)) == "abcabc\ncab\n"


def test_a_wav_header_has_the_rate(piped):
    assert piped(wav(at(22_050), 22_050)) == "abcabc\ncab\n"


def test_audio_that_ends_in_a_turn_ends_the_line(piped):
    assert piped(raw(TALK[: -SAMPLE_RATE + 500]), "--rate", "16000") == "abcabc\ncab\n"


class TestPipes:
    @pytest.mark.parametrize("size", [1, 7, 4096])
    def test_pieces_do_not_matter(self, size):
        whole = torch.from_numpy(np.frombuffer(raw(TALK[: 4 * SAMPLE_RATE // 10]), "<i2").astype(np.float32) / 32768)
        for content, rate in ((raw(whole), 16_000), (wav(whole), None)):
            heard = torch.cat(list(piped_audio(Dripping(content, size), rate=rate)))
            assert torch.allclose(heard, whole, atol=1 / 32000)

    def test_channels_are_averaged_and_trailing_chunks_skipped(self):
        left, right = torch.full((800,), 0.5), torch.zeros(800)
        content = wav(torch.stack((left, right), 1)) + b"LIST" + struct.pack("<I", 4) + b"INFO"
        (heard,) = [part for part in piped_audio(io.BytesIO(content)) if len(part)]
        assert heard.shape == (800,)
        assert torch.allclose(heard, torch.full((800,), 0.25), atol=1e-4)

    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
    def test_a_stream_states_no_length(self, size):
        content = bytearray(wav(TALK[:1600]))
        content[40:44] = struct.pack("<I", size)
        assert len(torch.cat(list(piped_audio(io.BytesIO(bytes(content)))))) == 1600

    @pytest.mark.parametrize(
        ("content", "rate", "message"),
        [
            (b"", None, "standard input is empty: give --rate"),
            (raw(TALK[:100]), None, "has no WAV header: give --rate"),
            (wav(TALK[:100])[:30], None, "ends in its WAV header"),
            (wav(TALK[:100], subtype="FLOAT"), None, "WAV of format 3 with 32 bits: give 16-bit PCM"),
            (wav(TALK[:100], 8000), 16_000, "its header has 8000 Hz: leave --rate 16000 out"),
            (raw(TALK[:100]), 100, "rate has 100 Hz: give a usual rate"),
            (raw(TALK[:100]), 16_001, "rate has 16,001 Hz: give a usual rate"),
            (b"RIFF\0\0\0\0AVI LIST", None, "a RIFF file, but not WAV"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, content, rate, message):
        with pytest.raises(UserError, match=message):
            list(piped_audio(io.BytesIO(content), rate=rate))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-", "--live", "--format", "json"], "--live prints the text of one source"),
        (["-", "a.wav", "--live"], "--live prints the text of one source"),
        (["a.wav", "--rate", "16000"], "--rate is of live audio"),
        (["missing.fifo", "--live"], "missing.fifo cannot be read"),
    ],
)
def test_mistakes_end_in_a_line(fails, checkpoint, options, message):
    assert message in fails(main, ["transcribe", *options, "--checkpoint", checkpoint])


class TestMicrophone:
    def test_a_missing_package_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        with pytest.raises(UserError, match=r"needs the package sounddevice.*\.\[live\]"), microphone():
            pass

    def test_a_missing_library_is_named(self, monkeypatch, tmp_path):
        (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
        with pytest.raises(UserError, match=r"needs PortAudio .*not found.*libportaudio2"), microphone():
            pass

    def test_it_is_recorded_at_its_own_rate(self, monkeypatch, checkpoint, capsys):
        content = io.BytesIO(raw(at(48_000)))

        class Stream:
            def __init__(self, samplerate, channels, dtype):
                assert (samplerate, channels, dtype) == (48_000, 1, "int16")

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

            def read(self, count):
                part = content.read(2 * count)
                if not part:
                    os.kill(os.getpid(), signal.SIGINT)
                return part, False

        device = SimpleNamespace(
            query_devices=lambda kind: {"default_samplerate": 48_000.0}, RawInputStream=Stream, PortAudioError=OSError
        )
        monkeypatch.setitem(sys.modules, "sounddevice", device)
        main(["transcribe", "microphone", "--live", "--checkpoint", checkpoint])
        assert capsys.readouterr().out == "abcabc\ncab\n"


def test_text_comes_before_the_end_and_ctrl_c_ends_with_what_was_heard(checkpoint):
    command = [sys.executable, "-m", "omni", "transcribe", "-", "--live", "--rate", "16000", "--checkpoint", checkpoint]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the toy encoder is a module of the tests
    with subprocess.Popen(command, env=environment, **options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(raw(TALK[: 4 * SAMPLE_RATE]))
        process.stdin.flush()
        assert process.stdout.readline() == b"abcabc\n"  # while the pipe is open
        process.stdin.write(raw(tones("bcab")))
        process.stdin.flush()
        time.sleep(1)  # until it waits for audio
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)  # the pipe is still open
        rest, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert rest.endswith(b"bcab\n")
