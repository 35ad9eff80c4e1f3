"""Any output of a model can be normalised, scored, split and spelled, without errors and in bounded time."""

from contextlib import suppress

import pytest
from any_text import HARD, random_texts

from omni.errors import UserError
from omni.evaluation.repetition import remove_loops
from omni.evaluation.word_errors import Row, aligned, bootstrap, count_errors, worst_rows
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.normalization import TextNormalization, WhisperNormalization
from omni.text.sentences import ClauseSplitter, split_text
from omni.text.spelling import speech_segments

TEXTS = HARD + random_texts(60)
AS_IT_IS = TextNormalization(case="keep", punctuation="keep", digits="keep")


@pytest.mark.parametrize("normalize", [TextNormalization(), TextNormalization(case="upper"), AS_IT_IS], ids=str)
def test_normalisation_of_any_text_is_idempotent(normalize):
    for text in TEXTS:
        once = normalize(text)
        assert once == " ".join(once.split())
        assert normalize(once) == once or normalize is AS_IT_IS


@pytest.mark.parametrize("english", [True, False])
def test_whispers_normalizers_accept_any_text(english):
    pytest.importorskip("whisper_normalizer", reason="whisper-normalizer is not installed: the extra hf")
    normalize = WhisperNormalization(english)
    for text in TEXTS:
        once = normalize(text)
        assert once == " ".join(once.split())


def test_whispers_normalizers_give_the_recorded_results():
    basic = pytest.importorskip("whisper_normalizer.basic", reason="whisper-normalizer is not installed: the extra hf")
    english = pytest.importorskip("whisper_normalizer.english")
    rows = [
        "a (b) c",
        "a [b> <c] d",
        "(a ((b) c)",
        "a () b",
        "(]<)x",
        "<(>) y",
        "[a(]b) c",
        "f(x) [",
        "a (b",
        "it 's 5,000 (ok",
    ]
    for own, library in ((True, english.EnglishTextNormalizer()), (False, basic.BasicTextNormalizer())):
        normalize = WhisperNormalization(own)
        for text in [*rows, *(text for text in random_texts(300, seed=1) if text.isprintable())]:
            assert normalize(text) == " ".join(library(text).split())


def test_any_text_is_scored_and_shown():
    normalize = TextNormalization()
    rows = [Row(str(i), None, "two red stars", normalize(remove_loops(text))) for i, text in enumerate(TEXTS)]
    rows += [Row(str(i), None, "two red stars", text) for i, text in enumerate(TEXTS)]
    errors = count_errors(rows)
    assert errors.words == 3 * len(rows)
    assert bootstrap([rows[:20]]).shape[1] == 1
    for row in worst_rows(rows, 20):
        assert len(aligned(row)) == 3
        assert max(map(len, aligned(row))) < 5000


def test_any_text_is_split_and_spelled():
    units = CharacterVocabulary()
    for text in TEXTS:
        clauses = ClauseSplitter()
        found = [*clauses.push(text), *clauses.finish()]
        kept = "".join(text.split())
        assert "".join("".join(piece.text.split()) for piece in found) == kept
        assert "".join("".join(piece.text.split()) for piece in split_text(text)) == kept
        with suppress(UserError):  # not in the Talker's training data
            assert all(breath.units for breath in speech_segments(text, units))
