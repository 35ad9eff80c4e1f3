"""A turn that the user speaks: its audio, and its transcript as it comes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import torch
from torch import Tensor

from omni.media.audio import SAMPLE_RATE
from omni.serving.realtime.conversation import new_id
from omni.serving.realtime.outbox import Outbox
from omni.serving.realtime.transcripts import TurnTranscript
from omni.serving.service import Service
from omni.serving.streams import as_api_error

_KIND = "conversation.item.input_audio_transcription"
_BYTES = 4  # of a sample in memory

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class SpokenTurn:
    """Audio that is not committed yet.

    Args:
        service: The server's state.
        outbox: Where the transcript is sent.

    Attributes:
        id: Of the item that it becomes.
        num_samples: Its length at 16 kHz.
    """

    def __init__(self, service: Service, outbox: Outbox) -> None:
        self.id, self.num_samples = new_id("item"), 0
        self._service, self._outbox = service, outbox
        self._audio: list[Tensor] = []
        self._transcript: TurnTranscript | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.num_samples / SAMPLE_RATE

    @property
    def transcribed(self) -> bool:
        """Whether it is transcribed."""
        return self._transcript is not None

    def transcribe(self, start: Start) -> None:
        """Sends its transcript, by a task that `start` starts."""
        recognizer = self._service.models.recognizer
        assert recognizer is not None
        self._transcript = TurnTranscript(
            recognizer, self._service.engine, on_text=self._send_text, on_end=self._send_end, on_error=self._send_error
        )
        self._task = start(self._transcript.run())

    def push(self, samples: Tensor) -> None:
        """Adds audio, (samples,) at 16 kHz.

        Raises:
            ApiError: If no memory is left.
        """
        self._service.uploads.hold(_BYTES * len(samples))
        self.num_samples += len(samples)
        self._audio.append(samples)
        if self._transcript is not None:
            self._transcript.push(samples)

    def audio(self) -> Tensor:
        """All of it, (samples,)."""
        return torch.cat((torch.zeros(0), *self._audio))

    def finish(self) -> None:
        """Completes the transcript; the audio is forgotten."""
        self._forget()
        if self._transcript is not None:
            self._transcript.finish()

    def drop(self) -> None:
        """Forgets audio and transcript."""
        self._forget()
        if self._task is not None:
            self._task.cancel()

    def _forget(self) -> None:
        self._service.uploads.release(_BYTES * sum(map(len, self._audio)))
        self._audio.clear()

    async def _send_text(self, delta: str) -> None:
        await self._outbox.send(f"{_KIND}.delta", item_id=self.id, content_index=0, delta=delta)

    async def _send_end(self, text: str) -> None:
        self._service.metrics.audio.labels("transcribed").inc(self.seconds)
        usage = {"type": "duration", "seconds": round(self.seconds, 3)}
        await self._outbox.send(f"{_KIND}.completed", item_id=self.id, content_index=0, transcript=text, usage=usage)

    async def _send_error(self, error: Exception) -> None:
        shown = as_api_error(error).body["error"]
        await self._outbox.send(f"{_KIND}.failed", item_id=self.id, content_index=0, error=shown)
