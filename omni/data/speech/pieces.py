"""Word pieces of a recogniser, learned from the transcripts that it trains on."""

from collections.abc import Iterable
from pathlib import Path

from omni.data.speech.manifests import sha256_of
from omni.errors import UserError
from omni.files import atomic_write
from omni.text.ctc_vocabulary import RARE, SubwordVocabulary, characters_of
from omni.text.normalization import TextNormalization
from omni.text.sentencepiece_training import train_pieces


def find_pieces(
    transcripts: Iterable[str],
    normalization: TextNormalization,
    vocab_size: int,
    *,
    cache_dir: Path,
    may_train: bool,
) -> SubwordVocabulary:
    """The word pieces of transcripts: trained once, then kept in `cache_dir`.

    All characters of a characters vocabulary are among them (see `characters_of`): other texts can be written, too.

    Args:
        transcripts: Before normalization.
        normalization: Of the transcripts.
        vocab_size: Number of units, blank included.
        cache_dir: The folder.
        may_train: Whether this process may train them.

    Raises:
        UserError: If `cache_dir` lacks them and this process may not train, or the transcripts are too few.
    """
    texts = [text for transcript in transcripts if (text := normalization(transcript))]
    path = cache_dir / f"pieces-{vocab_size}-{sha256_of(texts)[:16]}.model"
    if not path.exists():
        if not may_train:
            raise UserError(f"{path} does not exist: data.cache_dir must be a folder that all ranks of a node see")
        characters = characters_of(texts, normalization, least_share=RARE)
        model = train_pieces(texts, vocab_size=vocab_size, characters=characters)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(model)
    return SubwordVocabulary(path.read_bytes(), normalization)
