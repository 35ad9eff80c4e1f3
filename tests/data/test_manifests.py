"""Sources of utterances: manifests, layouts of well-known corpora, the Hub; and the rows that training uses."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, Value

from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.loading.skipped import report_skipped
from omni.data.speech.data import SpeechData
from omni.data.speech.manifests import SpeechManifest
from omni.data.speech.opening import open_utterances
from omni.data.speech.rows import read_rows
from omni.errors import UserError
from omni.text.ctc_vocabulary import CharacterVocabulary

RATE = 16_000


def record(path, seconds=1.0, rate=RATE, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate))
    soundfile.write(path, samples.astype(np.float32), rate, **options)
    return path


def write_manifest(path, *rows):
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return str(path)


def rows_of(*entries, **options):
    return [row for source in open_utterances([str(entry) for entry in entries], **options) for row in source.rows()]


class TestManifests:
    def test_jsonl_and_csv_are_equivalent(self, tmp_path):
        (tmp_path / "m.csv").write_text(
            '\ufeffaudio,text,speaker,duration\na/b.wav,"Yes, ""no""",anna,1.5\nc.wav,line,,\n', encoding="utf-8"
        )
        write_manifest(
            tmp_path / "m.jsonl",
            {"audio": "a/b.wav", "text": 'Yes, "no"', "speaker": "anna", "duration": 1.5, "id": 7},
            b"",
            {"wav": "c.wav", "text": "line"},
        )
        for name in ("m.csv", "m.jsonl"):
            one, other = rows_of(tmp_path / name)
            assert one[:4] == (str(tmp_path / "a/b.wav"), 'Yes, "no"', "anna", 1.5)
            assert other[:4] == (str(tmp_path / "c.wav"), "line", None, None)
        assert [row.where for row in rows_of(tmp_path / "m.jsonl")] == [f"{tmp_path}/m.jsonl: row {n}" for n in (1, 3)]

    def test_paths_are_relative_to_the_manifest_or_absolute(self, tmp_path):
        path = write_manifest(
            tmp_path / "m.jsonl", *({"audio": audio, "text": "a"} for audio in ("../x.wav", "/y/x.wav", "~/x.wav"))
        )
        found = [row.audio for row in rows_of(path)]
        assert found == [str(tmp_path / "../x.wav"), "/y/x.wav", os.path.expanduser("~/x.wav")]

    def test_other_columns_of_text(self, tmp_path):
        path = write_manifest(tmp_path / "m.jsonl", {"audio": "a.wav", "sentence": "a"})
        assert rows_of(path, text_column="sentence")[0].text == "a"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"text": "a"}, r"row 2: has no `audio` \(nor `wav`\)"),
            ({"audio": 3, "text": "a"}, r"row 2: has no `audio`"),
            ({"audio": "a.wav"}, r"row 2: has no text in 'text': give the transcript, or set data\.text_column"),
            ({"audio": "a.wav", "text": None}, r"row 2: has no text in 'text'"),
            (
                {"audio": "a.wav", "text": "a", "duration": "long"},
                r"row 2: the duration 'long' is not a number of seconds",
            ),
            ({"audio": "a.wav", "text": "a", "duration": -1}, r"row 2: the duration -1 is not a number"),
            ({"audio": "a.wav", "text": "a", "duration": float("nan")}, r"row 2: the duration nan is not a number"),
            (b"no json", r"row 2: not JSON"),
            (b"[1]", r"row 2: a list, not an object"),
            (b'{"audio": "a.wav", "text": "\xe9"}', r"row 2: byte 28 is not UTF-8"),
        ],
    )
    def test_invalid_rows_are_named_and_the_others_are_read(self, tmp_path, row, message):
        good = {"audio": "a.wav", "text": "a"}
        manifest = SpeechManifest(tmp_path / "m.jsonl")
        write_manifest(manifest.path, good, row, good)
        with pytest.raises(UserError, match=r"m\.jsonl: " + message) as error:
            list(manifest.rows())
        assert "\n" not in str(error.value)
        found = list(manifest.rows_or_errors())
        assert [isinstance(one, UserError) for one in found] == [False, True, False]

    def test_csv_that_ends_early_is_no_single_bad_row(self, tmp_path):
        """Training leaves bad rows out: it must not leave out the rest of a file."""
        good = "a.wav,a\n" * 5
        for bad, words in ((b'a.wav,"b" c\n', "row 6: not CSV"), (b"a.wav,\xe9\n", "is not UTF-8")):
            (tmp_path / "m.csv").write_bytes(f"audio,text\n{good}".encode() + bad + good.encode())
            with pytest.raises(UserError, match=rf"m\.csv: {words}"):
                list(SpeechManifest(tmp_path / "m.csv").rows_or_errors())

    def test_csv_that_is_not_utf8(self, tmp_path):
        (tmp_path / "m.csv").write_bytes(b"audio,text\na.wav,\xe9\n")
        with pytest.raises(UserError, match=r"m\.csv: is not UTF-8"):
            rows_of(tmp_path / "m.csv")

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("none.jsonl", r"none\.jsonl: does not exist: name a manifest"),
            ("m.txt", r"m\.txt: a manifest of speech is a \.jsonl, \.csv or \.tsv file"),
            (".", "not a folder in the layout of LibriSpeech, LJSpeech, Common Voice"),
            ("hub:", "'hub:' does not name a data set"),
            ("hub:a:b:c:d", "does not name a data set"),
        ],
    )
    def test_invalid_sources_are_named(self, workplace, entry, message):
        (workplace / "m.txt").touch()
        with pytest.raises(UserError, match=message):
            rows_of(entry)


class TestLayouts:
    @pytest.mark.parametrize("ending", [".flac", ".wav"])
    def test_librispeech(self, tmp_path, ending):
        for speaker, chapter in (("19", "198"), ("26", "495")):
            folder = tmp_path / "train-clean-5" / speaker / chapter
            for number in range(2):
                record(folder / f"{speaker}-{chapter}-000{number}{ending}", 0.1)
            lines = [f"{speaker}-{chapter}-000{number} NUMBER {number} OF IT" for number in range(2)]
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
        for folder in (tmp_path, tmp_path / "train-clean-5"):
            rows = rows_of(folder)
            assert [row.speaker for row in rows] == ["19", "19", "26", "26"]
            assert [row.text for row in rows] == ["NUMBER 0 OF IT", "NUMBER 1 OF IT"] * 2
            assert all(row.audio.endswith(ending) and os.path.isfile(row.audio) for row in rows)
        assert len(rows_of(tmp_path / "train-clean-5" / "19")) == 2

    @pytest.mark.parametrize("ending", [".wav", ".flac"])
    def test_ljspeech(self, tmp_path, ending):
        record(tmp_path / "wavs" / f"LJ001-0001{ending}", 0.1, 22_050)
        (tmp_path / "metadata.csv").write_text(
            'LJ001-0001|Dr. "A", 5|Doctor "A", five\nLJ001-0002|only once\n', encoding="utf-8"
        )
        one, other = rows_of(tmp_path)
        assert one[:3] == (str(tmp_path / "wavs" / f"LJ001-0001{ending}"), 'Doctor "A", five', "LJ")
        assert other.text == "only once"
        assert not os.path.exists(other.audio)  # kept, so that a missing file is noticed
        (tmp_path / "metadata.csv").write_text("LJ001-0001\n")
        with pytest.raises(UserError, match=r"metadata\.csv: row 1: not `id\|text\|normalised text`"):
            rows_of(tmp_path)
        (tmp_path / "metadata.csv").write_bytes(b"LJ001-0001|caf\xe9\n")
        with pytest.raises(UserError, match=r"metadata\.csv: is not UTF-8 \(byte 14\)"):
            rows_of(tmp_path)


class TestHub:
    @pytest.fixture
    def folder(self, tmp_path):
        """A local data set like on the Hub: a .parquet file that contains the audio's bytes."""
        content = [
            record(tmp_path / f"{number}.flac", 0.5 + number / 4, seed=number).read_bytes() for number in range(2)
        ]
        table = Dataset.from_dict(
            {
                "audio": [{"bytes": one, "path": None} for one in content],
                "text": ["one", "two"],
                "speaker_id": [4, 5],
            }
        )
        table = table.cast_column("audio", Audio(decode=False)).cast_column("speaker_id", Value("int64"))
        (tmp_path / "set").mkdir()
        table.to_parquet(tmp_path / "set" / "train.parquet")
        return tmp_path / "set"

    def test_rows_and_audio(self, folder, tmp_path):
        (source,) = open_utterances([f"hub:{folder}"], cache_dir=tmp_path / "cache")
        rows = list(source.rows())
        assert [(row.text, row.speaker) for row in rows] == [("one", "4"), ("two", "5")]
        assert source.audio(1, rows[1]) == (tmp_path / "1.flac").read_bytes()
        usable, skipped = read_rows(
            [source],
            CharacterVocabulary(),
            min_duration=0.1,
            max_duration=20,
            cache_dir=tmp_path / "cache",
            may_write=True,
            errors=RowErrors("train", BadRowPolicy()),
        )
        assert [row.duration for row in usable] == [0.5, 0.75]
        assert [len(row.read()) for row in usable] == [8000, 12_000]
        assert not skipped

    def test_missing_splits_and_columns_are_named(self, folder, tmp_path):
        (source,) = open_utterances([f"hub:{folder}"], cache_dir=tmp_path / "cache", text_column="sentence")
        with pytest.raises(UserError, match=r"set::train: row 1: no text in 'sentence', only \['speaker_id', 'text'\]"):
            list(source.rows())
        (source,) = open_utterances([f"hub:{folder}::test"], cache_dir=tmp_path / "cache")
        with pytest.raises(UserError, match=r"set::test: cannot be loaded"):
            list(source.rows())


@pytest.fixture(scope="module")
def hours(tmp_path_factory):
    """Three hours of silence."""
    path = tmp_path_factory.mktemp("hours") / "hours.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(18):
            file.write(np.zeros(8_000 * 600, np.int16))
    return path


GOOD = ("0.wav", "1.wav", "six.wav", "named.wav")
SKIPPED = {
    "none.wav": "the audio does not exist",
    "folder": "the audio is a folder",
    "zero.wav": "the audio is empty",
    "text.wav": "the audio cannot be read",
    "half.wav": "the audio is cut off",
    "one.wav": "shorter than data.min_duration, 0.1 s",
    "hours.flac": "longer than data.max_duration, 20 s",
}


class TestRows:
    """Unusable rows are left out, counted and reported, and no others."""

    @pytest.fixture
    def folder(self, tmp_path, hours):
        (tmp_path / "hours.flac").symlink_to(hours)
        for number in range(6):
            record(tmp_path / f"{number}.wav", seed=number)
        (tmp_path / "folder").mkdir()
        (tmp_path / "zero.wav").touch()
        (tmp_path / "text.wav").write_text("this is text " * 100)
        record(tmp_path / "one.wav", 1 / RATE)
        record(tmp_path / "many.wav", 0.5, 192_000)
        soundfile.write(tmp_path / "six.wav", np.full((96_000, 6), 0.1), 192_000)
        shutil.copy(record(tmp_path / "a.flac", 1.0), tmp_path / "named.wav")
        (tmp_path / "half.wav").write_bytes((tmp_path / "0.wav").read_bytes()[:16_000])
        (tmp_path / "half.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:8_000])
        soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
        return tmp_path

    def read(self, path, folder, **options):
        options = {"min_duration": 0.1, "max_duration": 20, "cache_dir": folder / "cache", "may_write": True} | options
        options.setdefault("errors", RowErrors("train", BadRowPolicy(skip=True)))
        return read_rows([SpeechManifest(folder / path)], CharacterVocabulary(), **options)

    def test_bad_audio(self, folder):
        names = [*GOOD, *SKIPPED]
        write_manifest(folder / "m.jsonl", *({"audio": name, "text": "a b"} for name in names))
        for _ in range(2):  # measured and stored
            rows, skipped = self.read("m.jsonl", folder)
            assert [os.path.basename(row.utterance.audio) for row in rows] == list(GOOD)
            assert [skip.reason for skip in skipped] == list(SKIPPED.values())
            assert [skip.where for skip in skipped] == [f"{folder}/m.jsonl: row {n}" for n in range(5, 12)]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            report_skipped("train", skipped, len(rows))
        assert len(told) == len(SKIPPED)
        assert f"train: 1 of 11 rows left out: the audio is empty ({folder}/m.jsonl: row 7)" in map(
            str, (warning.message for warning in told)
        )

    def test_a_repaired_file_is_measured_again(self, folder):
        write_manifest(folder / "m.jsonl", {"audio": "zero.wav", "text": "a"}, {"audio": "0.wav", "text": "a"})
        assert len(self.read("m.jsonl", folder)[0]) == 1
        shutil.copy(folder / "0.wav", folder / "zero.wav")
        assert len(self.read("m.jsonl", folder)[0]) == 2

    def test_bad_text(self, folder):
        texts = {
            "Fine, 3 dogs!": None,
            "": "no text",
            "?!": "no text",
            "naïve": "characters outside the units, such as 'ï'",
            "call " + "7" * 40: None,
            "\ud800": "no text",
        }
        write_manifest(folder / "m.jsonl", *({"audio": "0.wav", "text": text} for text in texts))
        rows, skipped = self.read("m.jsonl", folder)
        assert [CharacterVocabulary().decode(row.units) for row in rows] == ["fine three dogs", "call" + " seven" * 40]
        assert [skip.reason for skip in skipped] == [why for why in texts.values() if why]

    def test_invalid_file_names(self, folder):
        names = ["a\0b.wav", "\ud800.wav", "~nobody-is-called-so/a.wav", "x" * 5000]
        write_manifest(folder / "m.jsonl", *({"audio": name, "text": "a"} for name in names))
        rows, skipped = self.read("m.jsonl", folder)
        assert not rows
        assert {skip.reason for skip in skipped} == {"the audio does not exist"}

    def test_a_set_without_usable_rows_is_refused(self, folder):
        write_manifest(folder / "m.jsonl", {"audio": "none.wav", "text": "a"})
        rows, skipped = self.read("m.jsonl", folder)
        with pytest.raises(UserError, match=r"no row that can be used \(1 rows left out\); the first, .*row 1: the"):
            report_skipped("train", skipped, len(rows))
        with pytest.raises(UserError, match=r"data\.val has no rows"):
            report_skipped("val", [], 0)

    def test_audio_longer_than_its_row_is_not_read_completely(self, folder):
        write_manifest(folder / "m.jsonl", {"audio": "hours.flac", "text": "a", "duration": 2.0})
        (row,), _ = self.read("m.jsonl", folder)
        with pytest.raises(UserError, match=r"m\.jsonl: row 1: .*hours\.flac is longer than the stated 2\.00 s"):
            row.read()

    @pytest.mark.parametrize("cached", [False, True])
    def test_training_leaves_out_rows_that_fail_when_read(self, folder, cached):
        names = [*(f"{number}.wav" for number in range(6)), "half.flac", "nan.wav"]
        write_manifest(folder / "m.jsonl", *({"audio": name, "text": "a b"} for name in names))
        write_manifest(folder / "v.jsonl", {"audio": "0.wav", "text": "a"})
        data = SpeechData(
            str(folder / "m.jsonl"),
            str(folder / "v.jsonl"),
            num_mels=80,
            cache_features=cached,
            cache_dir=str(folder / "cache"),
        )
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            data.setup()
            batches = list(data.train_dataloader())
        for complaint in ("half.flac: is cut off or damaged", "nan.wav: holds samples that are no finite numbers"):
            assert any(complaint in str(warning.message) for warning in told)
        assert sum(len(batch.rows) for batch in batches) == 6
        assert all(batch.mels.isfinite().all() for batch in batches)


class TestSpokenAnswers:
    def test_spoken_answers_of_the_assistant_are_utterances(self, tmp_path):
        def said(*parts):
            return {"role": "assistant", "content": list(parts)}

        text, asked = {"type": "text", "text": "Two."}, {"role": "user", "content": "How many?"}
        heard = {"role": "user", "content": [{"type": "audio", "audio": "q.wav"}, {"type": "text", "text": "So?"}]}
        path = write_manifest(
            tmp_path / "m.jsonl",
            {"messages": [asked, said(text, {"type": "audio", "audio": "a.wav", "duration": 1.5, "speaker": "anna"})]},
            {"messages": [asked, {"role": "assistant", "content": "Three."}, heard, said(text)]},
            {
                "messages": [
                    heard,
                    said({"type": "audio", "path": "/b.wav"}, text),
                    asked,
                    said(text, {"type": "audio"}),
                ]
            },
        )
        (source,) = open_utterances([path])
        first, second, error = source.rows_or_errors()
        assert first == (str(tmp_path / "a.wav"), "Two.", "anna", 1.5, f"{path}: row 1", None, None)
        assert second == ("/b.wav", "Two.", None, None, f"{path}: row 3", None, None)
        assert str(error).startswith(f"{path}: row 3: has no `audio`")
