"""How tokens are sampled: the options, and the random numbers of each row."""

from dataclasses import dataclass
from random import Random

from omni.errors import UserError

BELOW_ONE = 1 - 2.0**-24  # fp32: a product with it is smaller, however it is rounded


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling of the next token.

    Args:
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Keep only the `top_k` most likely tokens; 0 keeps all.
        top_p: Keep only the most likely tokens with this total probability (arXiv:1904.09751), in (0, 1].
        repetition_penalty: Logits of tokens seen in the row are divided (if positive) or multiplied (if negative) by
            this (CTRL, arXiv:1909.05858); 1 has no effect.
        seed: Each row has its own random stream, from the seed and the row's index: its output does not depend on
            other rows.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = {
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "top_p": (0 < self.top_p <= 1, "over 0 and at most 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "over 0"),
            "seed": (0 <= self.seed < 2**63, "0 or more and less than 2**63"),
        }
        for name, (holds, bounds) in wanted.items():
            if not holds:
                raise UserError(f"{name} must be {bounds}, not {getattr(self, name)}")

    @property
    def distribution(self) -> tuple[float, ...]:
        """All options but the seed: rows in which they are equal can be sampled in one call of `choose_tokens`."""
        return self.temperature, self.top_k, self.top_p, self.repetition_penalty


@dataclass(frozen=True, kw_only=True)
class SpeechSampling:
    """Sampling of codes and of the pace of speech.

    Args:
        first: Sampling of the first codebook, which carries most of the sound. Its seed is the seed of all choices.
        rest: Sampling of the other codebooks.
        pace: Sampling of the number of characters to advance.
        max_dwell: Longest time at one character in seconds: it bounds the length of an utterance.
    """

    first: Sampling = Sampling(temperature=0.7)
    rest: Sampling = Sampling(temperature=0.7)
    pace: Sampling = Sampling(temperature=0.7)
    max_dwell: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.max_dwell < float("inf"):
            raise UserError(f"max_dwell must be over 0 seconds, not {self.max_dwell}")
        for name in ("first", "rest", "pace"):
            if getattr(self, name).repetition_penalty != 1:
                raise UserError(f"{name}.repetition_penalty is for text: speech repeats codes, leave it at 1")


def random_stream(seed: int, row: int) -> Random:
    """The generator of a row's draws, one a token: see `Sampling.seed`."""
    return Random(f"{seed}/{row}")
