"""Clients that leave, stall, flood or send garbage; a server that is full, fails or stops."""

import contextlib
import json
import logging
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from toy_server import CHAT, SPEECH, TRANSCRIPTION, RunningServer, events, recording, wav

from omni.inference.batched_responder import BatchedResponder
from omni.inference.synthesizer import Synthesizer
from omni.serving.app import ACCESS_LOG
from omni.serving.limits import Limits
from omni.serving.protocol import create_server

CHAT_BODY = {"model": CHAT, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
SPEECH_BODY = {"model": SPEECH, "input": "abc dab. cab bad, dad! ", "voice": "x"}
QUICK = Limits(max_upload=1.0, head_seconds=0.4, body_seconds=0.4, stall_seconds=0.4, max_connections=20)


@pytest.fixture(autouse=True)
def no_traceback(caplog, request):
    """Fails a test in which the server logs a traceback that it does not expect."""
    with caplog.at_level(logging.WARNING):
        yield
    if "fails" not in request.node.name:
        assert not [record.getMessage() for record in caplog.records if record.exc_info]


@pytest.fixture
def slow_tokens(monkeypatch):
    """Each token of text takes 20 ms."""
    step = BatchedResponder.step

    def slowly(self):
        time.sleep(0.02)
        step(self)

    monkeypatch.setattr(BatchedResponder, "step", slowly)


def answers(server):
    """The running and waiting text answers."""
    return server.service.engine.batched


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_all(connection):
    """What a server sends until it closes the connection."""
    found = b""
    try:
        while data := connection.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


class TestClientsThatLeave:
    @pytest.mark.parametrize("stream", [True, False])
    def test_their_rows_are_freed(self, slow_tokens, stream):
        with RunningServer() as server, server.http() as http:
            connection = connect(server)
            body = json.dumps({**CHAT_BODY, "stream": stream, "max_tokens": 140}).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not answers(server).num_running:
                time.sleep(0.005)
            connection.close()
            server.idle(1.0)  # 140 tokens take 2.8 s
            assert not answers(server).num_running
            assert http.post("/v1/chat/completions", json=CHAT_BODY).status_code == 200

    def test_speech_ends(self):
        with RunningServer() as server, server.http() as http:
            text = SPEECH_BODY["input"] * 60
            with http.stream("POST", "/v1/audio/speech", json={**SPEECH_BODY, "input": text}) as response:
                next(response.iter_raw())
            server.idle(2.0)  # it would take a minute

    def test_the_log_says_so(self, slow_tokens, caplog):
        with caplog.at_level(logging.INFO, logger=ACCESS_LOG.name), RunningServer() as server, server.http() as http:
            with http.stream("POST", "/v1/chat/completions", json={**CHAT_BODY, "stream": True}) as response:
                next(response.iter_raw())
            server.idle()
        (line,) = [json.loads(record.getMessage()) for record in caplog.records if record.name == ACCESS_LOG.name]
        assert line["left"] is True
        assert line["path"] == "/v1/chat/completions"


class TestLoad:
    def test_answers_together_are_those_alone(self):
        def ask(http, number):
            body = {**CHAT_BODY, "messages": [{"role": "user", "content": "x" * (number % 5)}], "seed": number}
            return http.post("/v1/chat/completions", json={**body, "temperature": 1}).json()["choices"]

        with RunningServer() as server, server.http() as http:
            alone = [ask(http, number) for number in range(10)]
            with ThreadPoolExecutor(10) as pool:
                assert list(pool.map(lambda number: ask(http, number), range(10))) == alone
        assert len({json.dumps(one) for one in alone}) > 5

    def test_speeches_together_are_those_alone(self):
        def speak(http, number):
            body = {
                **SPEECH_BODY,
                "input": "abc dab cad. "[number:],
                "voice": "xyz"[number % 3],
                "response_format": "pcm",
            }
            return http.post("/v1/audio/speech", json=body).content

        with RunningServer() as server, server.http() as http:
            alone = [speak(http, number) for number in range(6)]
            with ThreadPoolExecutor(6) as pool:
                assert list(pool.map(lambda number: speak(http, number), range(6))) == alone
        assert len(set(alone)) == 6

    def test_short_answers_do_not_wait_for_long_speech(self):
        with RunningServer() as server, server.http() as http:
            long = {**SPEECH_BODY, "input": SPEECH_BODY["input"] * 40}
            with http.stream("POST", "/v1/audio/speech", json=long) as response:
                parts = response.iter_raw()
                next(parts)
                assert http.post("/v1/chat/completions", json={**CHAT_BODY, "max_tokens": 5}).status_code == 200
                form = {"data": {"model": TRANSCRIPTION}, "files": {"file": recording()}}
                assert http.post("/v1/audio/transcriptions", **form).json()["text"] == "abc"
                assert server.service.engine.num_running == 1  # the speech still runs

    def test_a_full_queue_refuses(self, slow_tokens):
        with RunningServer(limits=Limits(max_running=1, max_queue=1)) as server, server.http() as http:
            with ThreadPoolExecutor(2) as pool:
                running = [pool.submit(http.post, "/v1/chat/completions", json=CHAT_BODY) for _ in range(2)]
                while server.service.engine.num_running + server.service.engine.num_waiting < 2:
                    time.sleep(0.005)
                refused = http.post("/v1/chat/completions", json=CHAT_BODY)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json()["error"]["code"] == "queue_full"
                assert http.get("/v1/models").status_code == 200
            assert [one.result().status_code for one in running] == [200, 200]
            assert http.post("/v1/chat/completions", json=CHAT_BODY).status_code == 200


class TestFloods:
    def test_a_claimed_gigabyte_is_refused_at_once(self):
        with RunningServer(limits=QUICK) as server, connect(server) as connection:
            connection.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
            head = connection.recv(65_536)
            assert head.startswith(b"HTTP/1.1 413 ")

    def test_an_endless_body_is_cut(self):
        with RunningServer(limits=Limits(max_upload=1.0)) as server, connect(server) as connection:
            connection.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk, sent, found = b"10000\r\n" + b"a" * 65_536 + b"\r\n", 0, b""
            connection.settimeout(0.02)
            deadline = time.monotonic() + 10
            try:
                while time.monotonic() < deadline:
                    connection.sendall(chunk)
                    sent += 65_536
                    if not found:
                        with contextlib.suppress(TimeoutError):
                            found = connection.recv(65_536)
            except (ConnectionError, TimeoutError):
                pass
            assert time.monotonic() < deadline, "the body was read to the end"
            assert found.startswith(b"HTTP/1.1 413 ")
            assert sent > 1_000_000
            server.idle()
            assert server.service.uploads.held == 0

    def test_uploads_share_a_memory(self):
        limits = Limits(max_uploads=0.5)
        with RunningServer(limits=limits) as server, server.http() as http:
            form = {"data": {"model": TRANSCRIPTION}, "files": {"file": b"a" * 600_000}}
            assert http.post("/v1/audio/transcriptions", **form).json()["error"]["code"] == "uploads_full"
            assert server.service.uploads.held == 0

    def test_headers_without_end(self):
        with RunningServer(limits=QUICK) as server, connect(server) as connection:
            lines = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n")
            assert read_all(connection).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))

    @pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"\0" * 1000, b"GET a HTTP/1.1\r\n\r\n"])
    def test_garbage(self, garbage):
        with RunningServer(limits=QUICK) as server, connect(server) as connection:
            connection.sendall(garbage)
            assert read_all(connection)[:12] in (b"HTTP/1.1 400", b"")

    def test_many_connections(self):
        with RunningServer(limits=QUICK) as server:
            idle = [connect(server) for _ in range(30)]
            time.sleep(0.1)
            assert len(server.server.server_state.connections) <= 20
            for connection in idle:
                connection.close()
            deadline = time.monotonic() + 30
            while server.server.server_state.connections and time.monotonic() < deadline:
                time.sleep(0.01)
            with server.http() as http:
                assert http.get("/health").status_code == 200


class TestSlowness:
    @pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"])
    def test_a_head_that_drips_is_cut(self, before):
        with RunningServer(limits=QUICK) as server, connect(server) as connection, server.http() as http:
            connection.sendall(before)
            started = time.monotonic()
            with pytest.raises(ConnectionError):  # noqa: PT012
                for byte in b"GET /health HTTP/1.1\r\nX: " + b"a" * 200:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.03)
                    assert time.monotonic() - started < 5
            assert http.get("/health").status_code == 200

    def test_a_body_that_stops_is_answered(self):
        with RunningServer(limits=QUICK) as server, connect(server) as connection:
            connection.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"request_timeout" in answer

    def test_a_reader_that_stalls_is_cut(self):
        async def large(scope, receive, send):
            if scope["type"] == "lifespan":
                for kind in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{kind}.complete"})
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                await send({"type": "http.response.body", "body": b"a" * 65_536, "more_body": True})

        server = RunningServer(limits=QUICK)
        server.service.engine.ready = True  # it is not started
        server.server = create_server(server.service, large, host="127.0.0.1", port=0)
        server._thread = threading.Thread(target=server.server.run, daemon=True)
        with server, connect(server) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            connection.recv(1)
            deadline = time.monotonic() + 30
            while server.server.server_state.connections:
                assert time.monotonic() < deadline
                time.sleep(0.01)


class TestFailures:
    def test_a_request_that_fails_is_reported(self, monkeypatch, caplog):
        def broken(self, *args, **options):
            raise RuntimeError("out of order")
            yield

        with RunningServer() as server, server.http() as http:
            monkeypatch.setattr(Synthesizer, "stream_chunks", broken)
            response = http.post("/v1/audio/speech", json=SPEECH_BODY)
            assert response.status_code == 500
            assert "out of order" not in response.text
            streamed = http.post("/v1/audio/speech", json={**SPEECH_BODY, "stream_format": "sse"})
            assert events(streamed.text)[-1]["error"]["code"] == "internal_error"
            assert "out of order" in caplog.text
            assert http.post("/v1/chat/completions", json=CHAT_BODY).status_code == 200

    def test_a_step_that_fails_ends_the_answers_of_then(self, monkeypatch, slow_tokens):
        step = BatchedResponder.step
        with RunningServer() as server, server.http() as http, ThreadPoolExecutor(2) as pool:
            running = [pool.submit(http.post, "/v1/chat/completions", json=CHAT_BODY) for _ in range(2)]
            while answers(server).num_running < 2:
                time.sleep(0.005)

            def broken(self):
                monkeypatch.setattr(BatchedResponder, "step", step)
                raise RuntimeError("out of memory")

            monkeypatch.setattr(BatchedResponder, "step", broken)
            assert [one.result().status_code for one in running] == [500, 500]
            assert http.post("/v1/chat/completions", json=CHAT_BODY).status_code == 200

    def test_an_engine_that_fails_is_seen(self, monkeypatch):
        with RunningServer() as server, server.http() as http:
            monkeypatch.setattr(server.service.engine, "_round", lambda: 1 / 0)
            monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
            assert http.post("/v1/chat/completions", json=CHAT_BODY).status_code == 503
            assert http.get("/health").status_code == 503
            assert http.get("/ready").status_code == 503


class TestStopping:
    def test_running_answers_end_and_new_ones_are_refused(self, slow_tokens):
        with RunningServer() as server, server.http() as http:
            body = {**CHAT_BODY, "stream": True}
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                server.server.drain()
                refused = http.post("/v1/chat/completions", json=CHAT_BODY)
                assert refused.status_code == 503
                assert "retry-after" in refused.headers
                assert http.get("/ready").status_code == 503
                assert http.get("/health").status_code == 200
                assert [line for line in lines if line][-1] == "data: [DONE]"
            server._thread.join(5)
            assert not server._thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health", trust_env=False)

    def test_answers_that_take_too_long_are_cut(self, slow_tokens):
        with RunningServer(limits=Limits(drain_seconds=0.2)) as server, server.http() as http:
            body = {**CHAT_BODY, "stream": True, "max_tokens": 140}
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                next(response.iter_raw())
                server.server.config.timeout_graceful_shutdown = 0
                server.server.drain()
                server._thread.join(5)
                assert not server._thread.is_alive()


class TestAccess:
    def test_the_key_is_needed(self):
        with RunningServer(api_key="secret") as server, server.http() as http:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                response = http.get("/v1/models", headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
            assert http.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
            assert http.get("/health").status_code == 200

    def test_every_request_is_a_line_of_json(self, caplog):
        with caplog.at_level(logging.INFO, logger=ACCESS_LOG.name), RunningServer() as server, server.http() as http:
            http.post("/v1/chat/completions", json=CHAT_BODY)
            http.get("/v1/%0a%22injected%22")
            server.idle()
        lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == ACCESS_LOG.name]
        assert [line["status"] for line in lines] == [200, 404]
        assert lines[0]["completion_tokens"] == 40
        assert lines[0]["first_token"] <= lines[0]["seconds"]
        assert lines[1]["path"] == '/v1/\n"injected"'
        assert not any("\n" in record.getMessage() for record in caplog.records)

    def test_uploads_never_reach_the_disk(self, monkeypatch):
        def written(*args, **options):
            raise AssertionError("a temporary file was made")

        monkeypatch.setattr(tempfile, "TemporaryFile", written)  # what a SpooledTemporaryFile rolls over to
        with RunningServer() as server, server.http() as http:
            content = wav([0.0] * 2_000_000)
            form = {"data": {"model": TRANSCRIPTION}, "files": {"file": ("../a.wav", content)}}
            assert http.post("/v1/audio/transcriptions", **form).status_code == 200
