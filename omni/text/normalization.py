"""Text as it is spoken: what a recogniser learns to write and is scored on."""

import re
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any, Literal

from omni.errors import UserError

_SIGNS = {"&": " and ", "%": " percent ", "+": " plus ", "=": " equals "}
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:st|nd|rd|th)?\b|\d+", re.IGNORECASE)
_APOSTROPHES = re.compile("[’ʼ`´]")
_DIGITS = re.compile(r"\d|\.")
_LARGEST = 36  # digits of a number that inflect can name: it ends below 10³⁶
_MARK = re.compile(r"(?<!\w)'|'(?!\w)|[^\w\s']|_")  # all punctuation but an apostrophe inside a word


@dataclass(frozen=True)
class TextNormalization:
    """How text is written before a recogniser is trained or scored on it; training and scoring share one.

    Unicode is brought to its compatibility form (NFKC), apostrophes to `'`, and runs of white space to one space.

    Args:
        case: `lower`, `upper`, or `keep`.
        punctuation: `remove` it, save for the apostrophe inside a word, or `keep`.
        digits: `spell` numbers out in English ("21" becomes "twenty one", "3rd" "third"; digit by digit above 36
            digits), or `keep`.
    """

    case: Literal["lower", "upper", "keep"] = "lower"
    punctuation: Literal["remove", "keep"] = "remove"
    digits: Literal["spell", "keep"] = "spell"

    def __call__(self, text: str) -> str:
        """The text as it is to be written. Accepts any string, lone surrogates included: models output anything."""
        text = _APOSTROPHES.sub("'", unicodedata.normalize("NFKC", text))
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
    """How text is written before Whisper is scored on it (arXiv:2212.04356, appendix C), by `whisper-normalizer`.

    Args:
        english: The English one: numbers in digits, contractions in full, spelling as in America, no fillers. Otherwise
            the one for all languages: lower case, no punctuation, nothing in brackets.

    Raises:
        UserError: If the library is not installed.
    """

    def __init__(self, english: bool = True) -> None:
        try:
            from whisper_normalizer.basic import BasicTextNormalizer  # pyright: ignore[reportMissingImports]
            from whisper_normalizer.english import EnglishTextNormalizer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "Whisper's normaliser needs the package whisper-normalizer: pip install 'omni[hf]'"
            ) from error
        self.english = english
        self._normalize: Any = EnglishTextNormalizer() if english else BasicTextNormalizer()

    def __call__(self, text: str) -> str:
        """The text as it is scored. Accepts any string: what the library fails on or takes minutes for is cut first."""
        return " ".join(self._normalize(_harmless(text)).split())

    def state(self) -> dict[str, Any]:
        """Plain data that tells which it is."""
        return {"as": "whisper, English" if self.english else "whisper, all languages"}


_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")  # both are the library's own, which it removes first
_PARENTHESES = re.compile(r"\([^)]+\)")
_HUGE = re.compile(
    r"(?:\d[,.]?){1000}(?=\d)"
)  # the library fails on numbers that Python does not convert (4,300 digits)


def _harmless(text: str) -> str:
    """The text without what is in brackets, and its very long numbers in parts: the same to Whisper's normalisers.

    Their patterns are quadratic in opening brackets that are never closed and in white space.
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
    import inflect  # 0.2 s, and only texts with digits need it

    return inflect.engine()


@lru_cache(10_000)  # a generated text may hold any number
def _spelled(number: str) -> str:
    whole = number.replace(",", "")
    if len(whole) > _LARGEST:
        return " ".join("point" if one == "." else _spelled(one) for one in _DIGITS.findall(whole))
    words = _engine().number_to_words(whole.lower(), andword="", comma="")
    return words.replace("-", " ")
