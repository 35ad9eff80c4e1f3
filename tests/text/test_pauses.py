"""Marks of pauses are found in any pieces of a text; bad ones are refused in one line."""

import random

import pytest
from any_text import HARD, random_texts

from omni.errors import UserError
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.pauses import PauseMark, PauseSplitter, split_pauses
from omni.text.sentences import SENTENCE
from omni.text.spelling import speech_segments

UNITS = CharacterVocabulary()
GOOD = {
    "[pause 0.5]": 0.5,
    "[PAUSE 2]": 2,
    "[pause .25 ]": 0.25,
    "[pause  10]": 10,
    "[pause 0]": 0,
    "[Pause 1.5s]": 1.5,
}
BAD = ["[pause]", "[pause ]", "[pause half]", "[pause 10.1]", "[pause -1]", "[pause 1e3]", "[pause nan]", "[pause 0,5]"]
BAD += ["[pause:1]", "[pause 1 2]", "[pause 1000000]", "[pause ١]", "[pause 1 second of silence]"]


@pytest.mark.parametrize(("mark", "seconds"), GOOD.items())
def test_marks_are_found(mark, seconds):
    assert split_pauses(f"One {mark} two.") == ["One ", PauseMark(mark), " two."]
    assert PauseMark(mark).seconds == seconds


@pytest.mark.parametrize("mark", BAD)
def test_bad_marks_are_one_line(mark):
    found = split_pauses(f"One {mark}")
    assert found == ["One ", PauseMark(mark)]
    with pytest.raises(UserError, match=r"is not a pause: write \[pause 0.5\], 0 to 10 seconds") as error:
        _ = found[1].seconds
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a [pause 0.5", ["a ", PauseMark("[pause"), " 0.5"]),
        ("a [pause 1\n] b", ["a ", PauseMark("[pause"), " 1\n] b"]),
        ("[pause [pause 1]", [PauseMark("[pause"), " ", PauseMark("[pause 1]")]),
        ("[pause 0.5 " + "b" * 40 + "]", [PauseMark("[pause"), " 0.5 " + "b" * 40 + "]"]),
        ("[pause 1" + " " * 23 + "]", [PauseMark("[pause 1" + " " * 23 + "]")]),
        ("[pause 1" + " " * 24 + "]", [PauseMark("[pause"), " 1" + " " * 24 + "]"]),
        ("[[pause 1]]", ["[", PauseMark("[pause 1]"), "]"]),
        ("[pause 1][pause 2]", [PauseMark("[pause 1]"), PauseMark("[pause 2]")]),
    ],
)
def test_marks_end_at_their_bracket(text, parts):
    assert split_pauses(text) == parts


@pytest.mark.parametrize(
    "text", ["", "[", "[pau", "[paused 1]", "[pause_1]", "[pause2]", "(pause 1)", "a [1] b [ pause 1]"]
)
def test_other_brackets_are_text(text):
    assert split_pauses(text) == ([text] if text else [])


def joined(pieces):
    """Pieces with neighbouring text joined."""
    found = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def random_marks(count):
    draw = random.Random(0)
    parts = [*GOOD, *BAD, "[pau", "[pause", "[pause 1", "[paused", "a b. ", "[", "]", "\n", "x" * 30]
    return ["".join(draw.choices(parts, k=draw.randint(1, 8))) for _ in range(count)]


def test_pieces_of_any_size_give_the_marks_of_the_whole():
    for text in [*random_marks(200), *random_texts(50), *(text[:200] for text in HARD)]:
        whole = joined(split_pauses(text))
        assert "".join(piece if isinstance(piece, str) else piece.text for piece in whole) == text
        for size in (1, 2, 5, 9):
            splitter = PauseSplitter()
            pieces = [piece for at in range(0, len(text), size) for piece in splitter.push(text[at : at + size])]
            assert joined([*pieces, *splitter.finish()]) == whole


def test_text_is_passed_on_unless_it_may_be_a_mark():
    splitter = PauseSplitter()
    assert splitter.push("One two") == ["One two"]
    assert splitter.push(" [1] [pau") == [" [1] "]
    assert splitter.push("l] three [pause 0.") == ["[paul] three "]
    assert splitter.push("5] four [pause " + "x" * 32) == [
        PauseMark("[pause 0.5]"),
        " four ",
        PauseMark("[pause"),
        " " + "x" * 32,
    ]


def test_segments_of_a_text_with_marks():
    found = speech_segments("[pause 1] One. [pause 0.5] Two [pause 2][pause 0] three. Four. 👍 [pause 3]", UNITS)
    said = [(UNITS.decode(segment.units), segment.pause) for segment in found]
    assert said == [
        ("", 1.0),
        ("one", 0.0),
        ("", 0.5),
        ("two", 0.0),
        ("", 2.0),
        ("", 0.0),
        ("three", SENTENCE),
        ("four", 0.0),
        ("", 3.0),
    ]
    assert [segment.silence(2.0) for segment in found[:1]] == [1.0]
    assert found[6].silence(2.0) == SENTENCE / 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pause 1]", "'[pause 1]' cannot be spoken: it has no letters or digits"),
        ("One [pause x] two", "'[pause x]' is not a pause"),
        ("[pause 1] ... [pause 2]", "no letters or digits"),
    ],
)
def test_texts_that_cannot_be_spoken_are_refused(text, words):
    with pytest.raises(UserError) as error:
        speech_segments(text, UNITS)
    assert words in str(error.value)
