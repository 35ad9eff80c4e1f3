"""Every sentence of the world is true: a parser that shares no code with the generator checks it."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from random import Random

import pytest
from toy_world import write as write_all
from world_reader import COLOURS, NUMBERS, SHAPES, Reader

from omni.errors import UserError
from omni.synthetic.captions import caption, dense_caption
from omni.synthetic.documents import comparisons, description, dialogue, document, lesson, sentences, story
from omni.synthetic.knowledge import sample_question
from omni.synthetic.questions import KINDS, questions
from omni.synthetic.scene import HELD_OUT, Item, Scene, scene_at
from omni.synthetic.stories import change
from omni.synthetic.world import text_row

MEDIA = ("utterances", "narrations", "pictures")  # tested in the other test files
TEXT_ONLY = dict.fromkeys((*MEDIA, *(f"val_{name}" for name in MEDIA)), 0)
write = partial(write_all, **TEXT_ONLY)
ADJECTIVES = rf"((small|large) )?(({'|'.join(COLOURS)}) )?"
SINGULAR, PLURAL = (
    r"(shape|circle|square|triangle|star|cross|heart)\b",
    r"(shapes|circles|squares|triangles|stars|crosses|hearts)\b",
)
MANY = "|".join(NUMBERS[2:])


@pytest.fixture(scope="module")
def rows():
    return [text_row(0, "train", index)["text"] for index in range(2000)]


@pytest.mark.parametrize(
    "kind", [description, comparisons, lesson, story, dialogue, document], ids=lambda kind: kind.__name__
)
def test_every_sentence_is_true(kind):
    for index in range(150):
        scene = scene_at(1, "train", index)
        Reader(scene).read(kind(scene, Random(index)))


def test_every_answer_is_true_and_every_kind_occurs():
    asked = Counter()
    for index in range(200):
        scene = scene_at(2, "train", index)
        for question in questions(scene, Random(index), 8):
            for text in (f"{question.answer}.", question.reply, question.steps):
                reader = Reader(scene)
                reader.read(question.text)
                assert reader.answer == question.answer, question
                reader.read(text)
            asked[question.kind, question.answer] += 1
    assert {kind for kind, _ in asked} == set(KINDS)
    assert 0.4 < asked["yes/no", "yes"] / (asked["yes/no", "yes"] + asked["yes/no", "no"]) < 0.6


def test_questions_of_general_knowledge_are_true_and_varied():
    asked = [sample_question(Random(seed)) for seed in range(3000)]
    for text, answer in asked:
        reader = Reader(Scene(()))
        reader.read(text)
        assert reader.answer == answer, text
    assert len({text for text, _ in asked}) > 500


def test_a_false_sentence_is_detected():
    scene = Scene((Item("small", "red", "circle", 0, 0), Item("large", "red", "circle", 0, 1)))
    for lie in (
        "There is one red circle.",
        "The small circle is below the large circle.",
        "All the circles are small.",
    ):
        with pytest.raises(AssertionError):
            Reader(scene).read(lie)
    with pytest.raises(AssertionError, match="names 2 things"):
        Reader(scene).read("The circle is in row one, column one.")


def test_captions_name_every_object():
    for index in range(200):
        scene = scene_at(3, "train", index)
        told = [re.sub(r" there is an? ", " ", text) for text in dense_caption(scene)]
        assert told == [
            f"In row {NUMBERS[t.row + 1]}, column {NUMBERS[t.column + 1]}, {t.size} {t.colour} {t.shape}."
            for t in scene.items
        ]
        reader = Reader(scene)
        assert reader.all_counted(caption(scene).removeprefix("The picture shows ")[:-1])
        assert reader.sum == len(scene.items)
        assert len(re.split(", | and ", caption(scene))) <= 4


def test_splits_are_disjoint_for_all_seeds_and_stories():
    train, val = ({scene_at(seed, split, i) for seed in (0, 1) for i in range(200)} for split in ("train", "val"))
    assert not train & val
    assert len(train) > 300
    for index, scene in enumerate(sorted(val, key=repr)[:60]):
        assert change(scene, Random(index))[1].split() == "val"


def test_held_out_pairs_are_neither_shown_nor_named(rows):
    rows = rows + [text_row(0, "val", index)["text"] for index in range(300)]
    named = Counter(re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", " ".join(rows)))
    assert set(named) == set(itertools.product(COLOURS, SHAPES)) - HELD_OUT
    assert sorted(colour for colour, _ in HELD_OUT) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)


def test_documents_are_varied_and_of_bounded_length(rows):
    assert len(set(rows)) == len(rows)
    assert len(set(itertools.chain(*map(sentences, rows)))) >= 3000
    lengths = sorted(len(text.split()) for text in rows)
    assert lengths[0] >= 8
    assert lengths[len(rows) * 9 // 10] <= 160


@pytest.mark.parametrize(
    "fault",
    [
        r"\b[Aa] [aeiou]",
        r"\b[Aa]n [^aeiou]",
        rf"\b([Oo]ne|[Aa]n?) {ADJECTIVES}{PLURAL}",
        rf"\b({MANY}|no) {ADJECTIVES}{SINGULAR}",
        rf"\b[Tt]here are (one|an?) {ADJECTIVES}(?!plus)",
        rf"\b[Tt]here is (no|{MANY}) ",
        rf"(?<!of the )\b(no|{MANY}) {ADJECTIVES}{PLURAL} is ",
        r"  | [.,?!:]|[.,?!][.,?!]",
        r'[.?!]"? [a-z]|\n[a-z]|, (?!I )[A-Z]|Now (?!I )[A-Z]',
        r'(?m)^(?!\w+: [a-z ]+$).*[^.?!"\n]$',  # short answers are not sentences
        r"color|crosss|\bNone\b(?! of)|\d|[{}]|[^\x00-\x7f]",
    ],
)
def test_no_grammatical_errors(rows, fault):
    found = re.search(fault, "\n".join(rows) + "\n")
    assert not found, found[0]


def test_same_seed_same_bytes_whatever_the_hash_seed(tmp_path):
    code = (
        "import sys; from omni.commands.data_world import write; from omni.synthetic.world import WorldSizes; "
        f"write(sys.argv[1], sizes=WorldSizes(documents=60, val_documents=10, **{TEXT_ONLY}), seed=5)"
    )
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / seed], env={**os.environ, "PYTHONHASHSEED": seed}, check=True
        )
    for name in ("text/train.jsonl", "text/val.jsonl", "world.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    write(tmp_path / "3", documents=60, val_documents=10, seed=6)
    assert (tmp_path / "3/text/train.jsonl").read_bytes() != (tmp_path / "1/text/train.jsonl").read_bytes()


def test_rows_do_not_depend_on_how_many_are_written(tmp_path):
    write(tmp_path, documents=5, val_documents=2, seed=7)
    lines = (tmp_path / "text/train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [text_row(7, "train", index) for index in range(5)]


def test_a_complete_world_is_reused_and_a_broken_one_is_not(tmp_path, capsys):
    def again(**other):
        write(tmp_path, **{"documents": 20, "val_documents": 3, **other})
        return "up to date" in capsys.readouterr().out

    train, val, record = (tmp_path / name for name in ("text/train.jsonl", "text/val.jsonl", "world.json"))
    assert not again()
    whole = train.read_bytes()
    assert again()
    for harm in (
        record.unlink,
        val.unlink,
        lambda: train.write_bytes(whole[:-50]),
        lambda: record.write_text("[]"),
        lambda: record.write_text('{"seed": 0'),
        lambda: record.write_text(record.read_text().replace('"generator": ', '"generator": 9')),
    ):
        harm()
        assert not again()
        assert again()
    assert train.read_bytes() == whole
    assert not again(seed=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["text", "train.jsonl", "val.jsonl", "world.json"]


def test_an_interrupted_run_is_not_taken_for_complete(tmp_path, monkeypatch):
    write(tmp_path, documents=20, val_documents=3)
    calls = itertools.count()

    def dying(*arguments):
        if next(calls) == 10:
            raise KeyboardInterrupt
        return text_row(*arguments)

    monkeypatch.setattr("omni.synthetic.world.text_row", dying)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, documents=20, val_documents=3, seed=1)
    assert not (tmp_path / "world.json").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_errors_are_reported(tmp_path):
    with pytest.raises(UserError, match="--documents is 0"):
        write(tmp_path, documents=0)
    with pytest.raises(UserError, match="--val_documents is -1"):
        write(tmp_path, val_documents=-1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file.*choose another --out"):
        write(tmp_path / "file", documents=1)
    (tmp_path / "text").mkdir()
    (tmp_path / "text/val.jsonl").write_text('{"text": "mine"}\n')
    with pytest.raises(UserError, match=r"val.jsonl was not written by"):
        write(tmp_path, documents=1)
    assert (tmp_path / "text/val.jsonl").read_text() == '{"text": "mine"}\n'
    with pytest.raises(ValueError, match="different cells"):
        Scene((Item("small", "red", "circle", 0, 0), Item("small", "red", "heart", 0, 0)))
