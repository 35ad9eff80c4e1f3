"""Text normalisation for training and scoring speech recognition."""

import re
import unicodedata
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache, lru_cache, partial
from typing import Any, Literal

from omni.errors import UserError, install_hint

# Words of `&`, `%`, `+` and `=`; in a language that is not here the signs are removed, as other punctuation is.
_SIGNS = {
    "en": ("and", "percent", "plus", "equals"),
    "de": ("und", "Prozent", "plus", "gleich"),
    "es": ("y", "por ciento", "más", "igual a"),
    "fr": ("et", "pour cent", "plus", "égale"),
    "ru": ("и", "процентов", "плюс", "равно"),
}
_NUMBER = re.compile(r"\d+(?:,\d{3}(?!\d))*(?:\.\d+)?(?:(?:st|nd|rd|th)\b)?", re.IGNORECASE)
_NUMBERS = {  # by the language's decimal sign; spaces and apostrophes inside may separate thousands
    ".": re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?"),
    ",": re.compile(r"\d{1,3}(?:[.' \u00a0\u202f]\d{3})+(?!\d)(?:,\d+)?|\d+(?:,\d+)?"),
}
_DECIMAL_POINT = frozenset(("am", "bn", "en", "fa", "he", "hi", "ja", "kn", "ko", "te", "th", "zh"))
_APOSTROPHES = re.compile("[’ʼ`´]")
_DIGITS = re.compile(r"\d|\.")
_LARGEST = 36  # digits of the largest number that inflect spells out
_LARGEST_IN = {"am": 3}  # above it num2words 0.5.14 does not return
_SELECTOR = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_MARK = re.compile(r"(?<!\w)'|'(?!\w)|(?:[^\w\s']|_)+")  # punctuation, except for an apostrophe inside a word


# Characters without width, as in texts from web pages and office programs: soft hyphens, spaces and joiners of zero
# width, marks of direction, byte order marks.
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def invisible_characters(text: str) -> list[str]:
    """The characters of a text that cannot be seen, which `TextNormalization` removes."""
    return _INVISIBLE.findall(text)


@dataclass(frozen=True)
class TextNormalization:
    """Normalisation of text, shared by training and scoring of a recogniser.

    Removes characters without width (see `invisible_characters`), applies NFKC, maps apostrophes to `'`, and collapses
    white space. Letters keep their marks: accents, and the vowel signs of Arabic, Hebrew, Thai or the scripts of India.

    Args:
        case: `lower`, `upper`, or `keep`.
        punctuation: `remove`, except for an apostrophe inside a word, or `keep`.
        digits: `spell` numbers out ("21" becomes "twenty one", "3rd" "third"; above 36 digits, digit by digit), or
            `keep`. In another language than English, numbers are spelled by `num2words`.
        language: Language of the text, a BCP 47 tag: that of spelled numbers and signs, and of lower case in Turkish.
    """

    case: Literal["lower", "upper", "keep"] = "lower"
    punctuation: Literal["remove", "keep"] = "remove"
    digits: Literal["spell", "keep"] = "spell"
    language: str = "en"

    def __call__(self, text: str) -> str:
        """The normalised text. Accepts any string, lone surrogates included: models may output them.

        Raises:
            UserError: If a number is to be spelled in another language than English, and `num2words` is not installed
                or lacks the language.
        """
        # Apostrophes first: NFKC makes a space and an accent of the acute accent.
        text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", _INVISIBLE.sub("", text)))
        language = self.language.lower().partition("-")[0]
        if self.digits == "spell":
            if language == "en":
                text = _NUMBER.sub(lambda number: f" {_spelled(number[0])} ", text)
            else:
                text = _NUMBERS["." if language in _DECIMAL_POINT else ","].sub(
                    lambda number: f" {_spelled_in(number[0], self.language)} ", text
                )
        if self.punctuation == "remove":
            for sign, word in zip("&%+=", _SIGNS.get(language, ()), strict=False):
                text = text.replace(sign, f" {word} ")
            text = _MARK.sub(_marks_of_letters, text)
        if self.case != "keep":
            text = _lower(text, language) if self.case == "lower" else text.upper()
        return " ".join(text.split())

    def state(self) -> dict[str, Any]:
        """Plain data; `TextNormalization(**state)` is equal to this one."""
        state = asdict(self)
        if self.language == "en":
            del state["language"]  # which earlier versions did not have: their fingerprints stay the same
        return state


def _marks_of_letters(found: re.Match[str]) -> str:
    """Spaces for a run of characters, apart from the marks on the letter before it, which `\\w` does not match."""
    start = found.start()
    kept, on_letter = [], start > 0 and found.string[start - 1].isalpha()
    for character in found[0]:
        on_letter = on_letter and _is_mark(character)
        kept.append(character if on_letter else " ")
    return "".join(kept)


def _is_mark(character: str) -> bool:
    """Whether it is an accent or a vowel sign; the selectors that follow emoji are not."""
    return unicodedata.category(character) in ("Mn", "Mc") and not _SELECTOR.match(character)


def _lower(text: str, language: str) -> str:
    """Lower case; Turkish and Azerbaijani have an i with and one without a dot."""
    if language in ("tr", "az"):
        text = text.replace("İ", "i").replace("I", "ı")
    return text.lower()


class WhisperNormalization:
    """Whisper's normalisation for scoring (arXiv:2212.04356, appendix C), by `whisper-normalizer`.

    Args:
        english: The English one: numbers in digits, contractions expanded, American spelling, no fillers. Otherwise
            the one for all languages: lower case, no punctuation, nothing in brackets.

    Raises:
        UserError: If `whisper-normalizer` is not installed.
    """

    def __init__(self, english: bool = True) -> None:
        try:
            from whisper_normalizer.basic import BasicTextNormalizer  # pyright: ignore[reportMissingImports]
            from whisper_normalizer.english import EnglishTextNormalizer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f"normalizer whisper needs the package whisper-normalizer: {install_hint('hf')}") from error
        self.english = english
        self._normalize: Any = EnglishTextNormalizer() if english else BasicTextNormalizer()

    def __call__(self, text: str) -> str:
        """The normalised text. Accepts any string; see `_bounded`."""
        return " ".join(self._normalize(_bounded(text)).split())

    def state(self) -> dict[str, Any]:
        """Plain data that names the normalisation."""
        return {"as": "whisper, English" if self.english else "whisper, all languages"}


_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")  # the library removes both patterns first
_PARENTHESES = re.compile(r"\([^)]+\)")
_HUGE = re.compile(r"(?:\d[,.]?){1000}(?=\d)")


def _bounded(text: str) -> str:
    """Bounds the time of Whisper's normalisers, without changing their output.

    They are quadratic in unclosed brackets and in white space, and fail on numbers of more than 4,300 digits: text in
    brackets is removed, and very long numbers are split.
    """
    for pattern, opening, closing in ((_BRACKETS, "<[", ">]"), (_PARENTHESES, "(", ")")):
        end = 1 + max(text.rfind(one) for one in closing)
        rest = text[end:].translate(dict.fromkeys(map(ord, opening), " "))
        text = pattern.sub("", text[:end]) + rest
    text = " ".join(text.split())
    if _HUGE.search(decomposed := unicodedata.normalize("NFKD", text)):
        text = _HUGE.sub(r"\g<0> ", decomposed)
    return text


@cache
def _engine() -> Any:
    import inflect  # slow (0.2 s); only needed for digits

    return inflect.engine()


@lru_cache(10_000)  # bounded: generated text may contain any number
def _spelled(number: str) -> str:
    whole = number.replace(",", "")
    if len(whole) > _LARGEST:
        return " ".join("point" if one == "." else _spelled(one) for one in _DIGITS.findall(whole))
    words = _engine().number_to_words(whole.lower(), andword="", comma="")
    return words.replace("-", " ")


@lru_cache(10_000)
def _spelled_in(number: str, language: str) -> str:
    """A number in another language than English; one that is too large for the package, digit by digit."""
    try:
        from num2words import num2words  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"the number {number[:20]} of a text in {language!r} needs the package num2words: "
            f"{install_hint('numbers')}, or set normalization.digits to keep"
        ) from error
    decimal = "." if language.lower().partition("-")[0] in _DECIMAL_POINT else ","
    whole, _, fraction = number.partition(decimal)
    whole = "".join(filter(str.isdigit, whole))
    spell = partial(num2words, lang=_package_language(language))
    try:
        if len(whole) + len(fraction) <= _LARGEST_IN.get(language.lower().partition("-")[0], _LARGEST):
            # Each language of the package has its own largest number, and its own error above it.
            with suppress(OverflowError, LookupError, TypeError):
                return spell(Decimal(f"{int(whole)}.{fraction}") if fraction else int(whole)).replace("-", " ")
        return " ".join(spell(int(digit)) for digit in whole + fraction).replace("-", " ")
    except NotImplementedError as error:
        raise UserError(f"num2words has no language {language!r}: set normalization.digits to keep") from error


def _package_language(language: str) -> str:
    """A BCP 47 tag as num2words writes it: `pt_BR`."""
    name, _, region = language.partition("-")
    return f"{name.lower()}_{region.upper()}" if region else name.lower()
