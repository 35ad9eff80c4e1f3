"""Counters for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from omni.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of a server, in a registry of its own.

    Args:
        engine: Whose jobs are counted.
        in_flight: Returns the number of requests that have not been answered.
    """

    def __init__(self, engine: Engine, in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, on Linux
        self.requests = Counter(
            "omni_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "omni_request_seconds", "Time to the end of a response.", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "omni_first_seconds",
            "Time to the first token or sound.",
            ["what"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter("omni_tokens", "Tokens of prompts and completions.", ["kind"], registry=self.registry)
        self.audio = Counter(
            "omni_audio_seconds", "Audio that was transcribed or spoken.", ["kind"], registry=self.registry
        )
        for name, help_text, value in (
            ("omni_in_flight", "Requests that are being answered.", in_flight),
            ("omni_jobs_running", "Jobs that are computed.", lambda: engine.num_running),
            ("omni_jobs_waiting", "Jobs that wait for the models.", lambda: engine.num_waiting),
        ):
            Gauge(name, help_text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
