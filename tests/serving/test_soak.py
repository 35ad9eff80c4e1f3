"""Many clients for a while: some leave, some send garbage, some stall."""

import asyncio
import random
import time
from pathlib import Path

import httpx
import pytest
from toy_server import CHAT, SPEECH, TRANSCRIPTION, RunningServer, recording

from omni.serving.limits import Limits

CLIENTS, SECONDS = 32, 60.0
TEXT = "abc dab. cab bad, dad! "
QUESTION = {"model": CHAT, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30}


async def ask(http, seen):
    stream = random.random() < 0.5
    response = await http.post("/v1/chat/completions", json={**QUESTION, "stream": stream})
    assert response.status_code == 200
    seen.add(response.text if not stream else response.text.count("data: "))


async def speak(http, seen):
    response = await http.post("/v1/audio/speech", json={"model": SPEECH, "input": TEXT, "voice": "x"})
    assert response.status_code == 200
    seen.add(len(response.content))


async def transcribe(http, seen):
    form = {"data": {"model": TRANSCRIPTION}, "files": {"file": recording("abcab")}}
    response = await http.post("/v1/audio/transcriptions", **form)
    assert response.json()["text"] == "abcab"


async def leave(http, seen):
    path, body = random.choice(
        [
            ("/v1/chat/completions", {**QUESTION, "stream": True}),
            ("/v1/audio/speech", {"model": SPEECH, "input": TEXT * 10, "voice": "x"}),
        ]
    )
    async with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        async for _ in response.aiter_raw():
            if random.random() < 0.3:
                return


async def send_garbage(http, seen):
    content = random.randbytes(random.randint(0, 2000))
    headers = {"Content-Type": random.choice(["application/json", "multipart/form-data; boundary=x"])}
    path = random.choice(["chat/completions", "audio/speech", "audio/transcriptions"])
    response = await http.post(f"/v1/{path}", content=content, headers=headers)
    assert response.status_code in (400, 415)


async def stall(http, seen):
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    writer.write(b"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    await asyncio.wait_for(reader.read(), 20)  # until the server closes it
    writer.close()


async def soak(url, seconds):
    """Runs all clients; returns the number of requests of each kind."""
    counts, seen, deadline = {}, set(), time.monotonic() + seconds
    works = [ask, ask, ask, speak, transcribe, transcribe, leave, send_garbage, stall]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as http:

        async def client():
            while time.monotonic() < deadline:
                work = random.choice(works)
                await work(http, seen)
                counts[work.__name__] = counts.get(work.__name__, 0) + 1

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return counts


def resident():
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_nothing_fails_and_memory_stays_flat():
    with RunningServer(limits=Limits(head_seconds=2, body_seconds=2, stall_seconds=2)) as server:
        asyncio.run(soak(server.url, SECONDS / 4))  # memory of caches and of connections
        before = resident()
        counts = asyncio.run(soak(server.url, SECONDS))
        server.idle(20)
        after = resident()
        assert server.service.uploads.held == 0
        assert not server.service.engine.batched.busy
        assert len(counts) == 6
        assert after < 1.05 * before, counts
