"""Recordings of any length to utterances, each with a text that fits it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omni.data.speech.rows import encode_text
from omni.decoding.ctc import align, ctc_nll, decode
from omni.errors import UserError
from omni.inference.long_form import timed_words
from omni.inference.recognizer import Recognizer
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.pitch import pitch, second_voice
from omni.media.speech_spans import Span, steadiness, utterance_spans
from omni.pipeline.voice.recordings import Recording

SHORTEST = 0.4  # seconds of an utterance
_DECOYS = 19  # other transcripts that a transcript is compared with: a wrong one is the best in 1 of 20 recordings
_LEAST_SPEED = 3.0  # characters a second: fewer are no speech
_LEAST_CERTAINTY = 0.6  # mean probability of the characters of a recogniser's transcript
_STEADY = 0.78  # of `steadiness`: more is music, or noise
_OTHER_VOICE = 6.0  # semitones: of 13 readers, all utterances but one are within 5.7 of the usual pitch
_TWO_VOICES = 0.025  # of `second_voice`, which has the measurements
_WINDOW, _OVERLAP = 20.0, 4.0  # seconds in which long recordings are read


class Candidate(NamedTuple):
    """A part of a recording.

    Attributes:
        recording: The recording.
        span: The part.
        audio: (samples,) at 16 kHz.
        log_probs: (sub-frames, vocab_size), of the recogniser.
        text: Its normalised text.
        transcribed: Whether the text is the recogniser's.
    """

    recording: Recording
    span: Span
    audio: Tensor
    log_probs: Tensor
    text: str
    transcribed: bool

    @property
    def where(self) -> str:
        """File and place, for messages."""
        row = self.recording.row
        return f"{row.audio} from {(row.start or 0.0) + self.span.start:.1f} s"


def candidates(recording: Recording, recognizer: Recognizer, longest: float) -> Iterator[Candidate | tuple[str, str]]:
    """The utterances of a recording, or the place and the reason of those that cannot be used.

    A recording longer than `longest` seconds is cut at pauses. Its transcript is aligned with it, and each part gets
    the words that are spoken in it.

    Args:
        recording: The recording.
        recognizer: Aligns, and transcribes where there is no transcript.
        longest: Most seconds of an utterance.
    """
    row = recording.row
    audio = read_audio(recording.source.audio(recording.number, row))
    spans = utterance_spans(audio, longest)
    if not spans:
        yield row.where, "no speech found"
        return
    texts = [""] * len(spans)
    if row.text.strip():
        units, problem = encode_text(row.text, recognizer.units)
        if problem is not None:
            yield row.where, problem
            return
        texts = _texts_of(spans, audio, units, recognizer)
        if texts is None:
            yield row.where, "does not fit its transcript"
            return
    for span, text in zip(spans, texts, strict=True):
        if (found := _candidate(recording, span, span.cut(audio), text, recognizer, longest)) is not None:
            yield found


def _candidate(
    recording: Recording, span: Span, audio: Tensor, text: str, recognizer: Recognizer, longest: float
) -> Candidate | tuple[str, str]:
    seconds, given = len(audio) / SAMPLE_RATE, bool(recording.row.text.strip())
    found = Candidate(recording, span, audio, torch.zeros(0, 0), text, not given)
    if seconds < SHORTEST:
        return found.where, f"shorter than {SHORTEST:g} s"
    if seconds > longest:
        return found.where, f"longer than {longest:g} s without a pause"
    if steadiness(audio) > _STEADY:
        return found.where, "no speech found"
    (log_probs,) = recognizer.emit([audio])
    if given:
        return found._replace(log_probs=log_probs) if text else (found.where, "no words of the transcript are in it")
    (units,) = decode(log_probs[None], torch.tensor([len(log_probs)]), beam=recognizer.beam)
    text = " ".join(recognizer.units.decode(units).split())
    if len(text) < _LEAST_SPEED * seconds:
        return found.where, "no speech found"
    spans = align(log_probs, recognizer.units.encode(text))
    if sum(each.score for each in spans) < _LEAST_CERTAINTY * len(spans):
        return found.where, "its transcript is not certain"
    return found._replace(log_probs=log_probs, text=text)


def _texts_of(spans: Sequence[Span], audio: Tensor, units: list[int], recognizer: Recognizer) -> list[str] | None:
    """The words of a transcript that are spoken in each part; None if it cannot be aligned."""
    if len(spans) == 1:
        return [recognizer.units.decode(units)]
    log_probs, seconds = _emissions(audio, recognizer), recognizer.encoder.subframe_seconds
    try:
        aligned = align(log_probs, units)
    except UserError:
        return None
    words = timed_words(
        aligned,
        recognizer.units,
        "word",
        seconds=seconds,
        length=len(log_probs),
        duration=len(audio) / SAMPLE_RATE,
    )
    texts: list[list[str]] = [[] for _ in spans]
    for word in words:
        middle = (word.start + word.end) / 2
        distances = [max(span.start - middle, middle - span.end) for span in spans]
        texts[distances.index(min(distances))].append(word.text)
    return [" ".join(each) for each in texts]


def _emissions(audio: Tensor, recognizer: Recognizer) -> Tensor:
    """Outputs of the CTC head for a recording of any length, (sub-frames, vocab_size), from overlapping windows."""
    half, parts = round(_OVERLAP / 2 / recognizer.encoder.subframe_seconds), []
    for _, chunk in recognizer.emissions([audio], window=_WINDOW, overlap=_OVERLAP):
        if isinstance(chunk, UserError):
            raise chunk
        if parts:
            parts[-1] = parts[-1][:-half]
        parts.append(chunk.log_probs[half if parts else 0 :])
    return torch.cat(parts)


def fitting(found: Sequence[Candidate], recognizer: Recognizer) -> list[bool]:
    """Whether each utterance fits its given text: whether no other text of similar length is more probable.

    The other texts are those of up to 19 other utterances. The test needs no threshold, so that it suits recognisers of
    any quality: one that knows the voice badly makes all texts less probable. A recogniser's own texts are not tested.

    Of 60 utterances of LJSpeech, 97 % fit their own transcript and 3 % another's, by a recogniser whose word error
    rate on them is 112 %.

    Args:
        found: The utterances.
        recognizer: Of their `log_probs`.
    """
    texts = [recognizer.units.encode(one.text) for one in found]
    fits = [True] * len(found)
    for number, one in enumerate(found):
        if one.transcribed:
            continue
        near = sorted(found, key=lambda other: abs(len(other.text) - len(one.text)))
        decoys = list(dict.fromkeys(other.text for other in near if other.text != one.text))
        trials = [texts[number], *map(recognizer.units.encode, decoys[:_DECOYS])]
        scores = _scores(one.log_probs, trials)
        fits[number] = scores[0] > max(scores[1:], default=float("-inf"))
    return fits


def of_other_pitch(found: Sequence[Candidate]) -> list[Candidate]:
    """Utterances whose median pitch is more than six semitones from the median of all: of another voice, perhaps.

    Two voices of the same pitch are not distinguished.
    """
    heights = [
        float(hertz.median().log2()) * 12 if len(hertz) else None for hertz in (pitch(one.audio) for one in found)
    ]
    known = sorted(height for height in heights if height is not None)
    if not known:
        return []
    usual = known[len(known) // 2]
    pairs = zip(found, heights, strict=True)
    return [one for one, height in pairs if height is not None and abs(height - usual) > _OTHER_VOICE]


def of_two_voices(found: Sequence[Candidate]) -> list[Candidate]:
    """Utterances in which two voices of different pitch seem to speak at once."""
    return [one for one in found if sounds_of_two(one.audio)]


def sounds_of_two(audio: Tensor) -> bool:
    """Whether two voices seem to speak at once in some audio, (samples,) at 16 kHz; see `second_voice`."""
    return second_voice(audio) > _TWO_VOICES


def _scores(log_probs: Tensor, texts: Sequence[list[int]]) -> list[float]:
    """How probable texts are, in nats a character; minus infinity for those that are too long."""
    targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    frames = torch.full((len(texts),), len(log_probs))
    nll, feasible = ctc_nll(log_probs.float().expand(len(texts), -1, -1), frames, targets, lengths)
    return torch.where(feasible, -nll / lengths, float("-inf")).tolist()
