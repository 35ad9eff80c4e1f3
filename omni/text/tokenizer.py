"""Text tokens and every special id. No torch and no Lightning, so that inference starts fast.

Ids are laid out alike in every tokenizer: 32 specials, then the 256 bytes, then (SentencePiece) the learned pieces.
Each id stands for a fixed string of bytes, and text is the UTF-8 reading of those bytes: decoding, streaming and bits
per byte all follow from that one table.
"""

import codecs
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from io import BytesIO
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
"""The name of every special; its position is its id. To name one more, append to `_NAMED`: no id moves."""

PAD, BOS, EOS, UNK = range(4)
SYSTEM, USER, ASSISTANT, END = range(4, 8)
IMAGE, IMAGE_START, IMAGE_END = range(8, 11)
VIDEO_START, VIDEO_END = range(11, 13)  # the frames of a video are IMAGE placeholders
AUDIO, AUDIO_START, AUDIO_END = range(13, 16)
SPEECH_START, SPEECH_END = range(16, 18)

_BYTES = [bytes([value]) for value in range(256)]
_FIRST_PIECE = NUM_SPECIALS + len(_BYTES)
_SPACE_MARK = "▁"  # U+2581: how SentencePiece writes a space
_UNPIECED = re.compile(rf"([\r\n{_SPACE_MARK}])")  # always bytes: the mark would be read as a space, and pieces hold no
# line end, so that a long text is encoded line by line (4 MB in one call: 3.9 s whole, 1.0 s by line)


Turn = tuple[str, list[tuple[str, str]]]
"""A role, and parts as (type, text); the text of media is empty."""


class ChatPiece(NamedTuple):
    """A stretch of a conversation as a chat template writes it.

    Attributes:
        tokens: Its ids; none of a medium.
        scored: Whether the loss counts.
        medium: `image`, `audio` or `video`, where one stands here.
    """

    tokens: list[int]
    scored: bool = False
    medium: str | None = None


class Tokenizer(ABC):
    """Text to ids and back, without loss: `decode(encode(text)) == text` for every text.

    Args:
        pieces: the bytes that each id stands for, specials first (empty); its length is the vocabulary size.
    """

    bos: int | None = BOS  # what a document begins with, if anything
    eos: int = EOS  # and ends with
    end: int = END  # what ends a turn of a conversation
    lead: str = ""  # what omni's chat template writes before a turn's text: see `SentencePieceTokenizer`

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = tuple(pieces)

    @property
    def vocab_size(self) -> int:
        """The number of ids, specials included."""
        return len(self._pieces)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos and eos. A special's name in the text is plain text: it never yields its id.

        Raises:
            UserError: the text holds a lone surrogate, which no UTF-8 can express.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for every text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Iterable[int], *, skip_specials: bool = True) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            tokens: ids of this tokenizer.
            skip_specials: leave specials out; otherwise their names stand in the text.

        Raises:
            UserError: an id is not of this tokenizer.
        """
        return b"".join(self._bytes_of(token, skip_specials) for token in tokens).decode(errors="replace")

    def decode_turn(self, tokens: Iterable[int]) -> str:
        """As `decode`, of a turn's text in omni's chat template: without what leads it."""
        return self.decode(tokens).removeprefix(self.lead)

    def token_bytes(self) -> list[int]:
        """The number of UTF-8 bytes that each id stands for: the denominator of bits per byte. Specials count 0."""
        return [len(piece) for piece in self._pieces]

    def chat_pieces(self, turns: Sequence[Turn], *, generation_prompt: bool) -> list[ChatPiece] | None:
        """A conversation in the tokenizer's own chat template; None where it uses that of `omni.text.chat_template`.

        Args:
            turns: Role and parts of each.
            generation_prompt: End where the assistant goes on.

        Raises:
            UserError: There is none, or it refuses the conversation.
        """
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain data that `from_state` rebuilds this tokenizer from; `torch.load(weights_only=True)` reads it."""

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer that `state` came from.

        Raises:
            UserError: the state is no tokenizer's, or its ids are not laid out as ours.
        """
        match state:
            case {"kind": "bytes"}:
                return ByteTokenizer()
            case {"kind": "sentencepiece", "model": bytes(model)}:
                return SentencePieceTokenizer(model)
        raise UserError("the stored tokenizer is neither bytes nor sentencepiece: load it with the omni that saved it")

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, of kind and content: equal exactly for tokenizers that encode alike by construction."""
        digest = hashlib.sha256()
        for key, value in sorted(self.state().items()):
            content = value if isinstance(value, bytes) else str(value).encode()
            digest.update(f"{key}:{len(content)}:".encode() + content)
        return digest.hexdigest()

    def _bytes_of(self, token: int, skip_specials: bool = True) -> bytes:
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
    """The 32 specials and the 256 bytes: nothing to train, any text, about one token a character in English."""

    def __init__(self):
        super().__init__([b""] * NUM_SPECIALS + _BYTES)

    def encode(self, text: str) -> list[int]:
        return _byte_tokens(text)

    def state(self) -> dict[str, Any]:
        return {"kind": "bytes"}


@final
class SentencePieceTokenizer(Tokenizer):
    """Byte-pair pieces learned by `train_sentencepiece`; what no piece covers falls back to bytes (arXiv:1808.06226).

    Args:
        model: a serialised SentencePiece model with our layout of ids.
        source: where it comes from, for error messages.

    Raises:
        UserError: not a SentencePiece model, or one with other ids, specials or normalisation than ours.
    """

    lead = " "  # a word that begins a turn, as an answer of one word does, is then the token that it is inside a text

    def __init__(self, model: bytes, *, source: str = "the stored tokenizer"):
        advice = "train one with `omni data tokenizer`"
        try:
            if not model:  # SentencePiece takes it for an uninitialised model and logs on every use
                raise RuntimeError
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError(f"{source} is not a SentencePiece model: {advice}") from None
        if fault := _layout_fault(processor):
            raise UserError(f"{source} is not an omni tokenizer ({fault}): {advice}")
        self._model = model
        self._processor = processor
        learned = (processor.id_to_piece(i) for i in range(_FIRST_PIECE, processor.get_piece_size()))
        super().__init__(
            [b""] * NUM_SPECIALS + _BYTES + [piece.replace(_SPACE_MARK, " ").encode() for piece in learned]
        )
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
            UserError: the file cannot be read, or is not a tokenizer of ours.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): train a tokenizer with `omni data tokenizer`"
            ) from None
        return cls(model, source=str(path))

    def save(self, path: str | Path) -> None:
        """Writes a `.model` file, whole or not at all; makes its folder.

        Raises:
            UserError: the file cannot be written.
        """
        path = Path(path)
        try:
            with atomic_write(path) as file:
                file.write(self._model)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another path") from None


class StreamDecoder:
    """Decodes token by token: the pushes and the finish, joined, are exactly `tokenizer.decode` of all tokens.

    A character is held back until its last byte has come.

    Args:
        tokenizer: what the ids are of.
        turn: decode as `tokenizer.decode_turn` does.
    """

    def __init__(self, tokenizer: Tokenizer, *, turn: bool = False):
        self._tokenizer = tokenizer
        self._lead = self._dropped = tokenizer.lead if turn else ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes; often empty."""
        text = self._decoder.decode(self._tokenizer._bytes_of(token))
        if text:
            text, self._dropped = text.removeprefix(self._dropped), ""
        return text

    def finish(self) -> str:
        """What was held back, as U+FFFD; the decoder is then ready for another text."""
        self._dropped = self._lead
        return self._decoder.decode(b"", final=True)


def open_tokenizer(spec: str | Path) -> Tokenizer:
    """The tokenizer that a setting names.

    Args:
        spec: `bytes`, or the path of a `.model` file that `omni data tokenizer` wrote.

    Raises:
        UserError: neither of the two, or the file is not a tokenizer of ours.
    """
    if str(spec) == "bytes":
        return ByteTokenizer()
    if Path(spec).suffix == ".model":
        return SentencePieceTokenizer.from_file(spec)
    raise UserError(f"tokenizer {str(spec)!r} is unknown: give `bytes` or the path of a .model file")


def train_sentencepiece(
    texts: Iterable[str], *, vocab_size: int, max_bytes: int = 100_000_000
) -> SentencePieceTokenizer:
    """Learns byte-pair pieces. The same texts give the same bytes, so the fingerprint is the corpus's.

    Args:
        texts: documents, mixed well if there are more than `max_bytes`.
        vocab_size: ids in all: 32 specials, 256 bytes, the rest learned.
        max_bytes: stop reading after this much UTF-8; memory and time grow with it.

    Raises:
        UserError: no text, too little text for `vocab_size`, a `vocab_size` too small, or a lone surrogate.
    """
    if vocab_size <= _FIRST_PIECE:
        raise UserError(f"vocab_size {vocab_size} leaves no room for pieces: use more than {_FIRST_PIECE}")
    lines = list(_training_lines(texts, max_bytes))
    if not lines:
        raise UserError("the tokenizer's corpus holds no text: name files that do")
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            required_chars=_SPACE_MARK,  # else a corpus without spaces would spell them with the mark's bytes
            **dict(zip(("pad_id", "bos_id", "eos_id", "unk_id"), (PAD, BOS, EOS, UNK), strict=True)),
            **dict(zip(("pad_piece", "bos_piece", "eos_piece", "unk_piece"), SPECIALS, strict=False)),
            control_symbols=list(SPECIALS[UNK + 1 :]),
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # one token for an indentation
            split_digits=True,
            max_sentence_length=4 * _LINE_CHARS,
            num_threads=1,  # the model stores it; two save little (15 MB, vocab_size 16000: 1.4 s against 0.9 s)
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from None
    return SentencePieceTokenizer(model.getvalue())


def _byte_tokens(text: str) -> list[int]:
    return [NUM_SPECIALS + value for value in _utf8(text)]


def _joined(segments: list[str], encoded: Iterator[list[int]]) -> list[int]:
    """The ids of a text that `_UNPIECED` split; `encoded` holds those of the segments between the separators."""
    tokens = list(next(encoded))
    for separator in segments[1::2]:
        tokens += _byte_tokens(separator)
        tokens += next(encoded)
    return tokens


def check_text(text: str, name: str = "the text") -> str:
    """The text, if it is valid Unicode.

    Raises:
        UserError: If it holds half of a surrogate pair; `name` says whose text it is.
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


_PROBE = "  ﬁ　Å A\u030a\t\r\n x 12 "  # each part is changed by one of SentencePiece's usual normalisations


def _layout_fault(processor: sentencepiece.SentencePieceProcessor) -> str | None:
    """How a SentencePiece model differs from the layout that this module's ids assume."""
    if processor.get_piece_size() < _FIRST_PIECE:
        return f"it has {processor.get_piece_size()} ids, fewer than the specials and bytes"
    if processor.unk_id() != UNK:
        return f"its unknown id is {processor.unk_id()}, not {UNK}"
    for i, name in enumerate(SPECIALS):
        if processor.id_to_piece(i) not in (name, f"<|spare_{i}|>"):  # a model older than the name has a spare there
            return f"id {i} is {processor.id_to_piece(i)!r}, not {name!r}"
        if i != UNK and not processor.is_control(i):
            return f"id {i} is {name!r}, but text can produce it"
    if not all(processor.is_byte(i) for i in range(NUM_SPECIALS, _FIRST_PIECE)):
        return f"ids {NUM_SPECIALS}..{_FIRST_PIECE - 1} are not the bytes"
    return None


_LINE_CHARS = 1024  # at most 4 bytes each; SentencePiece drops a line of more bytes than its limit
_LINE = re.compile(rf"[^\r\n▁]{{1,{_LINE_CHARS}}}(?=[ \r\n▁]|\Z)|[^\r\n▁]{{1,{_LINE_CHARS}}}")  # cut before a space

_VISIBLE = re.compile(r"[^\s\0]")  # SentencePiece learns nothing from other lines, and fails if all are such


def _training_lines(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Lines short enough to be kept. Line ends and the space mark are no part of a piece: they stay bytes."""
    num_bytes = 0
    for row, text in enumerate(texts):
        for match in _LINE.finditer(check_text(text, f"document {row}")):
            if not _VISIBLE.search(match[0]):
                continue
            if num_bytes >= max_bytes:
                return
            num_bytes += len(match[0].encode())
            yield match[0]


def _training_error(message: str, vocab_size: int) -> Exception:
    """SentencePiece's complaints about the size of vocabulary or corpus as our errors; anything else is a bug."""
    if most := re.search(r"too high.*<= (\d+)", message):
        return UserError(f"the corpus is too small for vocab_size {vocab_size}: use at most {most[1]}, or more text")
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(f"vocab_size {vocab_size} cannot hold the corpus's characters: use at least {least[1]}")
    return RuntimeError(f"SentencePiece could not train: {message}")
