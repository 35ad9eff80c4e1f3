"""CTC vocabularies: encoding, decoding, and text outside of the vocabulary."""

import io

import pytest
import sentencepiece
import torch

from omni.errors import UserError
from omni.text.ctc_vocabulary import (
    BLANK,
    ENGLISH,
    CharacterVocabulary,
    CTCVocabulary,
    SubwordVocabulary,
    open_ctc_vocabulary,
)
from omni.text.normalization import TextNormalization

WORDS = ["the red star is left of the blue circle", "a small green heart", "it's above the large shape", "which star"]


@pytest.fixture(scope="module")
def model() -> bytes:
    """A SentencePiece model of 40 pieces."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 20), model_writer=content, vocab_size=40, model_type="bpe", minloglevel=2
    )
    return content.getvalue()


@pytest.fixture(params=["characters", "pieces"])
def units(request, model) -> CTCVocabulary:
    return CharacterVocabulary() if request.param == "characters" else SubwordVocabulary(model)


def test_decoding_inverts_encoding(units):
    for text in (*WORDS, "", "star"):
        numbers = units.encode(text)
        assert units.decode(numbers) == text
        assert all(BLANK < number < units.vocab_size for number in numbers)


def test_text_is_normalised_first(units):
    assert units.encode("The RED, star!") == units.encode("the red star")
    assert units.decode(units.encode("It’s  The Star.")) == "it's the star"


def test_blanks_are_removed_and_repeats_kept(units):
    numbers = units.encode("the star")
    with_blanks = [BLANK, *(number for one in numbers for number in (one, BLANK))]
    assert units.decode(with_blanks) == "the star"
    letter = units.encode("s")
    assert len(units.decode(letter + letter).replace(" ", "")) == 2


def test_characters_outside_the_vocabulary_are_named(units):
    assert units.outside("the red star") == set()
    assert units.outside("the étoile 漢") == {"é", "漢"}
    with pytest.raises(UserError, match="é"):
        units.encode("the étoile")


def test_all_units_are_distinct(units):
    shown = [units.decode([number]) for number in range(1, units.vocab_size)]
    assert len(set(shown)) >= len(shown) - 5  # the pieces `▁a` and `a` decode alike on their own
    with pytest.raises(IndexError):
        units.decode([units.vocab_size])


def test_they_are_rebuilt_from_the_state_in_checkpoints(units, tmp_path):
    torch.save(units.state(), tmp_path / "state.pt")
    again = CTCVocabulary.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert type(again) is type(units)
    assert again.fingerprint == units.fingerprint
    assert again.vocab_size == units.vocab_size
    assert again.encode("the red star") == units.encode("the red star")


def test_fingerprints_differ_between_units(model):
    upper = TextNormalization(case="upper")
    all_units = [
        CharacterVocabulary(),
        CharacterVocabulary(ENGLISH + "é"),
        CharacterVocabulary(ENGLISH[::-1]),
        CharacterVocabulary(normalization=upper),
    ]
    all_units += [SubwordVocabulary(model), SubwordVocabulary(model, upper)]
    assert len({units.fingerprint for units in all_units}) == len(all_units)


@pytest.mark.parametrize("state", [{}, {"kind": "characters"}, {"kind": "tokenizer", "model": b""}])
def test_another_state_is_refused(state):
    with pytest.raises(UserError, match="has no CTC vocabulary"):
        CTCVocabulary.from_state(state)


def test_characters_are_numbered_in_their_order():
    units = CharacterVocabulary("cba", TextNormalization())
    assert units.vocab_size == 4
    assert units.encode("abc") == [3, 2, 1]
    assert CharacterVocabulary().vocab_size == 29
    for characters in ("", "aa"):
        with pytest.raises(UserError, match="must differ and be at least one"):
            CharacterVocabulary(characters)


def test_units_by_name(model, tmp_path):
    (tmp_path / "pieces.model").write_bytes(model)
    (tmp_path / "bad.model").write_bytes(b"no model")
    assert open_ctc_vocabulary("characters", characters="ab").vocab_size == 3
    assert open_ctc_vocabulary(str(tmp_path / "pieces.model")).fingerprint == SubwordVocabulary(model).fingerprint
    with pytest.raises(UserError, match=r"bad\.model is not a SentencePiece model"):
        open_ctc_vocabulary(str(tmp_path / "bad.model"))
    with pytest.raises(UserError, match=r"data\.units is 'words': give `characters`"):
        open_ctc_vocabulary("words")
