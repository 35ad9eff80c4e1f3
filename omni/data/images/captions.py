"""Captions of images and their tokenizer."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, final

from omni.data.images.rows import ImageRow
from omni.data.text.documents import Documents
from omni.data.text.tokenizer_training import find_tokenizer
from omni.text.tokenizer import BOS, EOS, ByteTokenizer, Tokenizer


class Captions(NamedTuple):
    """Captions of images, tokenised.

    Attributes:
        tokens: Of each caption of each image.
        ids: Number of the text of each caption; equal for equal texts.
    """

    tokens: list[list[list[int]]]
    ids: list[list[int]]


def encode_captions(rows: Sequence[ImageRow], tokenizer: Tokenizer, max_tokens: int) -> tuple[Captions, int]:
    """Tokenises all captions, with bos and eos.

    Args:
        rows: The images.
        tokenizer: Encodes the captions.
        max_tokens: Longer captions are cropped.

    Returns:
        The captions, and the number of cropped ones.
    """
    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(text, len(numbers)) for text in row.captions] for row in rows]
    encoded = [[BOS, *tokens, EOS] for tokens in tokenizer.encode_batch(list(numbers))]
    cropped = sum(len(encoded[number]) > max_tokens for row in ids for number in row)
    encoded = [tokens[:max_tokens] for tokens in encoded]
    return Captions([[encoded[number] for number in row] for row in ids], ids), cropped


@final
class CaptionTexts(Documents):
    """Captions as documents, to train a tokenizer on."""

    name = "captions"

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def read(self) -> Iterator[str]:
        return iter(self.texts)

    def fingerprint(self, *, content: bool) -> str:
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()


def find_caption_tokenizer(
    spec: str, captions: list[str], *, vocab_size: int, cache_dir: Path, may_train: bool
) -> Tokenizer:
    """The tokenizer of captions.

    Args:
        spec: `bytes`, `bpe`, a .model file, or a .ckpt file.
        captions: Of the training images, to train `bpe` on.
        vocab_size: Of `bpe`.
        cache_dir: Folder of `bpe`.
        may_train: Whether this process may train it.

    Raises:
        UserError: If the tokenizer does not exist or cannot be trained.
    """
    if spec == "bpe" and not captions:
        return ByteTokenizer()  # there is nothing to encode
    documents = CaptionTexts(captions)
    return find_tokenizer(
        spec,
        [documents],
        fingerprint=documents.fingerprint(content=True),
        vocab_size=vocab_size,
        cache_dir=cache_dir,
        may_train=may_train,
    )
