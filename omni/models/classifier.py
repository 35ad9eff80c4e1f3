"""The classifier of image vectors."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from omni.batch import Attribute
from omni.layers.readout import readout
from omni.models.part import Part


class Classifier(Part):
    """A linear layer from the vector of an image to class scores, those of several attributes concatenated.

    Args:
        dim: Width of the vector.
        num_classes: Total number of classes of all attributes.
        dropout: Dropout of the vector in training.
    """

    def __init__(self, *, dim: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.num_classes = dim, num_classes
        self.dropout = nn.Dropout(dropout)
        self.head = readout(nn.Linear(dim, num_classes))
        nn.init.normal_(self.head.weight, std=0.02)  # scores near 0: the first guess is uniform
        nn.init.zeros_(self.head.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps (batch, dim) to scores (batch, num_classes)."""
        return self.head(self.dropout(pooled))


def probabilities(logits: Tensor, attributes: Sequence[Attribute]) -> dict[str, Tensor]:
    """The probability of each value of each attribute, from scores (batch, classes): (batch, values) by name."""
    parts = zip(attributes, logits.float().split([len(a.values) for a in attributes], dim=1), strict=True)
    return {a.name: scores.sigmoid() if a.several else scores.softmax(-1) for a, scores in parts}


def in_words(found: Mapping[str, Tensor], attributes: Sequence[Attribute]) -> list[str]:
    """The most likely value of each attribute (multi-label: all with a probability over 0.5), one text per image."""
    columns = []
    for attribute in attributes:
        shares = found[attribute.name]
        if attribute.several:
            chosen = [[v for v, share in zip(attribute.values, row, strict=True) if share > 0.5] for row in shares]
            columns.append([", ".join(values) or "none" for values in chosen])
        else:
            unknown = (shares < 0).all(1).tolist()
            best = shares.argmax(1).tolist()
            columns.append(["?" if no else attribute.values[i] for i, no in zip(best, unknown, strict=True)])
    return ["; ".join(words) for words in zip(*columns, strict=True)]
