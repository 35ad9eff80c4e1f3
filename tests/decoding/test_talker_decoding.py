"""Decoding of the Talker equals a plain uncached loop, row by row; it always ends; errors are one line."""

import pytest
import torch
from toy_talker import learned, make, spoken

from omni.decoding.sampling import Sampling
from omni.decoding.sampling_options import SpeechSampling
from omni.decoding.talker import speak, speak_codes
from omni.errors import UserError
from omni.layers.cache import KVCache
from omni.models.talker import positions
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.spelling import spell

CERTAIN = Sampling(temperature=0)
GREEDY = SpeechSampling(first=CERTAIN, rest=CERTAIN, pace=CERTAIN)
TEXTS = [[1, 2, 3, 4], [5], [3, 3, 1, 2, 5, 4, 1]]


def hesitant(advance):
    """A Talker that always advances by a given number of characters."""
    talker = make(frame_rate=4.0)
    with torch.no_grad():
        talker.advance.weight.zero_()
        talker.advance.bias.copy_(10.0 * (torch.arange(4) == advance))
    return talker


def test_the_toy_language_is_spoken_exactly():
    talker, texts = learned()
    for sampling in (GREEDY, SpeechSampling(pace=Sampling(temperature=0.1), first=CERTAIN, rest=CERTAIN)):
        for text, codes in zip(texts, speak_codes(talker, texts, sampling=sampling), strict=True):
            assert torch.equal(codes, spoken(text)[0])


def by_hand(talker, text, max_dwell):
    """Greedy decoding without cache or batch: everything is recomputed for every frame."""
    codes, advances = torch.zeros(1, 0, talker.num_codebooks, dtype=torch.long), []
    text, lengths, dwelt = torch.tensor([text]), torch.tensor([len(text)]), 0
    while sum(advances) < int(lengths) + 2:
        frames = codes.shape[1]
        steps = torch.tensor([[*advances, 0]])
        guess = torch.cat((codes, torch.zeros(1, 1, talker.num_codebooks, dtype=torch.long)), dim=1)
        for index in range(talker.num_codebooks):
            guess[0, frames, index] = talker(text, lengths, guess, steps).code_logits[0, frames, index].argmax()
        step = int(talker(text, lengths, guess, steps).advance_logits[0, frames].argmax())
        dwelt += 1
        step = max(1, step) if dwelt >= max_dwell else step
        dwelt = 0 if step else dwelt
        codes, advances = guess, [*advances, step]
    return codes[0], advances


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_speech_equals_the_plain_loop_row_by_row(seed):
    talker = make(frame_rate=5.0)
    torch.manual_seed(seed)
    torch.nn.init.normal_(talker.advance.weight, std=1.0)
    together = speak_codes(talker, TEXTS, sampling=GREEDY)
    for text, codes in zip(TEXTS, together, strict=True):
        expected, advances = by_hand(talker, text, 5)
        assert torch.equal(codes, expected)
        assert int(positions(torch.tensor([advances]))[0, -1]) < len(text) + 2
        read = [int(frame.positions[0]) for frame in speak(talker, [text], sampling=GREEDY)]
        assert read == positions(torch.tensor([advances]))[0].tolist()
    assert len({len(codes) for codes in together}) > 1


def test_speech_depends_on_the_seed_and_not_on_other_rows():
    talker = make()
    first = speak_codes(talker, TEXTS, sampling=SpeechSampling(first=Sampling(seed=1)))
    assert torch.equal(speak_codes(talker, TEXTS[:1], sampling=SpeechSampling(first=Sampling(seed=1)))[0], first[0])
    other = speak_codes(talker, TEXTS[:1], sampling=SpeechSampling(first=Sampling(seed=2)))[0]
    assert other.shape != first[0].shape or not torch.equal(other, first[0])


def test_frames_are_yielded_as_they_are_made():
    talker = hesitant(1)
    steps = list(speak(talker, TEXTS))
    assert [step.alive for step in steps] == [[number < len(text) + 2 for text in TEXTS] for number in range(9)]
    assert all(step.codes.shape == (3, 3) for step in steps)


@pytest.mark.parametrize(("advance", "frames"), [(0, 8 * 9), (1, 9), (3, 3)])
def test_speech_always_ends(advance, frames):
    codes = speak_codes(hesitant(advance), [TEXTS[2]], sampling=SpeechSampling(max_dwell=2.0))
    assert len(codes[0]) == frames


def test_speech_may_be_longer_than_its_first_cache(monkeypatch):
    talker = make(frame_rate=5.0)
    whole = speak_codes(talker, TEXTS, sampling=GREEDY)
    monkeypatch.setattr("omni.decoding.talker.ROOM", 2)
    assert all(map(torch.equal, speak_codes(talker, TEXTS, sampling=GREEDY), whole))


def test_a_grown_cache_keeps_its_content():
    cache = KVCache(2, 3, 4, 1, 5)
    torch.nn.init.normal_(cache.keys)
    before = cache.keys.clone()
    cache.grow(9)
    assert cache.max_length == cache.keys.shape[3] == cache.values.shape[3] == 9
    assert torch.equal(cache.keys[:, :, :, :4], before)
    assert not cache.keys[:, :, :, 4:].any()


def test_each_of_several_voices_speaks():
    talker = make(num_speakers=3)
    one, other = speak_codes(talker, [TEXTS[2]] * 2, speakers=[0, 2], sampling=GREEDY)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert torch.equal(speak_codes(talker, [TEXTS[2]], sampling=GREEDY)[0], one)


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ([], {}, "no text to speak"),
        ([[1], []], {}, "text 1 is empty"),
        ([[6]], {}, "not one of the Talker's 5"),
        ([[0]], {}, "not one of the Talker's 5"),
        ([[1]], {"speakers": [0]}, "a single voice"),
        ([[1]], {"num_speakers": 3, "speakers": [3]}, "there is no speaker 3: the Talker has 0 to 2"),
        ([[1]], {"num_speakers": 3, "speakers": [-1]}, "there is no speaker -1"),
        ([[1]], {"num_speakers": 3, "speakers": [1, 1]}, "2 speakers are given for 1 texts"),
    ],
)
def test_text_that_cannot_be_spoken_is_reported(texts, options, words):
    talker = make(num_speakers=options.get("num_speakers", 0))
    with pytest.raises(UserError, match=words):
        next(speak(talker, texts, speakers=options.get("speakers")))


def test_invalid_sampling_is_refused():
    with pytest.raises(UserError, match="max_dwell"):
        SpeechSampling(max_dwell=0)
    with pytest.raises(UserError, match=r"rest\.repetition_penalty"):
        SpeechSampling(rest=Sampling(repetition_penalty=2))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Hello, World!", "hello world"),
        ("3 cats 😀", "three cats"),
        ("Café naïve", "cafe naive"),
        ("don’t", "don't"),
        ("a" * 10_000, "a" * 10_000),
    ],
)
def test_text_is_read_as_it_is_spoken(text, read):
    units = CharacterVocabulary()
    assert units.decode(spell(text, units)) == read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no letters or digits"),
        (" ?! … 👍🏽", "no letters or digits"),
        ("привет", "not trained on в е и п р т"),
        ("日本 hi", "not trained on 日 本"),
        ("ж" * 99, "^'жжж.*…' cannot be spoken"),
    ],
)
def test_text_that_cannot_be_read_is_reported_in_one_line(text, words):
    with pytest.raises(UserError, match=words) as error:
        spell(text, CharacterVocabulary())
    assert "\n" not in str(error.value)


def test_weights_laid_out_for_decoding_give_the_same_codes():
    talker = make(frame_rate=5.0)
    before = speak_codes(talker, TEXTS, sampling=GREEDY)
    talker.transpose_weights_for_decoding()
    assert all(map(torch.equal, speak_codes(talker, TEXTS, sampling=GREEDY), before))
