"""Fusion: the search maximises CTC, language model and hotwords together, and without them nothing changes."""

import math
from itertools import groupby, product
from pathlib import Path

import pytest
import torch

from omni.decoding.ctc import beam_search, decode
from omni.decoding.fusion import Fusion
from omni.decoding.fusion_options import FusionOptions, surfaces_of
from omni.errors import UserError
from omni.inference.long_form import ChunkMerger
from omni.text.ctc_vocabulary import CharacterVocabulary, SubwordVocabulary
from omni.text.kneser_ney import train_ngrams
from omni.text.ngram import END
from omni.text.sentencepiece_training import train_pieces

UNITS = CharacterVocabulary(" ab")
LM = train_ngrams([["a", "ba"], ["ba", "ab"], ["a", "ba", "b"], ["ab"], ["a", "ba"]], 3)
WIDE = 4000


def likelihoods(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The log-probability of every text that sub-frames can give, summed path by path."""
    time, vocab = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(vocab), repeat=time):
        units = tuple(unit for unit, _ in groupby(path) if unit)
        chance = math.exp(sum(float(log_probs[t, unit]) for t, unit in enumerate(path)))
        found[units] = found.get(units, 0.0) + chance
    return {units: math.log(chance) for units, chance in found.items()}


def lm_score(text: str, weight: float, bonus: float) -> float:
    """By the definition: the words' and the sentence's log-probability, and a bonus for each word."""
    context, total = LM.start, 0.0
    words = text.split()
    for word in (*words, END):
        total += LM.log_prob(context, word)
        context = LM.extend(context, word)
    return weight * math.log(10) * total + bonus * len(words)


def emissions(seed: int, *, time: int = 5, vocab: int = 4) -> torch.Tensor:
    return torch.randn(time, vocab, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_best_text(seed):
    log_probs = emissions(seed)
    fusion = Fusion(surfaces_of(UNITS), LM, lm_weight=0.8, word_bonus=1.0)
    totals = {units: own + lm_score(UNITS.decode(units), 0.8, 1.0) for units, own in likelihoods(log_probs).items()}
    found = beam_search(log_probs, WIDE, fusion)
    assert totals[tuple(found)] == pytest.approx(max(totals.values()), abs=1e-4)


def test_the_language_model_changes_some_texts_towards_its_own():
    fusion = Fusion(surfaces_of(UNITS), LM, lm_weight=2.0)
    rows = [emissions(seed, time=7) for seed in range(12)]
    plain = [UNITS.decode(beam_search(row, 64)) for row in rows]
    fused = [UNITS.decode(beam_search(row, 64, fusion)) for row in rows]
    assert fused != plain
    assert sum(lm_score(text, 1, 0) for text in fused) > sum(lm_score(text, 1, 0) for text in plain)


def test_without_weights_the_texts_are_those_without_a_fusion():
    fusion = Fusion(surfaces_of(UNITS), LM, lm_weight=0.0)
    for seed in range(12):
        row = emissions(seed, time=9)
        assert beam_search(row, 6, fusion) == beam_search(row, 6) == decode(row[None], torch.tensor([9]), beam=6)[0]


def test_a_text_in_two_pieces_has_the_score_of_the_whole():
    fusion = Fusion(surfaces_of(UNITS), LM, lm_weight=0.7, word_bonus=0.5, hotwords=[("ba", "b")])
    prefix = fusion.start
    for unit in UNITS.encode("a ba b"):
        prefix = fusion.extend(prefix, unit)
    assert fusion.end(prefix, complete=True) == pytest.approx(lm_score("a ba b", 0.7, 0.5) + 2 * 5.0)
    # The second piece of a word that the search has cut continues the first.
    sure = torch.full((1, 4), -20.0)
    sure[0, UNITS.encode("a")[0]] = 0.0
    start = fusion.extend(fusion.start, UNITS.encode("b")[0])
    assert beam_search(sure, 4, fusion, start=start) == UNITS.encode("a")


def test_a_chunk_continues_the_text_before_it():
    units = CharacterVocabulary(" abc")
    lm = train_ngrams([["a", "b"], ["c"]] * 9, 2)
    fusion = Fusion(surfaces_of(units), lm, lm_weight=1.0)
    merger = ChunkMerger(units, seconds=0.02, overlap=0.0, beam=8, timestamps=None, fusion=fusion)
    first, doubt = torch.full((2, 5), -30.0), torch.full((1, 5), -30.0)
    first[0, units.encode("a")[0]] = first[1, 1] = 0.0  # "a", a space
    doubt[0, [units.encode(letter)[0] for letter in "bc"]] = torch.tensor([-0.9, -0.5])
    merger.commit(first)
    merger.commit(doubt, complete=True)
    assert merger.partial().text == "a b"
    assert units.decode(beam_search(doubt, 8, fusion)) == "c"


class Pieces:
    """Surfaces of word pieces: several letters each, and spaces at the start of words."""

    surfaces = ("", " a", "b", " ba", " ", "ab")


def test_word_pieces_and_letters_have_the_same_scores():
    letters = Fusion(surfaces_of(UNITS), LM, word_bonus=0.3, hotwords=[("ab", "ba")])
    pieces = Fusion(Pieces.surfaces, LM, word_bonus=0.3, hotwords=[("ab", "ba")])
    for units in product(range(1, 6), repeat=3):
        text = "".join(Pieces.surfaces[unit] for unit in units)
        one, other = letters.start, pieces.start
        for unit in [" ab".index(letter) + 1 for letter in text]:
            one = letters.extend(one, unit)
        for unit in units:
            other = pieces.extend(other, unit)
        assert one[1:4] == other[1:4]
        assert one.score == pytest.approx(other.score)
        assert letters.end(one, complete=True) == pytest.approx(pieces.end(other, complete=True))


def hotword_score(text: str, *phrases: str) -> float:
    units = CharacterVocabulary(" abcd")
    fusion = Fusion(surfaces_of(units), hotwords=[tuple(phrase.split()) for phrase in phrases], hotword_bonus=1.0)
    prefix = fusion.start
    for unit in units.encode(text):
        prefix = fusion.extend(prefix, unit)
    return fusion.end(prefix, complete=True)


@pytest.mark.parametrize(
    ("text", "phrases", "words"),
    [
        ("a bb c", ["bb"], 1),
        ("a bbb c", ["bb"], 0),  # within a word
        ("a b", ["a b c"], 0),  # a part of a phrase
        ("a b c", ["a b c"], 3),
        ("a a b c", ["a b c"], 3),
        ("a b a b c", ["a b c"], 3),
        ("a b c", ["a b", "a b c"], 3),  # a longer phrase, not both
        ("a b d", ["a b", "a b c"], 2),
        ("a b c d", ["a b", "c d"], 4),
        ("a b c", ["a b", "b c"], 2),  # a word counts once
        ("bb bb", ["bb"], 2),
        ("", ["a"], 0),
    ],
)
def test_words_of_complete_phrases_are_counted(text, phrases, words):
    assert hotword_score(text, *phrases) == words


def test_the_bonus_of_a_started_phrase_is_given_letter_by_letter_and_taken_back():
    units = CharacterVocabulary(" abcd")
    fusion = Fusion(surfaces_of(units), hotwords=[("ab", "cd")], hotword_bonus=1.0)
    scores, prefix = [], fusion.start
    for unit in units.encode("ab ca cd"):
        prefix = fusion.extend(prefix, unit)
        scores.append(prefix.score)
    assert scores == [0.5, 1.0, 1.0, 1.5, 0.0, 0.0, 0.0, 0.0]


def test_a_hotword_wins_where_the_audio_is_in_doubt():
    units = CharacterVocabulary(" abcd")
    doubt = torch.full((3, 6), -9.0)
    for place, letters in enumerate(("ab", "cd", "ab")):
        doubt[place, [units.encode(letter)[0] for letter in letters]] = torch.tensor([-0.4, -1.1])
    assert units.decode(beam_search(doubt, 8)) == "aca"
    fusion = FusionOptions(hotwords="D, bcb", hotword_bonus=3.0).open(units)
    assert units.decode(beam_search(doubt, 8, fusion)) == "bcb"
    assert FusionOptions().open(units) is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"lm_weight": 1.0}, "give lm"),
        ({"hotword_bonus": 1.0}, "give hotwords"),
        ({"lm": Path("lm.arpa"), "lm_weight": -1.0}, "lm_weight is -1"),
        ({"word_bonus": math.inf}, "word_bonus is inf"),
        ({"hotwords": "a,,b"}, "a phrase without words"),
        ({"hotwords": "a, éa"}, "hotword 'éa': 'é' is not in the recogniser's vocabulary"),
        ({"lm": Path("missing.arpa")}, "missing.arpa cannot be read"),
        ({"lm": Path("upper.arpa")}, "such as 'A', cannot be output by this recogniser"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_options_that_make_no_sense_are_refused(options, complaint, workplace):
    train_ngrams([["A", "B"], ["b"]], 1).write(Path("upper.arpa"))
    with pytest.raises(UserError) as error:
        FusionOptions(**options).open(UNITS)
    assert complaint in str(error.value)


@pytest.mark.parametrize("word", ["abc", "abd"])
def test_words_of_learned_pieces_are_scored_as_words(word):
    """The audio leaves the last letter open; the language model knows one of the two words."""
    units = SubwordVocabulary(train_pieces(["ab", "ab c", "d"], vocab_size=8, characters="abcd"))
    numbers = {units.surface(unit): unit for unit in range(1, units.vocab_size)}
    assert " ab" in numbers
    log_probs = torch.full((2, units.vocab_size), -20.0)
    log_probs[0, numbers[" ab"]] = 0.0
    log_probs[1, [numbers["c"], numbers["d"]]] = -math.log(2)
    fusion = Fusion(surfaces_of(units), train_ngrams([[word], [word], ["c"], ["d"]], 2), lm_weight=1.0)
    assert units.decode(beam_search(log_probs, 8, fusion)) == word
