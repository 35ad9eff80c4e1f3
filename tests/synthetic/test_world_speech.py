"""The world's speech: runs give the same bytes, splits have different voices and sentences, runs resume."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_world import rows, tree, write

from omni.cli import main
from omni.errors import UserError
from omni.synthetic import espeak, recordings, scene, speech
from omni.synthetic import world as world_files
from omni.synthetic.espeak import synthesize
from omni.synthetic.language import NUMBERS
from omni.synthetic.media_folder import MediaFolder
from omni.synthetic.pool import in_order
from omni.synthetic.world import GENERATOR, text_row

SENTENCE = "The red circle is above the blue star."
SIZES = {"train": 8, "val": 3, "narrator": 2, "narrator_val": 1}
NO_NARRATOR = {"narrations": 0, "val_narrations": 0}
NOBODY = ["--narrations=0", "--val_narrations=0"]


def spoken(out, **other):
    """Writes a world with little text and no images."""
    sizes = {"documents": 1, "val_documents": 1, "utterances": SIZES["train"], "val_utterances": SIZES["val"]}
    sizes |= {"narrations": SIZES["narrator"], "val_narrations": SIZES["narrator_val"]}
    write(out, **{**sizes, "pictures": 0, "val_pictures": 0, **other})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    spoken(out)
    return out


@pytest.fixture(scope="module")
def texts():
    sizes = {"train": 4000, "val": 400}
    return {
        split: [speech.utterance_at(5, split, index).text for index in range(size)] for split, size in sizes.items()
    }


@pytest.fixture
def said(monkeypatch):
    """The ids of utterances synthesized from now on."""
    ids = []
    waveform = speech.waveform
    monkeypatch.setattr(speech, "waveform", lambda one: ids.append(one.id) or waveform(one))
    return ids


class TestEngine:
    def test_audio_does_not_depend_on_earlier_utterances(self):
        # A plain voice, one with breath, one of Klatt's with breath, one with much flutter: each has different state.
        voices = ("en-us", "en+f2", "en-us+Reed", "en-gb-scotland+f1")
        first = {voice: synthesize(SENTENCE, voice, 170, 40)[0] for voice in voices}
        time.sleep(1.1)  # a seed of whole seconds would be different now
        for other in ("en-us+whisper", *voices):
            synthesize("How many shapes are there?", other, 200, 70)
            for voice in voices:
                wave, sample_rate = synthesize(SENTENCE, voice, 170, 40)
                assert (sample_rate, wave.dtype) == (22050, np.int16)
                np.testing.assert_array_equal(wave, first[voice], err_msg=voice)

    def test_rate_pitch_and_voice_take_effect(self):
        slow, fast = (len(synthesize(SENTENCE, "en-us", rate, 50)[0]) for rate in (140, 200))
        assert 1.2 < slow / fast < 1.6
        low, high = (fundamental(*synthesize(SENTENCE, "en-us", 170, pitch)) for pitch in (25, 75))
        assert 1.2 < high / low < 3
        voices = ("en-us", "en", "en-us+m1", "en-us+f1")
        assert len({synthesize(SENTENCE, voice)[0].tobytes() for voice in voices}) == len(voices)
        male, female = (fundamental(*synthesize(SENTENCE, voice)) for voice in ("en-us+m1", "en-us+f1"))
        assert female > 1.4 * male

    @pytest.mark.parametrize("voice", ["martian", "martian+f1", "en-us+nobody", "en-us+", "en-us+f1+f2", ""])
    def test_unknown_voices_are_named(self, voice):
        with pytest.raises(UserError, match="eSpeak NG has no voice"):
            synthesize(SENTENCE, voice)

    @pytest.mark.parametrize(
        "wrong", [{"rate": 79}, {"rate": 451}, {"pitch": -1}, {"pitch": 100}, {"text": " ?"}, {"text": "a\0b"}], ids=str
    )
    def test_text_that_cannot_be_spoken_is_refused(self, wrong):
        with pytest.raises(ValueError, match=r"rate must be|nothing to say"):
            synthesize(**{"text": SENTENCE, "voice": "en-us", **wrong})

    def test_ctrl_c_while_it_speaks_is_not_lost(self, monkeypatch):
        def interrupted(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr("ctypes.string_at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthesize(SENTENCE, "en-us")

    def test_a_failure_of_the_engine_is_reported(self, monkeypatch, tmp_path):
        monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(tmp_path / ("d" * 150)))
        with pytest.raises(UserError, match="cannot read its data"):
            synthesize(SENTENCE, "en-us")
        (tmp_path / "broken.so").write_text("no library")
        monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(tmp_path / "broken.so"))
        with pytest.raises(UserError, match="eSpeak NG does not load"):
            synthesize(SENTENCE, "en-us")


def fundamental(wave, sample_rate):
    """Fundamental frequency in Hz: the median over voiced frames of the autocorrelation's peak."""
    found = []
    for start in range(0, len(wave) - 1100, 550):
        frame = wave[start : start + 1100].astype(float)
        powers = np.correlate(frame, frame, "full")[1099:]
        lags = powers[sample_rate // 400 : sample_rate // 60]
        if lags.max() > 0.5 * powers[0] > 1e6:
            found.append(sample_rate / (sample_rate // 400 + lags.argmax()))
    return np.median(found)


class TestSentencesAndSpeakers:
    def test_voices_of_validation_are_not_in_training(self):
        train, val = ({name.partition("+")[2] for name in speech.SPEAKERS[split]} for split in ("train", "val"))
        assert not train & val
        assert [len(set(speech.SPEAKERS[split])) for split in ("train", "val")] == [160, 6]
        for split, least in (("train", 100), ("val", 6)):
            drawn = {speech.utterance_at(0, split, i).speaker for i in range(200)}
            assert drawn <= set(speech.SPEAKERS[split])
            assert len(drawn) >= least

    def test_the_narrator_is_one_voice_that_nobody_else_has(self):
        (narrator,) = speech.SPEAKERS["narrator"]
        assert speech.SPEAKERS["narrator_val"] == (narrator,)
        others = {*speech.SPEAKERS["train"], *speech.SPEAKERS["val"]}
        assert narrator.partition("+")[2] not in {name.partition("+")[2] for name in others}
        said = [speech.utterance_at(0, split, index) for split in ("narrator", "narrator_val") for index in range(30)]
        assert {(one.speaker, one.rate, one.pitch) for one in said} == {(narrator, *speech.NARRATION)}
        assert {speech.sentence_split(one.text) for one in said[:30]} == {"train"}
        assert {speech.sentence_split(one.text) for one in said[30:]} == {"val"}

    def test_all_speakers_occur_and_differ(self):
        heard = {}
        accents = [name for name in speech.SPEAKERS["train"] if "+" not in name or name.endswith("+m3")]
        variants = [name for name in speech.SPEAKERS["train"] if name.startswith("en-us+")]
        speakers = {*accents, *variants, *speech.SPEAKERS["val"], *speech.SPEAKERS["narrator"]}
        for speaker in sorted(speakers):
            loud = speech.Utterance("", "There are four large purple hearts.", speaker, 170, 50)
            wave = speech.waveform(loud).astype(float) / 2**15
            assert -35 < 20 * np.log10(np.sqrt(np.mean(wave**2))) < -10, speaker
            assert np.abs(wave).max() < 0.999, speaker
            assert 1.2 < len(wave) / speech.SAMPLE_RATE < 4, speaker
            assert 60 < fundamental(wave * 2**15, speech.SAMPLE_RATE) < 350, speaker
            heard[wave.tobytes()] = speaker
        assert len(heard) == len(speakers) > 30

    def test_no_sentence_of_validation_is_in_training(self, texts):
        train, val = ({speech.normalised(text) for text in texts[split]} for split in ("train", "val"))
        assert not train & val
        assert len(train) > 2000
        assert len(val) > 200
        assert {speech.sentence_split(f" {text[:-1].upper()}  !") for text in texts["val"]} == {"val"}

    def test_training_has_every_word_of_validation_and_of_scenes(self, texts):
        words = {split: speech.normalised(" ".join(texts[split])).split() for split in ("train", "val")}
        train, val = set(words["train"]), set(words["val"])
        assert val <= train
        assert {
            *scene.COLOURS,
            *scene.SHAPES,
            *scene.SIZES,
            *scene.RELATIONS,
            *NUMBERS[1:],
            "row",
            "column",
            "many",
        } <= train
        assert train <= {word for index in range(3000) for word in _words(index)}

    def test_sentences_are_short_and_have_case_and_punctuation(self, texts):
        for text in texts["train"] + texts["val"]:
            assert 3 <= len(text.split()) <= 14
            assert text[0].isupper()
            assert text[-1] in ".?"
            assert not any(character in ".?" for character in text[:-1])
            assert text.isascii()
            assert not any(character.isdigit() or character in '"{}' for character in text)
        asked = sum(text.endswith("?") for text in texts["train"]) / len(texts["train"])
        assert 0.15 < asked < 0.4


def _words(index):
    return speech.normalised(text_row(1, "train", index)["text"]).split()


class TestFiles:
    def test_manifests_match_the_audio(self, world):
        record = json.loads((world / "world.json").read_text())
        for split, size in SIZES.items():
            found = rows(world / "speech", split)
            assert [row["id"] for row in found] == [f"world-{split}-{index:06d}" for index in range(size)]
            for index, row in enumerate(found):
                assert list(row) == ["audio", "text", "speaker", "duration", "id"]
                assert row["audio"] == f"{split}/{row['id']}.wav"
                said = speech.utterance_at(0, split, index)
                assert (row["text"], row["speaker"]) == (said.text, said.speaker)
                info = soundfile.info(world / "speech" / row["audio"])
                assert (info.samplerate, info.channels, info.subtype, info.format) == (16000, 1, "PCM_16", "WAV")
                assert row["duration"] == round(info.frames / 16000, 4)
                wave = soundfile.read(world / "speech" / row["audio"], dtype="int16")[0]
                np.testing.assert_array_equal(wave, speech.waveform(said))
            assert record["seconds"][split] == pytest.approx(sum(row["duration"] for row in found), abs=0.06)
        assert (record["utterances"], record["val_utterances"], record["espeak"]) == (8, 3, espeak.version())

    def test_resampling_keeps_the_spectrum(self):
        said = speech.utterance_at(0, "train", 0)
        before, rate = synthesize(said.text, said.speaker, said.rate, said.pitch)
        after = speech.waveform(said)
        assert len(after) == -(-len(before) * 16000 // rate)
        spectra = [
            np.abs(np.fft.rfft(wave.astype(float), n=hz * 10))[:60000] / hz
            for wave, hz in ((before, rate), (after, 16000))
        ]  # 10 s each, so that a bin is 0.1 Hz in both; up to 6 kHz
        assert np.corrcoef(*spectra)[0, 1] > 0.999
        assert spectra[1].sum() == pytest.approx(spectra[0].sum(), rel=0.01)

    def test_another_process_makes_the_same_bytes(self, world, tmp_path):
        # Two processes would be used, but there is only work for one.
        recordings.write_recordings(
            MediaFolder(tmp_path, tuple(SIZES)), generator=GENERATOR, seed=0, sizes=SIZES, processes=2
        )
        assert tree(tmp_path) == tree(world / "speech")

    @pytest.mark.slow
    def test_any_number_of_processes_makes_the_same_bytes(self, world, tmp_path, monkeypatch):
        monkeypatch.setattr(recordings, "_CHUNK", 1)
        recordings.write_recordings(
            MediaFolder(tmp_path, tuple(SIZES)), generator=GENERATOR, seed=0, sizes=SIZES, processes=3
        )
        assert tree(tmp_path) == tree(world / "speech")

    def test_runs_make_the_same_bytes_and_other_seeds_others(self, world, tmp_path):
        spoken(tmp_path / "again")
        assert tree(tmp_path / "again") == tree(world)
        spoken(tmp_path / "other", seed=1)
        audio = [{d for name, d in tree(out).items() if name.endswith(".wav")} for out in (tmp_path / "other", world)]
        assert not audio[0] & audio[1]

    def test_splits_do_not_depend_on_counts(self, world, tmp_path):
        spoken(tmp_path, utterances=3, val_utterances=0, **NO_NARRATOR)
        small = tree(tmp_path / "speech")
        whole = tree(world / "speech")
        assert small["train.jsonl"].splitlines() == whole["train.jsonl"].splitlines()[:3]
        wavs = {name for name in small if name.endswith(".wav")}
        assert len(wavs) == 3
        assert all(small[name] == whole[name] for name in wavs)
        assert not any(name.startswith("val") for name in small)


class TestResumption:
    def test_a_complete_world_is_kept(self, tmp_path, capsys, said):
        spoken(tmp_path)
        assert len(said) == sum(SIZES.values())
        capsys.readouterr()
        times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        spoken(tmp_path)
        assert "up to date" in capsys.readouterr().out
        assert len(said) == sum(SIZES.values())
        assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def test_only_missing_or_broken_files_are_made_again(self, tmp_path, said):
        spoken(tmp_path)
        before = tree(tmp_path)
        audio = [tmp_path / "speech" / row["audio"] for row in rows(tmp_path / "speech", "train")]
        audio[1].unlink()
        audio[2].write_bytes(audio[2].read_bytes()[:-100])
        audio[3].write_bytes(audio[3].read_bytes()[:-100] + b"\x01" * 100)  # of unchanged length
        audio[4].write_bytes(b"")
        said.clear()
        spoken(tmp_path)
        assert said == [f"world-train-{index:06d}" for index in (1, 2, 3, 4)]
        assert tree(tmp_path) == before
        for name in ("speech/train.jsonl", "speech/val.sha256", "world.json"):
            (tmp_path / name).unlink()
            spoken(tmp_path)
            assert tree(tmp_path) == before

    def test_an_interrupted_run_resumes(self, world, tmp_path, monkeypatch):
        calls, waveform = count(), speech.waveform

        def dying(one):
            if next(calls) == 5:
                raise KeyboardInterrupt
            return waveform(one)

        monkeypatch.setattr(speech, "waveform", dying)
        with pytest.raises(KeyboardInterrupt):
            spoken(tmp_path)
        assert not list(tmp_path.glob("**/world.json")) + list(tmp_path.glob("speech/*.jsonl"))
        audio = tmp_path / "speech" / "train"
        assert len(list(audio.iterdir())) == 5
        (audio / ".world-train-000005.wav.77.part").write_bytes(b"RIFF")
        cut = audio / "world-train-000004.wav"
        cut.write_bytes(cut.read_bytes()[:-2])
        spoken(tmp_path)
        assert next(calls) == 1 + 5 + 1 + sum(SIZES.values()) - 5  # interrupted, kept, truncated, and the rest
        assert tree(tmp_path) == tree(world)

    def test_other_arguments_leave_nothing_of_the_old_world(self, world, tmp_path, said):
        spoken(tmp_path, utterances=10, val_utterances=3, narrations=3)
        said.clear()
        spoken(tmp_path)
        assert not said  # the first utterances are the same
        assert tree(tmp_path) == tree(world)
        spoken(tmp_path, seed=1)
        assert len(said) == sum(SIZES.values())
        spoken(tmp_path, utterances=0, val_utterances=0, **NO_NARRATOR)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "world.json"]

    def test_files_of_another_generator_or_engine_are_made_again(self, tmp_path, said, monkeypatch, capsys):
        spoken(tmp_path, utterances=2, val_utterances=1, **NO_NARRATOR)
        monkeypatch.setattr(world_files, "GENERATOR", GENERATOR + 1)
        spoken(tmp_path, utterances=2, val_utterances=1, **NO_NARRATOR)
        assert len(said) == 6
        (tmp_path / "world.json").unlink()
        monkeypatch.setattr(espeak, "version", lambda: "2.0")
        spoken(tmp_path, utterances=2, val_utterances=1, **NO_NARRATOR)
        assert len(said) == 9
        assert "up to date" not in capsys.readouterr().out


class TestMistakes:
    def test_a_missing_engine_is_one_line_and_nothing_is_written(self, tmp_path, monkeypatch, fails):
        monkeypatch.setitem(sys.modules, "espeakng_loader", None)
        arguments = ["data", "world", "--out", str(tmp_path / "world"), "--documents=1", "--val_documents=1"]
        arguments += ["--pictures=0", "--val_pictures=0"]
        assert "pip install -e '.[world]'" in fails(main, [*arguments, "--utterances=1", "--val_utterances=0", *NOBODY])
        assert not (tmp_path / "world").exists()
        main([*arguments, "--utterances=0", "--val_utterances=0", *NOBODY])
        assert (tmp_path / "world/world.json").is_file()

    @pytest.mark.parametrize("name", ["utterances", "val_utterances", "narrations", "val_narrations"])
    def test_counts_below_zero_are_refused(self, tmp_path, name):
        with pytest.raises(UserError, match=f"--{name} is -1: give 0 or more"):
            spoken(tmp_path, **{name: -1})

    @pytest.mark.parametrize("name", ["train.jsonl", "val.jsonl", "train/mine.wav", "val/notes.txt"])
    @pytest.mark.parametrize("utterances", [0, 2])
    def test_files_of_others_are_kept(self, tmp_path, name, utterances):
        path = tmp_path / "speech" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine\n")
        with pytest.raises(UserError, match=f"{path.name} was not written by"):
            spoken(tmp_path, utterances=utterances)
        assert tree(tmp_path) == {f"speech/{name}": b"mine\n"}

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "speech").write_text("x")
        with pytest.raises(UserError, match=r"speech.*choose another --out"):
            spoken(tmp_path)


class TestProcesses:
    def test_results_are_in_order_and_errors_are_passed_on(self):
        assert list(in_order(abs, range(-5, 5), 1, 2)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
        assert list(in_order(abs, range(-5, 5), 2, 3)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="invalid literal"):
            list(in_order(int, ["1", "x"], 2, 1))

    @pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals are blocked on POSIX alone")
    def test_processes_ignore_ctrl_c(self):
        blocked = partial(signal.pthread_sigmask, signal.SIG_BLOCK)
        assert list(in_order(blocked, [()], 2, 1)) == [{signal.SIGINT}]
        assert signal.SIGINT not in blocked(())

    def test_a_process_that_ends_is_an_error(self):
        with pytest.raises(UserError, match="run the command again"):
            list(in_order(os._exit, [3, 3], 2, 1))

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes of Linux")
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
    def test_no_process_is_left_running(self, tmp_path, how):
        code = (
            "import sys, omni.synthetic.pool as pool; pool.cpus = lambda: 2\n"
            "from omni.cli import main\n"
            "sizes = ['--documents=1', '--val_documents=1', '--pictures=0', '--val_pictures=0']\n"
            "main(['data', 'world', '--out', sys.argv[1], *sizes])"
        )
        out, errors = tmp_path / "world", tmp_path / "errors.txt"
        with errors.open("wb") as file:
            command = [sys.executable, "-c", code, out]
            process = subprocess.Popen(command, start_new_session=True, stderr=file)
        while process.poll() is None and len(list(out.glob("speech/train/*.wav"))) < 30:
            time.sleep(0.05)
        assert process.poll() is None
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # a terminal sends the signal to all of them
        else:
            os.kill(process.pid, how)
        assert process.wait() == (130 if how == signal.SIGINT else -9)
        deadline = time.monotonic() + 60  # on a busy machine
        while _alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = _alive(process.pid)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
        assert "Traceback" not in errors.read_text()
        assert not (out / "world.json").exists()


def _alive(session):
    """Running processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
