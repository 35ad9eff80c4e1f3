"""Stop strings in a text that comes in pieces."""

import random

import pytest

from omni.serving.stop_strings import StopStrings


def passed(text, stops, sizes):
    watcher, found = StopStrings(stops), ""
    while text:
        size = next(sizes)
        found += watcher.push(text[:size])
        text = text[size:]
    return found + watcher.finish(), watcher.found


@pytest.mark.parametrize("seed", range(50))
def test_pieces_give_what_the_whole_gives(seed):
    rng = random.Random(seed)
    text = "".join(rng.choices("ab", k=40))
    stops = ["".join(rng.choices("ab", k=rng.randint(1, 6))) for _ in range(rng.randint(0, 3))]
    places = [text.index(stop) for stop in stops if stop in text]
    wanted = text[: min(places)] if places else text
    assert passed(text, stops, iter(lambda: rng.randint(1, 4), 0)) == (wanted, bool(places))


def test_text_that_cannot_be_a_stop_passes_at_once():
    watcher = StopStrings(["END"])
    assert watcher.push("hello E") == "hello "
    assert watcher.push("x") == "Ex"
    assert watcher.push("END") == ""
    assert watcher.push("more") == ""
    assert watcher.finish() == ""
