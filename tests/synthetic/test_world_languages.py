"""Worlds in other languages than English: splits, voices, commands, and the English world as it was."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from toy_commands import CONFIGS
from toy_world import rows, tree, write

from omni.cli import main
from omni.errors import UserError
from omni.pipeline.definition import read_pipeline
from omni.synthetic import espeak
from omni.synthetic.languages.spoken import (
    LANGUAGES,
    SpokenLanguage,
    document_split,
    open_language,
    sentence_split,
)
from omni.synthetic.speech import utterance_at
from omni.synthetic.world import text_row
from omni.text.ctc_vocabulary import CharacterVocabulary, characters_of
from omni.text.normalization import TextNormalization

EVERY = pytest.mark.parametrize("code", LANGUAGES)
SIZES = {"documents": 6, "val_documents": 2, "utterances": 4, "val_utterances": 2, "narrations": 2, "val_narrations": 1}
SIZES |= {"pictures": 1, "val_pictures": 1}
DUTCH = [
    f"De {noun} van {name} is {colour}."
    for noun in ("hond", "kat", "tas")
    for name in ("Jan", "Éva", "Piet", "Anouk")
    for colour in ("groen", "rood", "geel", "blauw")
]


def arguments(out, **options):
    return ["data", "world", "--out", str(out), *(f"--{name}={value}" for name, value in {**SIZES, **options}.items())]


def dutch(folder, lines=DUTCH):
    path = folder / "nl.txt"
    path.write_text("\n".join(["", *lines, *lines]), encoding="utf-8")
    return path


def test_the_english_world_is_what_it_was_before_there_were_languages():
    texts = [text_row(3, split, index) for split in ("train", "val") for index in range(20)]
    splits = ("train", "val", "narrator", "narrator_val")
    said = [asdict(utterance_at(3, split, index)) for split in splits for index in range(20)]
    assert not any(one.pop("spoken") for one in said)
    found = hashlib.sha256(json.dumps([texts, said]).encode()).hexdigest()
    assert found == "09c1f471df1a0bcf9ca9a4d6cd2a816461d868010c9994f531aa0991cb367a8c"


@EVERY
def test_spoken_sentences_and_voices_of_the_splits_are_disjoint(code):
    language = SpokenLanguage(code)
    said = {
        split: [language.utterance_at(0, split, index) for index in range(number)]
        for split, number in {"train": 1500, "val": 200, "narrator": 200, "narrator_val": 60}.items()
    }
    texts = {split: {one.text for one in found} for split, found in said.items()}
    assert not (texts["train"] | texts["narrator"]) & (texts["val"] | texts["narrator_val"])
    assert len(texts["train"]) > 1300
    voices = {split: {one.speaker for one in found} for split, found in said.items()}
    assert len(voices["narrator"]) == 1
    assert voices["narrator"] == voices["narrator_val"]
    variants = {split: {name.partition("+")[2] for name in found} for split, found in voices.items()}
    assert not variants["train"] & (variants["val"] | variants["narrator"])
    assert said["train"][7] == language.utterance_at(0, "train", 7)
    assert said["train"][7] != language.utterance_at(1, "train", 7)


@EVERY
def test_the_engine_has_every_voice_and_the_narrator_does_not_clip(code):
    language = SpokenLanguage(code)
    for split in ("train", "val"):
        for voice in language.speakers(split):
            assert len(espeak.synthesize("1 2 3", voice)[0]) > 2000, voice
    for index in range(40):
        one = language.utterance_at(0, "narrator", index)
        samples, _ = espeak.synthesize(one.text, one.speaker, one.rate, one.pitch)
        assert abs(samples.astype(int)).max() < 32_000


@EVERY
def test_no_training_document_has_a_sentence_of_validation(code):
    language = SpokenLanguage(code)
    for split in ("train", "val"):
        texts = [language.text_row(0, split, index)["text"] for index in range(100)]
        assert len({*texts}) == 100
        splits = [
            document_split(text.replace("? ", "?\n").replace("! ", "!\n").replace(". ", ".\n").split("\n"))
            for text in texts
        ]
        assert {*splits} == {split}


@EVERY
def test_the_characters_of_the_chain_write_every_sentence(code):
    language = SpokenLanguage(code)
    normalization = TextNormalization(digits="keep", language=code)
    vocabulary = CharacterVocabulary(characters_of(language.texts(), normalization), normalization)
    for index in range(300):
        text = language.utterance_at(0, "train", index).text
        assert not vocabulary.outside(text), text
    assert ("a" in vocabulary.characters) == (code != "ru")
    assert set({"de": "äöüß", "es": "ñáéíóú", "fr": "éèêâçœ'", "ru": "йёъыэ"}[code]) <= set(vocabulary.characters)


def test_the_same_words_are_in_the_same_split_however_they_are_encoded():
    assert sentence_split("Der Bär ist groß.") == sentence_split("der bär  IST groß")
    assert {sentence_split(f"{number} é") for number in range(60)} == {"train", "val"}
    assert all(sentence_split(f"{number} é") == sentence_split(f"{number} é") for number in range(60))


def test_a_world_is_written_kept_and_replaced_by_that_of_another_language(tmp_path, capsys):
    out = tmp_path / "world"
    main(arguments(out, language="de"))
    printed = capsys.readouterr().out
    assert "conversations are written only in English" in printed
    assert f"omni train {out}/chain.yaml" in printed
    first = tree(out)
    assert not [name for name in first if "conversations" in name]
    assert json.loads(first["world.json"])["language"] == "de"
    assert {row["speaker"].partition("+")[0] for row in rows(out / "speech", "train")} == {"de"}
    assert [row["text"] for row in rows(out / "speech", "val")] == [
        SpokenLanguage("de").utterance_at(0, "val", index).text for index in range(2)
    ]
    main(arguments(out, language="de"))
    assert "up to date" in capsys.readouterr().out
    assert tree(out) == first
    write(out, **SIZES, conversations=0, val_conversations=0)
    assert "up to date" not in capsys.readouterr().out
    assert json.loads((out / "world.json").read_text(encoding="utf-8")).keys().isdisjoint({"language"})
    assert first["speech/train.jsonl"] != (out / "speech/train.jsonl").read_bytes()
    main(arguments(out, language="de"))
    assert "up to date" not in capsys.readouterr().out
    assert tree(out) == first


def test_the_shipped_chain_is_that_of_german_and_each_stage_waits_for_its_parts(workplace):
    main(arguments("data/world_de", language="de", pictures=0, val_pictures=0))
    shipped = CONFIGS / "world/language.yaml"
    expected, written = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (shipped, Path("data/world_de/chain.yaml"))
    )
    for stage in expected["stages"].values():
        stage["config"] = f"world/{stage['config']}"
    assert written == expected
    pipeline = read_pipeline(shipped)
    assert [*pipeline.stages] == ["thinker", "audio", "codec", "talker", "vocoder"]
    for name, stage in pipeline.stages.items():
        assert stage.folder == Path("lightning_logs/world_de", name)
    needs = {name: set(stage.needs) for name, stage in pipeline.stages.items()}
    assert needs == {
        "thinker": set(),
        "audio": set(),
        "codec": {"audio"},
        "talker": {"audio", "codec"},
        "vocoder": {"audio", "codec"},
    }


def test_a_chain_in_another_script_has_its_own_characters_and_folders(workplace):
    main(arguments("my data", language="ru", pictures=0, val_pictures=0))
    pipeline = read_pipeline(Path("my data/chain.yaml"))
    strings = pipeline.stages["audio"].configuration.strings
    characters = strings["data.init_args.characters"]
    assert {*"абвгдеёжзийклмнопрстуфхцчшщъыьэюя"} <= {*characters}
    assert strings["data.init_args.train"] == "my data/speech/train.jsonl"
    config = pipeline.stages["audio"].configuration.config
    assert config["model.init_args.audio_encoder.init_args.vocab_size"] == len(characters) + 1
    assert pipeline.stages["audio"].folder == Path("lightning_logs/world_ru/audio")


class TestOtherLanguages:
    def test_a_file_of_sentences_is_spoken_in_its_language(self, tmp_path, capsys):
        out = tmp_path / "world"
        options = {"language": "nl", "sentences": dutch(tmp_path), "pictures": 0, "val_pictures": 0}
        main(arguments(out, **options))
        texts = {split: [row["text"] for row in rows(out / "speech", split)] for split in ("train", "val")}
        assert {*texts["train"], *texts["val"]} <= {*DUTCH}
        assert not {*texts["train"]} & {*texts["val"]}
        assert '"nl"' in (out / "chain.yaml").read_text(encoding="utf-8")
        main(arguments(out, **options))
        assert "up to date" in capsys.readouterr().out
        dutch(tmp_path, [*DUTCH, "De tas is weg."])
        main(arguments(out, **options))
        assert "up to date" not in capsys.readouterr().out

    def test_a_region_has_the_sentences_of_its_language_and_its_own_voice(self):
        language = open_language("fr-BE")
        assert {name.partition("+")[0] for name in language.speakers("train")} == {"fr-be"}
        assert "fr-be" in SpokenLanguage("fr").speakers("train")
        assert language.utterance_at(0, "train", 0).text.endswith((".", "?"))

    def test_the_english_of_the_scenes_is_no_language_of_sentences(self):
        assert open_language("en") is None
        assert open_language("EN") is None

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"language": "xx"}, "eSpeak NG has no such language; it has 138, such as de, es, fr, it"),
            ({"language": "nl"}, "there are sentences only for en, de, es, fr, ru: give --sentences FILE"),
            ({"language": "nl", "sentences": "missing.txt"}, "missing.txt: cannot be read"),
            ({"language": "de", "conversations": 1}, "conversations are written only in English"),
        ],
        ids=["unknown", "no sentences", "no file", "conversations"],
    )
    def test_a_mistake_is_one_line(self, options, complaint, tmp_path, fails):
        complaint = complaint.replace("138", str(len(espeak.languages())))
        assert complaint in fails(main, arguments(tmp_path / "world", **options))
        assert not (tmp_path / "world").exists()

    def test_a_file_of_few_sentences_or_of_another_encoding_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"nl.txt: has 3 different sentences"):
            open_language("nl", dutch(tmp_path, DUTCH[:3]))
        path = tmp_path / "latin.txt"
        path.write_bytes("\n".join(DUTCH).encode("latin-1"))
        with pytest.raises(UserError, match=r"latin.txt: is not UTF-8"):
            open_language("nl", path)
