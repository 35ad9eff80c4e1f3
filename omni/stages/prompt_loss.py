"""The text of prompts in the training loss of stage E."""

import torch
from torch import Tensor

from omni.batch import IGNORE, ConversationBatch
from omni.text.tokenizer import NUM_SPECIALS


def with_prompts(batch: ConversationBatch, weight: float) -> tuple[ConversationBatch, Tensor]:
    """The batch with all text as targets: of system, user and assistant.

    Special tokens and the features of media are no targets, except the token that ends an answer.

    Args:
        batch: A batch whose targets are the assistant's.
        weight: Of a token that is not the assistant's.

    Returns:
        The batch with new `targets` and `scored`, and the weights of the scored targets, (scored,) of fp32; without
        `scored`, of all positions: (batch, time).
    """
    following = torch.full_like(batch.tokens, IGNORE)
    following[:, :-1] = batch.tokens[:, 1:]
    answers = batch.targets != IGNORE
    targets = torch.where(answers, batch.targets, torch.where(following >= NUM_SPECIALS, following, IGNORE))
    weights = torch.where(answers, 1.0, weight) * (targets != IGNORE)
    if batch.scored is None:
        return batch._replace(targets=targets), weights
    scored = (targets.flatten() != IGNORE).nonzero()[:, 0]
    weights = weights.flatten().index_select(0, scored)
    return batch._replace(targets=targets, scored=scored), weights
