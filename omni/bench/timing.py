"""Taking turns: what slows the machine for a while slows both contestants."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


def alternate(label: str, blocks: Sequence[Callable[[], Any]], *, repeats: int) -> list[list[float]]:
    """Lets contestants take turns, after a turn each that does not count.

    Args:
        label: What is measured; told on stderr, with a dot for each round.
        blocks: What each contestant does in a turn.
        repeats: Rounds.

    Returns:
        Seconds of each contestant in each round.
    """
    rounds: list[list[float]] = []
    print(label, end=" ", file=sys.stderr, flush=True)
    for _ in range(repeats + 1):
        print(".", end="", file=sys.stderr, flush=True)
        rounds.append([seconds(block) for block in blocks])
    print(file=sys.stderr)
    return rounds[1:]


def seconds(block: Callable[[], Any]) -> float:
    """How long something takes, a GPU's work included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    block()
    wait()
    return time.perf_counter() - start
