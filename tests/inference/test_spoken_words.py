"""Times of spoken words, and tempo: streamed equals whole."""

import numpy as np
import pytest
import torch
from toy_voice import NUM_MELS, UNITS, ToyVocoder, synthesizer

from omni.data.talker.alignment import advances
from omni.decoding.talker import utterances
from omni.errors import UserError
from omni.inference.speech import WordTimer
from omni.inference.speech_streamer import SpeechStreamer
from omni.media.audio import SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim

TEXT = "Abc da, bb. Cab bad? A dab!"
SPOKEN = ["abc", "da", "bb", "cab", "bad", "a", "dab"]
FRAME = 640  # samples


def times(words):
    return [(word.text, pytest.approx(word.start), pytest.approx(word.end), word.score) for word in words]


def timed(positions, units=None, *, samples=SAMPLE_RATE, skipped=0, length=100 * SAMPLE_RATE):
    timer = WordTimer(UNITS.encode("ab c") if units is None else units, UNITS, samples)
    for position in positions:
        timer.add(position)
    return timer.take(skipped, length, complete=True)


def test_a_word_lasts_from_its_first_to_its_last_character():
    assert timed([0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5]) == (("ab", 2.0, 5.0, 1.0), ("c", 7.0, 10.0, 1.0))


def test_characters_that_are_passed_over_have_a_place():
    assert timed([0, 2, 5]) == (("ab", 1.0, 2.0, 1.0), ("c", 2.0, 2.0, 1.0))
    assert timed([0, 1]) == (("ab", 1.0, 2.0, 1.0), ("c", 2.0, 2.0, 1.0))  # the last frame goes past the end


def test_times_are_within_the_audio():
    words = timed([0, 0, 1, 2, 3, 4, 4], skipped=3 * SAMPLE_RATE, length=SAMPLE_RATE)
    assert words == (("ab", 0.0, 1.0, 1.0), ("c", 1.0, 1.0, 1.0))


def test_words_of_pieces_start_at_spaces():
    class Pieces:
        def surface(self, unit):
            return [" the", " un", "usual", " ", " cat"][unit]

    timer = WordTimer(range(5), Pieces(), SAMPLE_RATE)
    for position in range(7):
        timer.add(position)
    words = timer.take(0, 100 * SAMPLE_RATE, complete=True)
    assert words == (("the", 1.0, 2.0, 1.0), ("unusual", 2.0, 4.0, 1.0), ("cat", 5.0, 6.0, 1.0))


def test_times_agree_with_the_alignment_of_training_to_a_frame():
    units = UNITS.encode("ab cad b")
    edges = np.array(
        [0.31, 0.4, 0.52, 0.61, 0.7, 0.93, 1.1, 1.2, 1.35]
    )  # where characters start, and the last one ends
    steps = advances(edges, 50, SAMPLE_RATE / FRAME)
    words = timed(np.cumsum(steps) - steps, units, samples=FRAME)
    assert [word.text for word in words] == ["ab", "cad", "b"]
    assert [word.start for word in words] == pytest.approx(edges[[0, 3, 7]], abs=FRAME / SAMPLE_RATE)
    assert [word.end for word in words] == pytest.approx(edges[[2, 6, 8]], abs=FRAME / SAMPLE_RATE)


def test_words_are_taken_once_they_end_in_the_audio():
    timer = WordTimer(UNITS.encode("ab c"), UNITS, 100)
    for position in [0, 1, 2, 3]:
        timer.add(position)
    assert timer.take(0, 299, complete=False) == ()
    assert [word.text for word in timer.take(0, 300, complete=False)] == ["ab"]
    assert timer.take(0, 400, complete=False) == ()
    timer.add(4)
    assert [word.text for word in timer.take(0, 500, complete=True)] == ["c"]
    assert timer.take(0, 500, complete=True) == ()


def test_times_are_those_of_the_talkers_positions_in_the_trimmed_audio():
    voice = synthesizer()
    (speech,) = voice.speak("Abc da")
    (utterance,) = utterances(voice.talker, [UNITS.encode("abc da")])
    with torch.inference_mode():
        whole = ToyVocoder()(voice.codec.decode(utterance.codes[None]))[0]
    middle = speech.audio[1000:3000]
    skipped = int((whole.unfold(0, 2000, 1) - middle).abs().sum(1).argmin()) - 1000
    positions = utterance.positions.tolist()
    starts = [sum(position < first for position in positions) for first in (1, 5)]
    ends = [sum(position <= last for position in positions) for last in (3, 6)]
    seconds = [[(frame * FRAME - skipped) / SAMPLE_RATE for frame in frames] for frames in (starts, ends)]
    found = [[word.start for word in speech.words], [word.end for word in speech.words]]
    end = len(speech.audio) / SAMPLE_RATE
    assert found == [pytest.approx([min(max(0, second), end) for second in row]) for row in seconds]
    assert found[0][1] > 0.1


@pytest.mark.parametrize("speed", [1.0, 0.6, 2.0])
def test_words_of_sentences_follow_each_other(speed):
    voice = synthesizer()
    (speech,) = voice.speak(TEXT, speed=speed)
    assert [word.text for word in speech.words] == SPOKEN
    places = [place for word in speech.words for place in (word.start, word.end)]
    assert places == sorted(places)
    assert 0 <= places[0] < places[-1] <= len(speech.audio) / SAMPLE_RATE
    parts = [part for _, part in voice.sentences([TEXT], speed=speed)]
    before = (len(parts[0].audio) + len(parts[1].audio)) / SAMPLE_RATE
    assert speech.words[5].start == pytest.approx(before + parts[2].words[0].start)


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("chunk", [0.01, 0.64])
def test_streamed_audio_and_words_equal_the_whole(speed, chunk):
    voice = synthesizer()
    (whole,) = voice.speak(TEXT, speed=speed)
    samples, found = 0, []
    for part in voice.stream_chunks(TEXT, speed=speed, chunk=chunk):
        samples += len(part.samples)
        assert all(word.end <= samples / SAMPLE_RATE + 1e-9 for word in part.words)
        found += part.words
    assert found == times(whole.words)
    parts = list(voice.stream(TEXT, speed=speed, chunk=chunk))
    assert torch.cat(parts).shape == whole.audio.shape
    assert samples == len(whole.audio)
    assert (torch.cat(parts) - whole.audio).abs().max() < 1e-4
    assert len(parts) > 5


def test_words_come_while_the_speech_is_made():
    parts = list(synthesizer().stream_chunks("abc abc abc abc abc abc", chunk=0.1))
    assert sum(bool(part.words) for part in parts) >= 5


def test_a_vocoder_that_is_not_causal_has_words():
    voice = synthesizer(GriffinLim(NUM_MELS, iterations=2))
    parts = list(voice.stream_chunks(TEXT, speed=1.5))
    assert [word for part in parts for word in part.words] == times(voice.speak(TEXT, speed=1.5)[0].words)


def test_silent_speech_has_words_without_duration():
    parts = list(synthesizer(ToyVocoder(level=0.0)).stream_chunks("Abc da"))
    assert [word for part in parts for word in part.words] == [("abc", 0, 0, 1), ("da", 0, 0, 1)]
    assert sum(len(part.samples) for part in parts) == 0


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_the_speed_changes_the_duration_and_not_the_codes(speed):
    voice = synthesizer()
    (one,), (other,) = voice.speak("Abcd dabc. Bad."), voice.speak("Abcd dabc. Bad.", speed=speed)
    assert torch.equal(one.codes, other.codes)
    assert len(other.audio) == pytest.approx(len(one.audio) / speed, abs=2 * 1000)  # margins of silence
    middle = [(word.start + word.end) / 2 for word in one.words]
    assert [(word.start + word.end) / 2 for word in other.words] == pytest.approx(
        [place / speed for place in middle], abs=0.06
    )


@pytest.mark.parametrize("speed", [1.0, 1.7])
@pytest.mark.parametrize("size", [1, 5, 100])
def test_text_in_pieces_has_the_words_of_the_whole(size, speed):
    voice = synthesizer()
    streamer = SpeechStreamer(voice, speed=speed)
    parts = []
    for first in range(0, len(TEXT), size):
        streamer.push(TEXT[first : first + size])
        while (chunk := streamer.next_chunk()) is not None:
            parts.append(chunk)
    streamer.finish()
    while (chunk := streamer.next_chunk()) is not None:
        parts.append(chunk)
    whole = SpeechStreamer(voice, speed=speed).synthesize(TEXT)
    assert [word for part in parts for word in part.words] == times(whole.words)
    assert [word.text for word in whole.words] == SPOKEN
    audio = torch.cat([part.samples for part in parts])
    assert audio.shape == whole.audio.shape
    assert (audio - whole.audio).abs().max() < 1e-4


@pytest.mark.parametrize("speed", [0.2, 4.1, 0.0, -1.0, float("nan"), float("inf")])
def test_speeds_out_of_range_are_refused(speed):
    voice = synthesizer()
    for refused in (
        lambda: voice.speak("abc", speed=speed),
        lambda: next(voice.stream("abc", speed=speed)),
        lambda: SpeechStreamer(voice, speed=speed),
    ):
        with pytest.raises(UserError, match=r"speed is .*: it must be between 0.25 and 4"):
            refused()
