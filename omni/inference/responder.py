"""Generates answers to prompts: streamed with a KV cache, or in batches."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.decoding.sampling import Sampling, generate
from omni.inference.prompt import Prompt, reusable
from omni.layers.attention_weights import record_attention
from omni.media.speech_preprocessing import silence_value
from omni.models.interfaces import Cache
from omni.models.omni import Omni
from omni.text.stream_decoder import StreamDecoder
from omni.text.tokenizer import END, PAD, Tokenizer

GREEDY = Sampling(temperature=0)


class Responder:
    """Generates answers, and keeps the KV cache of the last prompt and answer.

    Args:
        omni: The model, in eval mode.
        tokenizer: The tokenizer of its Thinker.
        context: Most tokens of a prompt and its answer.
        stop: The token that ends an answer.
        device: Device of the model.
    """

    def __init__(
        self, omni: Omni, tokenizer: Tokenizer, *, context: int, stop: int = END, device: torch.device | str = "cpu"
    ) -> None:
        self.omni, self.tokenizer, self.context, self.stop = omni.to(device), tokenizer, context, stop
        self.device = torch.device(device)
        self._cache: Cache | None = None
        self._cached: list[Hashable] = []  # keys of what the cache holds; see `Prompt.keys`

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt], *, max_tokens: int, sampling: Sampling | None = None) -> list[str]:
        """Answers several prompts together.

        Args:
            prompts: One or more.
            max_tokens: Most tokens of an answer.
            sampling: Sampling options; greedy by default.

        Returns:
            The answer to each.
        """
        positions = pad_sequence([one.encoded.positions.T for one in prompts], batch_first=True).permute(2, 0, 1)
        steps = generate(
            self.omni.thinker,
            [one.tokens for one in prompts],
            embeddings=self.embed(prompts),
            positions=self.omni.rotary_positions(positions.to(self.device)),
            **self._options(max_tokens, sampling),
        )
        answers: list[list[int]] = [[] for _ in prompts]
        for step in steps:
            for tokens, token in zip(answers, step, strict=True):
                if token is not None and token != self.stop:
                    tokens.append(token)
        return [self.tokenizer.decode_turn(tokens) for tokens in answers]

    def stream(self, prompt: Prompt, *, max_tokens: int, sampling: Sampling | None = None) -> Iterator[str]:
        """Answers one prompt token by token; arguments as of `answer`.

        Reuses the KV cache for the longest common prefix with the last prompt and answer.

        Yields:
            Pieces of text, possibly empty; joined, they are the answer.
        """
        keys, decoder = prompt.keys(), StreamDecoder(self.tokenizer, turn=True)
        cache, known = self._recall(keys)
        self._cache = None  # until the end: the answer may be aborted
        rest = prompt.suffix(known)
        with torch.inference_mode():
            embeddings = self.embed([rest])
        steps = generate(
            self.omni.thinker,
            [prompt.tokens],
            embeddings=embeddings,
            positions=self.omni.rotary_positions(rest.encoded.positions[:, None].to(self.device)),
            cache=cache,
            **self._options(max_tokens, sampling),
        )
        generated: list[Hashable] = []
        for (token,) in steps:
            assert token is not None
            generated.append(token)
            if token != self.stop:
                yield decoder.push(token)
        yield decoder.finish()
        self._cache, self._cached = cache, [*keys, *generated][: cache.lengths[0]]

    @torch.inference_mode()
    def attention(self, prompt: Prompt) -> Tensor:
        """Attention weights of the last token of a prompt, which predicts the first token of the answer.

        Args:
            prompt: The prompt; see `omni.inference.assistant.Assistant.prompt`.

        Returns:
            (layers, heads, tokens) over the prompt's tokens, on the CPU. Those of an image are where `prompt.tokens` is
            `omni.text.tokenizer.IMAGE`, in reading order of the grid `omni.layout.image_grid`; those of a recording
            where it is `AUDIO`.

        Raises:
            UserError: If the Thinker is a pretrained model, whose layers are not those of omni.
        """
        positions = self.omni.rotary_positions(prompt.encoded.positions[:, None].to(self.device))
        with record_attention(self.omni.thinker) as weights:
            self.omni.thinker.encode(embeddings=self.embed([prompt]), positions=positions)
        return torch.stack([layer[0, :, -1] for layer in weights.values()]).cpu()

    @torch.inference_mode()
    def _recall(self, keys: Sequence[Hashable]) -> tuple[Cache, int]:
        """A cache and the number of tokens it holds; the last token of a prompt is always computed."""
        if self._cache is None:
            return self.omni.thinker.new_cache(1, self.context), 0
        known = reusable(self._cached, keys)
        self._cache.keep(known)
        return self._cache, known

    def embed(self, prompts: Sequence[Prompt]) -> Tensor:
        """Embeds prompts with their media: (prompts, time, dim), undefined after each prompt's end."""
        tokens = pad_sequence([one.encoded.tokens for one in prompts], batch_first=True, padding_value=PAD)
        images = [image for one in prompts for image in one.images()]
        mels = [mel for one in prompts for mel in one.mels()]
        media: dict[str, Any] = {}
        if images:
            media["images"] = torch.stack(images).to(self.device)
        if mels and self.omni.audio_encoder is not None:
            silence = silence_value(self.omni.audio_encoder.num_mels)
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
