"""The text of an answer: its pieces, stop strings and why it ended."""

from collections import deque

import pytest

from omni.decoding.sampling import Sampling
from omni.serving.answers import AnswerEnd, AnswerText, Question, text_steps


class ScriptedAnswer:
    """Gives a piece of text per step, then ends.

    Attributes:
        cancelled: Whether it was ended from outside.
    """

    def __init__(self, pieces, reason):
        self._coming, self._reason = deque(pieces), reason
        self.pieces, self.finish_reason, self.error = deque(), None, None
        self.num_tokens, self.cancelled = 0, False

    def step(self):
        if self._coming:
            self.num_tokens += 1
            self.pieces.append(self._coming.popleft())
        if not self._coming:
            self.finish_reason = self._reason

    def cancel(self):
        self.cancelled = True


def run(pieces, *, stops=(), reason="length"):
    """The events of an answer, what its listener was given, and the answer."""
    answer, heard, found = ScriptedAnswer(pieces, reason), [], []

    class Engine:
        def answer(self, prompt, **options):
            return answer

    question = Question(prompt=None, max_tokens=9, sampling=Sampling(), stops=tuple(stops))
    for event in text_steps(Engine(), question, 2, heard.append):
        if event is not None:
            found.append(event)
        answer.step()
    return found, heard, answer


def test_pieces_are_passed_on_and_the_listener_is_told_of_the_end():
    found, heard, answer = run(["a", "bc", "d"], reason="stop")
    assert found == [AnswerText(2, "a", 1), AnswerText(2, "bc", 2), AnswerText(2, "d", 3), AnswerEnd(2, "stop", 3)]
    assert heard == ["a", "bc", "d", None]
    assert answer.cancelled


def test_a_stop_string_ends_the_work_at_once():
    found, heard, answer = run(["a", "bE", "NDc", "d", "e", "f"], stops=["END"])
    assert found == [AnswerText(2, "a", 1), AnswerText(2, "b", 2), AnswerEnd(2, "stop", 3)]
    assert heard == ["a", "b", None]
    assert answer.cancelled


@pytest.mark.parametrize(("pieces", "reason"), [(["a", "END"], "stop"), (["a", "EN"], "length")])
def test_the_reason_where_the_limit_comes_with_the_stop_string(pieces, reason):
    found, _, _ = run(pieces, stops=["END"])
    assert found[-1] == AnswerEnd(2, reason, 2)
    assert "".join(event.text for event in found[:-1]) == ("a" if reason == "stop" else "aEN")


def test_an_error_is_raised_and_frees_the_row():
    class Failed(ScriptedAnswer):
        def step(self):
            self.error, self.finish_reason = RuntimeError("of this prompt"), "cancelled"

    answer = Failed([], None)

    class Engine:
        def answer(self, prompt, **options):
            return answer

    steps = text_steps(Engine(), Question(None, 9, Sampling()), 0, lambda text: None)
    assert next(steps) is None
    answer.step()
    with pytest.raises(RuntimeError, match="of this prompt"):
        next(steps)
    assert answer.cancelled
