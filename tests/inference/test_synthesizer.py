"""Speech from texts of any length; streaming equals the whole; errors are one line."""

import pytest
import soundfile
import torch
from toy_voice import NUM_MELS, UNITS, ToyVocoder, codec_of, save_talker, synthesizer, talker_of

import omni
from omni.decoding.batched_talker import BatchedTalker
from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.talker import speak_codes
from omni.errors import UserError
from omni.inference import synthesizer as synthesis
from omni.inference.speech_renderer import LEAD
from omni.inference.synthesizer import Synthesizer, load_synthesizer
from omni.media.audio import SAMPLE_RATE
from omni.media.griffin_lim import GriffinLim
from omni.media.trimming import trimmed
from omni.models.part import Part
from omni.models.talker import Talker
from omni.models.vocoder import Vocos

TEXT = "Abc da. Cab bad? A dab, a cad!"
LONG = " ".join(["abc dab"] * 1250)  # 10,000 characters without an end of a sentence


@pytest.mark.parametrize("chunk", [0.01, 0.1, 0.32, 5.0])
def test_streaming_equals_the_whole(chunk):
    voice = synthesizer()
    assert voice.causal
    (whole,) = voice.speak(TEXT)
    parts = list(voice.stream(TEXT, chunk=chunk))
    assert torch.cat(parts).shape == whole.audio.shape
    assert (torch.cat(parts) - whole.audio).abs().max() < 1e-4
    assert whole.audio.abs().max() > 0.05
    assert len(parts) > 3 + 2


def test_a_vocoder_of_24_khz_sets_the_rate():
    torch.manual_seed(0)
    options = {"num_mels": NUM_MELS, "dim": 16, "num_layers": 1}
    narrow = Vocos(**options).eval()
    wide = Vocos(**options, sample_rate=24_000).eval()
    wide.load_state_dict(wide.converted(narrow.state_dict()))
    text = f"{TEXT} [pause 1] Abc."
    (low,), (high,) = (synthesizer(vocoder).speak(text) for vocoder in (narrow, wide))
    assert (low.sample_rate, high.sample_rate) == (16_000, 24_000)
    assert len(high.audio) / 24_000 == pytest.approx(len(low.audio) / 16_000, abs=0.1)
    assert torch.equal(low.codes, high.codes)
    assert [word.text for word in high.words] == [word.text for word in low.words]
    for one, other in zip(high.words, low.words, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.1)
    assert high.words[-1].end <= len(high.audio) / 24_000 + 1e-6
    assert high.resampled().shape == (-(-len(high.audio) * 2 // 3),)
    chunks = list(synthesizer(wide).stream_chunks(text, chunk=0.1))
    together = torch.cat([chunk.samples for chunk in chunks])
    assert together.shape == high.audio.shape
    assert (together - high.audio).abs().max() < 1e-4
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == [word.text for word in high.words]
    for one, other in zip(words, high.words, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=1e-3)


def test_audio_is_yielded_while_the_talker_generates(monkeypatch):
    made = []
    frames = synthesis.speak_frames
    monkeypatch.setattr(
        synthesis, "speak_frames", lambda *args, **options: (made.append(1) or one for one in frames(*args, **options))
    )
    stream = synthesizer().stream("abcd abcd abcd")
    first = next(stream)
    lead = round(LEAD * codec_of().frame_rate)
    assert len(made) <= lead + 1
    assert 0 < len(first) <= (lead + 1) * 640
    assert len(made) < 30 < len(list(stream)) * 8 + len(made)


@pytest.mark.parametrize("vocoder", [None, GriffinLim(NUM_MELS, iterations=2)])
def test_streams_that_are_read_in_turns_share_steps_and_keep_their_audio(vocoder, monkeypatch):
    texts = [TEXT, "Dab. Abc, abc!", "A", "Cab cab cab bad dab."]
    alone = [list(synthesizer(vocoder).stream_chunks(text)) for text in texts]
    rows, encode = [], Talker.encode_frame
    monkeypatch.setattr(Talker, "encode_frame", lambda self, x, cache: rows.append(len(x)) or encode(self, x, cache))
    voice = synthesizer(vocoder)
    voice.speak_frames = BatchedTalker(voice.talker, rows=3).speak
    found, streams = [[] for _ in texts], dict(enumerate(map(voice.stream_chunks, texts)))
    while streams:
        for number in list(streams):
            chunk = next(streams[number], None)
            if chunk is None:
                del streams[number]
            else:
                found[number].append(chunk)
    for one, other in zip(alone, found, strict=True):
        together, samples = (torch.cat([chunk.samples for chunk in chunks]) for chunks in (other, one))
        assert together.shape == samples.shape
        assert (together - samples).abs().max() < 1e-4
        assert [chunk.words for chunk in one] == [chunk.words for chunk in other]
    assert max(rows) == (3 if vocoder is None else 1)  # a sentence at a time is not read in turns


@pytest.mark.parametrize("vocoder", [GriffinLim(NUM_MELS, iterations=2), ToyVocoder(causal=False)])
def test_a_vocoder_that_is_not_causal_streams_by_sentence(vocoder):
    voice = synthesizer(vocoder)
    assert not voice.causal
    parts = list(voice.stream(TEXT))
    assert len(parts) == 3 + 2
    assert torch.equal(torch.cat(parts), voice.speak(TEXT)[0].audio)


def test_sentences_are_joined_by_silence():
    voice = synthesizer()
    sentences = [voice.speak(text)[0].audio for text in ("Abc da.", "Bad cab?")]
    numbered = [speech.audio for _, speech in voice.sentences(["Abc da. Bad cab?"])]
    assert torch.equal(numbered[0][: len(sentences[0])], sentences[0])
    pause = numbered[0][len(sentences[0]) :]
    assert len(pause) == 0.35 * SAMPLE_RATE
    assert not pause.any()
    assert numbered[0][0] == numbered[1][0] == 0
    (whole,) = voice.speak("Abc da. Bad cab?")
    assert torch.equal(whole.audio, torch.cat(numbered))


def test_codes_are_those_of_all_sentences():
    voice = synthesizer()
    (speech,) = voice.speak("Abc da. Bad.")
    codes = speak_codes(voice.talker, [UNITS.encode("abc da"), UNITS.encode("bad")])
    assert torch.equal(speech.codes, torch.cat(codes))
    (alone,) = voice.speak("Abc da.")
    with torch.inference_mode():
        sound = ToyVocoder()(voice.codec.decode(alone.codes[None]))[0]
    assert torch.equal(alone.audio, torch.from_numpy(trimmed(sound.numpy())))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_audio_of_a_text_does_not_depend_on_the_batch(batch_size):
    voice = synthesizer()
    together = voice.speak([TEXT, "Cab.", "Dad. Dab. Add."], batch_size=batch_size)
    for text, speech in zip([TEXT, "Cab.", "Dad. Dab. Add."], together, strict=True):
        assert torch.equal(voice.speak(text)[0].codes, speech.codes)


def test_audio_depends_on_the_seed():
    voice = synthesizer()
    one, same, other = (voice.speak(TEXT, sampling=SpeechSampling(first=Sampling(seed=seed)))[0] for seed in (1, 1, 2))
    assert torch.equal(one.audio, same.audio)
    assert one.codes.shape != other.codes.shape or not torch.equal(one.codes, other.codes)


def test_a_long_text_is_spoken_in_small_batches_of_sentences(monkeypatch):
    calls = []
    speaking = synthesis.utterances
    monkeypatch.setattr(
        synthesis,
        "utterances",
        lambda talker, texts, **options: calls.append(texts) or speaking(talker, texts, **options),
    )
    voice = synthesizer(fast=True)
    speech = list(voice.sentences([LONG], batch_size=12))
    assert max(map(len, calls)) == 12
    assert max(len(text) for texts in calls for text in texts) <= 160
    said = " ".join(UNITS.decode(text) for texts in calls for text in texts)
    assert said.split() == LONG.split()
    assert len(speech) == sum(map(len, calls)) > 60


def test_unspoken_characters_are_left_out():
    voice = synthesizer()
    assert voice.read("Abc! 👍 ... Dad.") == [*voice.read("Abc! Dad.")]
    assert [UNITS.decode(breath.units) for breath in voice.read("“Ábc” — dâd…")] == ["abc dad"]


def test_voices_are_given_by_number_or_name():
    voice = synthesizer(num_speakers=3)
    first, same, other = (voice.speak("Abc da.", speaker=speaker)[0].codes for speaker in (None, 0, "z"))
    assert torch.equal(first, same)
    assert first.shape != other.shape or not torch.equal(first, other)
    assert torch.equal(
        torch.cat([*voice.stream("Abc da.", speaker=2)]), torch.cat([*voice.stream("Abc da.", speaker="z")])
    )


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ("", {}, "no letters or digits"),
        (" ?! … 👍🏽", {}, "no letters or digits"),
        (["abc", "..."], {}, "'...' cannot be spoken"),
        ("Abc. Hello.", {}, "not trained on e h l o"),
        ("привет", {}, "not trained on"),
        ("日本。", {}, "not trained on"),
        ("9" * 10_000, {}, "cannot be spoken: the Talker was not trained on e h i l m n o r s t"),
        ("abc", {"speaker": 3}, "no speaker 3: the Talker has 0 to 2"),
        ("abc", {"speaker": -1}, "no speaker -1"),
        ("abc", {"speaker": "w"}, "no speaker 'w': the Talker has 3, such as x, y, z"),
        ("abc", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_errors_are_raised_before_any_audio(texts, options, words):
    with pytest.raises(UserError, match=words) as error:
        synthesizer(num_speakers=3).speak(texts, **options)
    assert "\n" not in str(error.value)


def test_invalid_streams_are_reported():
    with pytest.raises(UserError, match="one voice only"):
        next(synthesizer().stream("abc", speaker=0))
    with pytest.raises(UserError, match="chunk is 0"):
        next(synthesizer().stream("abc", chunk=0))


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="num_codebooks of the Talker is 3 and of the codec 2"):
        Synthesizer(talker_of(), codec_of(num_codebooks=2), ToyVocoder(), UNITS)
    with pytest.raises(UserError, match=r"frame_rate of the Talker is 25.0 and of the codec 12.5"):
        Synthesizer(talker_of(), codec_of(downsampling=8), ToyVocoder(), UNITS)
    with pytest.raises(UserError, match="vocoder takes 80 mel filters and the codec outputs 16"):
        Synthesizer(talker_of(), codec_of(), ToyVocoder(80), UNITS)


def test_streaming_keeps_the_callers_grad_mode():
    parameter = torch.ones(1, requires_grad=True)
    for chunk in synthesizer().stream("abc"):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        (parameter * chunk).sum().backward()  # outputs can be used in training
    assert torch.is_grad_enabled()


def test_one_checkpoint_is_enough(workplace):
    path = save_talker(workplace / "talker.ckpt", num_speakers=3)
    voice = load_synthesizer(path)
    assert isinstance(voice.vocoder, GriffinLim)
    assert voice.speakers == ["x", "y", "z"]
    expected = synthesizer(num_speakers=3).speak(TEXT, speaker=1)[0]
    (speech,) = omni.speak(TEXT, path, speaker="y")
    assert torch.equal(speech.codes, expected.codes)
    assert speech.sample_rate == SAMPLE_RATE
    assert 0.01 < speech.audio.abs().max() <= 1
    speech.save("folder/x.wav")
    written = soundfile.info(workplace / "folder/x.wav")
    assert (written.frames, written.subtype) == (len(speech.audio), "PCM_16")


def test_a_vocoder_is_loaded_from_its_checkpoint(workplace):
    from toy_speech import save

    path = save_talker(workplace / "talker.ckpt")
    vocoder = save(workplace / "vocoder.ckpt", "vocoder", ToyVocoder(level=0.1), UNITS)
    voice = omni.load_synthesizer(path, vocoder=vocoder)
    assert voice.causal
    assert torch.equal(voice.vocoder.basis, ToyVocoder(level=0.1).basis)
    refined = omni.load_synthesizer(path, vocoder=vocoder, refine=2)
    assert not refined.causal  # iterations read a whole sentence
    plain, better = (each.speak(TEXT)[0] for each in (voice, refined))
    assert torch.equal(plain.codes, better.codes)
    assert not torch.equal(plain.audio, better.audio)
    save(workplace / "codec.ckpt", "vocoder", codec_of(), UNITS)
    for name, words in {
        "nowhere.ckpt": "vocoder nowhere.ckpt does not exist",
        "griffin_lim": "give griffin-lim",
        path: "holds no part 'vocoder'",
    }.items():
        with pytest.raises(UserError, match=words):
            load_synthesizer(path, vocoder=name)


class Mute(Part):
    num_mels = NUM_MELS


def test_other_parts_under_the_names_are_refused(workplace):
    from toy_speech import save

    path = save_talker(workplace / "talker.ckpt")
    save(workplace / "mute.ckpt", "vocoder", Mute(), UNITS)
    checkpoint = torch.load(path)
    checkpoint["parts"]["codec"] = Mute().recipe
    checkpoint["state_dict"] = {k: w for k, w in checkpoint["state_dict"].items() if not k.startswith("codec.")}
    torch.save(checkpoint, "muted.ckpt")
    with pytest.raises(UserError, match="codec"):
        load_synthesizer("muted.ckpt")
    with pytest.raises(UserError, match="vocoder"):
        load_synthesizer(path, vocoder="mute.ckpt")
