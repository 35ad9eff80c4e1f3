"""Live recognition: the text only grows, comes soon, and is that of the whole recording."""

import pytest
import torch
from test_recognizer import LONG, say, trained  # noqa: F401  a fixture

from omni.errors import UserError
from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.recognizer import Recognizer
from omni.media.audio import SAMPLE_RATE

LIVE = {"step": 0.16, "look_ahead": 0.32, "context": 1.0}
LETTER = 0.16  # seconds, of a space too


@pytest.mark.parametrize("piece", [0.013, 0.1, 0.7, 60.0])
@pytest.mark.parametrize("step", [0.16, 0.5])
def test_the_text_is_that_of_the_whole_recording(trained, piece, step):  # noqa: F811
    live = LiveRecognizer(trained, **{**LIVE, "step": step})
    deltas = [live.push(part) for part in say(LONG).split(round(piece * SAMPLE_RATE))]
    assert "".join(deltas) == live.text
    assert len(live.text) > len(LONG) - 10
    text = live.text + live.finish()
    assert text == trained.transcribe(say(LONG), window=60)[0].text == LONG
    assert sum(map(bool, deltas)) > (1 if piece < 1 else 0)


def test_a_word_is_output_after_the_look_ahead_of_the_next_one(trained):  # noqa: F811
    live, times = LiveRecognizer(trained, **LIVE), {}
    for number, part in enumerate(say("abc ab c bca cab").split(160)):
        if live.push(part):
            times[live.text] = number / 100
    ends = {"abc": 4, "abc ab": 7, "abc ab c": 9, "abc ab c bca": 13}  # in letters
    assert list(times)[:4] == list(ends)
    for text, end in ends.items():
        assert end * LETTER < times[text] < (end + 2) * LETTER + 0.32 + 2 * 0.16


def test_a_last_word_is_output_in_a_pause(trained):  # noqa: F811
    live, pause = LiveRecognizer(trained, **LIVE), torch.zeros(round(1.2 * SAMPLE_RATE))
    live.push(say("abc ab"))
    assert live.text == "abc"
    live.push(pause)
    assert live.text == "abc ab"
    text = live.text + live.push(say("c")) + live.finish()
    assert text == trained.transcribe(torch.cat((say("abc ab"), pause, say("c"))), window=60)[0].text


def test_the_window_is_bounded_and_recordings_are_independent(trained, monkeypatch):  # noqa: F811
    read, emit = [], Recognizer.emit
    monkeypatch.setattr(Recognizer, "emit", lambda self, audios: read.extend(map(len, audios)) or emit(self, audios))
    live = LiveRecognizer(trained, **LIVE)
    live.push(say(LONG))
    assert max(read) < 2.6 * SAMPLE_RATE < len(say(LONG)) / 3  # context, a word, the look-ahead and a step
    live.finish()
    live.push(torch.zeros(20 * SAMPLE_RATE))
    assert max(read) < 2.6 * SAMPLE_RATE
    live.finish()
    assert live.finish() == live.text == ""
    assert live.push(say("ab c")) + live.finish() == "ab c"


def test_a_word_without_an_end_is_output_in_any_case(trained, monkeypatch):  # noqa: F811
    monkeypatch.setattr("omni.inference.live_recognizer._LONGEST", 1.0)
    live = LiveRecognizer(trained, **LIVE)
    live.push(say("abc" * 10))
    assert len(live.text) > 20
    assert live.text + live.finish() == "abc" * 10


def test_wrong_durations_and_audio_are_refused(trained):  # noqa: F811
    for options in ({"step": 0.0}, {"look_ahead": -1.0}, {"context": float("nan")}):
        with pytest.raises(UserError, match=next(iter(options))):
            LiveRecognizer(trained, **options)
    live = LiveRecognizer(trained)
    for wrong in (torch.zeros(2, 5), torch.tensor([float("nan")])):
        with pytest.raises(UserError, match="audio of shape"):
            live.push(wrong)
