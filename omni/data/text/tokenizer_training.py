"""The tokenizer of a corpus: a given one, or one trained on the corpus."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni.data.text.documents import Documents
from omni.errors import UserError
from omni.models.pretrained.tokenizer import PRETRAINED, PretrainedTokenizer
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.tokenizer import Tokenizer, open_tokenizer


def find_tokenizer(
    spec: str,
    sources: Sequence[Documents] = (),
    *,
    fingerprint: str = "",
    vocab_size: int = 0,
    cache_dir: Path = Path("data/cache"),
    may_train: bool = False,
) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Args:
        spec: `bpe` (trained on `sources` once, then kept in `cache_dir`), `bytes`, a `.model` file, a `.ckpt`
            file or `hf:FOLDER` for the tokenizer in it, or `pretrained:` and the name or the folder of a pretrained
            model.
        sources: The documents to train on.
        fingerprint: Of the documents.
        vocab_size: Of `bpe`.
        cache_dir: Folder of `bpe`.
        may_train: Whether this process may train one that `cache_dir` does not hold.

    Raises:
        UserError: If the tokenizer cannot be loaded or trained.
    """
    if Path(spec).suffix == ".ckpt" or Path(spec).is_dir() or spec.startswith("hf:"):
        from omni.checkpoints.checkpoint import Checkpoint  # imports torch

        return Checkpoint(spec).tokenizer
    if spec.startswith(PRETRAINED):
        return PretrainedTokenizer(spec.removeprefix(PRETRAINED))
    if spec != "bpe":
        return open_tokenizer(spec)
    key = hashlib.sha256(f"{fingerprint} {vocab_size}".encode()).hexdigest()
    path = cache_dir / f"bpe-{vocab_size}-{key[:16]}.model"
    if not path.exists():
        if not may_train:
            raise UserError(f"{path} does not exist: data.cache_dir must be a folder that all ranks of a node see")
        train_sentencepiece(texts_of(sources), vocab_size=vocab_size).save(path)
    return open_tokenizer(path)


def texts_of(sources: Sequence[Documents]) -> Iterator[str]:
    """The texts of a corpus."""
    return (text for source in sources for text in source.read())
