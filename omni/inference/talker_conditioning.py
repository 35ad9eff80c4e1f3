"""Hidden states of a Thinker as conditioning for a Talker."""

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
    """Encodes the text of each sentence, as the Talker spells it, with a frozen Thinker.

    Args:
        thinker: The Thinker.
        tokenizer: The tokenizer of the Thinker.
        units: The vocabulary of the Talker.
    """

    def __init__(self, thinker: Thinker | PretrainedThinker, tokenizer: Tokenizer, units: CTCVocabulary) -> None:
        self.thinker, self.tokenizer, self.units = thinker, tokenizer, units
        self._bytes = np.array(tokenizer.token_bytes())

    @torch.no_grad()
    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The hidden state of the token that each character belongs to.

        Args:
            texts: Units of each text, the input of the Talker.

        Returns:
            (batch, characters of the longest, thinker.dim); zeros after the end of a row.
        """
        device = next(self.thinker.parameters()).device
        hidden = self.thinker.encode(self.tokens(texts).to(device, non_blocking=True)).hidden
        counts = [self._encode(self.units.decode(text))[1] for text in texts]
        return expand_tokens_to_characters(hidden[:, self.tokenizer.bos is not None :], counts)

    def tokens(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The input of the Thinker for units of each text: (batch, tokens), padded at the end."""
        bos = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        rows = [torch.tensor([*bos, *self._encode(self.units.decode(text))[0]]) for text in texts]
        return pad_sequence(rows, batch_first=True, padding_value=PAD)

    def _encode(self, text: str) -> tuple[list[int], np.ndarray]:
        """The tokens of a text, and the number of its characters that end in each."""
        lead = self.tokenizer.lead
        ids = self.tokenizer.encode(lead + text)
        token_ends = self._bytes[ids].cumsum()
        character_ends = np.cumsum([len(character.encode()) for character in lead + text])[len(lead) :]
        return ids, np.bincount(np.searchsorted(token_ends, character_ends), minlength=len(ids))
