"""The tokenizer that a corpus is read with: a given one, or one learned from the corpus."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni.data.text.documents import Documents
from omni.errors import UserError
from omni.models.pretrained.tokenizer import PRETRAINED, PretrainedTokenizer
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.tokenizer import Tokenizer, open_tokenizer


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
        from omni.checkpoints.checkpoint import Checkpoint  # imports torch

        return Checkpoint(spec).tokenizer
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
