"""The speech benchmark: codecs encode and decode, and a table shows the measurements."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from omni.bench import speech
from omni.bench.codecs import EnCodec, Mimi, OmniCodec
from omni.bench.speech import build_synthesizer
from omni.cli import main
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.devices import has_compiler

TALKER = {"num_codebooks": 2, "codebook_size": 16, "dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 32}
CODEC = {"num_mels": 16, "dim": 16, "mel_layers": 1, "num_layers": 1, "num_codebooks": 2, "codebook_size": 16}


@pytest.fixture
def sizes(workplace) -> Path:
    """A folder of toy sizes, and `vocoder.yaml`, a causal vocoder."""
    folder = workplace / "toy"
    folder.mkdir()
    for name, options in {"talker": TALKER | {"text_layers": 1, "text_ffn_dim": 32}, "codec": CODEC}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    Path("vocoder.yaml").write_text("class_path: toy_voice.ToyVocoder\ninit_args: {num_mels: 16}\n", encoding="utf-8")
    return folder


@torch.inference_mode()
def test_codecs_encode_and_decode_a_second(sizes):
    voice = build_synthesizer(str(sizes), GRIFFIN_LIM, "cpu")
    for codec, frames, codebooks in (
        (OmniCodec(voice.codec, voice.vocoder), 25, 2),
        (EnCodec(), 75, 2),
        (Mimi(), 13, 8),
    ):
        codes = codec.encode(torch.randn(1, codec.sample_rate) / 10)
        numbers = getattr(codes, "audio_codes", codes)
        assert sorted(numbers.flatten(0, -3).shape[-2:]) == sorted((frames, codebooks))
        assert codec.decode(codes).shape[1] == pytest.approx(codec.sample_rate, rel=0.05)


@pytest.mark.parametrize("size", ["tiny", "laptop"])
def test_the_untrained_talker_reads_as_fast_as_people(size):
    voice = build_synthesizer(size, GRIFFIN_LIM, "cpu")
    (said,) = voice.speak(speech.TEXT[:30])
    assert len(said.codes) / voice.talker.frame_rate == pytest.approx(2, rel=0.3)


class Peer:
    """A codec that copies its input; EnCodec and Mimi take seconds to build."""

    sample_rate = 24_000

    def __init__(self):
        self.model = torch.nn.Linear(2, 2)

    def encode(self, audio):
        return audio.clone()

    decode = encode


@pytest.mark.parametrize(
    ("vocoder", "streams", "fast"),
    [
        ("vocoder.yaml", True, False),
        (GRIFFIN_LIM, False, False),
        pytest.param("vocoder.yaml", True, True, marks=pytest.mark.slow),
    ],
)
def test_the_race_prints_and_writes_its_table(sizes, monkeypatch, capsys, vocoder, streams, fast):
    monkeypatch.setattr(speech, "TEXT", "a red star")
    for name in ("EnCodec", "Mimi"):
        monkeypatch.setattr(speech, name, Peer)
    options = f"--size {sizes} --vocoder {vocoder} --repeats 1 --utterance 0.3 --trials 2 --json report.json"
    options += f" --fast {str(fast and has_compiler()).lower()}"
    report = main(["bench", "speech", *options.split(), "--peers", str(streams).lower()])
    printed = capsys.readouterr().out
    measures = {result.measure: result for result in report.results}
    for batch in (1, 8):
        for measure in (
            "sound to codes",
            "codes to spectrogram",
            "codes to sound",
            "Talker",
            "vocoder",
            "text to sound",
        ):
            assert measures[f"{measure}, batch {batch}"].values["omni"] > 0
            assert f"{measure}, batch {batch}" in printed
    for measure in ("sound to codes, batch 8", "codes to sound, batch 1"):
        omni, *peers = measures[measure].values.values()
        assert list(measures[measure].ratios) == (["EnCodec", "Mimi"] if streams else [])
        for (ratio,), value in zip(measures[measure].ratios.values(), peers, strict=True):
            assert ratio == pytest.approx(omni / value)
    assert ("omni fast" in measures["Talker, batch 1"].values) == (fast and has_compiler())
    steps = ["text encoder", "first frame", "depth module", "codec", "vocoder, one frame"]
    assert [delay.step for delay in report.delays] == [*steps, "from the text to the first samples"]
    assert all(0 < delay.p50 <= delay.p95 for delay in report.delays)
    written = json.loads(Path("report.json").read_text())
    assert [row["measure"] for row in written["results"]] == list(measures)
    assert ("is causal" in printed) == streams


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "huge"], "neither a folder of configs/models"),
        (["--repeats", "0"], "repeats is 0"),
        (["--trials", "0"], "trials is 0"),
        (["--utterance", "0"], "utterance is 0"),
        (["--vocoder", "nowhere.ckpt"], "vocoder nowhere.ckpt does not exist"),
        (["--device", "abacus"], "device 'abacus'"),
        (["--json", "nowhere/x.json"], "no folder nowhere"),
    ],
)
def test_bad_arguments_end_in_one_line(fails, workplace, arguments, words):
    assert words in fails(main, ["bench", "speech", "--peers", "false", *arguments])
