"""A server under load for minutes, by clients of which some misbehave: errors, memory and throughput."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omni import __version__
from omni.bench.race import aligned
from omni.bench.serve import ServerLoad
from omni.errors import UserError, install_hint
from omni.training.memory import format_size


@dataclass
class SoakCounts:
    """What happened.

    Attributes:
        answers: Complete answers by kind.
        provoked: Misbehaviour of clients by kind; the server refused it or cut it off, or the client gave up.
        errors: Errors that no client provoked, by what was wrong.
    """

    answers: Counter[str] = field(default_factory=Counter[str])
    provoked: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])


Progress = Callable[[float, SoakCounts], object]


@dataclass(frozen=True)
class SoakReport:
    """The result of a soak.

    Attributes:
        conditions: What was run.
        seconds: Time that it took, without the warm-up.
        counts: What happened in it.
        memory: Resident bytes of the server after the warm-up and at the end, where it reports them.
    """

    conditions: dict[str, str]
    seconds: float
    counts: SoakCounts
    memory: tuple[float, float] | None

    def table(self) -> str:
        """The report as text."""
        number = self.counts.answers.total()
        rows = [
            ["answers", f"{number:,}", f"{number / self.seconds:.2f} a second: {_list(self.counts.answers)}"],
            ["misbehaviour", f"{self.counts.provoked.total():,}", _list(self.counts.provoked)],
            ["unprovoked errors", f"{self.counts.errors.total():,}", _list(self.counts.errors)],
        ]
        lines = [*aligned([*self.conditions.items()]), "", *aligned(rows)]
        if self.memory is not None:
            warm, end = self.memory
            sizes = f"{format_size(warm)} after the warm-up, {format_size(end)} at the end ({end / warm - 1:+.1%})"
            lines.append(f"memory of the server: {sizes}")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        counts = {name: dict(value) for name, value in vars(self.counts).items()}
        return {"conditions": self.conditions, "seconds": self.seconds, **counts, "memory": self.memory}


def soak(load: ServerLoad, *, minutes: float, clients: int, progress: Progress) -> SoakReport:
    """Asks a server for minutes.

    Of 8 clients one leaves before the end of its answers, one sends garbage, one stalls, and five ask, each kind of
    request in turn. A warm-up of a quarter of the time, at most a minute, is not counted.

    Args:
        load: The server and its requests.
        minutes: Time.
        clients: Number of clients.
        progress: Called about twice a minute, with the seconds so far.

    Raises:
        UserError: If the server cannot be reached, has no models, or a number is wrong.
    """
    if clients < 1:
        raise UserError(f"clients must be 1 or more, not {clients}")
    if not 0 < minutes < float("inf"):
        raise UserError(f"soak must be over 0 minutes, not {minutes:g}")
    try:
        from omni.bench.soak_client import run
    except ModuleNotFoundError as error:
        raise UserError(f"omni bench serve needs the package {error.name}: {install_hint('serve')}") from error
    seconds, counts, memory = run(load, 60 * minutes, clients, progress)
    conditions = {
        "versions": f"omni {__version__}",
        "server": load.url,
        "load": f"{clients} clients for {minutes:g} min: of 8 one leaves, one sends garbage, one stalls, five ask",
    }
    return SoakReport(conditions, seconds, counts, memory)


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} × {name}" for name, count in sorted(counts.items()))
