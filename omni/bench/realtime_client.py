"""Conversations at `/v1/realtime`, timed: a client that speaks in real time and interrupts the answer."""

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from omni.bench.serve import LiveLevel, ServerLoad
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.encoding import PCM_RATE
from omni.media.resampling import resample

_PIECE = 0.02  # seconds of audio per event, sent in real time
_SILENCE = 200  # milliseconds that end a turn, part of all delays
_PATIENCE = 10.0  # seconds without an answer that count as an error
_LONGEST = 4.0  # seconds of speech that are sent


async def live_level(load: ServerLoad, model: str, recording: bytes, clients: int) -> LiveLevel:
    """Measures conversations of a number of clients.

    Args:
        load: The load test.
        model: The model.
        recording: What the clients say.
        clients: Their number.
    """
    speech = resample(read_audio(recording, duration=_LONGEST), SAMPLE_RATE, PCM_RATE)
    level, started = LiveLevel(clients), time.perf_counter()

    async def client() -> None:
        while True:
            try:
                async with asyncio.timeout(_PATIENCE + 3 * _LONGEST):
                    await _Conversation(level).run(load, model, speech)
            except (OSError, TimeoutError, WebSocketException, _FailedError) as error:
                name = str(error) if isinstance(error, _FailedError) else type(error).__name__
                level.errors[name] = level.errors.get(name, 0) + 1
                await asyncio.sleep(0.05)
            if time.perf_counter() - started >= load.seconds:
                return

    await asyncio.gather(*(client() for _ in range(clients)))
    return level


class _FailedError(Exception):
    """An error event, or an answer that failed."""


@dataclass
class _Conversation:
    """A question, its answer, and an interruption; a connection of its own."""

    level: LiveLevel
    firsts: dict[str, float] = field(default_factory=dict)
    last_sound: float = 0.0

    async def run(self, load: ServerLoad, model: str, speech: Tensor) -> None:
        headers = {} if load.api_key is None else {"Authorization": f"Bearer {load.api_key}"}
        url = f"{load.url.rstrip('/').replace('http', 'ws', 1)}/v1/realtime?model={model}"
        async with connect(url, additional_headers=headers, max_size=None, compression=None, proxy=None) as socket:
            detection = {"type": "server_vad", "silence_duration_ms": _SILENCE}
            update = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
            await socket.send(json.dumps({"type": "session.update", "session": update}))
            done = asyncio.create_task(self._listen(socket))
            sender = asyncio.create_task(self._speak(socket, speech, done))
            try:
                ended, _ = await asyncio.wait((done, sender), return_when=asyncio.FIRST_EXCEPTION)
                for task in ended:
                    task.result()
            finally:
                for task in (done, sender):
                    task.cancel()
                await asyncio.gather(done, sender, return_exceptions=True)

    async def _speak(self, socket: ClientConnection, speech: Tensor, done: "asyncio.Task[bool]") -> None:
        """Asks, waits in silence for the answer, and interrupts it."""
        await _send(socket, speech)
        asked = time.perf_counter()
        silence, needed = torch.zeros(round(_PIECE * PCM_RATE)), {"text"}
        while not needed <= self.firsts.keys() and not done.done():
            if time.perf_counter() - asked > _PATIENCE:
                raise _FailedError("no answer")
            await _send(socket, silence)
        while "sound" not in self.firsts and not done.done():  # of a server with a voice; else until the end
            await _send(socket, silence)
        for what, times in (("text", self.level.text), ("sound", self.level.sound)):
            if what in self.firsts:
                times.append(1000 * (self.firsts[what] - asked))
        interrupted = time.perf_counter()
        if not done.done():
            await _send(socket, speech)
        while not done.done():
            await _send(socket, silence)
        if await done and self.last_sound:
            self.level.barge_in.append(1000 * max(0.0, self.last_sound - interrupted))

    async def _listen(self, socket: ClientConnection) -> bool:
        """Reads events to the end of the first answer; returns whether it was cancelled."""
        async for message in socket:
            event: dict[str, Any] = json.loads(message)
            now, kind = time.perf_counter(), event["type"]
            if kind == "error":
                raise _FailedError(event["error"]["code"])
            if kind in ("response.output_audio_transcript.delta", "response.output_text.delta"):
                self.firsts.setdefault("text", now)
            elif kind == "response.output_audio.delta":
                self.firsts.setdefault("sound", now)
                self.last_sound = now
            elif kind == "response.done":
                status = event["response"]["status"]
                if status == "failed":
                    raise _FailedError(event["response"]["status_details"]["error"]["code"])
                return status == "cancelled"
        raise _FailedError("closed")


async def _send(socket: ClientConnection, samples: Tensor) -> None:
    """Sends audio in real time."""
    started = time.perf_counter()
    for number, piece in enumerate(samples.split(round(_PIECE * PCM_RATE))):
        content = (piece.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
        event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(content).decode()}
        await socket.send(json.dumps(event))
        await asyncio.sleep(max(0.0, started + (number + 1) * _PIECE - time.perf_counter()))
