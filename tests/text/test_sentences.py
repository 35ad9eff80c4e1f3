"""Texts are split at sentences and pauses, completely, into parts of bounded length."""

import random

import pytest

from omni.text.sentences import CLAUSE, PARAGRAPH, SENTENCE, WORD, ClauseSplitter, TextSegment, split_text


def texts(text, **options):
    return [piece.text for piece in split_text(text, **options)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ("no mark at all", ["no mark at all"]),
        ("one. two. three", ["one.", "two.", "three"]),
        ("Dr. J. R. Smith vs. Mrs. Jones. They met.", ["Dr. J. R. Smith vs. Mrs. Jones.", "They met."]),
        ("In the U.S. army, e.g. there. End.", ["In the U.S. army, e.g. there.", "End."]),
        ("So did I. Then we left.", ["So did I.", "Then we left."]),
        ("It cost 3.50 at 10.30 sharp. Yes.", ["It cost 3.50 at 10.30 sharp.", "Yes."]),
        ("“Stop!” he said. (He did.) Good.", ["“Stop!”", "he said.", "(He did.)", "Good."]),
        ("Wait... what?! Oh…", ["Wait...", "what?!", "Oh…"]),
        ("A line\nof prose. And\nmore.", ["A line\nof prose.", "And\nmore."]),
        ("A title\n\nA text", ["A title", "A text"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("...", ["..."]),
        (". . .", [".", ".", "."]),
        ("", []),
        (" \n\n\t ", []),
    ],
)
def test_texts_are_split_at_ends_of_sentences(text, parts):
    assert texts(text) == parts


def test_pauses_are_longer_after_larger_units():
    text = "One, two. Three\n\nFour, which is a good deal longer than it should be and goes on."
    found = split_text(text, max_length=50)
    assert [piece.pause for piece in found[:2]] == [SENTENCE, PARAGRAPH]
    assert found[2].pause == WORD
    assert PARAGRAPH > SENTENCE > CLAUSE > WORD


def test_long_sentences_are_split_at_commas_near_their_middle():
    text = "a, " + "b" * 30 + " " + "c" * 30 + ", " + "d" * 30 + " " + "e" * 30 + ", f."
    assert texts(text, max_length=80) == ["a, " + "b" * 30 + " " + "c" * 30 + ",", "d" * 30 + " " + "e" * 30 + ", f."]
    assert split_text(text, max_length=80)[0].pause == CLAUSE
    assert texts("b" * 30 + " " + "c" * 30, max_length=40) == ["b" * 30, "c" * 30]


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_complete_and_of_bounded_length(seed):
    rng = random.Random(seed)
    text = "".join(rng.choices("abcdefgh  ,.!\n—;' 1", k=rng.choice([10, 300, 10_000])))
    found = split_text(text, max_length=40)
    assert "".join("".join(found_one.text for found_one in found).split()) == "".join(text.split())
    assert all(0 < len(piece.text) <= 40 for piece in found)


def test_a_very_long_word_is_split():
    assert {len(part) for part in texts("a" * 10_000, max_length=160)} == {156, 157}


def test_length_is_measured_by_the_callers_function():
    assert len(texts("2 2 2 2", max_length=8, length=lambda text: 4 * text.count("2"))) == 2


def written(parts, **options):
    """The parts of a text given in pieces, and the number of pieces before the first part."""
    clauses, found, first = ClauseSplitter(**options), [], None
    for number, part in enumerate(parts, start=1):
        found += clauses.push(part)
        first = first or (number if found else None)
    return [*found, *clauses.finish()], first


@pytest.mark.parametrize("seed", range(30))
def test_streamed_text_is_split_like_the_whole(seed):
    rng = random.Random(seed)
    text = "".join(rng.choices("abcdefgh   ,.!\n—;: Dr。」“", k=rng.choice([5, 40, 300])))
    parts, rest = [], text
    while rest:
        length = rng.randint(1, 7)
        parts, rest = [*parts, rest[:length]], rest[length:]
    whole, _ = written([text], max_length=40)
    assert written(parts, max_length=40)[0] == written(list(text), max_length=40)[0] == whole
    assert "".join("".join(piece.text for piece in whole).split()) == "".join(text.split())


def test_after_the_first_clause_sentences_are_those_of_the_whole():
    text = "Well, there it is: a star. Dr. No saw it, too!\n\nThe end, and so on"
    found, first = written(list(text))
    assert found[0] == TextSegment("Well, there it is:", CLAUSE)
    assert first == text.index("a star") + 1
    assert found[1:] == split_text(text.removeprefix(found[0].text))
    assert [piece.pause for piece in found[1:3]] == [SENTENCE, PARAGRAPH]
    assert [piece.text for piece in written(list("No. Yes, of course, it is."))[0]] == ["No.", "Yes, of course, it is."]
    assert written("   ")[0] == []
