"""Layers whose outputs are scores: of tokens, codes, classes or experts."""

from torch import nn


def readout(layer: nn.Linear) -> nn.Linear:
    """Marks a linear layer as one whose outputs are scores, such as a head or a router, and returns it.

    Muon's updates have singular values near 1, which suits layers between hidden states; the rows of a head or router
    belong to single tokens or experts, so AdamW trains them (see `omni.optim.optimizers.muon`). The mark is not a
    weight: the state dict does not hold it.
    """
    vars(layer)["_readout"] = True
    return layer


def is_readout(module: nn.Module) -> bool:
    """Whether `readout` has marked it."""
    return getattr(module, "_readout", False)
