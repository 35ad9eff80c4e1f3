"""Tokenizers of text and the special tokens.

All tokenizers share one layout of ids: 32 specials, the 256 bytes, then the learned pieces (SentencePiece). Each id
maps to a fixed byte string, and text is the UTF-8 decoding of these bytes: decoding, streaming and bits per byte use
this one table.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import sentencepiece

from omni.errors import UserError
from omni.files import atomic_write

_NAMED = (
    *("<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<|image|>", "<|image_start|>", "<|image_end|>"),
    *("<|video_start|>", "<|video_end|>"),
    *("<|audio|>", "<|audio_start|>", "<|audio_end|>"),
    *("<|speech_start|>", "<|speech_end|>"),
)
NUM_SPECIALS = 32
SPECIALS = _NAMED + tuple(f"<|spare_{i}|>" for i in range(len(_NAMED), NUM_SPECIALS))
"""Names of the specials by id. Append new ones to `_NAMED`: all ids stay the same."""

PAD, BOS, EOS, UNK = range(4)
SYSTEM, USER, ASSISTANT, END = range(4, 8)
IMAGE, IMAGE_START, IMAGE_END = range(8, 11)
VIDEO_START, VIDEO_END = range(11, 13)  # the frames of a video are IMAGE placeholders
AUDIO, AUDIO_START, AUDIO_END = range(13, 16)
SPEECH_START, SPEECH_END = range(16, 18)

_BYTES = [bytes([value]) for value in range(256)]
FIRST_PIECE = NUM_SPECIALS + len(_BYTES)
SPACE_MARK = "▁"  # U+2581: SentencePiece's character for a space
_UNPIECED = re.compile(rf"([\r\n{SPACE_MARK}])")
# Encoded as bytes: the mark would become a space, and pieces never contain line ends, so that a long text is encoded
# line by line (4 MB in one call: 3.9 s whole, 1.0 s by line).


Turn = tuple[str, list[tuple[str, str]]]
"""A role, and parts as (type, text); the text of media is empty."""


class ChatPiece(NamedTuple):
    """A part of a conversation in a chat template: tokens, or the placeholder of a medium.

    Attributes:
        tokens: Its ids; empty for a medium.
        scored: Whether they count in the loss.
        medium: `image`, `audio` or `video`; None for tokens.
    """

    tokens: list[int]
    scored: bool = False
    medium: str | None = None


class Tokenizer(ABC):
    """Lossless tokenizer: `decode(encode(text)) == text` for every text.

    Args:
        pieces: The bytes of each id, specials first (empty); one per id of the vocabulary.
    """

    bos: int | None = BOS  # first token of a document, if any
    eos: int = EOS  # last token of a document
    end: int = END  # last token of a turn of a conversation
    lead: str = ""  # omni's chat template writes it before the text of a turn: see `SentencePieceTokenizer`

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = tuple(pieces)

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included."""
        return len(self._pieces)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos and eos. Names of specials in the text are encoded as plain text.

        Raises:
            UserError: If the text contains a lone surrogate, which has no UTF-8.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for every text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Iterable[int], *, skip_specials: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            tokens: Ids of this tokenizer.
            skip_specials: Leave specials out, rather than write their names.

        Raises:
            UserError: If an id is not of this tokenizer.
        """
        return b"".join(self.bytes_of(token, skip_specials) for token in tokens).decode(errors="replace")

    def decode_turn(self, tokens: Iterable[int]) -> str:
        """As `decode`, without `lead`: the text of a turn in omni's chat template."""
        return self.decode(tokens).removeprefix(self.lead)

    def token_bytes(self) -> list[int]:
        """Number of UTF-8 bytes per id, 0 for specials: the denominator of bits per byte."""
        return [len(piece) for piece in self._pieces]

    def chat_pieces(self, turns: Sequence[Turn], *, generation_prompt: bool) -> list[ChatPiece] | None:
        """A conversation in the tokenizer's own chat template; None if it uses that of `omni.text.chat_template`.

        Args:
            turns: Role and parts of each.
            generation_prompt: Append the start of an assistant's turn.

        Raises:
            UserError: If a pretrained tokenizer has no template, or it rejects the conversation.
        """
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain data for `from_state`, readable by `torch.load(weights_only=True)`."""

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Tokenizer":
        """Rebuilds the tokenizer of a `state`.

        Raises:
            UserError: If it is not the state of a tokenizer, or its layout of ids is another.
        """
        match state:
            case {"kind": "bytes"}:
                return ByteTokenizer()
            case {"kind": "sentencepiece", "model": bytes(model)}:
                return SentencePieceTokenizer(model)
        raise UserError("the stored tokenizer is neither bytes nor sentencepiece: load it with the omni that saved it")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of kind and content."""
        digest = hashlib.sha256()
        for key, value in sorted(self.state().items()):
            content = value if isinstance(value, bytes) else str(value).encode()
            digest.update(f"{key}:{len(content)}:".encode() + content)
        return digest.hexdigest()

    def bytes_of(self, token: int, skip_specials: bool = True) -> bytes:
        """The UTF-8 bytes of an id; arguments and errors as in `decode`."""
        if not 0 <= token < len(self._pieces):
            raise UserError(
                f"token {token} is outside this tokenizer's ids 0..{self.vocab_size - 1}: "
                "decode with the tokenizer that the model was trained with"
            )
        return SPECIALS[token].encode() if token < NUM_SPECIALS and not skip_specials else self._pieces[token]

    def __reduce__(self):
        return Tokenizer.from_state, (self.state(),)


@final
class ByteTokenizer(Tokenizer):
    """32 specials and 256 bytes: encodes any text without training, with about one token per character of English."""

    def __init__(self):
        super().__init__([b""] * NUM_SPECIALS + _BYTES)

    def encode(self, text: str) -> list[int]:
        return _byte_tokens(text)

    def state(self) -> dict[str, Any]:
        return {"kind": "bytes"}


@final
class SentencePieceTokenizer(Tokenizer):
    """Byte-pair pieces from `train_sentencepiece`, with bytes as fallback (SentencePiece, arXiv:1808.06226).

    Args:
        model: A serialised SentencePiece model with omni's layout of ids.
        source: Where it comes from, for errors.

    Raises:
        UserError: If it is not a SentencePiece model, or its ids, specials or normalisation are not omni's.
    """

    lead = " "  # the first word of a turn gets the same token as inside a text

    def __init__(self, model: bytes, *, source: str = "the stored tokenizer"):
        advice = "train one with `omni data tokenizer`"
        try:
            if not model:  # SentencePiece would treat it as uninitialised and log at every call
                raise RuntimeError
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            fault = _layout_fault(processor)
        except (RuntimeError, UnicodeDecodeError):  # the latter for names of pieces
            raise UserError(f"{source} is not a SentencePiece model: {advice}") from None
        if fault:
            raise UserError(f"{source} is not an omni tokenizer ({fault}): {advice}")
        self._model = model
        self._processor = processor
        try:
            learned = [processor.id_to_piece(i) for i in range(FIRST_PIECE, processor.get_piece_size())]
            pieces = [piece.replace(SPACE_MARK, " ").encode() for piece in learned]
        except UnicodeDecodeError:
            raise UserError(f"{source} is not an omni tokenizer (a piece is not UTF-8): {advice}") from None
        super().__init__([b""] * NUM_SPECIALS + _BYTES + pieces)
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise UserError(f"{source} is not an omni tokenizer (it normalises or drops text): {advice}")

    def encode(self, text: str) -> list[int]:
        segments = _UNPIECED.split(check_text(text))
        return _joined(segments, map(self._processor.encode, segments[::2]))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for every text, in threads."""
        split = [_UNPIECED.split(check_text(text)) for text in texts]
        encoded = iter(self._processor.encode([segment for segments in split for segment in segments[::2]]))
        return [_joined(segments, encoded) for segments in split]

    def state(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "model": self._model}

    @classmethod
    def from_file(cls, path: str | Path) -> "SentencePieceTokenizer":
        """Reads a `.model` file.

        Raises:
            UserError: If the file cannot be read or is not a tokenizer of omni.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): train a tokenizer with `omni data tokenizer`"
            ) from None
        return cls(model, source=str(path))

    def save(self, path: str | Path) -> None:
        """Writes a `.model` file atomically, and its folder if it is missing.

        Raises:
            UserError: If the file cannot be written.
        """
        path = Path(path)
        try:
            with atomic_write(path) as file:
                file.write(self._model)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another path") from None


def open_tokenizer(spec: str | Path) -> Tokenizer:
    """The tokenizer of a spec.

    Args:
        spec: `bytes`, or the path of a `.model` file from `omni data tokenizer`.

    Raises:
        UserError: If it is neither, or the file is not a tokenizer of omni.
    """
    if str(spec) == "bytes":
        return ByteTokenizer()
    if Path(spec).suffix == ".model":
        return SentencePieceTokenizer.from_file(spec)
    raise UserError(f"tokenizer {str(spec)!r} is unknown: give `bytes` or the path of a .model file")


def _byte_tokens(text: str) -> list[int]:
    return [NUM_SPECIALS + value for value in _utf8(text)]


def _joined(segments: list[str], encoded: Iterator[list[int]]) -> list[int]:
    """Joins the ids of a text split by `_UNPIECED`; `encoded` yields those of the segments between separators."""
    tokens = list(next(encoded))
    for separator in segments[1::2]:
        tokens += _byte_tokens(separator)
        tokens += next(encoded)
    return tokens


def check_text(text: str, name: str = "the text") -> str:
    """Returns the text if it is valid Unicode.

    Args:
        text: Any text.
        name: Its name for errors.

    Raises:
        UserError: If it contains a lone surrogate.
    """
    _utf8(text, name)
    return text


def _utf8(text: str, name: str = "the text") -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of {name} is a lone surrogate (U+{ord(text[error.start]):04X}), "
            "which is not valid Unicode: read the file with its right encoding"
        ) from None


_PROBE = "  ﬁ　Å A\u030a\t\r\n x 12 "  # each part is changed by one of SentencePiece's normalisations


def _layout_fault(processor: sentencepiece.SentencePieceProcessor) -> str | None:
    """How a SentencePiece model differs from omni's layout of ids; None if it does not."""
    if processor.get_piece_size() < FIRST_PIECE:
        return f"it has {processor.get_piece_size()} ids, fewer than the specials and bytes"
    if processor.unk_id() != UNK:
        return f"its unknown id is {processor.unk_id()}, not {UNK}"
    for i, name in enumerate(SPECIALS):
        if processor.id_to_piece(i) not in (name, f"<|spare_{i}|>"):  # older models have a spare there
            return f"id {i} is {processor.id_to_piece(i)!r}, not {name!r}"
        if i != UNK and not processor.is_control(i):
            return f"id {i} is {name!r}, but text can produce it"
    if not all(processor.is_byte(i) for i in range(NUM_SPECIALS, FIRST_PIECE)):
        return f"ids {NUM_SPECIALS}..{FIRST_PIECE - 1} are not the bytes"
    return None
