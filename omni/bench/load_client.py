"""The requests of `omni bench serve`, timed."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import numpy as np
import soundfile

from omni.bench.realtime_client import live_level
from omni.bench.serve import MAX_TOKENS, Level, LiveLevel, ServerLoad
from omni.errors import UserError

Timings = tuple[float | None, float]  # milliseconds to the first token or sound, and to the end
Measured = tuple[list[Level], list[LiveLevel], tuple[float, float] | None]
Ask = Callable[[httpx.AsyncClient], Awaitable[Timings]]

_MEMORY = "process_resident_memory_bytes"


class FailedStream(httpx.HTTPError):
    """A response of server-sent events with an error, or without an end."""


def measure(load: ServerLoad, clients: list[int]) -> Measured:
    """Runs a load test.

    Args:
        load: The test.
        clients: Numbers of clients.

    Returns:
        The requests by kind and number of clients, spoken conversations by number of clients, and the resident bytes of
        the server before and after.

    Raises:
        UserError: If the server cannot be reached, or has no models.
    """
    with reported(load):
        return asyncio.run(_measured(load, clients))


@contextmanager
def reported(load: ServerLoad) -> Iterator[None]:
    """Errors of a server that cannot be reached, or is another one, as a `UserError`."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{load.url}: no server of `omni serve` answers ({reason})") from error


async def _measured(load: ServerLoad, clients: list[int]) -> Measured:
    async with connect(load) as http:
        models = await models_of(load, http)
        kinds = await requests_of(load, http, models)
        before = await resident(http)
        levels = [await _level(load, kind, ask, number) for kind, ask in kinds.items() for number in clients]
        live = []
        if "chat" in models:
            recording = await _recording(load, http, models.get("speech"))
            live = [await live_level(load, models["chat"], recording, number) for number in clients]
        after = await resident(http)
    return levels, live, None if before is None or after is None else (before, after)


@asynccontextmanager
async def connect(load: ServerLoad) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server, with any number of connections."""
    headers = {} if load.api_key is None else {"Authorization": f"Bearer {load.api_key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=load.url, headers=headers, limits=limits, timeout=120, trust_env=False
    ) as http:
        yield http


async def models_of(load: ServerLoad, http: httpx.AsyncClient) -> dict[str, str]:
    """The server's models by use.

    Raises:
        UserError: If it has none.
    """
    response = await http.get("/v1/models")
    response.raise_for_status()
    found = {use: entry["id"] for entry in response.json()["data"] for use in entry["uses"]}
    if not found:
        raise UserError(f"{load.url}: the server has no models")
    return found


async def requests_of(load: ServerLoad, http: httpx.AsyncClient, model: dict[str, str]) -> dict[str, Ask]:
    """The requests that the server's models answer, by kind."""
    found: dict[str, Ask] = {}
    if "chat" in model:
        found["text"] = lambda http: _chat(load, http, model["chat"], spoken=False)
    if {"chat", "speech"} <= model.keys():
        found["spoken"] = lambda http: _chat(load, http, model["chat"], spoken=True)
    if "transcription" in model:
        content = await _recording(load, http, model.get("speech"))
        found["transcription"] = lambda http: _transcription(http, model["transcription"], content)
    if "speech" in model:
        found["speech"] = lambda http: _speech(load, http, model["speech"])
    return found


async def _recording(load: ServerLoad, http: httpx.AsyncClient, voice: str | None) -> bytes:
    if load.audio is not None:
        return load.audio.read_bytes()
    if voice is not None:
        body = {"model": voice, "input": load.text, "response_format": "wav"}
        response = await http.post("/v1/audio/speech", json=body)
        response.raise_for_status()
        return response.content
    file = io.BytesIO()
    soundfile.write(file, 0.05 * np.random.default_rng(0).standard_normal(48_000), 16_000, format="WAV")
    return file.getvalue()


async def _level(load: ServerLoad, kind: str, ask: Ask, clients: int) -> Level:
    level = Level(kind, clients)
    async with connect(load) as http:
        await _asked(ask, http, Level(kind, clients))  # not counted: the connection, and what is compiled
        started = time.perf_counter()

        async def client() -> None:
            while time.perf_counter() - started < load.seconds:
                await _asked(ask, http, level)

        await asyncio.gather(*(client() for _ in range(clients)))
        level.seconds = time.perf_counter() - started
    return level


async def _asked(ask: Ask, http: httpx.AsyncClient, level: Level) -> None:
    """Sends a request and counts it."""
    try:
        first, whole = await ask(http)
    except httpx.HTTPStatusError as error:
        name = f"status {error.response.status_code}"
    except httpx.HTTPError as error:
        name = type(error).__name__
    else:
        level.whole.append(whole)
        if first is not None:
            level.first.append(first)
        return
    level.errors[name] = level.errors.get(name, 0) + 1
    await asyncio.sleep(0.05)


async def _chat(load: ServerLoad, http: httpx.AsyncClient, model: str, *, spoken: bool) -> Timings:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": load.question}],
        "max_tokens": MAX_TOKENS,
        "stream": True,
    }
    if spoken:
        body |= {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    mark = '"data":' if spoken else '"content":"'
    return await _streamed(http, "/v1/chat/completions", lambda part: mark in part and '"role"' not in part, json=body)


async def _speech(load: ServerLoad, http: httpx.AsyncClient, model: str) -> Timings:
    body = {"model": model, "input": load.text, "response_format": "pcm", "stream_format": "sse"}
    return await _streamed(http, "/v1/audio/speech", lambda part: "speech.audio.delta" in part, json=body)


async def _transcription(http: httpx.AsyncClient, model: str, content: bytes) -> Timings:
    form = {"data": {"model": model, "stream": "true"}, "files": {"file": content}}
    return await _streamed(http, "/v1/audio/transcriptions", lambda part: "transcript.text.delta" in part, **form)


async def _streamed(http: httpx.AsyncClient, path: str, starts: Callable[[str], bool], **options: Any) -> Timings:
    """Times a response of server-sent events."""
    started, first, last = time.perf_counter(), None, ""
    async with http.stream("POST", path, **options) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith('data: {"error":'):
                raise FailedStream(line)
            if first is None and starts(line):
                first = 1000 * (time.perf_counter() - started)
            last = line or last
    if last != "data: [DONE]":
        raise FailedStream("the stream has no end")
    return first, 1000 * (time.perf_counter() - started)


async def resident(http: httpx.AsyncClient) -> float | None:
    """Resident bytes of the server; None where its system does not report them."""
    response = await http.get("/metrics")
    lines = [line for line in response.text.splitlines() if line.startswith(f"{_MEMORY} ")]
    return float(lines[0].split()[1]) if lines else None
