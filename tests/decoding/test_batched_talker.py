"""Speech that is generated together equals speech alone; texts join and leave, in any order of reading."""

import itertools
import random

import pytest
import torch
from toy_talker import make

from omni.decoding.batched_talker import BatchedTalker
from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.talker import speak
from omni.errors import UserError
from omni.models.talker import Talker

CERTAIN = Sampling(temperature=0)
SAMPLINGS = [
    SpeechSampling(first=CERTAIN, rest=CERTAIN, pace=CERTAIN),
    SpeechSampling(first=Sampling(seed=3)),
    SpeechSampling(first=Sampling(seed=4, temperature=1.3, top_k=5), max_dwell=0.25),
    SpeechSampling(first=Sampling(seed=5)),
]
TEXTS = [[1, 2, 3, 4], [5], [3, 3, 1, 2, 5, 4, 1], [2, 2], [1, 5, 1], [4, 4, 4, 1, 2, 3]]


def content(frames):
    return [(frame.codes.tolist(), frame.alive, frame.positions.tolist()) for frame in frames]


def options_of(number, speakers=0):
    options = {"sampling": SAMPLINGS[number % len(SAMPLINGS)], "numbers": [number // 2]}
    return options | ({"speakers": [number % speakers]} if speakers else {})


def slow(**options):
    """A Talker that stays at a character for some frames."""
    talker = make(frame_rate=8.0, **options)
    with torch.no_grad():
        talker.advance.bias.copy_(torch.tensor([1.5, 0.0, -1.0, -9.0]))
    return talker


@pytest.fixture
def steps(monkeypatch):
    """The number of rows in each step of the model."""
    found, encode = [], Talker.encode_frame
    monkeypatch.setattr(Talker, "encode_frame", lambda self, x, cache: found.append(len(x)) or encode(self, x, cache))
    return found


@pytest.mark.parametrize("speakers", [0, 3])
@pytest.mark.parametrize("order", ["turns", "bursts", "random"])
def test_frames_equal_those_alone(speakers, order):
    talker = slow(num_speakers=speakers)
    expected = [content(speak(talker, [text], **options_of(i, speakers))) for i, text in enumerate(TEXTS)]
    assert len({len(frames) for frames in expected}) > 3
    batched, rng = BatchedTalker(talker, rows=8), random.Random(0)
    readers = {i: batched.speak([text], **options_of(i, speakers)) for i, text in enumerate(TEXTS)}
    found, turn, most = [[] for _ in TEXTS], 0, 0
    while readers:
        waiting = list(readers)[: 2 + turn // 2]  # more join as time goes on
        number = rng.choice(waiting) if order == "random" else waiting[turn % len(waiting)]
        for _ in range(5 if order == "bursts" else 1):
            frame = next(readers[number], None)
            if frame is None:
                del readers[number]
                break
            found[number].append(frame)
        turn, most = turn + 1, max(most, batched.num_running)
    assert [content(frames) for frames in found] == expected
    assert most > 2
    assert batched.num_running == 0


def test_readers_in_turns_share_each_step(steps):
    talker = slow()
    batched = BatchedTalker(talker, rows=4)
    readers = [batched.speak([[1, 2, 3, 4, 5] * 4], sampling=SAMPLINGS[1], numbers=[i]) for i in range(4)]
    for frames in itertools.islice(zip(*readers, strict=False), 12):
        assert len(frames) == 4
    assert sum(steps) < 4 * 12 + 4 * 4
    assert steps.count(4) >= 8
    for reader in readers:
        reader.close()


def test_one_that_is_not_read_is_generated_a_second_ahead_at_most(steps):
    batched = BatchedTalker(slow(), rows=4)
    text = [1, 2, 3, 4, 5] * 8
    stalled, reader = (batched.speak([text], sampling=SAMPLINGS[1], numbers=[i]) for i in range(2))
    next(stalled)
    for _ in range(20):
        next(reader)
    assert steps == [1, *[2] * 8, *[1] * 12]  # 8 frames a second
    expected = content(itertools.islice(speak(slow(), [text], sampling=SAMPLINGS[1], numbers=[0]), 30))
    assert content(itertools.islice(stalled, 29)) == expected[1:]


def test_one_that_is_closed_leaves_and_more_than_all_rows_are_generated_alone(steps):
    talker = slow()
    batched = BatchedTalker(talker, rows=2)
    expected = [content(speak(talker, [text], **options_of(i))) for i, text in enumerate(TEXTS)]
    steps.clear()
    readers = [batched.speak([text], **options_of(i)) for i, text in enumerate(TEXTS)]
    for reader in readers[:3]:
        next(reader)
    assert (batched.num_running, steps) == (2, [1, 2, 1])
    readers[0].close()
    assert batched.num_running == 1
    next(readers[4])
    assert batched.num_running == 2
    assert content(readers[2]) == expected[2][1:]
    assert content(readers[4]) == expected[4][1:]
    assert content(readers[1]) == expected[1][1:]
    assert batched.num_running == 0
    several = content(batched.speak(TEXTS[:2], sampling=SAMPLINGS[1]))
    assert several == content(speak(talker, TEXTS[:2], sampling=SAMPLINGS[1]))


def test_the_cache_grows_with_long_speech(monkeypatch):
    monkeypatch.setattr("omni.decoding.batched_talker.ROOM", 4)
    talker = slow()
    batched = BatchedTalker(talker, rows=3)
    readers = [batched.speak([text], **options_of(i)) for i, text in enumerate(TEXTS[:3])]
    found = [content(reader) for reader in readers]
    assert found == [content(speak(talker, [text], **options_of(i))) for i, text in enumerate(TEXTS[:3])]
    assert max(map(len, found)) > 8


def test_the_time_at_a_character_is_limited():
    talker = slow()
    with torch.no_grad():
        talker.advance.weight.zero_()
    batched = BatchedTalker(talker, rows=2)
    still = SpeechSampling(pace=CERTAIN, max_dwell=0.5)  # 4 frames
    reader, other = (batched.speak([text], sampling=still) for text in ([1, 2, 3], [1]))
    next(other)
    assert len(list(reader)) == 4 * 5
    assert len(list(other)) == 4 * 3 - 1


def test_the_cache_is_freed_when_all_have_ended(monkeypatch):
    made, new = [], Talker.new_cache
    monkeypatch.setattr(Talker, "new_cache", lambda *args: made.append(args) or new(*args))
    batched = BatchedTalker(slow(), rows=3)
    first, second = (batched.speak([text]) for text in TEXTS[:2])
    next(first)
    assert len(list(second)) > 1
    assert len(made) == 1
    first.close()
    next(batched.speak([[1]]))
    assert len(made) == 2


def test_wrong_texts_and_speakers_are_refused_before_they_join():
    batched = BatchedTalker(slow(), rows=2)
    for texts, options, words in (([[]], {}, "empty"), ([[99]], {}, "character"), ([[1]], {"speakers": [0]}, "voice")):
        with pytest.raises(UserError, match=words):
            next(batched.speak(texts, **options))
    assert batched.num_running == 0
    with pytest.raises(ValueError, match="rows"):
        BatchedTalker(slow(), rows=0)
