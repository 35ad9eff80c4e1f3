"""An independent parser of the world's English: it has the sentences' forms and shares no code with the generator."""

import itertools
import re
from collections import Counter

from omni.synthetic.facts import DEFINITIONS, WORDS

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]
SHAPES = ["circle", "square", "triangle", "star", "cross", "heart"]
OPPOSITES = {"above": "below", "left": "right", "small": "large", "more": "fewer"}
OPPOSITES |= {other: word for word, other in OPPOSITES.items()}
NAMED_PARTS = {
    "square": ("four", "sides"),
    "triangle": ("three", "sides"),
    "star": ("five", "points"),
    "cross": ("four", "arms"),
}
PARTS = {shape: many for shape, (many, _) in NAMED_PARTS.items()}
FIXED = {text.lower() for text in (*WORDS, *itertools.chain(*DEFINITIONS.values()))} | {
    "what can you see?",
    "please describe the picture.",
    *(f"{word} is a colour." for word in COLOURS),
    *(f"a {word} is a shape." for word in SHAPES),
    *(f"{word} is one of the colours red, green, blue, yellow, purple and orange." for word in COLOURS),
    "the shapes are circles, squares, triangles, stars, crosses and hearts.",
    *("small is a size.", "large is a size.", "every shape is small or large."),
    *("a square has four sides.", "a triangle has three sides."),
}

W = f"({'|'.join(NUMBERS)})"
NP = rf"((?:(?:small|large) )?(?:(?:{'|'.join(COLOURS)}) )?(?:shape|{'|'.join(SHAPES)})(?:e?s)?)"
PLAIN_NP, PLAIN_W = (f"(?:{pattern[1:]}" for pattern in (NP, W))
CELL = rf"(the (?:top|bottom) (?:left|right) corner|row {PLAIN_W}, column {PLAIN_W}|column {PLAIN_W} of row {PLAIN_W})"
TOKENS = {
    "COUNTED": rf"((?:no|{PLAIN_W}) {PLAIN_NP})",
    "LINE": rf"((?:row|column) {PLAIN_W})",
    "THE": rf"(the {PLAIN_NP}(?: in {CELL.replace('(the', '(?:the', 1)})?)",
    "PRED": rf"((?:an? )?(?:small|large|{'|'.join(COLOURS)}|(?:{'|'.join(SHAPES)})(?:e?s)?))",
    "LIST": rf"((?:(?:an?|{PLAIN_W}) {PLAIN_NP}(?:, | and )?)+)",
    "CELL": CELL,
    "REL": r"(?:(?:to|on) the )?(left of|right of|above|below|higher than|lower than)",
    "SIDES": r"(?:to the )?(?:left|right|above|below) or (?:to the )?(?:left|right|above|below)(?: of)?",
    "BE": "(?:is|are)",
    "AN": rf"(an? {PLAIN_NP})",
    "NP": NP,
    "W": W,
}


def pattern(text):
    return re.compile(re.sub(r"\b(?:" + "|".join(TOKENS) + r")\b", lambda found: TOKENS[found[0]], text))


def number(word):
    return 0 if word == "no" else 1 if word in ("a", "an") else NUMBERS.index(word)


def singular(word):
    return next((shape for shape in SHAPES if word in (shape, shape + "s", shape + "es")), word)


def cell(text):
    if "corner" in text:
        return (0 if "top" in text else 3, 0 if "left" in text else 3)
    return number(re.findall(r"row (\w+)", text)[0]) - 1, number(re.findall(r"column (\w+)", text)[0]) - 1


class Reader:
    """Parses a document sentence by sentence and checks each against the scene, which stories change."""

    def __init__(self, scene):
        self.grid = {(item.row, item.column): (item.size, item.colour, item.shape) for item in scene.items}
        self.answer = None  # to the previous question
        self.sum = None  # of the previous list

    def members(self, words):
        wanted = {singular(word) for word in words.split()} - {"the", "a", "an", "shape", "shapes"}
        return [at for at, item in self.grid.items() if wanted <= set(item)]

    def count(self, words):
        return len(self.members(words))

    def counted(self, words):
        many, words = words.split(" ", 1)
        return self.count(words) == number(many)

    def all_counted(self, text):
        parts = re.split(", | and ", text)
        self.sum = sum(number(part.split()[0]) for part in parts)
        return all(self.counted(part) for part in parts)

    def the(self, text):
        words, _, where = text.partition(" in ")
        found = [at for at in self.members(words) if not where or at == cell(where)]
        assert len(found) == 1, f"{text!r} names {len(found)} things of {self.grid}"
        return found[0]

    def related(self, one, how, other):
        (r1, c1), (r2, c2) = self.the(one), self.the(other)
        first = how.split()[0]
        return {"left": c1 < c2, "right": c1 > c2, "above": r1 < r2, "higher": r1 < r2}.get(first, r1 > r2)

    def side(self, one, other, how):
        return next(word for word in how if self.related(one, word, other))

    def fits(self, words, value):
        value = singular(value.removeprefix("an ").removeprefix("a "))
        return [value in self.grid[at] for at in self.members(words)]

    def in_line(self, text):
        axis, word = text.split()
        return {at: item for at, item in self.grid.items() if at[axis == "column"] == number(word) - 1}

    def holds(self, line, text):
        inside = [" ".join(item) for _, item in sorted(self.in_line(line).items())]
        return [part.split(" ", 1)[1] for part in re.split(", | and ", text)] == inside

    def most(self, axis, word):
        (first, many), *others = Counter(
            item[("colour", "shape").index(axis) + 1] for item in self.grid.values()
        ).most_common()
        return first == word and all(other < many for _, other in others)

    def more(self, one, other):
        return "neither" if self.count(one) == self.count(other) else max(one, other, key=self.count)

    def put(self, at, **new):
        self.grid[at] = tuple(
            new.get(axis, old) for axis, old in zip(("size", "colour", "shape"), self.grid[at], strict=True)
        )
        return True

    def add(self, words, where):
        assert cell(where) not in self.grid
        self.grid[cell(where)] = tuple(words.split()[1:])
        return True

    def move(self, name, where):
        return self.add("a " + " ".join(self.grid.pop(self.the(name))), where)

    def swap(self, one, other):
        a, b = self.the(one), self.the(other)
        self.grid[a], self.grid[b] = self.grid[b], self.grid[a]
        return True

    def read(self, text):
        for line in text.split("\n"):
            line = re.sub(r'\w+ (asks|answers), "|(?<=[.?!])"', "", re.sub(r"^\w+: ", "", line))
            for part in re.split(r"(?<=[.?!]) ", line):
                self.sentence(part.lower())

    def sentence(self, text):
        if text in FIXED:
            return
        text, said = re.sub(r"^(now |in the end, )", "", text), re.match(r"(yes|no), ", text)
        if said:
            assert said[1] == self.answer, f"{text!r} does not answer the question before"
            text = text[said.end() :]
        if text.rstrip(".") == self.answer:
            return
        for table in (QUESTIONS,) if text.endswith("?") else (STATEMENTS, ORDERS):
            for form, check in table:
                if found := form.fullmatch(text[:-1]):
                    truth = check(self, *found.groups())
                    assert truth, f"{text!r} is not true of {self.grid}"
                    self.answer = self.answer if table is STATEMENTS else truth
                    return
        raise AssertionError(f"{text!r} cannot be read")


def yes(truth):
    return "yes" if truth else "no"


def between(one, other):
    assert number(other) - number(one) == 2
    return NUMBERS[number(one) + 1]


def with_parts(many, parts):
    """The only shape with this number of sides, points or arms."""
    fitting = [shape for shape, (each, named) in NAMED_PARTS.items() if (each, named) == (many, parts)]
    assert len(fitting) == 1
    return fitting[0]


def kind_of(word):
    return "colour" if word in COLOURS else "shape" if word in SHAPES else "size"


def forms(table):
    return [(pattern(text), check) for texts, check in table for text in texts.split(" / ")]


STATEMENTS = forms(
    [
        (
            "there BE COUNTED(?: in the picture)? / the picture (?:shows|has) COUNTED / (?:i|you) can see COUNTED",
            Reader.counted,
        ),
        ("COUNTED BE in the picture", Reader.counted),
        (
            "AN is in CELL / there is AN in CELL / (?:i|you) can (?:see|find) AN in CELL",
            lambda r, a, c: cell(c) in r.members(a),
        ),
        ("in CELL, there is AN", lambda r, c, a: cell(c) in r.members(a)),
        ("THE (?:is|stands) in CELL / you can find THE in CELL", lambda r, t, c: r.the(t) == cell(c)),
        ("THE is PRED", lambda r, t, p: singular(p.split()[-1]) in r.grid[r.the(t)]),
        ("THE is REL THE", Reader.related),
        (
            "THE is REL THE, so THE is REL THE",
            lambda r, *t: r.related(*t[:3]) and r.related(*t[3:]) and (t[0], t[2]) == (t[5], t[3]),
        ),
        (
            "THE is REL THE, and THE is REL THE, so THE is REL THE",
            lambda r, *t: all(r.related(*t[i : i + 3]) for i in (0, 3, 6)) and t[2] == t[3],
        ),
        (
            "THE is in LINE and THE is in LINE, so THE is REL THE",
            lambda r, a, m, b, n, *t: r.the(a) in r.in_line(m) and r.the(b) in r.in_line(n) and r.related(*t),
        ),
        ("there are more NP than NP", lambda r, a, b: r.count(a) > r.count(b)),
        ("there are fewer NP than NP", lambda r, a, b: r.count(a) < r.count(b)),
        ("there are (?:just )?as many NP as NP", lambda r, a, b: r.count(a) == r.count(b) > 0),
        (
            "there BE COUNTED and COUNTED, so there are more NP than NP",
            lambda r, a, b, c, d: r.counted(a) and r.counted(b) and r.count(c) > r.count(d),
        ),
        (
            "there BE COUNTED and COUNTED, which is a difference of W",
            lambda r, a, b, w: (
                r.counted(a) and r.counted(b) and number(a.split()[0]) - number(b.split()[0]) == number(w)
            ),
        ),
        ("all the NP are PRED / every NP is PRED", lambda r, a, p: all(r.fits(a, p)) and r.count(a) > 1),
        ("none of the NP is PRED / no NP is PRED", lambda r, a, p: not any(r.fits(a, p)) and r.count(a) > 1),
        ("not every NP is PRED", lambda r, a, p: 0 < sum(r.fits(a, p)) < r.count(a)),
        (
            "(?:only )?W of the W NP BE PRED",
            lambda r, m, n, a, p: [sum(r.fits(a, p)), r.count(a)] == [number(m), number(n)],
        ),
        (
            "of the W NP, W BE PRED, so W BE not",
            lambda r, n, a, m, p, k: (
                [r.count(a), sum(r.fits(a, p)), r.fits(a, p).count(False)] == [number(w) for w in (n, m, k)]
            ),
        ),
        ("LINE is empty / there is nothing in LINE", lambda r, n: not r.in_line(n)),
        ("LINE holds LIST", Reader.holds),
        (
            "LINE has W shapes? / there BE W shapes? in LINE",
            lambda r, a, b: len(r.in_line(a if " " in a else b)) == number(b if " " in a else a),
        ),
        ("the most common (colour|shape) is (?:the )?(\\w+)", Reader.most),
        ("(?:the )?(\\w+) is the most common (colour|shape)", lambda r, w, axis: r.most(axis, w)),
        (
            "(?:the picture shows|this is a picture of|here you can see) LIST",
            lambda r, t: r.all_counted(t) and r.sum == len(r.grid),
        ),
        (
            "there BE LIST, so there are COUNTED",
            lambda r, t, c: r.all_counted(t) and r.counted(c) and r.sum == number(c.split()[0]),
        ),
        ("there BE LIST", Reader.all_counted),
        ("together that makes COUNTED", lambda r, c: r.counted(c) and r.sum == number(c.split()[0])),
        (
            "(?:count|let us count|let me count) the NP: ([\\w, ]+)",
            lambda r, a, t: t.split(", ") == NUMBERS[1 : r.count(a) + 1],
        ),
        (
            "there are COUNTED, so together they have W (sides|points|arms)",
            lambda r, c, w, p: (
                r.counted(c)
                and number(w) == number(c.split()[0]) * {"triangles": 3, "squares": 4, "crosses": 4}[c.split()[1]]
            ),
        ),
        ("W plus W is W / W and W make W", lambda r, a, b, c: number(a) + number(b) == number(c)),
        ("W minus W is W", lambda r, a, b, c: number(a) - number(b) == number(c)),
        ("W is W more than W", lambda r, a, b, c: number(a) == number(b) + number(c)),
        ("W plus one is more than W", lambda r, a, b: a == b),
        ("W comes after W", lambda r, a, b: number(a) == number(b) + 1),
        ("one less than W is W", lambda r, a, b: number(a) - 1 == number(b)),
        ("W is less than W", lambda r, a, b: number(a) < number(b)),
        ("W is between W and W", lambda r, a, b, c: number(b) + 1 == number(a) == number(c) - 1),
        ("counting to W goes ([\\w, ]+)", lambda r, w, t: t.split(", ") == NUMBERS[1 : number(w) + 1]),
        ("\\w+ (?:moves|takes) THE to CELL", Reader.move),
        ("\\w+ (?:adds|puts) AN in CELL", Reader.add),
        ("\\w+ (?:takes away|removes) THE", lambda r, t: r.grid.pop(r.the(t))),
        ("\\w+ paints THE (\\w+)", lambda r, t, colour: r.put(r.the(t), colour=colour)),
        ("\\w+ makes THE (small|large)", lambda r, t, size: r.put(r.the(t), size=size)),
        ("\\w+ swaps THE and THE", Reader.swap),
        ("\\w+ and \\w+ look at a picture", lambda r: True),
    ]
)
QUESTIONS = forms(
    [
        (
            "how many NP (?:are there|can you see|are in the picture) / what is the number of NP",
            lambda r, a: NUMBERS[r.count(a)],
        ),
        (
            "what colour is THE / which colour does THE have / what is the colour of THE",
            lambda r, t: r.grid[r.the(t)][1],
        ),
        ("which shape is in CELL", lambda r, c: r.grid[cell(c)][2]),
        ("what is THE / what kind of shape is THE", lambda r, t: r.grid[r.the(t)][2]),
        (
            "is THE (SIDES) THE / where is THE, (SIDES) THE",
            lambda r, a, how, b: r.side(a, b, re.findall("left|right|above|below", how)),
        ),
        ("(?:are there|can you see) any NP", lambda r, a: yes(r.count(a))),
        ("is THE PRED", lambda r, t, p: yes(singular(p.split()[-1]) in r.grid[r.the(t)])),
        ("is THE REL THE", lambda r, *t: yes(r.related(*t))),
        ("are all the NP PRED", lambda r, a, p: yes(all(r.fits(a, p)))),
        ("are there more NP or more NP / which are there more of, NP or NP", Reader.more),
        (
            "what is W plus W / how much are W and W / what do W and W make / how much is W plus W / "
            "how many are W and W together",
            lambda r, a, b: NUMBERS[number(a) + number(b)],
        ),
        (
            "what is W minus W / how much is W minus W / what is W less W",
            lambda r, a, b: NUMBERS[number(a) - number(b)],
        ),
        (
            "which number comes after W / what is one more than W / which number is one more than W / "
            "what comes after W",
            lambda r, a: NUMBERS[number(a) + 1],
        ),
        (
            "which number comes before W / what is one less than W / which number is one less than W / "
            "what comes before W",
            lambda r, a: NUMBERS[number(a) - 1],
        ),
        ("which number is between W and W / what is between W and W", lambda r, *ends: between(*ends)),
        (
            "what is the opposite of (\\w+) / which word is the opposite of (\\w+) / "
            "what do you call the opposite of (\\w+)",
            lambda r, a: OPPOSITES[a],
        ),
        ("how many \\w+ does an? (\\w+) have / an? (\\w+) has how many \\w+", lambda r, a: PARTS[a]),
        ("which shape has W (\\w+) / what has W (\\w+)", lambda r, *parts: with_parts(*parts)),
        (
            "(?:is|what is) (\\w+),? a colour, a shape or a size / is (\\w+) a size, a shape or a colour",
            lambda r, a: kind_of(a),
        ),
    ]
)
ORDERS = forms(
    [
        ("(?:please )?add W and W", lambda r, a, b: NUMBERS[number(a) + number(b)]),
        ("say the number after W", lambda r, a: NUMBERS[number(a) + 1]),
        ("say the number before W", lambda r, a: NUMBERS[number(a) - 1]),
        ("say the number between W and W", lambda r, *ends: between(*ends)),
        ("(?:say|tell me) the opposite of (\\w+)", lambda r, a: OPPOSITES[a]),
        (
            "(?:please )?count from W to W / say the numbers from W to W",
            lambda r, a, b: " ".join(NUMBERS[number(a) : number(b) + 1]),
        ),
        ("(?:say|tell me) how many \\w+ an? (\\w+) has", lambda r, a: PARTS[a]),
        ("name the shape with W (\\w+)", lambda r, *parts: with_parts(*parts)),
        ("say whether (\\w+) is a colour, a shape or a size", lambda r, a: kind_of(a)),
    ]
)
