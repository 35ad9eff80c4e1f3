"""Transcripts of turns while they are spoken."""

import asyncio
from collections.abc import Awaitable, Callable

import torch
from torch import Tensor

from omni.errors import UserError
from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.recognizer import Recognizer
from omni.media.audio import SAMPLE_RATE
from omni.serving.engine import Engine, Job, Steps, Work
from omni.serving.errors import ApiError
from omni.serving.urgency import Turn

_STEP = 0.32  # seconds of audio that are read at a time, in a step of the engine


class TurnTranscript:
    """Transcribes a turn while it is spoken; its text only grows.

    Audio is read when there is enough of it, as a job of its own: a silent speaker takes no place in the engine.

    Args:
        recognizer: The model.
        engine: Computes it.
        on_text: Called with each piece of text.
        on_end: Called with the whole text.
        on_error: Called instead, if the engine refuses the end of the turn or fails.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        engine: Engine,
        *,
        on_text: Callable[[str], Awaitable[None]],
        on_end: Callable[[str], Awaitable[None]],
        on_error: Callable[[Exception], Awaitable[None]],
    ) -> None:
        self._recognizer, self._engine = recognizer, engine
        self._on_text, self._on_end, self._on_error = on_text, on_end, on_error
        self._live: LiveRecognizer | None = None
        self._pending: list[Tensor] = []
        self._num_pending, self._complete = 0, False
        self._wake = asyncio.Event()

    def push(self, samples: Tensor) -> None:
        """Adds audio, (samples,) at 16 kHz."""
        self._pending.append(samples)
        self._num_pending += len(samples)
        if self._num_pending >= _STEP * SAMPLE_RATE:
            self._wake.set()

    def finish(self) -> None:
        """Ends the turn."""
        self._complete = True
        self._wake.set()

    async def run(self) -> None:
        """Transcribes until the turn has ended, or the task is cancelled."""
        text = ""
        try:
            complete = False
            while not complete:
                await self._wake.wait()
                self._wake.clear()
                complete = self._complete
                samples = torch.cat((torch.zeros(0), *self._pending))
                try:
                    job = self._engine.submit(Work(self._steps(samples, complete), Turn().urgency))
                except ApiError:
                    if complete:
                        raise
                    continue  # with the next audio
                self._pending, self._num_pending = [], 0
                text += await self._read(job)
        except (ApiError, UserError) as error:
            await self._on_error(error)
        else:
            await self._on_end(text)

    async def _read(self, job: Job) -> str:
        text = ""
        try:
            async for delta in job:
                if delta:
                    text += delta
                    await self._on_text(delta)
        finally:
            job.cancel()
        return text

    def _steps(self, samples: Tensor, complete: bool) -> Steps:
        """Runs in the engine's thread."""
        if self._live is None:
            self._live = LiveRecognizer(self._recognizer, step=_STEP)
        for piece in samples.split(round(_STEP * SAMPLE_RATE)):
            yield self._live.push(piece)
        if complete:
            yield self._live.finish()
