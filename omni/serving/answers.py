"""The work of an answer: its text token by token, and its speech from the first clause on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from omni.decoding.sampling import Sampling
from omni.inference.prompt import Prompt
from omni.inference.speech_streamer import SpeechStreamer
from omni.serving.engine import Engine, Steps, Work
from omni.serving.stop_strings import StopStrings
from omni.serving.urgency import Playback


class AnswerText(NamedTuple):
    """A piece of the text of a choice.

    Attributes:
        choice: Its number.
        text: The piece.
        num_tokens: Tokens generated so far.
    """

    choice: int
    text: str
    num_tokens: int


class AnswerEnd(NamedTuple):
    """The end of the text of a choice.

    Attributes:
        choice: Its number.
        reason: `length` if the limit of tokens ended it.
        num_tokens: Generated tokens.
    """

    choice: int
    reason: Literal["stop", "length"]
    num_tokens: int


class AnswerAudio(NamedTuple):
    """A piece of the speech of an answer: (samples,), at the sample rate of the voice."""

    samples: Tensor


@dataclass(frozen=True)
class Question:
    """What a text answer is made of.

    Attributes:
        prompt: The conversation.
        max_tokens: Most tokens.
        sampling: Sampling options.
        stops: Strings that end it.
    """

    prompt: Prompt
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()


def text_steps(engine: Engine, question: Question, choice: int, listener: Callable[[str | None], None]) -> Steps:
    """Generates an answer.

    Args:
        engine: Computes it.
        question: What is asked.
        choice: Its number.
        listener: Called with each piece of text, and None at the end.

    Yields:
        `AnswerText`, then `AnswerEnd`.
    """
    answer = engine.answer(question.prompt, max_tokens=question.max_tokens, sampling=question.sampling)
    stops = StopStrings(question.stops)
    try:
        while True:
            ended = answer.finish_reason is not None
            text = ""
            while answer.pieces:
                text += stops.push(answer.pieces.popleft())
            if ended:
                text += stops.finish()
            if text:
                listener(text)
                yield AnswerText(choice, text, answer.num_tokens)
            if answer.error is not None:
                raise answer.error
            if ended or stops.found:
                break
            if not text:
                yield None
        listener(None)
        reason = "length" if answer.finish_reason == "length" and not stops.found else "stop"
        yield AnswerEnd(choice, reason, answer.num_tokens)
    finally:
        answer.cancel()


class AnswerSpeech:
    """Speaks an answer while it is generated.

    Args:
        streamer: Synthesises the text.
    """

    def __init__(self, streamer: SpeechStreamer) -> None:
        self.streamer, self.playback = streamer, Playback(streamer.sample_rate)
        self._complete = False

    def listen(self, text: str | None) -> None:
        """Takes a piece of the text; None at the end."""
        if text is None:
            self.streamer.finish()
            self._complete = True
        else:
            self.streamer.push(text)

    def work(self) -> Work:
        """Yields `AnswerAudio`."""
        return Work(self._steps(), self.playback.urgency)

    def _steps(self) -> Steps:
        while True:
            complete = self._complete  # before: the text may be completed by another step
            samples = self.streamer.next_audio()
            if samples is not None:
                self.playback.add(len(samples))
                yield AnswerAudio(samples)
            elif complete:
                return
            else:
                yield None


def choices(engine: Engine, question: Question, seeds: list[int], speech: AnswerSpeech | None) -> list[Work]:
    """The works of a request with one choice per seed, the first of them spoken."""
    works = []
    for number, seed in enumerate(seeds):
        asked = replace(question, sampling=replace(question.sampling, seed=seed))
        works.append(Work(text_steps(engine, asked, number, (lambda text: None) if speech is None else speech.listen)))
    return works if speech is None else [*works, speech.work()]
