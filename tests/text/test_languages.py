"""Text of other languages than English: no letter or mark is lost, and numbers are spelled in the language."""

import sys
import unicodedata
from decimal import Decimal
from types import SimpleNamespace

import pytest
import sentencepiece

from omni.errors import UserError
from omni.text.ctc_vocabulary import ENGLISH, CharacterVocabulary, CTCVocabulary, SubwordVocabulary, characters_of
from omni.text.normalization import TextNormalization
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.spelling import spell
from omni.text.stream_decoder import StreamDecoder
from omni.text.tokenizer import ByteTokenizer

PLAIN = TextNormalization()
SCRIPTS = {
    "german": "Äpfel, Öl & Übung: süß!",
    "french": "L'été à Évry — œuf, ça.",
    "spanish": "¿Año? ¡Pingüino, canción!",
    "russian": "Ёж, май и йод.",
    "greek": "Ο Σωκράτης, ένας άνθρωπος",
    "vietnamese": "Tiếng Việt rất đẹp.",
    "hebrew": "שָׁלוֹם, עולם!",
    "arabic": "مَرْحَبًا، بالعالم؟",
    "hindi": "हिन्दी में बोलो।",
    "bengali": "বাংলা ভাষা।",
    "tamil": "தமிழ் மொழி",
    "thai": "ภาษาไทยที่นี่",
    "chinese": "你好，世界。",
    "korean": "안녕하세요?",
    "georgian": "გამარჯობა.",
}


def letters(text):
    """The letters and marks of a text, in order, in the normal form that is composed."""
    return [c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c)[0] in "LM"]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_and_marks_of_every_script_are_kept(text, form):
    normalization = TextNormalization(language="xx")  # whose signs have no words
    normal = normalization(unicodedata.normalize(form, text))
    assert letters(normal) == letters(text.lower().replace("&", ""))
    assert normalization(normal) == normal
    assert unicodedata.is_normalized("NFC", normal)
    assert not any(unicodedata.category(c)[0] in "PS" for c in normal.replace("'", ""))


@pytest.mark.parametrize("case", ["lower", "upper", "keep"])
@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_the_characters_of_every_script_survive_the_vocabulary(text, case):
    """Also of scripts that have no case, and of those that are written from right to left."""
    normalization = TextNormalization(language="xx", case=case)
    units = CharacterVocabulary(characters_of([text], normalization), normalization)
    normal = normalization(text)
    assert not units.outside(text)
    assert units.decode(units.encode(text)) == normal
    assert "".join(map(units.surface, units.encode(text))) == normal
    assert CTCVocabulary.from_state(units.state()).decode(units.encode(normal)) == normal
    if text.lower() == text.upper():
        assert normal == TextNormalization(language="xx", case="keep")(text)


def test_word_pieces_of_every_script_give_the_text_back(tmp_path):
    normalization = TextNormalization(language="xx")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([normalization(text) for text in SCRIPTS.values()] * 20),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=400,
        model_type="bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    units = SubwordVocabulary((tmp_path / "pieces.model").read_bytes(), normalization)
    for text in SCRIPTS.values():
        assert not units.outside(text)
        assert units.decode(units.encode(text)) == normalization(text)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_tokenizers_give_every_script_back(kind):
    """With marks of direction too, in the order of reading."""
    texts = [*SCRIPTS.values(), "\u200fשלום\u200f, \u2067עולם\u2069 abc 123!"]
    tokenizer = ByteTokenizer() if kind == "bytes" else train_sentencepiece(texts * 20, vocab_size=600)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        stream = StreamDecoder(tokenizer)
        assert "".join(map(stream.push, tokenizer.encode(text))) + stream.finish() == text


def test_marks_that_are_not_on_a_letter_go_with_what_they_are_on():
    assert PLAIN("❤️ a 1️⃣ b") == "a one b"
    assert PLAIN("\u0301a") == "a"
    assert PLAIN("за\u0301мок") == "за\u0301мок"


def test_words_are_in_the_order_of_reading_and_marks_of_direction_are_removed():
    assert PLAIN("\u200fשלום\u200f, \u2067עולם\u2069!") == "שלום עולם"


def test_turkish_has_two_letters_i():
    assert TextNormalization(language="tr")("IRMAK İZMİR") == "ırmak izmir"
    assert PLAIN("IRMAK") == "irmak"


def test_signs_are_words_of_the_language():
    said = {
        language: TextNormalization(language=language)("a & b +") for language in ("en", "de", "es", "fr", "ru", "xx")
    }
    assert said == {
        "en": "a and b plus",
        "de": "a und b plus",
        "es": "a y b más",
        "fr": "a et b plus",
        "ru": "a и b плюс",
        "xx": "a b",
    }


def test_states_of_english_are_those_of_earlier_versions():
    assert PLAIN.state() == {"case": "lower", "punctuation": "remove", "digits": "spell"}
    german = TextNormalization(language="de")
    assert TextNormalization(**german.state()) == german
    vocabulary = CharacterVocabulary(" aä", german)
    assert CTCVocabulary.from_state(vocabulary.state()).normalize == german
    assert vocabulary.fingerprint != CharacterVocabulary(" aä").fingerprint


class TestNumbers:
    @pytest.fixture
    def asked(self, monkeypatch):
        """The numbers that a fake num2words spells."""
        asked = []

        def num2words(number, lang):
            if lang == "xx":
                raise NotImplementedError
            asked.append((number, lang))
            return f"<{number}>".replace("<", "zahl-").replace(">", "")

        monkeypatch.setitem(sys.modules, "num2words", SimpleNamespace(num2words=num2words))
        return asked

    @pytest.mark.parametrize(
        ("language", "text", "numbers"),
        [
            ("de", "21 Äpfel", [21]),
            ("de", "1.234.567 oder 3,5", [1234567, Decimal("3.5")]),
            ("fr", "12\u202f345 et 7", [12345, 7]),
            ("ru", "2,75", [Decimal("2.75")]),
            ("ja", "1,234.5", [Decimal("1234.5")]),
            ("de", "um 3. Mai, 2024", [3, 2024]),
            ("es", "1 2 3", [1, 2, 3]),
        ],
    )
    def test_numbers_are_read_as_the_language_writes_them(self, asked, language, text, numbers):
        TextNormalization(language=language)(text)
        assert asked == [(number, language) for number in numbers]

    def test_words_have_no_hyphens_and_regions_are_passed_on(self, asked):
        assert TextNormalization(language="pt-BR")("x5y") == "x zahl 5 y"
        assert asked == [(5, "pt_BR")]

    def test_a_huge_number_is_spelled_digit_by_digit(self, asked):
        TextNormalization(language="nl")("1" * 40)
        assert asked == [(1, "nl")] * 40

    @pytest.mark.parametrize("error", [OverflowError, KeyError, TypeError])
    def test_a_number_that_the_package_cannot_spell_is_spelled_digit_by_digit(self, monkeypatch, error):
        def num2words(number, lang):
            if number > 9:
                raise error
            return f"z{number}"

        monkeypatch.setitem(sys.modules, "num2words", SimpleNamespace(num2words=num2words))
        assert TextNormalization(language="te")("call 919 now") == "call z9 z1 z9 now"

    def test_numbers_for_which_the_package_does_not_return_are_not_asked_of_it(self, asked):
        TextNormalization(language="am")("1999 and 12")
        assert asked == [(1, "am"), (9, "am"), (9, "am"), (9, "am"), (12, "am")]

    def test_a_language_without_numbers_is_one_line(self, asked):
        with pytest.raises(UserError, match=r"num2words has no language 'xx': set normalization.digits to keep"):
            TextNormalization(language="xx")("5")

    def test_without_the_package_only_numbers_are_refused(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "num2words", None)
        german = TextNormalization(language="it")
        assert german("Perché no?") == "perché no"
        with pytest.raises(UserError, match=r"needs the package num2words: run `pip install -e '.\[numbers\]'`"):
            german("17 mele")
        assert TextNormalization(language="it", digits="keep")("17 mele") == "17 mele"


class TestCharacters:
    def test_they_are_those_of_the_texts_and_the_latin_alphabet(self):
        assert characters_of(["Straße", "Ä"], PLAIN) == "".join(sorted({*ENGLISH, "ß", "ä"}))
        assert characters_of(["Ёж и ель"], PLAIN) == " ежильё"
        assert characters_of(["שלום"], PLAIN) == " " + "".join(sorted("שלום"))
        assert characters_of(["x"], TextNormalization(case="upper")) == " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def test_rare_ones_are_left_out(self):
        texts = ["да"] * 1000 + ["ñ"]
        assert "ñ" in characters_of(texts, PLAIN)
        assert characters_of(texts, PLAIN, least_share=0.001) == " ад"

    def test_texts_without_any_are_refused(self):
        with pytest.raises(UserError, match="no characters to write with"):
            characters_of(["", "?!"], PLAIN)


def test_only_accents_that_the_talker_does_not_know_are_removed():
    units = CharacterVocabulary(" абвгдежзийклмнопрстуфхцчшщъыьэюя")
    assert units.decode(spell("йод и ёж", units)) == "йод и еж"
    assert units.decode(spell("за\u0301мок", units)) == "замок"
    german = CharacterVocabulary(ENGLISH + "äöüß")
    assert german.decode(spell("Fräulein Zoé", german)) == "fräulein zoe"
    assert german.decode(spell(unicodedata.normalize("NFD", "Fräulein"), german)) == "fräulein"
