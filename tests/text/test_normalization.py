"""Normalisation of text for training and scoring."""

import string

import pytest

from omni.text.normalization import TextNormalization

PLAIN = TextNormalization()
AS_IT_IS = TextNormalization(case="keep", punctuation="keep", digits="keep")

TEXTS = [
    "Hello, World!",
    "It’s 5 o'clock; the dogs' bowl & the cat",
    "  a \t b\n\nc  ",
    "ﬁve １２３ ½ “quoted” — dash",
    "3rd, 21st, 1,000,000 and 2.5%",
    "'tis the rock 'n' roll",
    "A_B x2y 007",
    "ДОМ café ÉTÉ",
    "",
]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Hello, World!", "hello world"),
        ("It’s the dogs' bowl", "it's the dogs bowl"),
        ("'tis rock 'n' roll", "tis rock n roll"),
        ("salt & pepper, 50%", "salt and pepper fifty percent"),
        ("21", "twenty one"),
        ("the 3rd of 1,234", "the third of one thousand two hundred thirty four"),
        ("2.5", "two point five"),
        ("3.5kg, $2.5m and 10,000m", "three point five kg two point five m and ten thousand m"),
        ("1,000th, 5,0000 and 1990s", "one thousandth five zero and one thousand nine hundred ninety s"),
        ("don´t, don`t, don＇t", "don't don't don't"),
        ("x2y", "x two y"),
        ("ﬁve", "five"),
        ("１２", "twelve"),
        ("well-known e-mail", "well known e mail"),
        ("snake_case", "snake case"),
        ("  a \t b\n c ", "a b c"),
        ("?!…", ""),
    ],
)
def test_the_defaults_spell_text_as_spoken(text, written):
    assert PLAIN(text) == written


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "normalization", [PLAIN, AS_IT_IS, TextNormalization(case="upper"), TextNormalization(digits="keep")], ids=str
)
def test_normalised_text_is_unchanged(normalization, text):
    once = normalization(text)
    assert normalization(once) == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize("text", TEXTS)
def test_options(text):
    assert PLAIN(text) == PLAIN(text).lower()
    assert TextNormalization(case="upper")(text) == PLAIN(text).upper()
    assert not set(PLAIN(text)) & set(string.punctuation.replace("'", "") + string.digits + "“”—…")
    kept = TextNormalization(digits="keep", punctuation="keep")(text)
    assert {c for c in text if c in string.digits} <= set(kept)
    assert {c for c in text if c in ",;!&%"} <= set(kept)


def test_it_is_rebuilt_from_its_state():
    for normalization in (PLAIN, AS_IT_IS, TextNormalization(case="upper", digits="keep")):
        assert TextNormalization(**normalization.state()) == normalization
    assert PLAIN.state() == {"case": "lower", "punctuation": "remove", "digits": "spell"}


def test_numbers_without_a_name_are_spelled_digit_by_digit():
    assert PLAIN("1" + "0" * 33) == "one decillion"
    assert PLAIN("call " + "7" * 40 + "!") == "call" + " seven" * 40
    assert PLAIN("1" * 40 + "st") == "one" + " one" * 39
    assert PLAIN("1." + "05" * 20) == "one point" + " zero five" * 20
    assert TextNormalization(digits="keep")("7" * 40) == "7" * 40
