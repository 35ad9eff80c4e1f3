"""A vocoder of 24 kHz: its data, a run that is resumed, what it is started from, and the files that it makes."""

import math
from pathlib import Path

import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_runs import callback, same, scalars
from toy_speech import save

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.media.audio import LogMel, read_audio, write_audio
from omni.media.resampling import resample
from omni.models.codec import Codec
from omni.models.vocoder import Vocos
from omni.text.ctc_vocabulary import CharacterVocabulary

RUN = Path("lightning_logs/vocoder")
WIDE = {"model__init_args__vocoder__init_args__sample_rate": 24_000}
UNITS = CharacterVocabulary(" abc")


@pytest.fixture
def recorded(speech):
    """Records files of `speech` again at another rate: the sound, as if a microphone had recorded it at that rate."""

    def record(rate: int, files: str = "*.wav") -> None:
        for file in sorted(speech.glob(files)):
            write_audio(file, resample(read_audio(file), 16_000, rate), sample_rate=rate)

    return record


def test_a_run_is_resumed_and_its_files_have_24_khz(fit_vocoder, recorded):
    recorded(48_000)
    options = {**WIDE, "model__init_args__shown": 1, "trainer__max_steps": 5, "trainer__val_check_interval": 5}
    fit_vocoder(**options)
    whole = Checkpoint(RUN / "last.ckpt")
    for name in ("loss", "mel_distance", "mel_distance_griffin_lim"):
        assert all(math.isfinite(value) for value in scalars(RUN, f"val/{name}").values())
    events = EventAccumulator(str(RUN))
    events.Reload()
    rates = {name: events.Audio(f"val/{name}/0")[-1].sample_rate for name in ("recording", "vocoder", "griffin_lim")}
    assert rates == {"recording": 24_000, "vocoder": 24_000, "griffin_lim": 16_000}
    vocoder = whole.part("vocoder", Vocos)
    assert (vocoder.sample_rate, vocoder.hop_length, vocoder.n_fft, vocoder.delay) == (24_000, 240, 960, 360)
    with pytest.raises(SystemExit):
        fit_vocoder("fit", callback("toy_runs.SignalAt", step=2, signum=15), **options)
    fit_vocoder("fit", "--ckpt_path=last", **options)
    assert same(whole.content["state_dict"], Checkpoint(RUN / "last.ckpt").content["state_dict"])


@pytest.mark.parametrize("cached", [False, True])
def test_inputs_are_spectrograms_of_16_khz_and_targets_the_same_sound_at_24_khz(fit_vocoder, recorded, cached):
    recorded(48_000)
    options = {"data__init_args__cache_features": cached, "data__init_args__crop": 0.2, "trainer__max_steps": 1}
    cli = fit_vocoder(**WIDE, **options)
    for loader in (cli.datamodule.train_dataloader(), cli.datamodule.val_dataloader()):
        batch = next(iter(loader))
        assert batch.audio.shape == (len(batch.mels), batch.mels.shape[1] * 240)
        again = LogMel(16)(resample(batch.audio, 24_000, 16_000))
        inner = slice(4, int(batch.mel_lengths.min()) - 4)  # a crop has other neighbours
        assert (again - batch.mels)[:, inner].abs().mean() < 0.01


def test_files_of_16_khz_are_left_out_and_lower_rates_than_24_khz_are_counted(fit_vocoder, recorded, fails, speech):
    recorded(24_000)
    recorded(16_000, "train-?.wav")
    recorded(22_050, "train-1?.wav")
    what = r"train: 10 of 24 rows left out: sampled at 16,000 Hz or less, and the vocoder outputs 24,000 Hz"
    between = r"train: 10 of 24 rows are sampled at less than 24,000 Hz \(the lowest at 22,050 Hz\)"
    with pytest.warns(UserWarning, match=what), pytest.warns(UserWarning, match=between):
        cli = fit_vocoder(**WIDE, trainer__max_steps=1)
    assert len(cli.datamodule.datasets["train"].rows) == 14
    recorded(16_000)
    message = fails(fit_vocoder, **WIDE)
    assert "data.train has no row that can be used (24 rows left out)" in message
    assert "sampled at 16,000 Hz or less" in message


def test_a_part_of_a_file_is_read_at_the_rate_of_the_file(fit_vocoder, recorded, speech):
    recorded(24_000)
    row = '{"audio": "train-0.wav", "text": "a", "offset": 0.02, "duration": 0.1}'
    (speech / "parts.jsonl").write_text(row, encoding="utf-8")
    files = {f"data__init_args__{split}": speech / "parts.jsonl" for split in ("train", "val")}
    cli = fit_vocoder(**WIDE, **files, data__init_args__crop=0, trainer__max_steps=1)
    batch = next(iter(cli.datamodule.val_dataloader()))
    recording = read_audio(speech / "train-0.wav", start=0.02, duration=0.1, sample_rate=24_000)
    assert torch.equal(batch.audio[0], recording)


def test_streams_are_refused(fit_vocoder, fails):
    message = fails(fit_vocoder, **WIDE, data__init_args__streaming="true")
    assert "set data.streaming to false" in message


def test_it_starts_from_a_vocoder_of_16_khz(fit_vocoder, recorded, fails):
    recorded(24_000)
    torch.manual_seed(0)
    earlier = Vocos(num_mels=16, dim=24, num_layers=1, kernel_size=7, expansion=3)
    save(Path("earlier.ckpt"), "vocoder", earlier, UNITS)
    cli = fit_vocoder(
        "fit", "--init_from.vocoder=earlier.ckpt", **WIDE, trainer__max_steps=1, model__init_args__lr=1e-12
    )
    torch.testing.assert_close(cli.model.vocoder.input.weight, earlier.input.weight)
    torch.testing.assert_close(cli.model.vocoder.head.weight[:321], earlier.head.weight[:321])
    message = fails(fit_vocoder, "fit", "--ckpt_path", str(RUN / "last.ckpt"), trainer__max_steps=2)
    assert "does not fit this configuration: head.bias is 962 there and 642 here" in message


def test_the_codec_decodes_to_a_file_of_24_khz(speech):
    torch.manual_seed(0)
    codec = Codec(num_mels=16, dim=16, num_layers=1, codebook_size=8, codebook_dim=4, num_codebooks=2)
    save(Path("codec.ckpt"), "codec", codec, UNITS)
    save(Path("vocoder.ckpt"), "vocoder", Vocos(num_mels=16, dim=24, num_layers=1, sample_rate=24_000), UNITS)
    main(["codec", "encode", str(speech / "val-0.wav"), "--checkpoint", "codec.ckpt", "--out", "x.npz"])
    main(["codec", "decode", "x.npz", "--checkpoint", "codec.ckpt", "--vocoder", "vocoder.ckpt", "--out", "y.wav"])
    main(["codec", "decode", "x.npz", "--checkpoint", "codec.ckpt", "--out", "z.wav"])
    made, baseline, recording = (soundfile.info(file) for file in ("y.wav", "z.wav", speech / "val-0.wav"))
    assert (made.samplerate, baseline.samplerate) == (24_000, 16_000)
    assert made.duration == pytest.approx(recording.duration, abs=1e-4)
    assert baseline.frames == recording.frames
