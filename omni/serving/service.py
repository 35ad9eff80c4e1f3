"""What the endpoints share: models, engine, limits and counters."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.requests import HTTPConnection
from torch import Tensor

from omni.decoding.batched_talker import BatchedTalker
from omni.decoding.sampling import Sampling
from omni.inference.batched_responder import BatchedResponder
from omni.inference.responder import GREEDY
from omni.media.encoding import AudioFormat, encode_audio
from omni.serving.bodies import Uploads
from omni.serving.chat_prompts import PromptMaker, SpokenAnswers
from omni.serving.engine import Engine
from omni.serving.limits import Limits
from omni.serving.metrics import Metrics
from omni.serving.open_sessions import OpenSessions
from omni.serving.served_models import ServedModels

T = TypeVar("T")

SEEDS = 2**63
_PREPARING, _FETCHING = 2, 16  # threads that decode media, and that wait for other servers


class Service:
    """A server's state.

    Args:
        models: The models.
        limits: Limits of requests.
        sampling: Sampling of answers where a request does not choose.
        random_seeds: Whether requests without a seed have different ones, not that of `sampling`.
        api_key: Key that requests must name; None: no key.
        allow_urls: Whether images are fetched from public addresses.
        allow_origins: Origins of pages that may open sessions besides the server's own page; `*` for all.
    """

    def __init__(
        self,
        models: ServedModels,
        *,
        limits: Limits | None = None,
        sampling: Sampling = GREEDY,
        random_seeds: bool = True,
        api_key: str | None = None,
        allow_urls: bool = False,
        allow_origins: Sequence[str] = (),
    ) -> None:
        self.models, self.limits, self.sampling = models, limits or Limits(), sampling
        self.random_seeds, self.api_key, self.allow_origins = random_seeds, api_key, allow_origins
        batched = None
        self._preparing = ThreadPoolExecutor(_PREPARING, "preparing")
        self._fetching = ThreadPoolExecutor(_FETCHING, "fetching")
        self.prompts: PromptMaker | None = None
        if models.assistant is not None:
            batched = BatchedResponder(models.assistant.responder, rows=self.limits.max_running)
            self.prompts = PromptMaker(
                models.assistant,
                limits=self.limits,
                allow_urls=allow_urls,
                fetching=self._fetching,
                preparing=self._preparing,
            )
        if models.synthesizer is not None:
            talker = BatchedTalker(models.synthesizer.talker, rows=self.limits.max_running)
            models.synthesizer.speak_frames = talker.speak  # requests share the steps of the Talker
        self.engine = Engine(
            batched,
            max_running=self.limits.max_running,
            max_queue=self.limits.max_queue,
            warm_up=models.warm_up,
        )
        self.uploads, self.spoken = Uploads(self.limits), SpokenAnswers()
        self.sessions = OpenSessions(self.limits.max_running + self.limits.max_queue)
        self.draining = False  # a signal to stop has come: new requests are refused
        self.in_flight = 0  # requests to the API that have not been answered
        self.metrics = Metrics(self.engine, lambda: self.in_flight)

    def start(self) -> None:
        """Starts the engine."""
        self.engine.start()

    def stop(self) -> None:
        """Stops the engine and all threads."""
        self.engine.stop()
        for pool in (self._preparing, self._fetching):
            pool.shutdown(cancel_futures=True)

    def prepare(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """Calls a function in one of the threads that decode media."""
        return asyncio.get_running_loop().run_in_executor(self._preparing, function, *arguments)

    def encode(self, audio: Tensor, name: str, sample_rate: int) -> Awaitable[bytes]:
        """Encodes whole speech, whose sample rate is in Hz, in one of OpenAI's formats."""
        kind: AudioFormat = "pcm" if name == "pcm16" else name  # pyright: ignore[reportAssignmentType]
        return self.prepare(partial(encode_audio, sample_rate=sample_rate), audio, kind)

    def fetch(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """Calls a function in one of the threads that may wait for other servers."""
        return asyncio.get_running_loop().run_in_executor(self._fetching, function, *arguments)

    def first_seed(self) -> int:
        """The seed of a request that has none."""
        return random.randrange(SEEDS) if self.random_seeds else self.sampling.seed

    # ------------------------------------------------------------------ what is logged

    def note(self, http: HTTPConnection, **fields: Any) -> None:
        """Adds fields to the line of a request in the access log."""
        http.scope["omni.log"].update({name: value for name, value in fields.items() if value is not None})

    def first(self, http: HTTPConnection, what: str) -> None:
        """Measures the time until the first token or sound of a request."""
        log = http.scope["omni.log"]
        if (name := f"first_{what}") not in log:
            log[name] = http.scope["omni.clock"]()
            self.metrics.first.labels(what).observe(log[name])
