"""Live recognition turn by turn: each turn is recognised as if it were alone."""

from typing import Any

import pytest
import torch
from test_recognizer import say, trained  # noqa: F401  a fixture

from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.live_turns import live_turns
from omni.media.audio import SAMPLE_RATE
from omni.media.turn_detector import TurnDetector

PAUSE = torch.zeros(round(1.5 * SAMPLE_RATE))


class Recorder:
    """Records what it is to transcribe, turn by turn."""

    def __init__(self) -> None:
        self.turns = [torch.zeros(0)]

    def push(self, samples: torch.Tensor) -> str:
        self.turns[-1] = torch.cat((self.turns[-1], samples))
        return ""

    def finish(self) -> str:
        self.turns.append(torch.zeros(0))
        return f"turn {len(self.turns) - 1}"


@pytest.mark.parametrize("block", [100, 320, 5000])
def test_each_turn_is_heard_whole_and_alone(block):
    audio = torch.cat((PAUSE, say("abc ab"), PAUSE, say("cab bca"), PAUSE, PAUSE))
    recorder: Any = Recorder()
    found = list(live_turns(audio.split(block), recorder, TurnDetector()))
    assert [text.delta for text in found] == ["turn 1", "turn 2"]
    assert all(text.end for text in found)
    start = len(PAUSE)
    for heard, said, text in zip(recorder.turns, (say("abc ab"), say("cab bca")), found, strict=False):
        end = round(text.seconds * SAMPLE_RATE)
        assert torch.equal(heard, audio[end - len(heard) : end])
        assert end - len(heard) < start < start + len(said) < end
        assert end < start + len(said) + SAMPLE_RATE  # silence of 0.7 s, and the space at the end of the text
        start += len(said) + len(PAUSE)


def test_text_comes_before_the_end_of_the_turn(trained):  # noqa: F811
    live = LiveRecognizer(trained, step=0.16, look_ahead=0.32)
    audio = torch.cat((PAUSE, say("abc ab"), PAUSE))
    first, *_, last = live_turns(audio.split(320), live, TurnDetector())
    assert (first.delta, first.end) == ("abc", False)
    assert first.seconds < last.seconds - 0.5
    assert last.end


def test_a_recording_that_ends_in_a_turn(trained):  # noqa: F811
    live = LiveRecognizer(trained, step=0.16, look_ahead=0.32)
    found = list(live_turns(torch.cat((PAUSE, say("abc ab"))).split(320), live, TurnDetector()))
    assert "".join(text.delta for text in found) == "abc ab"
    assert [text.end for text in found] == [False] * (len(found) - 1) + [True]


def test_silence_has_no_turns(trained):  # noqa: F811
    assert list(live_turns(PAUSE.split(320), LiveRecognizer(trained), TurnDetector())) == []
