"""Sampling inside a graph: `omni.decoding.sampling.choose_tokens` with its options as a tensor."""

import torch
from torch import Tensor

from omni.decoding.sampling_options import BELOW_ONE


def choose(logits: Tensor, draws: Tensor, options: Tensor) -> Tensor:
    """Chooses as `choose_tokens`, without a repetition penalty.

    Args:
        logits: (batch, vocab).
        draws: (batch,), uniform in [0, 1).
        options: (3,): `temperature`, `top_k` and `top_p` of `Sampling`.

    Returns:
        (batch,), int64.
    """
    temperature, top_k, top_p = options.unbind(0)
    vocab = logits.shape[-1]
    greedy = temperature == 0
    scaled = (logits - logits.amax(-1, keepdim=True)) / torch.where(greedy, 1.0, temperature)
    values, tokens = scaled.topk(vocab, dim=-1)
    dropped = (top_k > 0) & (torch.arange(vocab) >= top_k)
    shares = values.masked_fill(dropped, -torch.inf).softmax(-1)
    shares = shares.masked_fill((shares.cumsum(-1) - shares >= top_p) & (top_p < 1), 0)
    likely = tokens.gather(-1, _draw(shares, draws)[:, None])[:, 0]
    filtered = ((top_k > 0) & (top_k < vocab)) | (top_p < 1)
    sampled = torch.where(filtered, likely, _draw(scaled.softmax(-1), draws))
    return torch.where(greedy, logits.argmax(-1), sampled)


def _draw(probabilities: Tensor, draws: Tensor) -> Tensor:
    """As in `omni.decoding.sampling`; ONNX has no `searchsorted`."""
    cumulative = probabilities.cumsum(-1)
    return (cumulative <= draws[:, None] * (cumulative[:, -1:] * BELOW_ONE)).sum(-1)
