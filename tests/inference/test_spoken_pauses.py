"""Marks of pauses in speech: silence of their length at every tempo, streamed and whole, in any pieces of a text."""

import pytest
import torch
from toy_voice import NUM_MELS, ToyVocoder, synthesizer

from omni.errors import UserError
from omni.inference.speech_streamer import SpeechStreamer
from omni.media.audio import SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim

TEXT = "[pause 0.2] Abc da. [pause 0.5] Bad, dab [pause 1]cab [pause 0]bb. A [pause 0.3]"


def silences(audio, least=0.1):
    """Seconds of the stretches of exact zeros."""
    found, run = [], 0
    for zero in [*(audio == 0).tolist(), False]:
        if not zero and run >= least * SAMPLE_RATE:
            found.append(run / SAMPLE_RATE)
        run = run + 1 if zero else 0
    return found


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_a_mark_is_silence_of_its_length(speed):
    (speech,) = synthesizer().speak(TEXT, speed=speed)
    # 0 to 3 samples of zeros at the ends of the speech around it; the sentence "bb." keeps its own pause
    assert silences(speech.audio) == pytest.approx([0.2, 0.5, 1.0, 0.35 / speed, 0.3], abs=0.001)
    assert [word.text for word in speech.words] == ["abc", "da", "bad", "dab", "cab", "bb", "a"]
    assert speech.words[0].start >= 0.2
    assert speech.words[2].start - speech.words[1].end >= 0.5


def test_a_mark_does_not_change_the_speech_after_it():
    voice = synthesizer()
    marked, plain = voice.speak("[pause 1] Abc. [pause 0.5] Dab.")[0], voice.speak("Abc. Dab.")[0]
    assert torch.equal(marked.codes, plain.codes)
    assert len(marked.audio) - len(plain.audio) == pytest.approx((1 + 0.5 - 0.35) * SAMPLE_RATE)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_marks_do_not_depend_on_the_batch(batch_size):
    voice = synthesizer()
    together = voice.speak(["[pause 1] Abc", TEXT, "[pause 1][pause 1] Dad"], batch_size=batch_size)
    assert torch.equal(together[1].codes, voice.speak(TEXT)[0].codes)
    assert [len(speech.audio) // SAMPLE_RATE >= 1 for speech in together] == [True] * 3
    assert not together[2].audio[: 2 * SAMPLE_RATE].any()


@pytest.mark.parametrize("vocoder", [ToyVocoder(), GriffinLim(NUM_MELS, iterations=2)])
@pytest.mark.parametrize("speed", [1.0, 1.5])
def test_streams_have_the_pauses_of_the_whole(vocoder, speed):
    voice = synthesizer(vocoder)
    (whole,) = voice.speak(TEXT, speed=speed)
    parts = list(voice.stream_chunks(TEXT, speed=speed))
    audio = torch.cat([part.samples for part in parts])
    assert audio.shape == whole.audio.shape
    assert (audio - whole.audio).abs().max() < 1e-4
    starts = [word.start for part in parts for word in part.words]
    assert starts == pytest.approx([word.start for word in whole.words])


def streamed(voice, text, size, **options):
    streamer, parts = SpeechStreamer(voice, **options), []
    for at in range(0, len(text), size):
        streamer.push(text[at : at + size])
        while (chunk := streamer.next_chunk()) is not None:
            parts.append(chunk)
    streamer.finish()
    while (chunk := streamer.next_chunk()) is not None:
        parts.append(chunk)
    return parts, streamer.unspoken


@pytest.mark.parametrize("speed", [1.0, 1.5])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_mark_may_be_split_over_pieces_of_the_text(size, speed):
    voice = synthesizer()
    parts, unspoken = streamed(voice, TEXT, size, speed=speed)
    whole = SpeechStreamer(voice, speed=speed).synthesize(TEXT)
    audio = torch.cat([part.samples for part in parts])
    assert unspoken == []
    assert audio.shape == whole.audio.shape
    assert (audio - whole.audio).abs().max() < 1e-4
    words = [word for part in parts for word in part.words]
    assert [word.text for word in words] == [word.text for word in whole.words]
    assert [word.end for word in words] == pytest.approx([word.end for word in whole.words])
    assert silences(audio) == pytest.approx([0.2, 0.5, 1.0, 0.35 / speed, 0.3], abs=0.001)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_invalid_marks_of_a_streamed_text_are_skipped_and_reported(size):
    voice = synthesizer()
    parts, unspoken = streamed(voice, "Abc [pause 99] da [pause 0.5", size)
    assert [word.text for part in parts for word in part.words] == ["abc", "da"]
    assert [line.split(" is not")[0] for line in unspoken[:2]] == ["'[pause 99]'", "'[pause'"]


def test_marks_alone_are_silence_in_a_streamed_text():
    parts, unspoken = streamed(synthesizer(), "[pause 0.5]", 3)
    assert unspoken == []
    assert sum(len(part.samples) for part in parts) == SAMPLE_RATE / 2


def test_invalid_marks_of_a_text_are_refused_before_any_audio():
    voice = synthesizer()
    for refused in (lambda: voice.speak("Abc [pause x]"), lambda: next(voice.stream("Abc [pause x]"))):
        with pytest.raises(UserError, match=r"'\[pause x\]' is not a pause"):
            refused()
