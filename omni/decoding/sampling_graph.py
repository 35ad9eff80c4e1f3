"""Sampling inside a graph: `omni.decoding.sampling.choose_tokens` with its options as a tensor."""

import torch
from torch import Tensor

from omni.decoding.sampling_options import BELOW_ONE, SpeechSampling
from omni.models.talker import MAX_ADVANCE, Talker


def options_of(sampling: SpeechSampling) -> Tensor:
    """The options of `choose_in_frame`, (3, 3)."""
    kinds = (sampling.first, sampling.rest, sampling.pace)
    return torch.tensor([[kind.temperature, float(kind.top_k), kind.top_p] for kind in kinds])


def filters(sampling: SpeechSampling) -> bool:
    """Whether the options leave out unlikely choices."""
    return any(kind.top_k > 0 or kind.top_p < 1 for kind in (sampling.first, sampling.rest, sampling.pace))


def choose_in_frame(
    talker: Talker, state: Tensor, draws: Tensor, options: Tensor, *, filtered: bool = True
) -> tuple[Tensor, Tensor]:
    """Samples the codes and the advance of a frame.

    Args:
        talker: The model.
        state: (batch, dim), from `Talker.frame`.
        draws: (batch, codebooks + 1), uniform in [0, 1): for the codes and, last, the advance.
        options: (3, 3): `temperature`, `top_k` and `top_p` of the first codebook, the others and the advance.
        filtered: Whether `top_k` and `top_p` count, which needs sorted logits.

    Returns:
        Codes (batch, codebooks), and the number of characters to advance, (batch,); both int64.
    """
    first, rest, pace = options.unbind(0)
    codes = talker.depth.generate(
        state, lambda index, logits: choose(logits, draws[:, index], rest if index else first, filtered=filtered)
    )
    return codes, choose(talker.advance(state), draws[:, -1], pace, filtered=filtered).clamp(max=MAX_ADVANCE)


def choose(logits: Tensor, draws: Tensor, options: Tensor, *, filtered: bool = True) -> Tensor:
    """Chooses as `choose_tokens`, without a repetition penalty.

    Args:
        logits: (batch, vocab).
        draws: (batch,), uniform in [0, 1).
        options: (3,): `temperature`, `top_k` and `top_p` of `Sampling`.
        filtered: Whether `top_k` and `top_p` count.

    Returns:
        (batch,), int64.
    """
    temperature, top_k, top_p = options.unbind(0)
    vocab = logits.shape[-1]
    greedy = temperature == 0
    scaled = (logits - logits.amax(-1, keepdim=True)) / torch.where(greedy, 1.0, temperature)
    if not filtered:
        return torch.where(greedy, logits.argmax(-1), _draw(scaled.softmax(-1), draws))
    values, tokens = scaled.topk(vocab, dim=-1)
    dropped = (top_k > 0) & (torch.arange(vocab, device=logits.device) >= top_k)
    shares = values.masked_fill(dropped, -torch.inf).softmax(-1)
    shares = shares.masked_fill((shares.cumsum(-1) - shares >= top_p) & (top_p < 1), 0)
    likely = tokens.gather(-1, _draw(shares, draws)[:, None])[:, 0]
    leaves_out = ((top_k > 0) & (top_k < vocab)) | (top_p < 1)
    sampled = torch.where(leaves_out, likely, _draw(scaled.softmax(-1), draws))
    return torch.where(greedy, logits.argmax(-1), sampled)


def _draw(probabilities: Tensor, draws: Tensor) -> Tensor:
    """As in `omni.decoding.sampling`; ONNX has no `searchsorted`."""
    cumulative = probabilities.cumsum(-1)
    return (cumulative <= draws[:, None] * (cumulative[:, -1:] * BELOW_ONE)).sum(-1)
