"""The tokenizer that a corpus is read with: a given one, or one learned from the corpus."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni.data.corpus import open_corpus
from omni.data.documents import Documents
from omni.errors import UserError
from omni.pretrained_tokenizer import PRETRAINED, PretrainedTokenizer
from omni.tokenizer import Tokenizer, open_tokenizer, train_sentencepiece


def train_tokenizer(
    text: list[str] | str,
    out: Path,
    vocab_size: int = 32000,
    text_column: str = "text",
    document_separator: str | None = None,
    max_bytes: int = 100_000_000,
) -> None:
    """Learns a byte-pair tokenizer from text and saves it.

    Args:
        text: Files (.txt, .jsonl, .parquet), patterns, folders, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        out: The .model file to write.
        vocab_size: Ids in all: 32 specials, 256 bytes, the rest learned.
        text_column: Where the text is in .jsonl, .parquet and on the Hub.
        document_separator: Regular expression between the documents of a .txt file; by default a file is one.
        max_bytes: Text to learn from, in bytes of UTF-8; what comes after is not read.

    Raises:
        UserError: If the text cannot be read, is too little for `vocab_size`, or `out` cannot be written.
    """
    out = Path(out)
    if out.suffix != ".model":
        raise UserError(f"out {out} would not be found again: let its name end in .model")
    sources = open_corpus(
        [text] if isinstance(text, str) else text, text_column=text_column, document_separator=document_separator
    )
    tokenizer = train_sentencepiece(_texts(sources), vocab_size=vocab_size, max_bytes=max_bytes)
    tokenizer.save(out)
    print(f"{out}: {tokenizer.vocab_size} ids")


def find_tokenizer(
    spec: str, sources: Sequence[Documents], *, identity: str, vocab_size: int, cache_dir: Path, may_train: bool
) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Args:
        spec: `bpe` (learned from `sources` once, then kept in `cache_dir`), `bytes`, a `.model` file, a `.ckpt`
            file, for the tokenizer in it, or `pretrained:` and the name or the folder of a pretrained model.
        sources: The documents to train on.
        identity: Their fingerprint.
        vocab_size: For `bpe`.
        cache_dir: For `bpe`.
        may_train: Whether this process may learn one where none is kept.

    Raises:
        UserError: If the tokenizer cannot be had.
    """
    if Path(spec).suffix == ".ckpt" or Path(spec).is_dir():
        from omni.checkpoint import tokenizer_of  # imports torch

        return tokenizer_of(spec)
    if spec.startswith(PRETRAINED):
        return PretrainedTokenizer(spec.removeprefix(PRETRAINED))
    if spec != "bpe":
        return open_tokenizer(spec)
    key = hashlib.sha256(f"{identity} {vocab_size}".encode()).hexdigest()
    path = cache_dir / f"bpe-{vocab_size}-{key[:16]}.model"
    if not path.exists():
        if not may_train:
            raise UserError(f"{path} is not there: data.cache_dir must be a folder that all ranks of a node see")
        train_sentencepiece(_texts(sources), vocab_size=vocab_size).save(path)
    return open_tokenizer(path)


def _texts(sources: Sequence[Documents]) -> Iterator[str]:
    return (text for source in sources for text in source.read())
