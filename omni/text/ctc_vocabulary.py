"""Vocabularies for CTC: characters or SentencePiece pieces, and the normalisation of their text."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import sentencepiece

from omni.errors import UserError
from omni.text.normalization import TextNormalization

BLANK = 0  # the blank of CTC
ENGLISH = " 'abcdefghijklmnopqrstuvwxyz"
RARE = 1e-5  # share of the characters of transcripts below which one is mostly of foreign names


class CTCVocabulary(ABC):
    """Abstract: encodes normalised text as units and decodes it. Unit 0 is the blank and never in a text.

    Args:
        normalization: Applied to every text before encoding.
    """

    def __init__(self, normalization: TextNormalization) -> None:
        self.normalize = normalization

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of units, the blank included."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The units of the normalised text.

        Raises:
            UserError: If it has characters outside the vocabulary; see `outside`.
        """

    @abstractmethod
    def decode(self, units: Iterable[int]) -> str:
        """The text of units; blanks are left out, repeats are kept."""

    @abstractmethod
    def surface(self, unit: int) -> str:
        """The text of a unit, spaces included; joined over a text, the text but for a leading space."""

    @abstractmethod
    def outside(self, text: str) -> set[str]:
        """Characters of the normalised text that are outside the vocabulary."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain data for `from_state`."""

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "CTCVocabulary":
        """Rebuilds the vocabulary of a `state`.

        Raises:
            UserError: If it is not the state of a CTC vocabulary.
        """
        match state:
            case {"kind": "characters", "characters": str(characters), "normalization": dict(normalization)}:
                return CharacterVocabulary(characters, TextNormalization(**normalization))
            case {"kind": "pieces", "model": bytes(model), "normalization": dict(normalization)}:
                return SubwordVocabulary(model, TextNormalization(**normalization))
        raise UserError("the checkpoint has no CTC vocabulary: it is not one of a recogniser")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of kind, content and normalisation."""
        state = {key: value.hex() if isinstance(value, bytes) else value for key, value in self.state().items()}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


@final
class CharacterVocabulary(CTCVocabulary):
    """One unit per character.

    Args:
        characters: The characters of units 1, 2, ....
        normalization: Applied to every text before encoding.

    Raises:
        UserError: If there are no characters, or one occurs twice.
    """

    def __init__(self, characters: str = ENGLISH, normalization: TextNormalization | None = None) -> None:
        super().__init__(normalization or TextNormalization())
        if not characters or len(set(characters)) != len(characters):
            raise UserError(f"the characters to write with must differ and be at least one: {characters!r}")
        self.characters = characters
        self._numbers = {character: number for number, character in enumerate(characters, start=1)}

    @property
    def vocab_size(self) -> int:
        return len(self.characters) + 1

    def encode(self, text: str) -> list[int]:
        try:
            return [self._numbers[character] for character in self.normalize(text)]
        except KeyError as error:
            raise UserError(f"{error.args[0]!r} in {text!r} is not in the CTC vocabulary") from None

    def decode(self, units: Iterable[int]) -> str:
        return "".join(self.characters[unit - 1] for unit in units if unit != BLANK)

    def surface(self, unit: int) -> str:
        return self.characters[unit - 1]

    def outside(self, text: str) -> set[str]:
        return {character for character in self.normalize(text) if character not in self._numbers}

    def state(self) -> dict[str, Any]:
        return {"kind": "characters", "characters": self.characters, "normalization": self.normalize.state()}


@final
class SubwordVocabulary(CTCVocabulary):
    """Pieces of a SentencePiece model, renumbered from 1 without control pieces.

    Args:
        model: Content of its `.model` file.
        normalization: Applied to every text before encoding.
    """

    def __init__(self, model: bytes, normalization: TextNormalization | None = None) -> None:
        super().__init__(normalization or TextNormalization())
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = range(self._processor.vocab_size())
        self._pieces = [i for i in ids if not (self._processor.IsControl(i) or self._processor.IsUnknown(i))]
        self._numbers = {piece: number for number, piece in enumerate(self._pieces, start=1)}

    @property
    def vocab_size(self) -> int:
        return len(self._pieces) + 1

    def encode(self, text: str) -> list[int]:
        pieces = self._processor.EncodeAsIds(self.normalize(text))
        if not all(piece in self._numbers for piece in pieces):
            raise UserError(f"the word pieces cannot write {''.join(sorted(self.outside(text)))!r} in {text!r}")
        return [self._numbers[piece] for piece in pieces]

    def decode(self, units: Iterable[int]) -> str:
        return self._processor.DecodeIds([self._pieces[unit - 1] for unit in units if unit != BLANK])

    def surface(self, unit: int) -> str:
        return self._processor.IdToPiece(self._pieces[unit - 1]).replace("▁", " ")

    def outside(self, text: str) -> set[str]:
        unknown = self._processor.unk_id()
        return {character for character in self.normalize(text) if unknown in self._processor.EncodeAsIds(character)}

    def state(self) -> dict[str, Any]:
        return {"kind": "pieces", "model": self.model, "normalization": self.normalize.state()}


def characters_of(texts: Iterable[str], normalization: TextNormalization, *, least_share: float = 0.0) -> str:
    """The characters that texts are written with, for a vocabulary of their language.

    To texts in the Latin alphabet, its letters that do not occur are added, and the apostrophe.

    Args:
        texts: Transcripts, before normalization.
        normalization: Applied to them.
        least_share: Share of all characters below which one is left out.

    Raises:
        UserError: If there is no text.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalization(text))
    least = least_share * sum(counts.values())
    found = {character for character, number in counts.items() if number >= least}
    if not found - {" "}:
        raise UserError("the transcripts have no characters to write with")
    if not found.isdisjoint("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        found |= {character for letter in ENGLISH for character in normalization(letter) or letter}
    return "".join(sorted({" ", *found}))


def open_ctc_vocabulary(
    spec: str, *, characters: str = ENGLISH, normalization: TextNormalization | None = None
) -> CTCVocabulary:
    """The CTC vocabulary of a spec.

    Args:
        spec: `characters`, or a SentencePiece `.model` file.
        characters: For `characters`: those of the vocabulary.
        normalization: Applied to every text before encoding.

    Raises:
        UserError: If it is neither.
    """
    if spec == "characters":
        return CharacterVocabulary(characters, normalization)
    path = Path(spec)
    if not path.is_file():
        raise UserError(
            f"data.units is {spec!r}: give `characters`, a SentencePiece .model file, a recogniser's .ckpt file, or "
            "in training `pieces`"
        )
    try:
        return SubwordVocabulary(path.read_bytes(), normalization)
    except RuntimeError as error:
        raise UserError(f"{path} is not a SentencePiece model") from error
