"""What a Thinker makes of words that are to be said: its hidden states, a further condition of the Talker."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.models.pretrained.thinker import PretrainedThinker
from omni.models.talker import expand_tokens_to_characters
from omni.models.thinker import Thinker
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import PAD, Tokenizer


@final
class Conditioner:
    """Reads what a Talker is to say, each sentence alone, in the Talker's own spelling.

    Args:
        thinker: Reads; it is not trained.
        tokenizer: Of the Thinker.
        units: Of the Talker.
    """

    def __init__(self, thinker: Thinker | PretrainedThinker, tokenizer: Tokenizer, units: CTCVocabulary) -> None:
        self.thinker, self.tokenizer, self.units = thinker, tokenizer, units
        self._bytes = np.array(tokenizer.token_bytes())

    @torch.no_grad()
    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The hidden state of the token that each character belongs to.

        Args:
            texts: CTCVocabulary of each, as the Talker reads them.

        Returns:
            (batch, characters of the longest, thinker.dim); zeros behind a row's end.
        """
        read = [self._read(self.units.decode(text)) for text in texts]
        device = next(self.thinker.parameters()).device
        first = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        tokens = pad_sequence([torch.tensor([*first, *ids]) for ids, _ in read], batch_first=True, padding_value=PAD)
        hidden = self.thinker.encode(tokens.to(device, non_blocking=True)).hidden[:, len(first) :]
        return expand_tokens_to_characters(hidden, [counts for _, counts in read])

    def _read(self, text: str) -> tuple[list[int], np.ndarray]:
        """The tokens of a text, and how many of its characters end in each."""
        lead = self.tokenizer.lead
        ids = self.tokenizer.encode(lead + text)
        token_ends = self._bytes[ids].cumsum()
        character_ends = np.cumsum([len(character.encode()) for character in lead + text])[len(lead) :]
        return ids, np.bincount(np.searchsorted(token_ends, character_ends), minlength=len(ids))
