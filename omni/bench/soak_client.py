"""The clients of `omni bench serve --soak`, of which some misbehave."""

import asyncio
import json
import random
import time
from itertools import count

import httpx

from omni.bench.load_client import Ask, connect, models_of, reported, requests_of, resident
from omni.bench.serve import ServerLoad
from omni.bench.soak import Progress, SoakCounts

_WARM_UP = 60.0  # seconds, at most
_STALLS = (0.5, 20.0)  # seconds
_LEAVES = 0.5  # seconds after the request, at most
_PAUSES = 2.0  # seconds between misbehaviour, at most: the load is that of those who ask
_REFUSALS = (400, 404, 413, 415)
_PATHS = ("chat/completions", "audio/speech", "audio/transcriptions")
_REPORTS = 30.0  # seconds between two
_FAILED = 0.1  # seconds that a client waits after an error

Result = tuple[float, SoakCounts, tuple[float, float] | None]


def run(load: ServerLoad, seconds: float, clients: int, progress: Progress) -> Result:
    """Runs a soak; see `omni.bench.soak.soak`.

    Returns:
        Its seconds, what happened, and the resident bytes of the server after the warm-up and at the end.
    """
    with reported(load):
        return asyncio.run(_run(load, seconds, clients, progress))


async def _run(load: ServerLoad, seconds: float, clients: int, progress: Progress) -> Result:
    async with connect(load) as http:
        models = await models_of(load, http)
        requests = await requests_of(load, http, models)
        await _Soak(load, http, models, requests, min(_WARM_UP, seconds / 4)).run(clients)
        warm = await resident(http)
        soak = _Soak(load, http, models, requests, seconds)
        reports = asyncio.create_task(soak.report(progress))
        await soak.run(clients)
        reports.cancel()
        took, end = soak.clock(), await resident(http)
    return took, soak.counts, None if warm is None or end is None else (warm, end)


class _Soak:
    """Clients of one server until a deadline."""

    def __init__(
        self,
        load: ServerLoad,
        http: httpx.AsyncClient,
        models: dict[str, str],
        requests: dict[str, Ask],
        seconds: float,
    ) -> None:
        self.load, self.http, self.models, self.requests = load, http, models, [*requests.items()]
        self.seconds, self.counts, self._started = seconds, SoakCounts(), time.perf_counter()

    def clock(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started

    async def run(self, clients: int) -> None:
        """Runs all clients."""
        await asyncio.gather(*(self._client(number) for number in range(clients)))

    async def report(self, progress: Progress) -> None:
        """Reports now and then."""
        while True:
            await asyncio.sleep(_REPORTS)
            progress(self.clock(), self.counts)

    async def _client(self, number: int) -> None:
        rng, works = random.Random(number), {1: self._leave, 2: self._send_garbage, 3: self._stall}
        work = works.get(number % 8, self._ask)
        for turn in count(number):
            if self.clock() >= self.seconds:
                return
            try:
                await work(turn, rng)
                if work != self._ask:
                    await asyncio.sleep(min(rng.uniform(0, _PAUSES), max(0.0, self.seconds - self.clock())))
            except (httpx.HTTPError, OSError) as error:
                failed = isinstance(error, httpx.HTTPStatusError)
                reason = f"status {error.response.status_code}" if failed else type(error).__name__
                self.counts.errors[f"{work.__name__.strip('_').replace('_', ' ')}: {reason}"] += 1
                await asyncio.sleep(_FAILED)

    async def _ask(self, turn: int, rng: random.Random) -> None:
        kind, ask = self.requests[turn % len(self.requests)]
        await ask(self.http)
        self.counts.answers[kind] += 1

    async def _leave(self, turn: int, rng: random.Random) -> None:
        kind, ask = self.requests[turn % len(self.requests)]
        try:
            await asyncio.wait_for(ask(self.http), rng.uniform(0, _LEAVES))
        except TimeoutError:
            self.counts.provoked["left"] += 1
        else:
            self.counts.answers[kind] += 1

    async def _send_garbage(self, turn: int, rng: random.Random) -> None:
        kinds = [rng.randbytes(rng.randint(0, 2000)), b"[" * 10_000, b'{"model": 1}', b"{}", b'{"messages": ' * 99]
        headers = {"Content-Type": rng.choice(["application/json", "multipart/form-data; boundary=x", "text/plain"])}
        response = await self.http.post(f"/v1/{rng.choice(_PATHS)}", content=rng.choice(kinds), headers=headers)
        if response.status_code not in _REFUSALS:
            raise httpx.HTTPStatusError("not refused", request=response.request, response=response)
        self.counts.provoked["garbage"] += 1

    async def _stall(self, turn: int, rng: random.Random) -> None:
        """Sends half a head or half a body, or does not read an answer, until it is cut off or some time is over."""
        url, pause = httpx.URL(self.load.url), min(rng.uniform(*_STALLS), self.seconds - self.clock())
        secure = True if url.scheme == "https" else None
        reader, writer = await asyncio.open_connection(url.host, url.port or (443 if secure else 80), ssl=secure)
        try:
            writer.write(self._request(url.host, half=turn % 3))
            if turn % 3 == 0:
                await asyncio.sleep(pause)
            else:
                await asyncio.wait_for(reader.read(), max(0.0, pause))
        except (TimeoutError, ConnectionError):
            pass  # the client gives up, or the server has cut it off
        finally:
            writer.close()
        self.counts.provoked["stalled"] += 1

    def _request(self, host: str, half: int) -> bytes:
        """A request: whole (0), without the end of its head (1), or of its body (2)."""
        path, use = ("chat/completions", "chat") if "chat" in self.models else ("audio/speech", "speech")
        messages = [{"role": "user", "content": self.load.question}]
        body = json.dumps(
            {"model": self.models.get(use), "messages": messages, "input": self.load.text, "stream": True}
        )
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        if self.load.api_key is not None:
            head += f"Authorization: Bearer {self.load.api_key}\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
        return (whole, head, whole[:-9])[half].encode()
