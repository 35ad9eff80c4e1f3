"""Documents and utterances of the world in a language other than that of its scenes, English."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from omni.errors import UserError
from omni.synthetic import espeak
from omni.synthetic.languages.french import FRENCH
from omni.synthetic.languages.german import GERMAN
from omni.synthetic.languages.russian import RUSSIAN
from omni.synthetic.languages.spanish import SPANISH
from omni.synthetic.languages.templates import Language
from omni.synthetic.scene import pick, row_id, shuffled
from omni.synthetic.speech import TRAIN_VARIANTS, WORDS, Utterance, assign_voice

LANGUAGES = {"de": GERMAN, "es": SPANISH, "fr": FRENCH, "ru": RUSSIAN}
ENGLISH = "en"

_VAL_VARIANTS = ("f3", "m4", "Annie", "rob", "belinda", "m7")
_NARRATOR = "michel"  # paul, the narrator of English, clips in other languages; edward is hard to recognise
_LONGEST = 200  # characters of a sentence of a file, about 15 seconds
_FEWEST = 20  # sentences in a file
_DOCUMENT = (5, 6, 7, 8)  # sentences of a document from a file
_EXAMPLES = ("de", "es", "fr", "it", "nl", "pl", "pt", "ru", "tr", "cmn")


@dataclass(frozen=True)
class SpokenLanguage:
    """A language of the world: where its sentences come from, and its voices.

    Attributes:
        code: As eSpeak NG names it.
        file: A text file with a sentence on each line; None for the templates of the language.
    """

    code: str
    file: Path | None = None

    def origin(self) -> dict[str, Any]:
        """What `world.json` and `origin.json` record of the language."""
        lines = None if self.file is None else hashlib.sha256(self.file.read_bytes()).hexdigest()
        (narrator,) = self.speakers("narrator")
        return {"language": self.code, "narrator": narrator} | ({} if lines is None else {"sentences_file": lines})

    def speakers(self, split: str) -> tuple[str, ...]:
        """Voices of a split; those of validation have variants that do not occur in training."""
        voices = (self.code,)
        if (language := LANGUAGES.get(self.code)) is not None:
            voices = language.voices
        if split.startswith("narrator"):
            return (f"{voices[0]}+{_NARRATOR}",)
        if split == "val":
            return tuple(f"{voice}+{variant}" for voice in voices for variant in _VAL_VARIANTS)
        return (*voices, *(f"{voice}+{variant}" for voice in voices for variant in TRAIN_VARIANTS))

    def utterance_at(self, seed: int, split: str, index: int) -> Utterance:
        """One utterance, independent of the others; see `omni.synthetic.speech.utterance_at`."""
        rng = Random(f"{self.code}/{seed}/{split}/{index}/speech")
        half = "val" if split.endswith("val") else "train"
        text = self._sentence(half, rng)
        return assign_voice(row_id(split, index), text, split, rng, self.speakers(split))

    def text_row(self, seed: int, split: str, index: int) -> dict[str, str]:
        """One document, independent of the others: no training document has a sentence of validation."""
        rng = Random(f"{self.code}/{seed}/{split}/{index}/text")
        if self.file is not None:
            texts = shuffled(rng, sentences_of(self.file)[split], pick(rng, _DOCUMENT))
        else:
            language = template_language(self.code)
            while document_split(texts := language.sample_document(rng)) != split:
                pass
        return {"text": " ".join(texts), "id": row_id(split, index)}

    def texts(self) -> Iterator[str]:
        """Texts that have all characters of the language."""
        if self.file is not None:
            for sentences in sentences_of(self.file).values():
                yield from sentences
        else:
            yield from template_language(self.code).texts()

    def _sentence(self, split: str, rng: Random) -> str:
        if self.file is not None:
            return pick(rng, sentences_of(self.file)[split])
        language = template_language(self.code)
        while True:
            text = language.sample_sentence(rng)
            if len(text.split()) in WORDS and sentence_split(text) == split:
                return text


def open_language(code: str, sentences: Path | None = None) -> SpokenLanguage | None:
    """The language of a world.

    Args:
        code: A language of eSpeak NG, a BCP 47 tag such as `de` or `pt-BR`.
        sentences: A text file with a sentence on each line, for a language without templates, or instead of them.

    Returns:
        None for the English of the scenes.

    Raises:
        UserError: If eSpeak NG lacks the language, there are neither templates for it nor a file, or the file is not
            usable.
    """
    code = code.lower()
    if code == ENGLISH and sentences is None:
        return None
    known = espeak.languages()
    if code not in known:
        some = ", ".join(one for one in _EXAMPLES if one in known)
        raise UserError(
            f"--language is {code!r}: eSpeak NG has no such language; it has {len(known)}, such as {some}",
            page="howto/language.md",
        )
    if sentences is not None:
        sentences_of(sentences := sentences.expanduser().resolve())
    elif code.partition("-")[0] not in LANGUAGES:
        raise UserError(
            f"--language is {code!r}, and there are sentences only for {ENGLISH}, {', '.join(LANGUAGES)}: give "
            f"--sentences FILE, a text file with a sentence of {code!r} on each line",
            page="howto/language.md",
        )
    return SpokenLanguage(code, sentences)


def template_language(code: str) -> Language:
    """The templates of a language or of a variety of it: `fr-be` has those of `fr`."""
    return LANGUAGES[code.partition("-")[0]]


def sentence_split(text: str) -> str:
    """`train` or `val`, by a hash of the words: a tenth of all sentences, whoever speaks them, is for validation."""
    words = " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text).lower()))
    return "val" if hashlib.sha256(f"sentence: {words}".encode()).digest()[0] < 26 else "train"  # 26 of 256


def document_split(sentences: Sequence[str]) -> str:
    """`val` if one of the sentences is: training then has none of them."""
    return "val" if "val" in map(sentence_split, sentences) else "train"


@cache
def sentences_of(file: Path) -> dict[str, tuple[str, ...]]:
    """The different sentences of a file by split; blank lines, long ones and those without a letter are left out.

    Raises:
        UserError: If it cannot be read, or has too few.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--sentences {file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--sentences {file}: is not UTF-8 (byte {error.start}): convert the file to UTF-8") from None
    texts = dict.fromkeys(" ".join(unicodedata.normalize("NFC", line).split()) for line in lines)
    usable = [text for text in texts if len(text) <= _LONGEST and any(map(str.isalpha, text))]
    splits = {split: tuple(text for text in usable if sentence_split(text) == split) for split in ("train", "val")}
    if len(usable) < _FEWEST or not all(splits.values()):
        raise UserError(
            f"--sentences {file}: has {len(usable)} different sentences of up to {_LONGEST} characters, "
            f"{len(splits['val'])} of them for validation: give some hundred, one on each line"
        )
    return splits
