"""The vocoder: rows are independent, it is causal, streaming equals the whole, and frames are aligned with LogMel's."""

import pytest
import torch
from torch import Tensor

from omni.inference.codec_files import vocode
from omni.media.audio import SAMPLE_RATE, LogMel
from omni.media.resampling import resample
from omni.models.discriminators import Discriminators
from omni.models.vocoder import Vocos, overlap_add

TOY = {"num_mels": 16, "dim": 24, "num_layers": 2, "kernel_size": 5}


@pytest.fixture(params=[{}, {"n_fft": 480}, {"n_fft": 800, "num_layers": 1}, {"sample_rate": 24000}], ids=str)
def vocoder(request: pytest.FixtureRequest) -> Vocos:
    torch.manual_seed(0)
    return Vocos(**TOY | request.param).eval()


@pytest.mark.parametrize("pieces", [[1] * 45, [45], [7, 1, 30, 7], [44, 1], [3, 42]], ids=len)
def test_streaming_equals_the_whole(vocoder, pieces):
    mels = torch.randn(2, 45, 16) + 1
    with torch.no_grad():
        whole = vocoder(mels)
    assert whole.shape == (2, 45 * vocoder.hop_length)
    with vocoder.streaming() as stream:
        sounds = [stream.decode(piece) for piece in mels.split(pieces, dim=1)]
        seen = sum(sound.shape[1] for sound in sounds)
        assert seen == 45 * vocoder.hop_length - vocoder.delay
        sounds.append(stream.flush())
    assert whole.abs().max() > 0.01
    assert (torch.cat(sounds, dim=1) - whole).abs().max() < 1e-6
    with vocoder.streaming() as stream:
        assert stream.decode(mels[:, :1]).shape[1] == max(0, vocoder.hop_length - vocoder.delay)
        assert torch.equal(stream.flush()[:, -1], vocoder(mels[:, :1])[:, -1])


@torch.no_grad()
def test_it_is_causal_up_to_its_delay(vocoder):
    mels = torch.randn(1, 40, 16)
    changed = mels.clone()
    changed[:, 25:] += 1
    apart = (vocoder(mels) - vocoder(changed))[0].abs() > 1e-7
    first = int(apart.nonzero()[0])
    assert 25 * vocoder.hop_length - vocoder.delay <= first < 25 * vocoder.hop_length - vocoder.delay + 8


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_a_batch_equals_single_rows(causal):
    torch.manual_seed(0)
    vocoder = Vocos(**TOY, causal=causal).eval()
    rows = [torch.randn(length, 16) for length in (30, 1, 12)]
    mels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    together = vocoder(mels, torch.tensor([30, 1, 12]))
    for row, sound in zip(rows, together, strict=True):
        alone = vocoder(row[None])[0]
        torch.testing.assert_close(sound[: len(alone)], alone, atol=1e-6, rtol=1e-5)
        assert not sound[len(alone) :].any()


def test_frames_are_aligned_with_those_of_the_spectrogram(vocoder):
    """Overlap-adding the spectra of windows around the centres of frames gives the audio itself."""
    audio = torch.randn(1, 30 * vocoder.hop_length) / 10
    padded = torch.nn.functional.pad(audio, (vocoder.delay, vocoder.delay))
    windows = padded.unfold(1, vocoder.n_fft, vocoder.hop_length) * torch.hann_window(vocoder.n_fft)
    assert windows.shape[1] == 30
    again = overlap_add(windows * vocoder.window, vocoder.hop_length)[:, vocoder.delay :][:, : audio.shape[1]]
    inner = slice(vocoder.n_fft, -vocoder.n_fft)
    torch.testing.assert_close(again[:, inner], audio[:, inner], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("sample_rate", [16_000, 24_000])
def test_an_untrained_head_has_about_the_rms_of_the_spectrogram(num_mels, sample_rate):
    torch.manual_seed(0)
    vocoder = Vocos(num_mels=num_mels, dim=24, num_layers=0, sample_rate=sample_rate)
    audio = torch.randn(1, 100 * vocoder.hop_length) / 10
    audio[:, 50 * vocoder.hop_length :] /= 100
    mels = LogMel(num_mels)(resample(audio, sample_rate, SAMPLE_RATE))
    torch.nn.init.zeros_(vocoder.head.weight)
    torch.nn.init.uniform_(vocoder.head.bias[vocoder.n_fft // 2 + 1 :], -3, 3)
    with torch.no_grad(), torch.random.fork_rng():
        vocoder.head.bias[: vocoder.n_fft // 2 + 1] = 0
        made = vocoder(mels)
    for first, last in ((7, 43), (57, 93)):
        part = slice(first * vocoder.hop_length, last * vocoder.hop_length)
        assert 0.3 < made[:, part].norm() / audio[:, part].norm() < 3


def test_inputs_that_are_no_spectrogram_are_refused(vocoder):
    for mels in (torch.zeros(1, 5, 17), torch.zeros(1, 0, 16), torch.zeros(5, 16)):
        with pytest.raises(ValueError, match=r"takes mels \(batch, 1 or more frames, 16 filters\), not") as error:
            vocoder(mels)
        assert "\n" not in str(error.value)
        with vocoder.streaming() as stream, pytest.raises(ValueError, match="takes mels"):
            stream.decode(mels)
    with vocoder.streaming() as stream, pytest.raises(ValueError, match="the stream is empty"):
        stream.flush()
    with pytest.raises(ValueError, match="it cannot stream"), Vocos(**TOY, causal=False).streaming():
        pass
    for n_fft in (320, 500):
        with pytest.raises(ValueError, match="n_fft must be a multiple of 160, 480 or more"):
            Vocos(**TOY, n_fft=n_fft)
    with pytest.raises(ValueError, match="n_fft must be a multiple of 240, 720 or more at 24000 Hz, not 640"):
        Vocos(**TOY, n_fft=640, sample_rate=24_000)
    for sample_rate in (8_000, 22_050, 48_000, 0):
        with pytest.raises(ValueError, match="sample_rate must be 16000 or 24000 Hz, not"):
            Vocos(**TOY, sample_rate=sample_rate)


def test_the_sample_rate_does_not_change_a_vocoder_of_16_khz():
    torch.manual_seed(0)
    earlier = Vocos(**TOY, n_fft=640).eval()  # as checkpoints had it before there was a choice
    given = Vocos(**TOY, sample_rate=16_000).eval()
    assert "sample_rate" not in earlier.recipe["init_args"]
    given.load_state_dict(earlier.state_dict())
    mels = torch.randn(1, 20, 16)
    assert (earlier.sample_rate, earlier.hop_length, earlier.n_fft) == (16_000, 160, given.n_fft)
    assert torch.equal(earlier(mels), given(mels))


@torch.no_grad()
@pytest.mark.parametrize("n_fft", [None, 480])
def test_one_of_24_khz_starts_with_the_sound_of_one_of_16_khz(n_fft):
    torch.manual_seed(0)
    earlier = Vocos(**TOY, n_fft=n_fft).eval()
    vocoder = Vocos(**TOY, n_fft=None if n_fft is None else 720, sample_rate=24_000).eval()
    vocoder.load_state_dict(vocoder.converted(earlier.state_dict()))
    mels = torch.randn(1, 60, 16)
    wanted = earlier(mels)
    assert vocoder(mels).shape == (1, 60 * 240)
    bins = earlier.n_fft // 2 + 1
    vocoder.head.bias[bins : vocoder.n_fft // 2 + 1] = -99  # nothing above 8 kHz
    made = resample(vocoder(mels), 24_000, 16_000)
    assert (made - wanted).norm() < 0.2 * wanted.norm()  # the resampler takes some of what is just below 8 kHz
    own = vocoder.state_dict()
    assert vocoder.converted(own) is own
    assert earlier.converted(own) is own


@torch.no_grad()
def test_long_spectrograms_are_decoded_in_pieces():
    torch.manual_seed(0)
    mels = torch.randn(3100, 16)  # longer than a piece
    for causal in (True, False):
        vocoder = Vocos(**TOY, causal=causal).eval()
        torch.testing.assert_close(vocode(vocoder, mels), vocoder(mels[None])[0], atol=1e-6, rtol=1e-5)


def test_autocast_leaves_audio_in_fp32(vocoder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vocoder(torch.randn(1, 8, 16)).dtype == torch.float32


def test_flops_are_six_for_each_weight_and_use():
    weights = 16 * 24 + 2 * (24 * 5 + 2 * 24 * 72) + 24 * 642
    assert Vocos(**TOY).flops_per_second == 6 * 100 * weights


class TestDiscriminators:
    TOY = {  # noqa: RUF012  never written to
        "periods": [2, 3], "period_channels": [2, 4, 4], "resolutions": [64, 128], "resolution_channels": 2,
    }  # fmt: skip

    def judged(self, audio: Tensor):
        torch.manual_seed(0)
        return Discriminators(**self.TOY)(audio)

    def test_rows_are_independent(self):
        audio = torch.randn(3, 1000)
        together, alone = self.judged(audio), self.judged(audio[1:2])
        assert len(together.scores) == len(together.features) == 4
        for a, b in zip(together.rows(slice(1, 2)).scores, alone.scores, strict=True):
            torch.testing.assert_close(a, b)

    def test_a_period_discriminator_keeps_offsets_apart(self):
        audio = torch.randn(1, 1200)
        changed = audio.clone()
        changed[0, 1::3] += 1  # every third sample: one column of period 3
        one, other = (self.judged(sound).features[1][-1] for sound in (audio, changed))
        assert torch.equal(one[..., [0, 2]], other[..., [0, 2]])
        assert not torch.equal(one[..., 1], other[..., 1])

    def test_short_audio_is_accepted(self):
        assert all(score.numel() for score in self.judged(torch.randn(1, 160)).scores)

    def test_no_discriminator_is_an_error(self):
        with pytest.raises(ValueError, match="give at least one of them"):
            Discriminators(periods=[], resolutions=[])
