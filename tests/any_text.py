"""Texts that a model may output: a list of hard ones, and random ones."""

import random

LONG = 100_000  # characters

HARD = [
    "",
    " \t\n ",
    "7" * 40,
    "call 0." + "1" * 60 + "th",
    "1,000" + ",000" * 20,
    "9" * LONG,
    "²" * 5000,
    "a" * LONG,
    "a " * (LONG // 2),
    "." * LONG,
    "'" * LONG,
    "[" * LONG,
    "(<" * (LONG // 2),
    " " * LONG,
    "a" + "\u0301" * LONG,
    "\ud800",
    "one \udfff two \ud83d",
    "\x00\x1b[2J\x07\r\x0b\x85\u2028end",
    "\u202eשלום ١٢٣ עולם\u202c",
    "| a | b |\n\n$x^2_{",
    "😀👩‍👩‍👧 中文。",
]

ALPHABETS = (
    "0123456789,.",
    "ab ",
    "\x00\x1b\x7f\x85\u2028\n",
    "\ud800\udfffa ",
    "אبג ١\u202e",
    "()[]<>|$'’½²%&",
    "中😀ﷺ",
)


def random_texts(count: int, *, seed: int = 0) -> list[str]:
    """Mixtures of digits, control characters, lone surrogates, right-to-left text, brackets and letters."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        runs = ("".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 60))) for _ in range(draw.randint(1, 6)))
        texts.append("".join(runs))
    return texts
