"""`omni data tokenizer`: trains a tokenizer on text."""

from pathlib import Path

from omni.data.text.corpus import open_corpus
from omni.data.text.tokenizer_training import texts_of
from omni.errors import UserError
from omni.text.sentencepiece_training import train_sentencepiece


def train_tokenizer(
    text: list[str] | str,
    out: Path,
    vocab_size: int = 32000,
    text_column: str = "text",
    document_separator: str | None = None,
    max_bytes: int = 100_000_000,
) -> None:
    """Train a byte-pair tokenizer on text and save it.

    Example:
        omni data tokenizer --text train.txt --out text.model --vocab_size 4096

    Args:
        text: Files (.txt, .jsonl, .parquet), patterns, folders, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        out: The .model file to write.
        vocab_size: Number of ids: 32 special tokens, 256 bytes, the rest learned.
        text_column: Column of the text in .jsonl, .parquet and on the Hub.
        document_separator: Regular expression between the documents of a .txt file; by default a file is one document.
        max_bytes: Most text to train on, in bytes of UTF-8; the rest is not read.

    Raises:
        UserError: If the text cannot be read, is too little for `vocab_size`, or `out` cannot be written.
    """
    out = Path(out)
    if out.suffix != ".model":
        raise UserError(f"out is {out}: its suffix must be .model")
    sources = open_corpus(
        [text] if isinstance(text, str) else text, text_column=text_column, document_separator=document_separator
    )
    tokenizer = train_sentencepiece(texts_of(sources), vocab_size=vocab_size, max_bytes=max_bytes)
    tokenizer.save(out)
    print(f"{out}: {tokenizer.vocab_size} ids")
