"""Answers to prompts, token by token or many at a time."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.decoding.sampling import Sampling, generate
from omni.inference.prompt import Prompt
from omni.media.speech_preprocessing import silence_of
from omni.models.interfaces import Cache
from omni.models.omni import Omni
from omni.text.tokenizer import END, PAD, StreamDecoder, Tokenizer

GREEDY = Sampling(temperature=0)


class Responder:
    """A model that answers, and remembers what it has read last.

    Args:
        omni: The model, in eval mode.
        tokenizer: Its Thinker's.
        context: Most tokens of a prompt and its answer.
        stop: The token that ends an answer.
        device: Where it runs.
    """

    def __init__(
        self, omni: Omni, tokenizer: Tokenizer, *, context: int, stop: int = END, device: torch.device | str = "cpu"
    ) -> None:
        self.omni, self.tokenizer, self.context, self.stop = omni.to(device), tokenizer, context, stop
        self.device = torch.device(device)
        self._cache: Cache | None = None
        self._known: list[Hashable] = []  # what the cache holds, see `Prompt.keys`

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt], *, max_tokens: int, sampling: Sampling | None = None) -> list[str]:
        """Answers several prompts together.

        Args:
            prompts: One or more.
            max_tokens: Most tokens of an answer.
            sampling: How they are chosen; always the likeliest if not given.

        Returns:
            The answer to each.
        """
        positions = pad_sequence([one.laid.positions.T for one in prompts], batch_first=True).permute(2, 0, 1)
        steps = generate(
            self.omni.thinker,
            [one.tokens for one in prompts],
            embeddings=self._embed(prompts),
            positions=self.omni.rotary_positions(positions.to(self.device)),
            **self._options(max_tokens, sampling),
        )
        said: list[list[int]] = [[] for _ in prompts]
        for step in steps:
            for tokens, token in zip(said, step, strict=True):
                if token is not None and token != self.stop:
                    tokens.append(token)
        return [self.tokenizer.decode_turn(tokens) for tokens in said]

    def stream(self, prompt: Prompt, *, max_tokens: int, sampling: Sampling | None = None) -> Iterator[str]:
        """Answers one prompt token by token; arguments as of `answer`.

        What the model has computed for the last prompt and its answer is kept as far as this one begins alike.

        Yields:
            Pieces of text, some of them empty; joined they are the answer.
        """
        keys, decoder = prompt.keys(), StreamDecoder(self.tokenizer, turn=True)
        cache, known = self._recall(keys)
        self._cache = None  # until all is well: an answer may be broken off anywhere
        rest = prompt.behind(known)
        with torch.inference_mode():
            embeddings = self._embed([rest])
        steps = generate(
            self.omni.thinker,
            [prompt.tokens],
            embeddings=embeddings,
            positions=self.omni.rotary_positions(rest.laid.positions[:, None].to(self.device)),
            cache=cache,
            **self._options(max_tokens, sampling),
        )
        said: list[Hashable] = []
        for (token,) in steps:
            assert token is not None
            said.append(token)
            if token != self.stop:
                yield decoder.push(token)
        yield decoder.finish()
        self._cache, self._known = cache, [*keys, *said][: cache.lengths[0]]

    @torch.inference_mode()
    def _recall(self, keys: Sequence[Hashable]) -> tuple[Cache, int]:
        """A cache, and how many of the tokens it holds already: the last one is always read again."""
        if self._cache is None:
            return self.omni.thinker.new_cache(1, self.context), 0
        pairs = enumerate(zip(self._known, keys[:-1], strict=False))
        unlike = next((number for number, (one, other) in pairs if one != other), None)
        known = min(len(self._known), len(keys) - 1) if unlike is None else unlike
        known -= _begun(keys[known])
        self._cache.keep(known)
        return self._cache, known

    def _embed(self, prompts: Sequence[Prompt]) -> Tensor:
        tokens = pad_sequence([one.laid.tokens for one in prompts], batch_first=True, padding_value=PAD)
        images = [image for one in prompts for image in one.images()]
        mels = [mel for one in prompts for mel in one.mels()]
        media: dict[str, Any] = {}
        if images:
            media["images"] = torch.stack(images).to(self.device)
        if mels and self.omni.audio_encoder is not None:
            silence = silence_of(self.omni.audio_encoder.num_mels)
            media["mels"] = pad_sequence(mels, batch_first=True, padding_value=silence).to(self.device)
            media["mel_lengths"] = torch.tensor([len(mel) for mel in mels], device=self.device)
        return self.omni.embed(tokens.to(self.device), **media).embeddings

    def _options(self, max_tokens: int, sampling: Sampling | None) -> dict[str, Any]:
        return {
            "max_tokens": max_tokens,
            "stop": self.stop,
            "vocab_size": self.tokenizer.vocab_size,
            "sampling": sampling or GREEDY,
        }


def _begun(key: Hashable) -> int:
    """How many features of a medium stand before one of `Prompt.keys`: media are read whole."""
    return key[-1] if isinstance(key, tuple) else 0
