"""The tempo of spectrograms: pieces equal the whole, lengths follow the speed, the pitch stays."""

import pytest
import torch

from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.griffin_lim import GriffinLim
from omni.media.tempo import TempoChanger, change_tempo

SPEEDS = [0.25, 0.5, 0.9, 1.0, 1.1, 1.75, 2.0, 3.3, 4.0]


def spectrogram(frames):
    return torch.randn(2, frames, 5, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("size", [1, 3, 4, 1000])
def test_pieces_equal_the_whole(speed, size):
    for frames in (1, 2, 7, 40, 101):
        changer, mels = TempoChanger(speed), spectrogram(frames)
        parts = [changer.push(part) for part in mels.split(size, dim=1)] + [changer.finish()]
        assert torch.equal(torch.cat(parts, dim=1), change_tempo(mels, speed))


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_length_follows_the_speed(speed):
    for frames in (1, 2, 7, 40, 101):
        assert change_tempo(spectrogram(frames), speed).shape == (2, max(1, round(frames / speed)), 5)


def test_the_tempo_of_1_changes_nothing():
    assert torch.equal(change_tempo(spectrogram(50), 1.0), spectrogram(50))


@pytest.mark.parametrize("speed", SPEEDS)
def test_times_are_scaled(speed):
    centres = torch.arange(100.0).add(0.5).view(1, 100, 1)  # the time of each frame, in frames
    found = change_tempo(centres, speed)[0, :, 0]
    expected = torch.arange(len(found)).add(0.5) * speed
    torch.testing.assert_close(found, expected.clamp(0.5, 99.5), rtol=0, atol=1e-4)


def test_frames_are_ready_as_soon_as_the_input_allows():
    changer = TempoChanger(0.5)
    assert [changer.push(part).shape[1] for part in spectrogram(4).split(1, dim=1)] == [1, 2, 2, 2]


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_the_pitch_stays(speed):
    tone = 0.3 * torch.sin(2 * torch.pi * 500 * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)
    changed = GriffinLim(80, iterations=16)(change_tempo(LogMel(80)(tone)[None], speed))[0]
    assert len(changed) == SAMPLE_RATE / speed
    middle = changed[len(changed) // 2 :][:3200]
    loudest = torch.fft.rfft(middle * torch.hann_window(3200)).abs().argmax() * SAMPLE_RATE / 3200
    assert loudest == pytest.approx(500, abs=20)
