"""One thread that owns the models and advances all requests in small steps."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.batched_responder import Answer, BatchedResponder
from omni.inference.prompt import Prompt
from omni.serving.errors import ApiError, internal_error, overloaded
from omni.serving.waiting import ServiceTimes

_log = logging.getLogger(__name__)
_END = object()
_BACKLOG = 64  # events that a client has not read, beyond which its long work waits

# Work yields events for its request, and None where there is nothing yet.
Steps = Generator[Any]


@dataclass
class Work:
    """Work of a request.

    Attributes:
        steps: Yields events; each step takes a fraction of a second at most.
        urgency: Of long steps (speech, recognition): the work with the least value is advanced next, one in each round.
            None for short steps, which are taken in each round.
    """

    steps: Steps
    urgency: Callable[[], float] | None = None


@dataclass(eq=False)
class Job:
    """The work of a request, seen from the event loop: an asynchronous iterator over its events.

    Attributes:
        works: What is to be done; the job ends when all have ended.
        cancelled: Whether its client has left.
        num_posted: Events that were made.
        num_read: Events that were read.
        started: When its work started, by the engine's clock.
    """

    works: list[Work]
    loop: asyncio.AbstractEventLoop
    cancelled: bool = False
    events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    num_posted: int = 0
    num_read: int = 0
    started: float = 0.0

    @property
    def num_unread(self) -> int:
        """Events that wait for the client."""
        return self.num_posted - self.num_read

    def cancel(self) -> None:
        """Ends the work before its next step."""
        self.cancelled = True

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> Any:
        event = await self.events.get()
        self.num_read += 1
        if event is _END:
            self.events.put_nowait(_END)
            raise StopAsyncIteration
        if isinstance(event, Exception):
            raise event
        return event

    def post(self, event: Any) -> None:
        """Hands an event to the event loop; called by the engine's thread."""
        self.num_posted += 1
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Engine:
    """Advances the work of many requests in turns, in a thread of its own.

    A round takes one step of all short works, one of the most urgent long work that has something to do, and tokens of
    the batched answers for as long as the long step took.

    Args:
        batched: Generates text answers; None without a chat model.
        max_running: Most jobs that are computed at once.
        max_queue: Most jobs that wait.
        warm_up: Called in the thread before the first job.
        clock: Seconds, to measure jobs.

    Attributes:
        ready: Whether the models are warm.
    """

    def __init__(
        self,
        batched: BatchedResponder | None,
        *,
        max_running: int,
        max_queue: int,
        warm_up: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ready, self._warm_up = False, warm_up
        self.batched, self.max_running, self.max_queue = batched, max_running, max_queue
        self._clock, self._times = clock, ServiceTimes()
        self._arrived = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._answers: WeakSet[Answer] = WeakSet()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its current round; jobs that remain end with an error."""
        with self._arrived:
            self._stopped = True
            self._arrived.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Number of jobs that are computed."""
        return sum(bool(job.works) for job in self._running)

    @property
    def num_waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    def submit(self, *works: Work) -> Job:
        """Adds a job; called in the event loop.

        Raises:
            ApiError: If too many wait, or the engine has stopped.
        """
        job = Job([*works], asyncio.get_running_loop())
        with self._arrived:
            if (error := self.refusal()) is not None:
                raise error
            self._waiting.append(job)
            self._arrived.notify()
        return job

    def refusal(self) -> ApiError | None:
        """Why no job can be added now."""
        if self._stopped:
            return overloaded("The server is shutting down.", status=503, code="shutting_down")
        if self.num_running + self.num_waiting >= self.max_running + self.max_queue:
            seconds = self._times.wait(self.num_waiting, self.max_running)
            return overloaded(f"{self.num_waiting} requests are waiting already: try again later.", seconds=seconds)
        return None

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._warm_up()
            self.ready = True
            while self._admit():
                if not self._round():
                    time.sleep(0.001)
        finally:
            with self._arrived:
                self._stopped = True
            for job in (*self._running, *self._waiting):
                self._end(job, overloaded("The server has stopped.", status=503, code="shutting_down"))

    def _admit(self) -> bool:
        """Waits for jobs and starts some; returns whether the thread goes on."""
        with self._arrived:
            while not (self._stopped or self._waiting or self._running):
                self._arrived.wait()
            while self._waiting and len(self._running) < self.max_running:
                job = self._waiting.popleft()
                job.started = self._clock()
                self._running.append(job)
            return not self._stopped

    def _round(self) -> bool:
        """Returns whether anything was computed."""
        started = time.perf_counter()
        active = self._advance_short()
        if self._advance_long():
            active = True
        spent = time.perf_counter() - started
        while self.batched is not None and self.batched.busy:
            self._step(self.batched)
            active = True
            if time.perf_counter() - started >= 2 * spent:
                break
            self._advance_short()
        with self._arrived:
            for job in [job for job in self._running if not job.works]:
                self._running.remove(job)
                self._times.add(self._clock() - job.started)
        return active

    def _advance_short(self) -> bool:
        active = False
        for job in self._running:
            if job.cancelled:
                self._end(job)
                continue
            for work in [work for work in job.works if work.urgency is None]:
                active |= self._advance(job, work)
        return active

    def _advance_long(self) -> bool:
        """One step of the most urgent long work that waits neither for a text nor for its client to read."""
        jobs = [job for job in self._running if job.num_unread < _BACKLOG]
        works = [(work.urgency(), job, work) for job in jobs for work in job.works if work.urgency is not None]
        works.sort(key=lambda entry: entry[0])
        return any(self._advance(job, work) for _, job, work in works)

    def _advance(self, job: Job, work: Work) -> bool:
        """Takes a step; returns whether it did anything."""
        try:
            event = next(work.steps)
        except StopIteration:
            job.works.remove(work)
            if not job.works:
                job.post(_END)
            return True
        except (ApiError, UserError) as error:
            self._end(job, error)
            return True
        except Exception:
            _log.exception("A request failed.")
            self._end(job, internal_error())
            return True
        if event is not None:
            job.post(event)
        return event is not None

    def _end(self, job: Job, error: Exception | None = None) -> None:
        """Ends a job before its work has ended."""
        for work in job.works:
            work.steps.close()
        job.works.clear()
        job.post(_END if error is None else error)

    def answer(self, prompt: Prompt, *, max_tokens: int, sampling: Sampling) -> Answer:
        """Starts a text answer; called by work, in the thread. See `BatchedResponder.submit`."""
        assert self.batched is not None
        answer = self.batched.submit(prompt, max_tokens=max_tokens, sampling=sampling)
        self._answers.add(answer)
        return answer

    def _step(self, batched: BatchedResponder) -> None:
        try:
            batched.step()
        except Exception as error:
            if any(answer.error is error for answer in self._answers):
                return  # of one prompt, whose work reports it
            _log.exception("A step of all text answers failed: they end with an error.")
            for answer in self._answers:
                answer.error = answer.error or error
                answer.cancel()
            self.batched = BatchedResponder(batched.responder, rows=batched.rows)
