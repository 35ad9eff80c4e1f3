"""`omni adapt voice`: recordings of tones to a data set, its chain, and its report."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import tones
from stage_process import launch
from toy_pretrained import speaker_encoder
from toy_speech import NUM_MELS, ToneEncoder, save
from toy_talker import make

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.inference.synthesizer import Synthesizer
from omni.media.resampling import resample
from omni.media.speech_spans import Span
from omni.models.codec import Codec
from omni.models.discriminators import Discriminators
from omni.models.vocoder import Vocos
from omni.pipeline.definition import read_pipeline
from omni.pipeline.launcher import Launcher
from omni.pipeline.voice.utterances import Candidate, of_other_pitch, of_two_voices
from omni.text.ctc_vocabulary import CharacterVocabulary

UNITS = CharacterVocabulary(" abc")
TEXTS = [f"{one}{other} {one}c{other}a" for one in "abc" for other in ("a", "b", "c", "ab")]
SPLITS = ("train", "val", "test")


@pytest.fixture
def place(workplace):
    """The current folder, with `recognizer.ckpt`, which knows tones, and an empty folder `mine`."""
    save(workplace / "recognizer.ckpt", "audio_encoder", ToneEncoder(), UNITS)
    (workplace / "mine").mkdir()
    return workplace


def record(name, audio, text=None, rate=16_000):
    audio = audio + 1e-4 * np.random.default_rng(0).standard_normal(len(audio))
    soundfile.write(f"mine/{name}.wav", resample(torch.from_numpy(audio), 16_000, rate).numpy(), rate)
    if text is not None:
        Path(f"mine/{name}.txt").write_text(text, encoding="utf-8")


def silence(seconds):
    return np.zeros(round(16_000 * seconds))


def record_all(*, texts=True, rate=16_000):
    for number, text in enumerate(TEXTS):
        audio = np.concatenate((silence(0.5), tones(text), silence(0.8)))
        record(f"{number:02d}", audio, text.upper() + "." if texts else None, rate)


def adapt(*options):
    main(["adapt", "voice", "mine", "--prepare_only", "--recognizer", "recognizer.ckpt", *options])


def fails(capsys, *options):
    with pytest.raises(SystemExit) as stop:
        main(["adapt", "voice", "mine", "--prepare_only", *options])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


def rows(*splits):
    return [
        json.loads(line)
        for split in splits or SPLITS
        for line in Path(f"data/voice/{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_recordings_are_trimmed_split_and_kept(place, capsys):
    record_all()
    adapt()
    assert "12 utterances" not in capsys.readouterr().out
    assert sorted(row["text"] for row in rows()) == sorted(TEXTS)
    assert all(rows(split) for split in SPLITS)
    for row in rows():
        seconds = len(tones(row["text"])) / 16_000
        assert seconds + 0.2 < row["duration"] < seconds + 0.45
    before = {path: path.stat().st_mtime_ns for path in Path("data/voice").rglob("*.wav")}
    adapt()
    assert before == {path: path.stat().st_mtime_ns for path in Path("data/voice").rglob("*.wav")}
    record("new", tones("abcabc"), "abcabc")
    adapt()
    assert len(rows()) == len(TEXTS) + 1


def test_what_cannot_be_used_is_left_out_by_reason(place, capsys):
    record_all()
    record("silent", np.zeros(16_000), "abc")
    record("hum", 0.3 * np.sin(np.arange(32_000) / 5), "abc cba")
    record("other", tones("ccaab bbc"), "ba accbbab")
    record("strange", tones("abab"), "abab xyz")
    record("copy", np.concatenate((silence(0.5), tones(TEXTS[0]), silence(0.8))), TEXTS[0])
    Path("mine/broken.wav").write_text("no audio", encoding="utf-8")
    Path("mine/broken.txt").write_text("abc", encoding="utf-8")
    soundfile.write("mine/silent.wav", np.zeros(16_000), 16_000)
    adapt()
    found = json.loads(Path("data/voice/voice.json").read_text(encoding="utf-8"))["left_out"]
    places = {Path(place.split(" from ")[0]).stem: reason for reason, several in found.items() for place in several}
    assert places == {
        "silent": "silent",
        "hum": "no speech found",
        "other": "does not fit its transcript",
        "strange": "outside vocabulary",
        "broken": "unreadable",
        "copy": "duplicate",
    }
    assert "left out, does not fit its transcript: 1" in capsys.readouterr().out
    assert len(rows()) == len(TEXTS)


@pytest.mark.parametrize("with_text", [True, False])
def test_a_long_recording_is_cut_at_pauses_and_each_part_gets_its_words(place, with_text, capsys):
    sentences = [f"{text} {text[::-1]}" for text in TEXTS]  # of which the toy recogniser outputs no spaces
    pieces = [np.concatenate((tones(text), silence(0.7))) for text in sentences]
    record("long", np.concatenate(pieces), " ".join(sentences) if with_text else None)
    adapt("--longest", "4")
    found = sorted(row["text"] for row in rows())
    assert found == sorted(text if with_text else text.replace(" ", "") for text in sentences)
    assert ("transcribed by the recogniser: 12" in capsys.readouterr().out) == (not with_text)
    assert all(row["from"].startswith(str(place / "mine/long.wav")) for row in rows())


def test_a_manifest_of_several_speakers_needs_a_name(place, capsys):
    record_all(texts=False)
    lines = [
        json.dumps({"audio": f"{number:02d}.wav", "text": text, "speaker": "eva" if number else "tom"})
        for number, text in enumerate(TEXTS)
    ]
    Path("mine/all.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert "has 2 speakers" in fails(capsys, "--recognizer", "recognizer.ckpt")
    adapt("--speaker", "eva")
    assert sorted(row["text"] for row in rows()) == sorted(TEXTS[1:])


def test_two_voices_are_noticed_by_their_pitch():
    time = torch.arange(16_000) / 16_000

    def voice(hertz):
        audio = sum(torch.sin(2 * torch.pi * hertz * k * time) / k for k in range(1, 5))
        return Candidate(None, Span(0.0, 1.0), 0.1 * audio, torch.zeros(0, 0), str(hertz), transcribed=False)

    several = [voice(hertz) for hertz in (100, 110, 90, 120, 190, 200, 105)]
    assert [one.text for one in of_other_pitch(several)] == ["190", "200"]
    assert not of_other_pitch([several[0]._replace(audio=torch.zeros(16_000))])


def spoken(text, hertz):
    """Tones as harmonic sounds of this pitch, a divisor of 500 Hz; the recogniser reads them as before."""
    audio = tones(text)
    time = np.arange(len(audio)) / 16_000
    voiced = audio * (1 + 0.9 * np.cos(2 * np.pi * hertz * time)) / 2
    return np.concatenate((silence(0.5), voiced, silence(0.8)))


@pytest.fixture
def tonal(place, monkeypatch):
    """`place`, where tones count as speech, although they are steadier than voices."""
    monkeypatch.setattr("omni.pipeline.voice.utterances._STEADY", 2.0)
    return place


def listed(kind):
    """The files with utterances of a kind in `voice.json`."""
    places = json.loads(Path("data/voice/voice.json").read_text(encoding="utf-8"))[kind]
    return [Path(place.split(" from ")[0]).stem for place in places]


@pytest.mark.parametrize(("pitch", "found"), [(125, []), (250, ["02", "05", "08", "11"])])
@pytest.mark.parametrize("texts", [True, False])
def test_two_voices_that_alternate_are_reported_and_listed(tonal, pitch, found, texts, capsys):
    for number, text in enumerate(TEXTS):
        record(f"{number:02d}", spoken(text, pitch if number % 3 == 2 else 125), text if texts else None)
    adapt()
    warned = "warning: 4 utterances have another pitch than most: are there two voices?"
    assert (warned in capsys.readouterr().out) == bool(found)
    assert listed("other_pitch") == found
    assert not listed("two_voices")
    assert len(rows()) == len(TEXTS)


@pytest.mark.parametrize("mixed", [[0], [0, 4, 8], [*range(12)]])
def test_two_voices_at_once_are_reported_and_listed(place, mixed, monkeypatch, capsys):
    """Those in the louder recordings."""
    monkeypatch.setattr("omni.pipeline.voice.utterances.second_voice", lambda audio: float(audio.abs().max() > 0.33))
    for number, text in enumerate(TEXTS):
        audio = np.concatenate((silence(0.5), tones(text), silence(0.8)))
        record(f"{number:02d}", 1.2 * audio if number in mixed else audio, text)
    adapt()
    warned = f"warning: {len(mixed)} utterances sound like two voices at once"
    assert (warned in capsys.readouterr().out) == (len(mixed) > 1)
    assert listed("two_voices") == [f"{number:02d}" for number in mixed]
    assert len(rows()) == len(TEXTS)


def test_two_voices_at_once_are_noticed_by_their_pitches():
    time = torch.arange(16_000) / 16_000
    low, high = (sum(torch.sin(2 * torch.pi * hertz * k * time) / k for k in range(1, 9)) for hertz in (110, 146))
    several = {"low": low, "high": high, "both": low + high}
    found = [
        Candidate(None, Span(0.0, 1.0), 0.1 * audio, torch.zeros(0, 0), name, transcribed=False)
        for name, audio in several.items()
    ]
    assert [one.text for one in of_two_voices(found)] == ["both"]


def test_a_data_set_of_an_earlier_version_is_kept(place, capsys):
    record_all()
    adapt()
    record_of = json.loads(Path("data/voice/voice.json").read_text(encoding="utf-8"))
    del record_of["splits"]["two_voices"]
    Path("data/voice/voice.json").write_text(json.dumps(record_of), encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in Path("data/voice/wavs").iterdir()}
    adapt()
    assert before == {path: path.stat().st_mtime_ns for path in Path("data/voice/wavs").iterdir()}


def test_bad_input_is_one_line(place, capsys):
    given = ("--recognizer", "recognizer.ckpt")
    assert "mine has no recordings" in fails(capsys, *given)
    assert "give --recognizer" in fails(capsys)
    for number, text in enumerate(TEXTS):
        record(str(number), tones(text), TEXTS[number - 1])
    assert "do not fit their transcripts" in fails(capsys, *given)
    for number in range(len(TEXTS)):
        record(str(number), 0.3 * np.sin(np.arange(32_000) / (5 + number)), TEXTS[number])
    assert "left out: no speech found (12)" in fails(capsys, *given)
    for number in range(len(TEXTS)):
        soundfile.write(f"mine/{number}.wav", np.zeros(16_000 + number), 16_000)
    assert "left out: silent (12)" in fails(capsys, *given)
    Path("data/voice").mkdir(parents=True)
    Path("data/voice/mine.txt").touch()
    assert "give another --out" in fails(capsys, *given)


# ---------------------------------------------------------------------- the chain


def save_parts(codec_seed=0, num_speakers=0):
    """Checkpoints of a Talker with its codec, and of a vocoder with discriminators, at toy size."""
    torch.manual_seed(codec_seed)
    codec = Codec(num_mels=NUM_MELS, dim=16, mel_layers=1, num_layers=1, num_codebooks=3, codebook_size=12)
    torch.nn.init.normal_(codec.mel_output.weight, std=0.5)
    save(Path("codec.ckpt"), "codec", codec, UNITS)
    save(Path("vocoder.ckpt"), "vocoder", Vocos(num_mels=NUM_MELS, dim=16, num_layers=1), UNITS)
    small = {"periods": [2], "period_channels": [2, 4], "resolutions": [128], "resolution_channels": 2}
    save(Path("discriminators.ckpt"), "discriminators", Discriminators(**small), UNITS)
    save(Path("talker.ckpt"), "talker", make(vocab_size=5, num_speakers=num_speakers), UNITS)
    joined(Path("talker.ckpt"), "codec.ckpt", "recognizer.ckpt")
    joined(Path("vocoder.ckpt"), "discriminators.ckpt")


def joined(path, *others):
    content = torch.load(path)
    for other in map(torch.load, others):
        for key in ("state_dict", "parts"):
            content[key] |= other[key]
    torch.save(content, path)


def test_the_chain_starts_from_the_checkpoints_that_are_given(place):
    record_all()
    save_parts()
    adapt()
    new = yaml.safe_load(Path("data/voice/chain.yaml").read_text(encoding="utf-8"))["stages"]
    assert new["codec"]["overrides"]["init_from"] == {"audio_encoder": "recognizer.ckpt"}
    assert new["talker"]["overrides"]["init_from"] == {}
    assert new["talker"]["overrides"]["model.init_args.talker.init_args.vocab_size"] == 5
    assert "model.init_args.decoder_only" not in new["codec"]["overrides"]
    main(["adapt", "voice", "mine", "--prepare_only", "--talker", "talker.ckpt", "--vocoder", "vocoder.ckpt"])
    chain = read_pipeline(Path("data/voice/chain.yaml"))
    assert list(chain.stages) == ["codec", "talker", "vocoder"]
    assert chain.stages["vocoder"].needs == chain.stages["talker"].needs == ("codec",)
    found = {name: stage.configuration.init_from for name, stage in chain.stages.items()}
    assert found == {
        "codec": {"codec": "talker.ckpt", "audio_encoder": "talker.ckpt"},
        "talker": {"talker": "talker.ckpt"},
        "vocoder": {
            **dict.fromkeys(("vocoder", "discriminators"), "vocoder.ckpt"),
            "codec": "lightning_logs/voice/codec/best.ckpt",
            "audio_encoder": "talker.ckpt",
        },
    }
    models = {name: stage.configuration.make("model") for name, stage in chain.stages.items()}
    assert models["codec"].decoder_only  # the Talker knows its codes
    assert models["talker"].talker.recipe["init_args"]["dropout"] == 0.15
    assert torch.equal(models["talker"].weights, torch.tensor([1.0, 0.5, 0.3]))
    for name, stage in chain.stages.items():
        parts = models[name].parts
        assert parts.get("codec", make()).num_parameters < 1e5
        assert stage.configuration.make("data")


def test_an_edited_chain_is_kept(place, capsys):
    record_all()
    save_parts()
    adapt()
    path = Path("data/voice/chain.yaml")
    written = path.read_text(encoding="utf-8")
    adapt("--longest", "5")
    changed = path.read_text(encoding="utf-8")
    assert changed != written  # nobody has edited it
    assert "edited" not in capsys.readouterr().out
    edited = changed.replace("max_duration: 5.0", "max_duration: 4.0")
    assert edited != changed
    path.write_text(edited, encoding="utf-8")
    adapt()
    assert path.read_text(encoding="utf-8") == edited
    assert "data/voice/chain.yaml has been edited: it is kept" in capsys.readouterr().out
    path.unlink()
    adapt()
    assert path.read_text(encoding="utf-8") == written


def test_a_voice_of_24_khz(place, capsys):
    record_all(rate=48_000)
    record("low", tones("abcabc"), "abcabc")
    record("between", tones("cabcab"), "cabcab", rate=22_050)
    save_parts()
    given = ("--talker", "talker.ckpt", "--vocoder", "vocoder.ckpt", "--sample_rate")
    main(["adapt", "voice", "mine", "--prepare_only", *given, "24000"])
    assert "left out, sampled at 16,000 Hz or less: 1" in capsys.readouterr().out
    assert sorted(row["text"] for row in rows()) == sorted([*TEXTS, "cabcab"])
    for row in rows():
        info = soundfile.info(f"data/voice/{row['audio']}")
        assert info.samplerate == (22_050 if row["text"] == "cabcab" else 24_000)
        assert info.duration == pytest.approx(row["duration"], abs=1e-3)
    stage = read_pipeline(Path("data/voice/chain.yaml")).stages["vocoder"].configuration
    assert stage.init_from.keys() == {"vocoder", "codec", "audio_encoder"}  # the discriminators are new
    assert stage.make("model").part("vocoder").sample_rate == 24_000
    adapt("--sample_rate", "24000")
    stage = read_pipeline(Path("data/voice/chain.yaml")).stages["vocoder"].configuration
    assert stage.make("model").part("vocoder").sample_rate == 24_000
    save(Path("vocoder.ckpt"), "vocoder", Vocos(num_mels=NUM_MELS, dim=16, sample_rate=24_000), UNITS)
    main(["adapt", "voice", "mine", "--prepare_only", *given[:-1]])  # as the vocoder
    stage = read_pipeline(Path("data/voice/chain.yaml")).stages["vocoder"].configuration
    assert stage.make("model").part("vocoder").sample_rate == 24_000
    assert "outputs 24,000 Hz, and --sample_rate is 16000" in fails(capsys, *given, "16000")
    assert "--sample_rate is 22050: give 16000 or 24000" in fails(capsys, *given, "22050")
    record_all()
    assert "left out: sampled at 16,000 Hz or less" in fails(capsys, *given, "24000", "--out", "data/low")


def test_parts_that_do_not_fit_are_refused_before_anything_is_read(place, capsys):
    save_parts()
    torch.manual_seed(1)
    save(Path("other.ckpt"), "codec", Codec(num_mels=NUM_MELS, dim=16, num_codebooks=3, codebook_size=12), UNITS)
    save(Path("wide.ckpt"), "vocoder", Vocos(num_mels=80, dim=16, num_layers=1), UNITS)
    assert "leave --codec out" in fails(capsys, "--talker", "talker.ckpt", "--codec", "other.ckpt")
    assert "reads 80 mel filters" in fails(capsys, "--talker", "talker.ckpt", "--vocoder", "wide.ckpt")
    assert "holds no part 'codec'" in fails(capsys, "--recognizer", "recognizer.ckpt", "--codec", "recognizer.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("num_speakers", [0, 3])
def test_the_whole_voice_at_toy_size(place, monkeypatch, capsys, num_speakers):
    record_all()
    save_parts(num_speakers=num_speakers)
    short = {"trainer.max_steps": 2, "trainer.val_check_interval": 1, "trainer.accelerator": "cpu"}
    content = yaml.safe_load((Path(__file__).parents[2] / "configs/voice.yaml").read_text(encoding="utf-8"))
    for entry in content["stages"].values():
        entry["overrides"] = {**short, "model.init_args.warmup_steps": 0}
    Path("template.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr("omni.pipeline.voice.chain._TEMPLATE", Path("template.yaml"))
    monkeypatch.setattr(Launcher, "__call__", launch)  # in processes that have everything imported
    speak, sampled = Synthesizer.speak, []
    monkeypatch.setattr(
        Synthesizer, "speak", lambda self, *texts, **given: sampled.append(given) or speak(self, *texts, **given)
    )
    command = ["adapt", "voice", "mine", "--talker", "talker.ckpt", "--vocoder", "vocoder.ckpt", "--sentences", "2"]
    main(command)
    used = [given["sampling"].first.temperature for given in sampled if "sampling" in given]
    assert used == [0.3, 0.3]  # as in the validations
    assert "speak with it: omni speak" in capsys.readouterr().out
    report = Path("lightning_logs/voice/voice.md").read_text(encoding="utf-8")
    assert "| recordings |" in report
    assert len(Path("lightning_logs/voice/voice/codec.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert "| **the voice** |" in report
    assert len(list(Path("lightning_logs/voice/voice").glob("*.png"))) >= 1
    best = Path("lightning_logs/voice/talker/best.ckpt")
    assert "talker" in Checkpoint(best)
    assert "Speaker similarity was not measured" in report
    pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
    before = best.stat().st_mtime_ns
    main([*command, "--speaker_encoder", speaker_encoder(place / "encoder")])
    report = Path("lightning_logs/voice/voice.md").read_text(encoding="utf-8")
    voices = f", its {num_speakers} voices in turn" if num_speakers else ""
    assert f"| the Talker before training, talker.ckpt{voices} |" in report
    assert best.stat().st_mtime_ns == before  # nothing is trained again
