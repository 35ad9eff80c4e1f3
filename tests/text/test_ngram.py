"""Language models: probabilities that sum to 1, files that are read back, and malformed files."""

import gzip
import random
from pathlib import Path

import pytest

from omni.errors import UserError
from omni.text.arpa import read_arpa
from omni.text.kneser_ney import train_ngrams
from omni.text.ngram import END, START, UNKNOWN, NgramModel

# A chain of words in which each is followed by few others, so that context helps.
FOLLOWERS = {word: [f"w{(7 * number + step) % 30}" for step in (1, 1, 1, 4, 9)] for number, word in
             enumerate(f"w{number}" for number in range(30))}  # fmt: skip


def sentences(count: int, seed: int) -> list[list[str]]:
    rng, found = random.Random(seed), []
    for _ in range(count):
        words = [f"w{min(int(rng.expovariate(0.3)), 29)}"]
        for _ in range(rng.randrange(7)):
            words.append(rng.choice(FOLLOWERS[words[-1]]))
        found.append(words)
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [2, 300], ids=["few", "many"])
def test_probabilities_sum_to_one_after_any_history(order, count):
    lm = train_ngrams(sentences(count, seed=0), order)
    assert lm.words >= {END, UNKNOWN}
    assert START not in lm.words
    rng = random.Random(1)
    words = sorted(lm.words)
    histories = [[], [START], [START, "w0"], ["never"], ["w1", "never", "w2"], [END]]
    histories += [rng.choices(words, k=length) for length in (1, 2, 3, 5) for _ in range(20)]
    for history in histories:
        context = lm.start if history[:1] == [START] else ()
        for word in history:
            context = context if word == START else lm.extend(context, word)
        assert sum(10 ** lm.log_prob(context, word) for word in words) == pytest.approx(1, abs=1e-4)


def test_context_lowers_the_perplexity_of_other_sentences():
    training, others = sentences(400, seed=0), sentences(100, seed=1)
    one, two, three = (train_ngrams(training, order).perplexity(others).value for order in (1, 2, 3))
    assert two < 0.6 * one
    assert three < 0.6 * one
    shuffled = [random.Random(0).sample(words, len(words)) for words in others]
    assert train_ngrams(training, 2).perplexity(shuffled).value > two


def test_a_word_after_many_others_is_likelier_than_one_as_frequent_after_the_same():
    texts = [["san", "francisco"]] * 20 + [[first, "glasses"] for first in "abcdefghijklmnopqrst"]
    lm = train_ngrams(texts, 2)
    assert lm.log_prob(lm.extend((), "never"), "glasses") > lm.log_prob((), "francisco") + 0.5
    assert lm.log_prob(lm.extend((), "san"), "francisco") > lm.log_prob((), "glasses")


def test_unknown_words_are_counted_and_less_likely_than_any_other():
    lm = train_ngrams(sentences(300, seed=0), 3)
    fit = lm.perplexity([["w0", "never"]])
    assert (fit.words, fit.unknown) == (2, 1)
    assert all(lm.log_prob((), UNKNOWN) <= lm.log_prob((), word) for word in lm.words)
    assert lm.log_prob((), "never") == lm.log_prob((), UNKNOWN)
    # A text that has the names of the sentence ends.
    odd = train_ngrams([[START, "a", END], ["a", "b"]], 2)
    assert sum(10 ** odd.log_prob((), word) for word in odd.words) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("order", [1, 3])
def test_a_model_is_read_back(order, tmp_path: Path):
    lm = train_ngrams([*sentences(50, seed=0), ["über", "naïve\u2028x"]], order)
    lm.write(tmp_path / "lm.arpa")
    read = read_arpa(tmp_path / "lm.arpa")
    assert read == lm
    assert read.order == order
    assert len(read.backoffs) == 0 if order == 1 else read.backoffs
    with gzip.open(tmp_path / "lm.arpa.gz", "wb") as file:
        file.write((tmp_path / "lm.arpa").read_bytes())
    assert read_arpa(tmp_path / "lm.arpa.gz") == lm


def test_nothing_to_train_on_is_refused():
    for texts in ([], [[]]):
        with pytest.raises(UserError, match="no words"):
            train_ngrams(texts)
    with pytest.raises(UserError, match="order is 0"):
        train_ngrams([["a"]], 0)


ARPA = """made by hand

\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-99 <s> -0.3
-0.5\tthe\t-0.2
-0.7 cat
-1.0 </s>
-1.2 <UNK>

\\2-grams:
-0.1 <s> the
-0.4 the cat

\\end\\
"""


def test_a_file_of_another_program_is_read(tmp_path: Path):
    (tmp_path / "lm.arpa").write_text(ARPA)
    lm = read_arpa(tmp_path / "lm.arpa")
    assert isinstance(lm, NgramModel)
    assert lm.log_prob(lm.start, "the") == -0.1
    assert lm.log_prob(lm.start, "cat") == pytest.approx(-0.3 - 0.7)
    assert lm.log_prob(lm.extend((), "the"), "dog") == pytest.approx(-0.2 - 1.2)
    assert lm.log_prob(lm.extend((), "cat"), END) == -1.0
    closed = ARPA.replace("-1.2 <UNK>\n", "").replace("1=5", "1=4")
    (tmp_path / "closed.arpa").write_text(closed)
    assert read_arpa(tmp_path / "closed.arpa").log_prob((), "dog") == -99


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\\data\\", "", "has no line `\\data\\`"),
        ("ngram 2=2", "ngram 3=2", "line 5: `ngram 3=2` where `ngram 2=COUNT` must be"),
        ("ngram 1=5\nngram 2=2\n", "", "line 5: `\\1-grams:` where `ngram 1=COUNT` must be"),
        ("ngram 1=5", "ngram 1=x", "line 4"),
        ("1=5", "1=6", "line 14: 5 1-grams end here, and the header has 6"),
        ("\\2-grams:", "\\3-grams:", "line 14: `\\3-grams:` where `\\2-grams:` must be"),
        ("-0.7 cat", "-0.7 cat dog -0.1", "line 10: `-0.7 cat dog -0.1` is not a probability, 1 words"),
        ("-0.7 cat", "x cat", "line 10: `x` is not a log10 probability"),
        ("-0.7 cat", "nan cat", "line 10: `nan` is not a log10 probability"),
        ("-0.7 cat", "0.7 cat", "line 10: 0.7 is not a log10 probability: it must be at most 0"),
        ("-0.7 cat", "-0.7 the", "line 10: the 1-gram `the` is here a second time"),
        ("the\t-0.2", "the\tx", "line 9: `x` is not a back-off weight"),
        ("-0.4 the cat", "-0.4 the dog", "line 16: `the dog` has a word that is not among the 1-grams"),
        ("\\end\\\n", "", "line 17: the file ends here, without `\\end\\`"),
        ("-1.0 </s>\n", "-1.0 dog\n", "has no 1-gram `</s>`"),
        ("cat\n-1.0", "c\udcffat\n-1.0", "line 10: byte 6 is not UTF-8"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_malformed_file_is_refused_with_its_line(old, new, complaint, tmp_path: Path):
    assert old in ARPA
    path = tmp_path / "lm.arpa"
    path.write_bytes(ARPA.replace(old, new, 1).encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        read_arpa(path)
    assert str(path) in str(error.value)
    assert complaint in str(error.value)


def test_a_file_that_is_missing_or_cut_off_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        read_arpa(tmp_path / "none.arpa")
    path = tmp_path / "lm.arpa.gz"
    path.write_bytes(gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(UserError, match="is not a complete gzip file"):
        read_arpa(path)
    path.write_text(ARPA)
    with pytest.raises(UserError, match="is not a complete gzip file"):
        read_arpa(path)
