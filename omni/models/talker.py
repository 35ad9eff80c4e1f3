"""The Talker: text to codec frames, with an explicit position in the text."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from omni.batch import IGNORE
from omni.layers.cache import KVCache
from omni.layers.depth import DepthModule
from omni.layers.mask import length_mask
from omni.layers.readout import readout
from omni.layers.transformer import Transformer
from omni.models.part import Part

MAX_ADVANCE = 3  # most characters that a frame advances by: 75 characters a second at 25 Hz


class TalkerOutput(NamedTuple):
    """Output of the Talker for each frame.

    Attributes:
        code_logits: (batch, frames, codebooks, codebook_size).
        advance_logits: (batch, frames, MAX_ADVANCE + 1): of the number of characters to advance after the frame.
    """

    code_logits: Tensor
    advance_logits: Tensor


class Talker(Part):
    """Characters to codec frames, with an explicit monotonic position in the text.

    A bidirectional Transformer encodes the characters between a start symbol (leading silence) and an end symbol
    (trailing silence). At each codec frame a causal Transformer reads the previous frame and the encoding of the
    character at the current position. It predicts the frame's first code, a `DepthModule` the other codes, and a third
    head the number of characters (0–3) by which the position advances. Speech ends after the end symbol: there is no
    stop token to miss, and no word is skipped or repeated (as in neural HMMs for speech, arXiv:2108.13320).

    Args:
        vocab_size: Size of the character vocabulary, with `omni.text.ctc_vocabulary.BLANK`, which is never in a text.
        num_codebooks: Codes per frame; the codec's.
        codebook_size: Entries per codebook; the codec's.
        frame_rate: Frames per second; the codec's.
        num_speakers: 0, or the number of voices.
        thinker_dim: 0, or the width of the Thinker's hidden states, a further condition on each character.
        thinker_dropout: Share of training rows without this condition, so that the Talker also works without it.
        dim: Width of both Transformers.
        num_layers: Blocks of the causal Transformer.
        num_heads: Attention heads of both.
        num_kv_heads: Heads of keys and values in the causal one; `num_heads` if not given.
        ffn_dim: Hidden width of the causal one's feed-forward networks.
        text_layers: Blocks of the bidirectional Transformer.
        text_ffn_dim: Hidden width of its feed-forward networks.
        code_noise: Share of the input codes that training replaces by random ones, so that the Talker learns to
            recover from its own errors.
        dropout: Dropout in training.
        gradient_checkpointing: Whether activations of blocks are recomputed in the backward pass.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 29,
        num_codebooks: int = 4,
        codebook_size: int = 256,
        frame_rate: float = 25.0,
        num_speakers: int = 0,
        thinker_dim: int = 0,
        thinker_dropout: float = 0.5,
        dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        ffn_dim: int = 704,
        text_layers: int = 2,
        text_ffn_dim: int = 352,
        code_noise: float = 0.05,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for name, share in {"code_noise": code_noise, "thinker_dropout": thinker_dropout}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be 0 or more and less than 1, not {share}")
        self.vocab_size, self.dim, self.frame_rate = vocab_size, dim, frame_rate
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.num_speakers, self.thinker_dim = num_speakers, thinker_dim
        self.thinker_dropout, self.code_noise = thinker_dropout, code_noise
        self.characters = nn.Embedding(vocab_size + 2, dim)  # and a start and an end symbol
        self.speakers = nn.Embedding(num_speakers, dim) if num_speakers else None
        self.condition = nn.Linear(thinker_dim, dim, bias=False) if thinker_dim else None
        shared: dict[str, Any] = {
            "dim": dim,
            "num_heads": num_heads,
            "dropout": dropout,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.text_encoder = Transformer(num_layers=text_layers, ffn_dim=text_ffn_dim, causal=False, **shared)
        self.start = nn.Parameter(torch.zeros(dim))  # input at the first frame
        self.transformer = Transformer(num_layers=num_layers, ffn_dim=ffn_dim, num_kv_heads=num_kv_heads, **shared)
        self.advance = readout(nn.Linear(dim, MAX_ADVANCE + 1))
        self.depth = DepthModule(dim, num_codebooks=num_codebooks, codebook_size=codebook_size)
        self.frame_choice: Callable[..., tuple[Tensor, Tensor]] | None = None
        nn.init.normal_(self.advance.weight, std=0.02)
        nn.init.zeros_(self.advance.bias)
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=thinker_dim**-0.5)

    @property
    def flops_per_second(self) -> float:
        """FLOPs of training on a second of speech, without attention products and the text encoder."""
        modules = (self.transformer, self.advance, self.depth.mixers, self.depth.heads)
        return 6 * self.frame_rate * sum(p.numel() for module in modules for p in module.parameters())

    def encode_text(
        self,
        text: Tensor,
        text_lengths: Tensor,
        *,
        speakers: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Encodes texts.

        Args:
            text: (batch, characters), int64; ignored after a row's end.
            text_lengths: (batch,), int64: characters of each row, 0 or more.
            speakers: (batch,), int64: voice of each row; for a Talker with several, and only then.
            hidden: (batch, characters, thinker_dim): the Thinker's hidden states (see `expand_tokens_to_characters`).

        Returns:
            (batch, characters + 2, dim): start symbol, text, end symbol; undefined after a row's end.

        Raises:
            ValueError: If speakers are missing, or speakers or hidden states are given to a Talker without them.
        """
        if (speakers is None) != (self.speakers is None):
            raise ValueError(
                f"the Talker has {self.num_speakers} speakers: give speakers if, and only if, there are any"
            )
        inside = length_mask(text_lengths + 2, text.shape[1] + 2)
        symbols = F.pad(text.clamp(min=0), (1, 1), value=self.vocab_size)
        symbols = symbols.scatter(1, text_lengths[:, None] + 1, self.vocab_size + 1)
        x = self.characters(symbols)
        if hidden is not None:
            x = x + self._conditioned(hidden)
        voice = None if self.speakers is None or speakers is None else self.speakers(speakers)[:, None]
        if voice is not None:
            x = x + voice
        x = self.text_encoder(x, mask=inside).hidden
        return x if voice is None else x + voice

    def _conditioned(self, hidden: Tensor) -> Tensor:
        if self.condition is None:
            raise ValueError(
                "the Talker has no condition on a Thinker: set thinker_dim to the width of its hidden states"
            )
        condition = F.pad(self.condition(hidden), (0, 0, 1, 1))
        if self.training:
            kept = torch.rand(len(hidden), 1, 1, device=hidden.device) >= self.thinker_dropout
            condition = condition * kept
        return condition

    def forward(
        self,
        text: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        advances: Tensor,
        **conditions: Tensor | None,
    ) -> TalkerOutput:
        """Predicts each frame from the previous ones, for known codes and advances (teacher forcing).

        Args:
            text: As in `encode_text`; so are `text_lengths` and `conditions`.
            text_lengths: (batch,), int64.
            codes: (batch, frames, codebooks), int64; undefined after a row's end.
            advances: (batch, frames), int64: characters by which the position advances after each frame, in all from
                the start symbol to after the end symbol. `IGNORE` after a row's end.
            conditions: `speakers` and `hidden`.

        Returns:
            Logits of the codes of each frame and of its advance.
        """
        texts = self.encode_text(text, text_lengths, **conditions)
        codes = codes.clamp(min=0)
        before = torch.cat((self.start.expand(len(codes), 1, -1), self.depth.embed(self._noisy(codes[:, :-1]))), dim=1)
        x = before + gather(texts, positions(advances))
        x = self.transformer(x).hidden
        return TalkerOutput(self.depth(x, codes), self.advance(x))

    def _noisy(self, codes: Tensor) -> Tensor:
        if not self.training or not self.code_noise:
            return codes
        replaced = torch.rand(codes.shape, device=codes.device) < self.code_noise
        return torch.where(replaced, torch.randint_like(codes, self.codebook_size), codes)

    def frame(self, before: Tensor | None, characters: Tensor, cache: KVCache) -> Tensor:
        """The hidden state of the next frame of each row, which the cache then holds.

        Args:
            before: (batch, codebooks), int64: the previous frame; None for the first.
            characters: (batch, dim): encoding of the text at each row's position.
            cache: Cache of the frames so far, from `new_cache`.

        Returns:
            (batch, dim), for `advance` and `depth`.
        """
        last = self.start.expand(len(characters), -1) if before is None else self.depth.embed(before)
        return self.encode_frame(last + characters, cache)

    def encode_frame(self, x: Tensor, cache: KVCache) -> Tensor:
        """As `frame`, of the sums (batch, dim) of the embedded previous frame, or `start`, and the characters."""
        hidden = self.transformer(x[:, None], cache=cache).hidden[:, 0]
        cache.advance(1)
        return hidden

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for rows of up to `max_length` frames."""
        return self.transformer.new_cache(batch_size, max_length)


def positions(advances: Tensor) -> Tensor:
    """Position of each frame in the text, from the advances of earlier frames: (batch, frames); 0 is the start symbol.

    After a row's end, where advances are `IGNORE`, it is the one after the end symbol.
    """
    steps = torch.where(advances == IGNORE, 0, advances)
    return steps.cumsum(1) - steps


def gather(texts: Tensor, positions: Tensor) -> Tensor:
    """The encodings (batch, time, dim) at positions (batch, frames): (batch, frames, dim)."""
    index = positions.clamp(max=texts.shape[1] - 1)[..., None]
    return texts.gather(1, index.expand(-1, -1, texts.shape[-1]))


def expand_tokens_to_characters(hidden: Tensor, counts: Sequence[NDArray[np.int64]]) -> Tensor:
    """Gives each character the hidden state of the token that it belongs to.

    Args:
        hidden: (batch, tokens, thinker_dim).
        counts: Number of characters of each token, (tokens,) for each row; on the host, to avoid a synchronisation.

    Returns:
        (batch, characters, thinker_dim), zeros after a row's end.
    """
    owners = [np.repeat(np.arange(len(row)), row) for row in counts]
    padded = np.full((len(owners), max(map(len, owners))), -1)
    for row, owner in zip(padded, owners, strict=True):
        row[: len(owner)] = owner
    index = torch.tensor(padded).to(hidden.device, non_blocking=True)[..., None]
    return hidden.gather(1, index.clamp(min=0).expand(-1, -1, hidden.shape[2])) * (index >= 0)
