"""The sampling loop: continues a batch of prompts token by token."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from omni.decoding.sampling_options import BELOW_ONE, Sampling, random_stream
from omni.errors import UserError
from omni.models.interfaces import Cache, LanguageModel


def choose_tokens(sampling: Sampling, logits: Tensor, seen: Tensor, draws: Tensor) -> Tensor:
    """Chooses a token for each row.

    Args:
        sampling: The options.
        logits: (batch, vocab).
        seen: (batch, vocab), bool: tokens that the row already holds.
        draws: (batch,), fp32, uniform in [0, 1]; 1, from rounding, takes the last token.

    Returns:
        (batch,) of int64.
    """
    if sampling.repetition_penalty != 1:
        penalty = torch.where(logits > 0, 1 / sampling.repetition_penalty, sampling.repetition_penalty)
        logits = torch.where(seen, logits * penalty, logits)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature  # tiny ones overflow to -inf only
    kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    if kept == logits.shape[-1] and sampling.top_p == 1:
        return _draw(logits.softmax(-1), draws)
    values, tokens = logits.topk(kept, dim=-1)  # sorted, most likely first
    probabilities = values.softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0)
    return tokens.gather(-1, _draw(probabilities, draws)[:, None])[:, 0]


def _draw(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Inverts the cumulative distribution; `probabilities` (batch, choices) need not sum to 1."""
    cumulative = probabilities.cumsum(-1)
    # Less than the total even when rounded: choices of probability 0 may follow the last possible one.
    wanted = draws[:, None] * (cumulative[:, -1:] * BELOW_ONE)
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0]


@torch.inference_mode()
def generate(
    thinker: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    embeddings: Tensor | None = None,
    positions: Tensor | None = None,
    max_tokens: int,
    stop: int,
    vocab_size: int | None = None,
    sampling: Sampling | None = None,
    cache: Cache | None = None,
) -> Iterator[list[int | None]]:
    """Continues prompts of any lengths together, step by step.

    Args:
        thinker: The model, in eval mode.
        prompts: Tokens of each prompt; not empty.
        embeddings: (batch, time, dim): the input in place of the prompts' tokens, with features of media; undefined
            after each prompt's end.
        positions: (rope_axes, batch, time) of the input, continued from each prompt's last; consecutive if not given.
        max_tokens: Largest number of new tokens per row, at least 1.
        stop: The token that ends a row.
        vocab_size: Size of the tokenizer's vocabulary, if smaller than the Thinker's; other tokens are never chosen.
        sampling: Sampling of tokens; the defaults of `Sampling` if not given.
        cache: Holds the start of each prompt (at most all but its last token), with room for the rest and the new
            tokens but the last; embeddings and positions are then of the rest. A new cache if not given.

    Yields:
        For each step the new token of each row, or None for a row that has ended. The stop token is yielded.

    Raises:
        UserError: If there is no prompt, one is empty or holds an unknown token, or `max_tokens` < 1.
    """
    sampling, vocab_size = sampling or Sampling(), vocab_size or thinker.vocab_size
    _check(prompts, max_tokens, vocab_size)
    if cache is None:
        cache = thinker.new_cache(len(prompts), max(map(len, prompts)) + max_tokens)
    lengths = [len(prompt) - known for prompt, known in zip(prompts, cache.lengths, strict=True)]
    tokens, seen = (tensor.to(cache.device) for tensor in _padded(prompts, lengths, vocab_size))
    draws = _uniform(sampling.seed, len(prompts), max_tokens).to(cache.device)
    inputs = {"tokens": tokens} if embeddings is None else {"embeddings": embeddings[:, : max(lengths)]}
    position = None if positions is None else positions[:, :, : max(lengths)]
    hidden = thinker.encode(**inputs, positions=position, cache=cache).hidden
    cache.advance(lengths)
    rows, ends = torch.arange(len(prompts), device=cache.device), torch.tensor(lengths, device=cache.device) - 1
    last = hidden[rows, ends]
    position = None if positions is None else positions[:, rows, ends].amax(0)[:, None]
    ended = [False] * len(prompts)
    for step in range(max_tokens):
        chosen = choose_tokens(sampling, thinker.logits(last)[:, :vocab_size], seen, draws[:, step])
        new = chosen.tolist()
        yield [None if over else token for over, token in zip(ended, new, strict=True)]
        ended = [over or token == stop for over, token in zip(ended, new, strict=True)]
        if all(ended) or step == max_tokens - 1:
            return
        if sampling.repetition_penalty != 1:
            seen[rows, chosen] = True
        position = None if position is None else position + 1
        last = thinker.encode(chosen[:, None], positions=position, cache=cache).hidden[:, 0]
        cache.advance(1)


def _padded(prompts: Sequence[Sequence[int]], lengths: Sequence[int], vocab_size: int) -> tuple[Tensor, Tensor]:
    """The last tokens of each prompt (batch, time), and all tokens that it holds (batch, vocab), bool."""
    tokens = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        tokens[row, :length] = torch.tensor(prompt[-length:])
        seen[row, torch.tensor(prompt)] = True
    return tokens, seen


def _check(prompts: Sequence[Sequence[int]], max_tokens: int, vocab_size: int) -> None:
    if max_tokens < 1:
        raise UserError(f"max_tokens must be 1 or more, not {max_tokens}")
    if not prompts:
        raise UserError("there is no prompt to continue")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {row} has no tokens: start it with bos")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise UserError(f"prompt {row} holds a token outside the vocabulary of {vocab_size}")


def _uniform(seed: int, rows: int, steps: int) -> Tensor:
    """Draws of each row, (rows, steps), independent of the number of rows and steps.

    By Python's generator: PyTorch's on a CPU uses only 32 bits of a seed.
    """
    streams = [random_stream(seed, row) for row in range(rows)]
    return torch.tensor([[stream.random() for _ in range(steps)] for stream in streams])
