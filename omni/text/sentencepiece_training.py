"""Trains a SentencePiece tokenizer whose ids are laid out as in `omni.text.tokenizer`."""

import re
from collections.abc import Iterable, Iterator
from io import BytesIO

import sentencepiece

from omni.errors import UserError
from omni.text.tokenizer import (
    BOS,
    EOS,
    FIRST_PIECE,
    PAD,
    SPACE_MARK,
    SPECIALS,
    UNK,
    SentencePieceTokenizer,
    check_text,
)

_LINE_CHARS = 1024  # of up to 4 bytes; SentencePiece drops lines over its limit in bytes
_LINE = re.compile(rf"[^\r\n▁]{{1,{_LINE_CHARS}}}(?=[ \r\n▁]|\Z)|[^\r\n▁]{{1,{_LINE_CHARS}}}")  # cut before a space

_VISIBLE = re.compile(r"[^\s\0]")  # SentencePiece ignores other lines, and fails if there is no such line


def train_sentencepiece(
    texts: Iterable[str], *, vocab_size: int, max_bytes: int = 100_000_000
) -> SentencePieceTokenizer:
    """Trains byte-pair pieces. Deterministic: the same texts give the same model and fingerprint.

    Args:
        texts: Documents, shuffled if there are more than `max_bytes`.
        vocab_size: Number of ids: 32 specials, 256 bytes, and the learned pieces.
        max_bytes: Bytes of UTF-8 to read at most; memory and time grow with it.

    Raises:
        UserError: If there is no text, too little for `vocab_size`, or a lone surrogate; or `vocab_size` is too small.
    """
    if vocab_size <= FIRST_PIECE:
        raise UserError(f"vocab_size {vocab_size} leaves no room for pieces: use more than {FIRST_PIECE}")
    lines = list(_training_lines(texts, max_bytes))
    if not lines:
        raise UserError("the corpus of the tokenizer has no text: give files with text")
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            required_chars=SPACE_MARK,  # a corpus without spaces gets the piece too
            **dict(zip(("pad_id", "bos_id", "eos_id", "unk_id"), (PAD, BOS, EOS, UNK), strict=True)),
            **dict(zip(("pad_piece", "bos_piece", "eos_piece", "unk_piece"), SPECIALS, strict=False)),
            control_symbols=list(SPECIALS[UNK + 1 :]),
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # one token for an indentation
            split_digits=True,
            max_sentence_length=4 * _LINE_CHARS,
            num_threads=1,  # stored in the model; 2 threads: 0.9 s instead of 1.4 s (15 MB, vocab_size 16000)
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from None
    return SentencePieceTokenizer(model.getvalue())


def train_pieces(texts: Iterable[str], *, vocab_size: int, characters: str) -> bytes:
    """Trains byte-pair pieces for CTC: of words, without control and byte pieces. Deterministic.

    Args:
        texts: Normalised texts, each some words separated by single spaces.
        vocab_size: Number of pieces, with one for unknown characters.
        characters: Characters that become pieces even if no text has them.

    Returns:
        The content of a SentencePiece `.model` file.

    Raises:
        UserError: If there is too little text for `vocab_size`, or it is too small for the characters.
    """
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            required_chars=characters.replace(" ", ""),
            bos_id=-1,
            eos_id=-1,
            normalization_rule_name="identity",
            max_sentence_length=2**20,
            num_threads=1,  # stored in the model
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), vocab_size) from None
    return model.getvalue()


def _training_lines(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Yields lines within SentencePiece's limit, without line ends and space marks, which are encoded as bytes."""
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
    """Maps errors about the sizes of vocabulary and corpus to `UserError`; any other is a bug."""
    if most := re.search(r"too high.*<= (\d+)", message):
        return UserError(f"the corpus is too small for vocab_size {vocab_size}: use at most {most[1]}, or more text")
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(f"vocab_size {vocab_size} cannot hold the corpus's characters: use at least {least[1]}")
    return RuntimeError(f"SentencePiece could not train: {message}")
