"""Text normalisation for training and scoring speech recognition."""

import re
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any, Literal

from omni.errors import UserError, install_hint

_SIGNS = {"&": " and ", "%": " percent ", "+": " plus ", "=": " equals "}
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:st|nd|rd|th)?\b|\d+", re.IGNORECASE)
_APOSTROPHES = re.compile("[’ʼ`´]")
_DIGITS = re.compile(r"\d|\.")
_LARGEST = 36  # digits of the largest number that inflect spells out
_MARK = re.compile(r"(?<!\w)'|'(?!\w)|[^\w\s']|_")  # punctuation, except for an apostrophe inside a word


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
    white space.

    Args:
        case: `lower`, `upper`, or `keep`.
        punctuation: `remove`, except for an apostrophe inside a word, or `keep`.
        digits: `spell` numbers out in English ("21" becomes "twenty one", "3rd" "third"; above 36 digits, digit by
            digit), or `keep`.
    """

    case: Literal["lower", "upper", "keep"] = "lower"
    punctuation: Literal["remove", "keep"] = "remove"
    digits: Literal["spell", "keep"] = "spell"

    def __call__(self, text: str) -> str:
        """The normalised text. Accepts any string, lone surrogates included: models may output them."""
        text = _APOSTROPHES.sub("'", unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)))
        if self.digits == "spell":
            text = _NUMBER.sub(lambda number: f" {_spelled(number[0])} ", text)
        if self.punctuation == "remove":
            for sign, word in _SIGNS.items():
                text = text.replace(sign, word)
            text = _MARK.sub(" ", text)
        if self.case != "keep":
            text = text.lower() if self.case == "lower" else text.upper()
        return " ".join(text.split())

    def state(self) -> dict[str, Any]:
        """Plain data; `TextNormalization(**state)` is equal to this one."""
        return asdict(self)


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
