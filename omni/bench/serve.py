"""The load that a running server of `omni serve` bears: delays and throughput by the number of clients."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from omni import __version__
from omni.bench.race import aligned
from omni.errors import UserError, install_hint
from omni.training.memory import format_size

MAX_TOKENS = 32  # of a text answer
_PERCENTILES = (50, 95, 99)
_LIVE = (50, 95)


@dataclass
class Level:
    """The requests of one kind from a number of clients.

    Attributes:
        kind: text, spoken, transcription or speech.
        clients: Clients that each send a request after the answer to the last.
        seconds: Time that they took.
        first: Milliseconds to the first token or sound, of each request that has one.
        whole: Milliseconds to the end, of each request.
        errors: Numbers of failures by what was wrong.
    """

    kind: str
    clients: int
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.whole) / self.seconds if self.seconds else 0.0


@dataclass
class LiveLevel:
    """Spoken conversations of a number of clients at the realtime socket.

    Attributes:
        clients: Clients that speak in real time.
        text: Milliseconds from the end of speech to the first text of the answer. The silence that ends a turn is part
            of it.
        sound: To its first sound.
        barge_in: Milliseconds from the start of an interruption to the last sound of the answer.
        errors: Numbers of failures by what was wrong.
    """

    clients: int
    text: list[float] = field(default_factory=list)
    sound: list[float] = field(default_factory=list)
    barge_in: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadReport:
    """The result of a load test.

    Attributes:
        conditions: What was run.
        levels: By kind and number of clients.
        memory: Resident bytes of the server before and after, where it reports them.
        live: Conversations at the realtime socket, by number of clients.
    """

    conditions: dict[str, str]
    levels: list[Level]
    memory: tuple[float, float] | None
    live: list[LiveLevel] = field(default_factory=list)

    def table(self) -> str:
        """The report as text."""
        heads = [f"{what} p{percent}" for what in ("first", "whole") for percent in _PERCENTILES]
        rows: list[list[str]] = [["", "clients", *heads, "requests/s", "× 1 client", "errors"]]
        alone = {level.kind: level.throughput for level in self.levels if level.clients == 1}
        for level in self.levels:
            ratio = level.throughput / alone[level.kind] if alone.get(level.kind) else None
            errors = _errors(level.errors)
            cells = [*_cells(level.first), *_cells(level.whole), f"{level.throughput:.1f}"]
            rows.append([level.kind, str(level.clients), *cells, "" if ratio is None else f"{ratio:.2f}", errors])
        lines = [*aligned([*self.conditions.items()]), "", *aligned(rows), ""]
        if self.live:
            lines += [*aligned(_live_rows(self.live)), ""]
        lines.append("times in milliseconds")
        if self.memory is not None:
            before, after = self.memory
            lines.append(f"memory of the server: {format_size(before)} before, {format_size(after)} after")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class ServerLoad:
    """A load test.

    Attributes:
        url: Address of the server.
        api_key: Its key.
        seconds: Time for each kind and number of clients.
        text: What is spoken.
        question: What is asked.
        audio: A recording to transcribe; by default a sentence that the server speaks, or noise.
        json: File to write all numbers to.
    """

    url: str = "http://127.0.0.1:8000"
    api_key: str | None = None
    seconds: float = 10.0
    text: str = "The small red star is above the large blue circle."
    question: str = "What is above the blue circle?"
    audio: Path | None = None
    json: Path | None = None

    def run(self, clients: list[int]) -> LoadReport:
        """Runs it for each kind of request that the server answers.

        Args:
            clients: Numbers of clients.

        Raises:
            UserError: If the server cannot be reached, has no models, or a number is wrong.
        """
        if not clients or min(clients) < 1:
            raise UserError(f"clients must be numbers of 1 or more, not {clients}")
        if not 0 < self.seconds < float("inf"):
            raise UserError(f"seconds must be over 0, not {self.seconds:g}")
        try:
            from omni.bench.load_client import measure
        except ModuleNotFoundError as error:
            raise UserError(f"omni bench serve needs the package {error.name}: {install_hint('serve')}") from error
        levels, live, memory = measure(self, clients)
        conditions = {
            "versions": f"omni {__version__}",
            "server": self.url,
            "load": f"{self.seconds:g} s for each number of clients, each asks again after its answer",
            "requests": f"text and spoken: at most {MAX_TOKENS} tokens; speech: {self.text!r}",
        }
        return LoadReport(conditions, levels, memory, live)


def _live_rows(levels: list[LiveLevel]) -> list[list[str]]:
    kinds = ("first text", "first sound", "barge-in")
    rows = [["realtime", "clients", *(f"{kind} p{percent}" for kind in kinds for percent in _LIVE), "errors"]]
    for level in levels:
        cells = [cell for times in (level.text, level.sound, level.barge_in) for cell in _cells(times, _LIVE)]
        rows.append(["", str(level.clients), *cells, _errors(level.errors)])
    return rows


def _errors(errors: dict[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in errors.items())


def _cells(times: list[float], percentiles: tuple[int, ...] = _PERCENTILES) -> list[str]:
    if len(times) < 2:
        return [f"{time:,.0f}" for time in times] * len(percentiles) or [""] * len(percentiles)
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return [f"{cuts[percent - 1]:,.0f}" for percent in percentiles]
