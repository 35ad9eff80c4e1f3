"""uvicorn with limits of time and number on its connections, and a shutdown that lets running requests end."""

import asyncio
import time
from types import FrameType
from typing import Any

import h11
from uvicorn import Config, Server
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from omni.serving.limits import Limits
from omni.serving.service import Service

_LINGER = 2.0  # seconds in which the rest of a refused body is dropped, so that the client reads the answer


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 that cuts connections whose head, or whose reading of a response, takes too long.

    Without it a client that sends a header a minute, or never reads, keeps its connection forever.
    """

    limits = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Starts the time for the first head."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            transport.abort()
            return
        self._start("head", self.limits.head_seconds)

    def data_received(self, data: bytes) -> None:
        """Reads; the time for a head starts with its first byte."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # invalid data after the start of a response
            self.transport.abort()
            return
        if self.conn.their_state is h11.IDLE:
            self._start("head", self.limits.head_seconds)
        else:
            self._stop("head")
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self._start("linger", _LINGER)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timers."""
        for name in [*self._timers]:
            self._stop(name)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Starts the time for the client to read."""
        super().pause_writing()
        self._start("stall", self.limits.stall_seconds)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop("stall")

    def _start(self, name: str, seconds: float) -> None:
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()


class GuardedSocket(WebSocketsSansIOProtocol):
    """A WebSocket that cuts clients that do not read what is sent."""

    limits = Limits()
    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Starts the time for the client to read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop()

    async def send(self, message: ASGISendEvent) -> None:
        """Sends; a refused handshake counts as complete, which uvicorn would report as an error."""
        await super().send(message)
        self.handshake_complete |= message["type"] == "websocket.http.response.body"

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the time."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class DrainingServer(Server):
    """Ends after running requests: the first signal refuses new ones with status 503, a second one ends at once.

    Args:
        config: Options of uvicorn.
        service: The server's state.
    """

    def __init__(self, config: Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._deadline: float | None = None

    def drain(self) -> None:
        """Refuses new requests, and ends when there are none left or their time is over."""
        self.service.draining = True
        self._deadline = time.monotonic() + self.service.limits.drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self._deadline is None:
            self.drain()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; called ten times a second."""
        if self._deadline is not None:
            self.service.sessions.close()
        if self._deadline is not None and (not self.service.in_flight or time.monotonic() > self._deadline):
            self.should_exit = True
        return await super().on_tick(counter)


def create_server(service: Service, app: Any, *, host: str, port: int) -> DrainingServer:
    """A server that is ready to run.

    Args:
        service: The server's state.
        app: Its application.
        host: Address to listen at.
        port: Port; 0 takes a free one.
    """
    protocol = type("Protocol", (GuardedProtocol,), {"limits": service.limits})
    socket = type("Socket", (GuardedSocket,), {"limits": service.limits})
    config = Config(
        app,
        host=host,
        port=port,
        http=protocol,  # not httptools, which has no limit on headers
        ws=socket,
        ws_max_size=service.limits.upload_bytes,
        ws_per_message_deflate=False,  # base64 of audio hardly shrinks
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    return DrainingServer(config, service)
