"""Speaker similarity in the report of `omni adapt voice`: with a fake encoder, and with a tiny one of transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toy_pretrained as toy
from conftest import tones
from toy_speech import NUM_MELS, ToneEncoder, save
from toy_voice import talker_of

from omni.cli import main
from omni.media.audio import read_audio
from omni.models.codec import Codec
from omni.models.pretrained.speaker_encoder import PretrainedSpeakerEncoder
from omni.models.vocoder import Vocos
from omni.pipeline.voice.similarity import SpeakerComparison, similarity_lines
from omni.text.ctc_vocabulary import CharacterVocabulary

UNITS = CharacterVocabulary(" abc")
TEXTS = [f"{one}{other} {one}c{other}a bc" for one in "abc" for other in ("a", "b", "c", "ab")]
HUB = "microsoft/wavlm-base-plus-sv"


def save_parts():
    """`recognizer.ckpt`, which knows tones; a Talker with two voices, a codec and a vocoder, none of them trained."""
    torch.manual_seed(0)
    save(Path("recognizer.ckpt"), "audio_encoder", ToneEncoder(), UNITS)
    codec = Codec(num_mels=NUM_MELS, dim=16, mel_layers=1, num_layers=1, num_codebooks=3, codebook_size=12)
    torch.nn.init.normal_(codec.mel_output.weight, std=0.5)
    save(Path("codec.ckpt"), "codec", codec, UNITS)
    save(Path("vocoder.ckpt"), "vocoder", Vocos(num_mels=NUM_MELS, dim=16, num_layers=1), UNITS)
    save(Path("talker.ckpt"), "talker", talker_of(vocab_size=5, num_speakers=2), UNITS)
    content = torch.load("talker.ckpt") | {"speakers": ["x", "y"]}
    for other in map(torch.load, ("codec.ckpt", "recognizer.ckpt")):
        for key in ("state_dict", "parts"):
            content[key] |= other[key]
    torch.save(content, "talker.ckpt")


@pytest.fixture
def place(workplace):
    """The current folder, with parts, and recordings of two speakers in the manifest `mine/all.jsonl`."""
    save_parts()
    Path("mine").mkdir()
    lines = []
    for speaker, pitch in (("eva", 1.0), ("tom", 0.9)):
        for number, text in enumerate(TEXTS):
            audio = np.concatenate((np.zeros(8_000), pitch * tones(text), np.zeros(8_000)))
            noise = 1e-4 * np.random.default_rng(number).standard_normal(len(audio))
            soundfile.write(f"mine/{speaker}{number}.wav", audio + noise, 16_000)
            lines.append({"audio": f"{speaker}{number}.wav", "text": text, "speaker": speaker})
    Path("mine/all.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return workplace


@pytest.fixture
def encoder(workplace):
    """The folder of a tiny random encoder."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
    transformers.utils.logging.disable_progress_bar()
    return toy.speaker_encoder(workplace / "encoder")


def adapt(*options):
    main(
        ["adapt", "voice", "mine", "--talker", "talker.ckpt", "--vocoder", "vocoder.ckpt", "--speaker", "eva", *options]
    )


def rows(manifest):
    return [json.loads(line) for line in Path(manifest).read_text(encoding="utf-8").splitlines()]


def table(lines):
    """The cells of each sound by its meaning: similarity, standard deviation, number of sounds."""
    start = lines.index("| sound | speaker similarity | standard deviation | sounds |") + 2
    cells = [line.strip("| ").split(" | ") for line in lines[start : lines.index("", start)]]
    return {meaning: rest for meaning, *rest in cells}


# ---------------------------------------------------------------------- a fake encoder


def encode(sound):
    """The speaker is the sign of a sound's first sample."""
    return torch.tensor([1.0, 1.0]) if sound[0] > 0 else torch.tensor([1.0, -1.0])


def test_the_voice_stands_between_the_speaker_and_another():
    own, other, short = torch.full((16_000,), 0.1), torch.full((16_000,), -0.1), torch.ones(10)
    comparison = SpeakerComparison(encode, "fake")
    sounds = {"recordings": [own, own], "voice": [own, other, short], "nothing": [short]}
    lines = similarity_lines(comparison, [own, own], ["ab", "ba"], sounds)
    assert table(lines) == {
        "recordings": ["1.000", "0.000", "2 of 2"],
        "voice": ["0.500", "0.500", "2 of 3"],
        "nothing": ["–", "–", "0 of 1"],
    }
    assert "mean embedding of 2 validation recordings" in lines[0]
    assert "there is no lower bound" in lines[-1]


def test_without_recordings_or_encoder_the_report_says_why():
    (line,) = similarity_lines(SpeakerComparison(encode, "fake"), [torch.ones(10)], ["ab"], {})
    assert "no validation recording is 0.5 s or longer" in line
    (line,) = similarity_lines(None, [], ["ab"], {})
    assert "was not measured" in line
    assert f"--speaker_encoder {HUB}" in line


# ---------------------------------------------------------------------- the command


def test_the_report_with_an_encoder_of_transformers(place, encoder, monkeypatch):
    """The whole command but the training: runs hold the untrained parts."""
    for stage in ("codec", "talker", "vocoder"):
        run = Path("lightning_logs/voice", stage)
        run.mkdir(parents=True)
        (run / "best.ckpt").write_bytes(Path(f"{stage}.ckpt").read_bytes())
    monkeypatch.setattr("omni.commands.adapt_voice.run_pipeline", lambda *_, **__: {})
    monkeypatch.setattr("omni.commands.adapt_voice.write_report", lambda *_: "report.md")
    adapt("--speaker_encoder", encoder, "--sentences", "2")
    report = Path("lightning_logs/voice/voice.md").read_text(encoding="utf-8")
    assert f"by the encoder {encoder}, which" in report
    found = table(report.splitlines())
    talker = "the Talker before training, talker.ckpt, its 2 voices in turn"
    assert next(iter(found)) == "recordings"
    assert {"**the voice**", talker, "recordings of other speakers"} < found.keys()
    assert len(found) == 8
    for mean, deviation, count in found.values():
        number, total = count.split(" of ")
        assert 0 < int(number) <= int(total)
        assert -1 <= float(mean) <= 1
        assert 0 <= float(deviation) <= 1
    assert found["recordings of other speakers"][2] == "12 of 12"
    embed = PretrainedSpeakerEncoder(source=encoder)
    known = [read_audio(Path("data/voice", row["audio"])) for row in rows("data/voice/val.jsonl")]
    known = torch.stack([torch.nn.functional.normalize(embed(audio), dim=0) for audio in known]).mean(0)
    for kind, meaning in (("recording", "recordings"), ("voice", "**the voice**")):
        sounds = [read_audio(path) for path in Path("lightning_logs/voice/voice").glob(f"*-{kind}.wav")]
        cosines = [torch.nn.functional.cosine_similarity(embed(audio), known, dim=0).item() for audio in sounds]
        assert float(found[meaning][0]) == pytest.approx(np.mean(cosines), abs=2e-3)  # files have 16 bits
        assert float(found[meaning][1]) == pytest.approx(np.std(cosines), abs=2e-3)


def test_a_mistake_is_reported_before_anything_is_read(place, fails, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    whisper = toy.encoder(place / "whisper")
    Path("empty").mkdir()
    assert "a whisper is not a speaker encoder" in fails(adapt, "--speaker_encoder", whisper)
    assert "config.json is missing" in fails(adapt, "--speaker_encoder", "empty")
    assert "./nowhere: is not a folder" in fails(adapt, "--speaker_encoder", "./nowhere")
    complaint = fails(adapt, "--speaker_encoder", HUB)
    assert f"{HUB}: cannot be loaded from the Hub" in complaint
    assert "give the folder" in complaint
    assert "give both, or neither" in fails(adapt, "--speaker_encoder_revision", "main")
    assert not Path("data").exists()
