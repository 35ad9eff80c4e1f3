"""What data modules hand to stages. Both sides import this file and never each other."""

from typing import NamedTuple

from torch import Tensor

IGNORE = -100  # a target that is not scored; the value that PyTorch's cross-entropy ignores by default


class TextBatch(NamedTuple):
    """Packed rows of text for next-token prediction.

    Attributes:
        tokens: (batch, time), int64. What the model reads.
        targets: (batch, time), int64. The token that follows each position, or `IGNORE`.
        rows: (batch,), int64. Numbers of the rows in their data set, so that a bad batch can be named.
    """

    tokens: Tensor
    targets: Tensor
    rows: Tensor
