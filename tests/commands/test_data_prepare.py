"""`omni data prepare`: manifests of corpora in their original layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni.cli import main
from omni.commands import data_prepare
from omni.commands.data_prepare import prepare
from omni.data.conversations.opening import open_conversations
from omni.data.speech.corpora import librispeech_splits
from omni.data.speech.opening import open_utterances
from omni.errors import UserError

KINDS = ["an4", "css10", "fleurs", "folder", "fsdd", "librispeech", "ljspeech", "mls"]


def record(path, seconds=0.2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 8000))
    soundfile.write(path, samples, 8000, format="FLAC" if path.suffix == ".flac" else "WAV")


def librispeech(root):
    for split, speakers in {"train-clean-5": ("19", "26"), "dev-clean": ("84",)}.items():
        for speaker in speakers:
            folder = root / split / speaker / "1"
            keys = [f"{speaker}-1-000{number}" for number in range(3)]
            for number, key in enumerate(keys):
                record(folder / f"{key}.flac", 0.2 + number / 10)
            folder.joinpath(f"{speaker}-1.trans.txt").write_text("".join(f"{key} SOME WORDS\n" for key in keys))


def ljspeech(root):
    keys = [f"LJ00{chapter}-000{number}" for chapter in (1, 2, 3) for number in (1, 2)]
    for key in keys:
        record(root / "wavs" / f"{key}.wav")
    (root / "metadata.csv").write_text("".join(f"{key}|No. 1|Number one\n" for key in keys))


def an4(root):
    (root / "etc").mkdir(parents=True)
    for split, form, folder in (("train", "<s> {} </s> ({})\n", "an4_clstk"), ("test", "{} ({})\n", "an4test_clstk")):
        files, texts = "", ""
        for speaker in ("fash", "mmxg") if split == "train" else ("fcaw",):
            for number in (1, 2):
                key = f"an{number}-{speaker}-b"
                record(root / "wav" / folder / speaker / f"{key}.wav")
                files += f"{folder}/{speaker}/{key}\n"
                texts += form.format("RUBOUT G M", key)
        (root / "etc" / f"an4_{split}.fileids").write_text(files)
        (root / "etc" / f"an4_{split}.transcription").write_text(texts)


def fsdd(root):
    for digit in (0, 7):
        for speaker in ("theo", "lucas"):
            for index in (0, 4, 5, 12):
                record(root / "recordings" / f"{digit}_{speaker}_{index}.wav")


def folder(root):
    for speaker in ("anna", "ben", "cleo"):
        for number in range(2):
            record(root / speaker / f"{number}.wav")
            (root / speaker / f"{number}.txt").write_text(f"hello\n{speaker}\n")


def mls(root):
    for split, speakers in {"train": ("10", "20"), "dev": ("30",), "test": ("40",)}.items():
        keys = [f"{speaker}_7_00000{number}" for speaker in speakers for number in (1, 2)]
        for key in keys:
            record(root / split / "audio" / key.split("_")[0] / "7" / f"{key}.flac")
        (root / split / "transcripts.txt").write_text(
            "".join(f"{key}\tgrüß die füße\n" for key in keys), encoding="utf-8"
        )


def fleurs(root):
    for split, number in {"train": 3, "dev": 1, "test": 2}.items():
        rows = ""
        for index in range(number):
            record(root / "audio" / split / f"{split}{index}.wav")
            rows += f"{index}\t{split}{index}.wav\tÉtait-ce l'été ?\tétait-ce l'été\té t a i t\t1600\tFEMALE\n"
        (root / f"{split}.tsv").write_text(rows, encoding="utf-8")


def css10(root):
    rows = ""
    for book in ("quijote", "marianela"):
        for number in (1, 2, 3):
            name = f"{book}/{book}_000{number}.wav"
            record(root / name)
            rows += f"{name}|¿Año 2?|¿Año dos?|0.2\n"
    (root / "transcript.txt").write_text(rows, encoding="utf-8")


@pytest.fixture(params=KINDS)
def corpus(request, workplace):
    """A corpus of each kind, in the folder `corpus`."""
    make(request.param)
    return request.param


def make(kind):
    globals()[kind](Path("corpus"))


def manifests(out):
    return {
        file.stem: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(Path(out).iterdir())
    }


def ids(rows):
    return sorted(row["id"] for row in rows)


def test_manifests_can_be_read_from_any_folder(corpus, tmp_path):
    for out in (f"data/{corpus}", "corpus/manifests", str(tmp_path / "elsewhere" / "deep" / "down")):
        prepare(corpus, Path("corpus"), None if out.startswith("data/") else Path(out))
        for split, rows in manifests(out).items():
            (source,) = open_utterances([f"{out}/{split}.jsonl"])
            for row, utterance in zip(rows, source.rows(), strict=True):
                assert not Path(row["audio"]).is_absolute()
                assert utterance.duration == soundfile.info(utterance.audio).duration
                assert Path(utterance.audio).resolve().is_relative_to(Path("corpus").resolve())
                assert row["text"] == row["text"].strip() != ""
                assert row.get("speaker") == utterance.speaker
            assert len(set(ids(rows))) == len(rows)


def test_official_splits_are_used(workplace, capsys):
    for kind, sizes in {
        "librispeech": {"dev-clean": 3, "train-clean-5": 6},
        "an4": {"test": 2, "train": 2, "val": 2},
        "fsdd": {"all": 16, "test": 8, "train": 8},
        "mls": {"dev": 2, "test": 2, "train": 4},
        "fleurs": {"dev": 1, "test": 2, "train": 3},
    }.items():
        globals()[kind](Path(kind))
        prepare(kind, Path(kind))
        found = manifests(f"data/{kind}")
        assert {split: len(rows) for split, rows in found.items()} == sizes
        printed = capsys.readouterr().out
        for split, size in sizes.items():
            assert f"data/{kind}/{split}.jsonl: {size} utterances, 0.00 hours" in printed
    digits = manifests("data/fsdd")
    assert all(row["id"].endswith(("_0", "_4")) for row in digits["test"])
    assert {row["text"] for row in digits["test"]} == {"zero", "seven"}
    assert ids(digits["all"]) == ids(digits["train"] + digits["test"])
    spelled = manifests("data/an4")
    assert {row["speaker"] for row in spelled["train"]} != {row["speaker"] for row in spelled["val"]}
    assert [row for split in ("train", "val") for row in spelled[split] if row["id"] == "an1-fash-b"] == [
        {
            "audio": "../../an4/wav/an4_clstk/fash/an1-fash-b.wav",
            "text": "RUBOUT G M",
            "speaker": "fash",
            "duration": 0.2,
            "id": "an1-fash-b",
        }
    ]


def test_corpora_of_other_languages_keep_their_letters_speakers_and_splits(workplace, capsys):
    for kind in ("mls", "fleurs", "css10"):
        globals()[kind](Path(kind))
        prepare(kind, Path(kind))
        printed = capsys.readouterr().out
        assert "characters: train a recogniser with --data.init_args.characters auto " in printed
    row = manifests("data/mls")["dev"][0]
    assert row == {
        "audio": "../../mls/dev/audio/30/7/30_7_000001.flac",
        "text": "grüß die füße",
        "speaker": "30",
        "duration": 0.2,
        "id": "30_7_000001",
    }
    assert manifests("data/fleurs")["dev"] == [
        {"audio": "../../fleurs/audio/dev/dev0.wav", "text": "Était-ce l'été ?", "duration": 0.2, "id": "dev0"}
    ]
    spoken = manifests("data/css10")
    assert {row["text"] for row in spoken["train"] + spoken["val"]} == {"¿Año dos?"}
    books = {split: {row["id"].split("_")[0] for row in rows} for split, rows in spoken.items()}
    assert sorted(books["train"] | books["val"]) == ["marianela", "quijote"]
    assert not books["train"] & books["val"]
    assert "validation by book: " in printed
    prepare("mls", Path("mls/dev"), Path("out"))
    assert list(manifests("out")) == ["dev"]


def test_one_split_of_librispeech_keeps_its_name(workplace):
    make("librispeech")
    prepare("librispeech", Path("corpus/train-clean-5"), Path("out"))
    assert list(manifests("out")) == ["train-clean-5"]


def test_the_folder_of_a_speaker_of_librispeech_is_read(workplace):
    make("librispeech")
    splits = librispeech_splits(Path("corpus/train-clean-5/19").resolve())
    assert list(splits) == ["19"]
    assert {row.speaker for row in splits["19"].rows()} == {"19"}
    elsewhere = Path("linked/dev-clean/84/1")
    elsewhere.mkdir(parents=True)
    for file in Path("corpus/dev-clean/84/1").iterdir():
        (elsewhere / file.name).symlink_to(file.resolve())
    assert list(librispeech_splits(Path("linked").resolve())) == ["dev-clean"]


def test_other_splits_are_by_speaker_or_chapter(workplace, capsys):
    folder(Path("a"))
    ljspeech(Path("b"))
    prepare("folder", Path("a"), Path("people"))
    prepare("ljspeech", Path("b"), Path("book"))
    prepare("folder", Path("a"), Path("ben"), val_speakers=["ben"])
    printed = capsys.readouterr().out
    assert "validation by speaker: " in printed
    assert "validation by chapter: LJ00" in printed
    for out, group in (("people", lambda row: row["speaker"]), ("book", lambda row: row["id"][:5]), ("ben", ids)):
        train, val = (manifests(out)[split] for split in ("train", "val"))
        assert len(train) == 4
        assert len(val) == 2
        if group is not ids:
            assert not {group(row) for row in train} & {group(row) for row in val}
    assert {row["speaker"] for row in manifests("ben")["val"]} == {"ben"}
    assert ids(manifests("ben")["val"]) == ["ben/0", "ben/1"]
    prepare("folder", Path("a"), Path("half"), val_fraction=0.5)
    assert len(manifests("half")["val"]) == 4


def test_a_corpus_that_cannot_be_split_is_written_as_one_manifest(workplace, capsys):
    folder(Path("a"))
    prepare("folder", Path("a/anna"))
    assert list(manifests("data/folder")) == ["all"]
    assert "speaker" not in manifests("data/folder")["all"][0]
    assert "not split: its speakers are unknown" in capsys.readouterr().out
    folder(Path("b/only"))
    prepare("folder", Path("b/only/ben").parent.parent / "only", val_speakers=["ben"])
    for path in Path("b/only").glob("[ac]*/*"):
        path.unlink()
    prepare("folder", Path("b/only"), Path("one"))
    assert "not split: it has only one speaker" in capsys.readouterr().out


def test_a_second_run_writes_the_same_bytes_and_nothing_else(corpus):
    contents = []
    for _ in range(2):
        prepare(corpus, Path("corpus"))
        contents.append({file.name: file.read_bytes() for file in Path(f"data/{corpus}").iterdir()})
    assert contents[0] == contents[1]
    assert all(name.endswith(".jsonl") for name in contents[0])
    sounds = {path.suffix for path in Path("data").rglob("*")}
    assert sounds == {"", ".jsonl"}  # no audio is copied


def test_rows_that_cannot_be_used_are_left_out_and_named(workplace, capsys):
    make("folder")
    Path("corpus/anna/0.txt").unlink()
    Path("corpus/anna/1.txt").write_text(" \n")
    Path("corpus/ben/0.wav").write_bytes(b"")
    Path("corpus/cleo/1.wav").write_text("no audio " * 20)
    with pytest.raises(SystemExit, match="2"):
        prepare("folder", Path("corpus"))
    rows = [row for part in manifests("data/folder").values() for row in part]
    assert ids(rows) == ["ben/1", "cleo/0"]
    printed = capsys.readouterr().out
    root = workplace / "corpus"
    assert f"skipped, no text: 2 ({root}/anna/0.wav, {root}/anna/1.wav)" in printed
    assert f"skipped, audio empty: 1 ({root}/ben/0.wav)" in printed
    assert f"skipped, audio unreadable: 1 ({root}/cleo/1.wav)" in printed


def test_missing_audio_and_transcripts_of_an4(workplace, capsys):
    make("an4")
    Path("corpus/wav/an4_clstk/fash/an1-fash-b.wav").unlink()
    text = Path("corpus/etc/an4_test.transcription")
    text.write_text(text.read_text().splitlines()[0] + "\n")
    with pytest.raises(SystemExit, match="2"):
        prepare("an4", Path("corpus"))
    assert {split: len(rows) for split, rows in manifests("data/an4").items()} == {"test": 1, "train": 2, "val": 1}
    printed = capsys.readouterr().out
    assert "skipped, audio missing: 1 (" in printed
    assert "skipped, no text: 1 (" in printed


def spoil_ljspeech(corpus):
    with (corpus / "metadata.csv").open("a") as file:
        file.write("LJ001-0009 no columns\n")


def spoil_librispeech(corpus):
    (corpus / "dev-clean/84/1/84-1.trans.txt").write_bytes(b"84-1-0000 CAF\xe9\n")


def spoil_an4(corpus):
    with (corpus / "etc/an4_train.transcription").open("a") as file:
        file.write("no id\n")


def spoil_folder(corpus):
    (corpus / "anna/0.txt").write_bytes(b"caf\xe9")


def spoil_mls(corpus):
    with (corpus / "train/transcripts.txt").open("a") as file:
        file.write("10_7 no tab\n")


def spoil_fleurs(corpus):
    with (corpus / "dev.tsv").open("a") as file:
        file.write("9\tdev9.wav\n")


def spoil_css10(corpus):
    with (corpus / "transcript.txt").open("a") as file:
        file.write("../outside.wav|a|b|0.2\n")


@pytest.mark.parametrize(
    ("kind", "left", "named"),
    [
        ("mls", 8, "train/transcripts.txt: row 5: not `SPEAKER_BOOK_NUMBER, tab, text`: correct or remove the row"),
        ("fleurs", 6, "dev.tsv: row 2: not `id, file, text, normalised text, ...` with tabs"),
        ("css10", 6, "transcript.txt: row 7: not `BOOK/FILE.wav|text|normalised text|seconds`"),
        ("ljspeech", 6, "metadata.csv: row 7: not `id|text|normalised text`: correct or remove the row"),
        ("librispeech", 6, "84-1.trans.txt: is not UTF-8 (byte 13): convert the file to UTF-8"),
        ("an4", 6, "an4_train.transcription: row 5: not `WORDS (id)`"),
        ("folder", 5, "anna/0.txt: is not UTF-8 (byte 3)"),
    ],
)
def test_a_malformed_row_costs_that_row(workplace, capsys, kind, left, named):
    make(kind)
    globals()[f"spoil_{kind}"](Path("corpus"))
    with pytest.raises(SystemExit, match="2"):
        prepare(kind, Path("corpus"))
    assert sum(map(len, manifests(f"data/{kind}").values())) == left
    printed = capsys.readouterr().out
    assert "skipped, malformed: 1 (" in printed
    assert named in printed


def test_manifests_stay_as_they_were_until_all_new_ones_are_complete(workplace, monkeypatch):
    make("librispeech")
    prepare("librispeech", Path("corpus"))
    before = {file.name: file.read_bytes() for file in Path("data/librispeech").iterdir()}
    for transcript in Path("corpus").rglob("*.trans.txt"):
        transcript.write_text(transcript.read_text().replace("SOME", "OTHER"))
    rows = data_prepare._rows
    started = []

    def stop(out, kind, folder, entries):
        started.append(entries)
        yield next(rows(out, kind, folder, entries))
        if len(started) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(data_prepare, "_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("librispeech", Path("corpus"))
    monkeypatch.setattr(data_prepare, "_rows", rows)
    assert {file.name: file.read_bytes() for file in Path("data/librispeech").iterdir()} == before
    prepare("librispeech", Path("corpus"))
    assert {row["text"] for part in manifests("data/librispeech").values() for row in part} == {"OTHER WORDS"}


def test_an_unexpected_file_among_the_digits_is_reported(workplace, capsys):
    make("fsdd")
    record(Path("corpus/recordings/notes.wav"))
    prepare("fsdd", Path("corpus/recordings"))
    assert len(manifests("data/fsdd")["all"]) == 16
    assert "skipped, no text: 1 (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "looked_for"),
    [
        ("librispeech", r"looked for SPLIT/SPEAKER/CHAPTER/\*\.trans\.txt"),
        ("ljspeech", r"looked for metadata\.csv and wavs/"),
        ("an4", r"looked for etc/an4_train\.fileids"),
        ("mls", r"looked for SPLIT/transcripts\.txt"),
        ("fleurs", r"looked for SPLIT\.tsv and audio/SPLIT/"),
        ("css10", r"looked for transcript\.txt"),
        ("fsdd", r"looked for recordings/DIGIT_SPEAKER_INDEX\.wav"),
        ("folder", r"looked for audio \(\.wav, .*\) with a \.txt of the same name beside it"),
    ],
)
def test_a_folder_without_the_corpus_is_refused(workplace, kind, looked_for):
    Path("corpus").mkdir()
    with pytest.raises(UserError, match=rf"^corpus is not a corpus of kind {kind}: {looked_for}") as error:
        prepare(kind, Path("corpus"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^corpus\.txt is not a folder"):
        prepare(kind, Path("corpus.txt"))
    with pytest.raises(UserError, match=r"^nowhere does not exist"):
        prepare(kind, Path("nowhere"))
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("folder", {"val_fraction": 1.0}, "--val_fraction is 1.0: it must lie between 0 and 1"),
        ("folder", {"val_speakers": ["dora"]}, "there is no speaker 'dora'; there are: anna, ben, cleo"),
        ("folder", {"val_speakers": ["anna", "ben", "cleo"]}, "leave some for training"),
        ("an4", {"val_speakers": ["fash"]}, "--val_speakers is for kind folder: an4 has its own splits"),
    ],
)
def test_invalid_arguments_are_refused(workplace, kind, options, message):
    make(kind)
    with pytest.raises(UserError, match=message):
        prepare(kind, Path("corpus"), **options)


def test_a_corpus_without_usable_rows_is_refused(workplace):
    make("fsdd")
    for path in Path("corpus/recordings").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^corpus: nothing of it can be used; .*_5\.wav: audio empty"):
        prepare("fsdd", Path("corpus"))


def test_the_command_and_its_exit_codes(workplace, capfd, fails):
    make("folder")
    main(["data", "prepare", "folder", "corpus", "--out", "out", "--val_speakers", "[ben]"])
    assert "out/val.jsonl: 2 utterances, 0.00 hours, 1 speaker\n" in capfd.readouterr().out
    assert "is not a corpus of kind an4" in fails(main, ["data", "prepare", "an4", "corpus"])
    assert "an5" in fails(main, ["data", "prepare", "an5", "corpus"])


def visual_questions(root, splits=("train", "test")):
    for split in splits:
        (root / split / "images").mkdir(parents=True)
        asked = []
        for image in range(2):
            (root / split / "images" / f"{image}.png").write_bytes(b"any")
            asked += [
                [f"is there a {colour} shape?", "no", image] for colour in ("red", "teal", "blue", "gray", "black")
            ]
            asked += [["what color is the shape?", "green", image], ["what is the green shape?", "circle", image]]
        (root / split / "questions.json").write_text(json.dumps(asked))


def test_questions_about_images_become_conversations(tmp_path, capsys):
    visual_questions(tmp_path / "vqa")
    prepare("easy-vqa", tmp_path / "vqa", tmp_path / "out")
    assert "train.jsonl: 2 conversations, 7 questions about 1 images" in capsys.readouterr().out
    rows = {}
    for split in ("train", "val", "test"):
        [source] = open_conversations([str(tmp_path / "out" / f"{split}.jsonl")])
        rows[split] = [*source.rows()]
    assert [len(row.messages) // 2 for row in rows["train"]] == [5, 2]
    assert [len(row.messages) for row in rows["val"]] == [2] * 7
    assert {row.media[0].files for row in rows["val"]}.isdisjoint({row.media[0].files for row in rows["train"]})
    assert [len(row.messages) for row in rows["test"]] == [2] * 14
    assert [row.task for row in rows["test"][:7]] == ["yes-no"] * 5 + ["colour", "shape"]
    assert rows["test"][7].messages[1]["content"] == "no"
    assert rows["test"][7].messages[0]["content"][1]["text"] == "is there a red shape?"
    for split, conversations in rows.items():
        for row in conversations:
            [image] = row.media
            official = "train" if split == "val" else split
            assert Path(image.files[0]).resolve().parent == (tmp_path / "vqa" / official / "images").resolve()


def rows_of(kind, folder, out):
    """The conversations of each split of a set of questions."""
    main(["data", "prepare", kind, str(folder), "--out", str(out)])
    return {path.stem: [*open_conversations([str(path)])[0].rows()] for path in sorted(out.glob("*.jsonl"))}


def test_statements_about_images_become_conversations(tmp_path, capsys):
    images = tmp_path / "nlvr/dev/images/2"
    images.mkdir(parents=True)
    with (tmp_path / "nlvr/dev/dev.json").open("w") as file:
        for number in range(40):
            row = {"sentence": "There is a box ", "label": "true", "identifier": f"{number // 2}-{number % 2}"}
            file.write(json.dumps({**row, "directory": "2"}) + "\n")
            for order in range(2):
                (images / f"dev-{row['identifier']}-{order}.png").write_bytes(b"any")
    rows = rows_of("nlvr", tmp_path / "nlvr", tmp_path / "out")
    assert sum(map(len, rows.values())) == 80
    groups = {split: {Path(row.media[0].files[0]).stem.split("-")[1] for row in each} for split, each in rows.items()}
    assert groups["train"]
    assert groups["val"]
    assert not groups["train"] & groups["val"]
    assert rows["train"][0].messages[0]["content"][1]["text"] == "True or false: There is a box"
    assert rows["train"][0].messages[1]["content"] == "True."
    (images / "dev-3-0-0.png").unlink()
    (images / "dev-3-0-1.png").unlink()
    with pytest.raises(SystemExit, match="2"):
        rows_of("nlvr", tmp_path / "nlvr", tmp_path / "out")
    assert "dev.json: row 7: " in capsys.readouterr().err


def test_captions_and_mathematics_become_conversations(tmp_path, fails):
    (tmp_path / "f/Images").mkdir(parents=True)
    for name in "abc":
        (tmp_path / f"f/Images/{name}.jpg").write_bytes(b"any")
    captions = "".join(f"{name}.jpg,A dog {number} .\n" for name in "abc" for number in range(5))
    (tmp_path / "f/captions.txt").write_text(f"image,caption\n{captions}")
    (tmp_path / "f/Flickr_8k.trainImages.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "f/Flickr_8k.devImages.txt").write_text("c.jpg\n")
    rows = rows_of("flickr8k", tmp_path / "f", tmp_path / "captions")
    assert {split: len(each) for split, each in rows.items()} == {"train": 10, "val": 1}
    assert rows["val"][0].messages[1]["content"] == "A dog 0."
    assert Path(rows["val"][0].media[0].files[0]).resolve() == (tmp_path / "f/Images/c.jpg").resolve()

    (tmp_path / "g").mkdir()
    answer = "She sold 48/2 = <<48/2=24>>24 clips.\n#### 24"
    lines = [json.dumps({"question": f"How many, {number}?", "answer": answer}) for number in range(30)]
    (tmp_path / "g/train.jsonl").write_text("\n".join(lines))
    rows = rows_of("gsm8k", tmp_path / "g", tmp_path / "sums")
    assert len(rows["train"]) + len(rows["val"]) == 30
    assert rows["val"]
    assert rows["train"][0].messages[1]["content"] == "She sold 48/2 = 24 clips.\nThe answer is 24."
    for kind in ("nlvr", "flickr8k", "gsm8k"):
        complaint = fails(main, ["data", "prepare", kind, str(tmp_path), "--out", str(tmp_path / "none")])
        assert f"is not a corpus of kind {kind}: looked for" in complaint


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("folder", "is not a corpus of kind easy-vqa: looked for SPLIT/questions.json and SPLIT/images"),
        ("rows", "questions.json: not a list of [question, answer, image number]"),
    ],
)
def test_unusable_questions_are_reported(tmp_path, fails, fault, message):
    visual_questions(tmp_path / "vqa", splits=("train",))
    if fault == "rows":
        (tmp_path / "vqa/train/questions.json").write_text('{"a": 1}')
    folder = tmp_path if fault == "folder" else tmp_path / "vqa"
    if fault == "folder":
        (tmp_path / "vqa/train/questions.json").unlink()
    complaint = fails(main, ["data", "prepare", "easy-vqa", str(folder), "--out", str(tmp_path / "out")])
    assert message in complaint
    assert not [*tmp_path.glob("out/*")]


def test_a_question_that_cannot_be_used_costs_its_image_or_itself(tmp_path, capsys):
    visual_questions(tmp_path / "vqa")
    (tmp_path / "vqa/test/images/1.png").unlink()
    asked = json.loads((tmp_path / "vqa/test/questions.json").read_text())
    (tmp_path / "vqa/test/questions.json").write_text(json.dumps([*asked, ["why?", None, 0], 7]))
    with pytest.raises(SystemExit, match="2"):
        prepare("easy-vqa", tmp_path / "vqa", tmp_path / "out")
    assert {split: len(rows) for split, rows in manifests(tmp_path / "out").items()} == {
        "train": 2,
        "val": 7,
        "test": 7,
    }
    said = capsys.readouterr().err
    assert "1.png: does not exist, but" in said
    assert "test/questions.json: row 15: not [question, answer, image number]" in said
    assert len(said.splitlines()) == 3
