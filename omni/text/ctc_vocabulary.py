"""What a recogniser writes in: characters or word pieces, numbered for CTC, with the normalisation of their text."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import sentencepiece

from omni.errors import UserError
from omni.text.normalization import TextNormalization

BLANK = 0  # CTC's "nothing here"
ENGLISH = " 'abcdefghijklmnopqrstuvwxyz"


class CTCVocabulary(ABC):
    """Abstract: normalised text to unit numbers and back. Number 0 is the blank of CTC and never in a text.

    Args:
        normalization: Applied to every text first.
    """

    def __init__(self, normalization: TextNormalization) -> None:
        self.normalize = normalization

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of units, the blank included."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The units of a text, normalised first.

        Raises:
            UserError: If the text holds what no unit can write; `outside` tells what.
        """

    @abstractmethod
    def decode(self, units: Iterable[int]) -> str:
        """The text of some units; blanks are left out, repeats are kept."""

    @abstractmethod
    def surface(self, unit: int) -> str:
        """What a unit writes, spaces included: joined over a text they give the text, save for a space in front."""

    @abstractmethod
    def outside(self, text: str) -> set[str]:
        """Characters of the normalised text that no unit can write."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain data that `from_state` rebuilds the units from."""

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "CTCVocabulary":
        """The units that `state` came from.

        Raises:
            UserError: If it is no units' state.
        """
        match state:
            case {"kind": "characters", "characters": str(characters), "normalization": dict(normalization)}:
                return CharacterVocabulary(characters, TextNormalization(**normalization))
            case {"kind": "pieces", "model": bytes(model), "normalization": dict(normalization)}:
                return SubwordVocabulary(model, TextNormalization(**normalization))
        raise UserError("the checkpoint holds no units of speech: it is not a recogniser's")

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, of kind, content and normalisation."""
        state = {key: value.hex() if isinstance(value, bytes) else value for key, value in self.state().items()}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


@final
class CharacterVocabulary(CTCVocabulary):
    """One unit a character.

    Args:
        characters: All that can be written, in the order of their numbers, from 1 on.
        normalization: Applied to every text first.

    Raises:
        UserError: If a character occurs twice, or there are none.
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
            raise UserError(f"{error.args[0]!r} in {text!r} is none of the characters that are written") from None

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
    """Word pieces of a SentencePiece model, renumbered from 1.

    Args:
        model: Content of its `.model` file.
        normalization: Applied to every text first.
    """

    def __init__(self, model: bytes, normalization: TextNormalization | None = None) -> None:
        super().__init__(normalization or TextNormalization())
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        wanted = range(self._processor.vocab_size())
        special = {i for i in wanted if self._processor.IsControl(i) or self._processor.IsUnknown(i)}
        self._pieces = [i for i in wanted if i not in special]
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


def open_ctc_vocabulary(
    spec: str, *, characters: str = ENGLISH, normalization: TextNormalization | None = None
) -> CTCVocabulary:
    """CTCVocabulary by name.

    Args:
        spec: `characters`, or a SentencePiece `.model` file.
        characters: Of `characters`.
        normalization: Applied to every text first.

    Raises:
        UserError: If it is neither.
    """
    if spec == "characters":
        return CharacterVocabulary(characters, normalization)
    path = Path(spec)
    if not path.is_file():
        raise UserError(
            f"data.units is {spec!r}: give `characters`, a SentencePiece .model file, or a recogniser's .ckpt file"
        )
    try:
        return SubwordVocabulary(path.read_bytes(), normalization)
    except RuntimeError as error:
        raise UserError(f"{path} is no SentencePiece model") from error
