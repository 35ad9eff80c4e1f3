"""The ASGI application: routes, access, errors and the access log."""

import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni.errors import UserError
from omni.serving.chat import complete_chat
from omni.serving.errors import ApiError, from_http, overloaded
from omni.serving.listings import get_model, health, list_audio_models, list_models, list_voices, metrics, ready
from omni.serving.origins import opens_sessions
from omni.serving.page import page
from omni.serving.realtime.endpoint import realtime
from omni.serving.service import Service
from omni.serving.speech import create_speech
from omni.serving.streams import as_api_error
from omni.serving.transcriptions import create_transcription

ACCESS_LOG = logging.getLogger("omni.serving.access")
_log = logging.getLogger(__name__)

_ROUTES = [
    Route("/", page),
    Route("/health", health),
    Route("/ready", ready),
    Route("/metrics", metrics),
    Route("/v1/models", list_models),
    Route("/v1/models/{id:path}", get_model),
    Route("/v1/audio/models", list_audio_models),
    Route("/v1/audio/voices", list_voices),
    Route("/v1/chat/completions", complete_chat, methods=["POST"]),
    Route("/v1/audio/transcriptions", create_transcription, methods=["POST"]),
    Route("/v1/audio/speech", create_speech, methods=["POST"]),
    WebSocketRoute("/v1/realtime", realtime),
]
_MAX_HEADERS = 200
_KEY_PROTOCOL = "openai-insecure-api-key."  # in the subprotocol of OpenAI's JavaScript client; its key follows
_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_PATHS = {route.path for route in _ROUTES}  # others are one label in metrics


def create_app(service: Service, *, outer: Sequence[Middleware] = ()) -> Starlette:
    """The application of a service, which starts and stops with it.

    Args:
        service: The server's state.
        outer: Middleware that sees requests before the key is checked.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    async def failed(http: Request, error: Exception) -> Response:
        shown = from_http(error) if isinstance(error, HTTPException) else as_api_error(error)
        service.note(http, error=shown.code)
        return shown.response()

    app = Starlette(
        routes=_ROUTES,
        lifespan=lifespan,
        middleware=[*outer, Middleware(Gate, service=service)],
        exception_handlers={ApiError: failed, UserError: failed, HTTPException: failed},
    )
    app.state.service = service
    return app


class Gate:
    """Checks the key, refuses requests while the server stops, and logs every request as a line of JSON.

    Args:
        app: The application.
        service: The server's state.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        entry = _Entry(scope, receive, send)
        self.service.in_flight += 1
        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self.app(scope, entry.receive, entry.send)
            else:
                entry.fields["error"] = refusal.code
                await refusal.response()(scope, entry.receive, entry.send)
        except Exception as error:
            _log.exception("A request failed.")
            entry.fields["error"] = "internal_error"
            if entry.status is None:
                await as_api_error(error).response()(scope, entry.receive, entry.send)
        finally:
            self.service.in_flight -= 1
            self._log(entry)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if len(scope["headers"]) > _MAX_HEADERS:
            return ApiError(431, f"The request has more than {_MAX_HEADERS} headers.", code="too_many_headers")
        if not scope["path"].startswith("/v1/"):
            return None
        wanted = self.service.api_key
        if wanted is not None and not hmac.compare_digest(_key(scope), wanted.encode()):
            message = "The API key is missing or wrong: send the header Authorization: Bearer KEY."
            headers = {"WWW-Authenticate": "Bearer"}
            return ApiError(401, message, code="invalid_api_key", headers=headers)
        if self.service.draining:
            return overloaded("The server is shutting down.", status=503, code="shutting_down")
        if scope["type"] == "websocket":
            # With a key, a page of another origin cannot open a session; without one, only the server's own page may.
            allowed = wanted is not None or opens_sessions(scope["headers"], self.service.allow_origins)
            return (
                None if allowed else ApiError(403, "Pages of this origin may not open sessions.", code="wrong_origin")
            )
        return None if scope["method"] != "POST" else self.service.engine.refusal()

    def _log(self, entry: "_Entry") -> None:
        seconds, path = entry.clock(), entry.scope["path"]
        label = "/v1/models/{id:path}" if path.startswith("/v1/models/") else path if path in _PATHS else "other"
        self.service.metrics.requests.labels(label, str(entry.status)).inc()
        self.service.metrics.seconds.labels(label).observe(seconds)
        client = entry.scope.get("client")
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request": entry.name,
            "client": client[0] if client else None,
            "method": entry.scope.get("method", "WEBSOCKET"),
            "path": path[:200],
            "status": entry.status,
            "seconds": round(seconds, 4),
            "bytes_in": entry.bytes_in,
            "bytes_out": entry.bytes_out,
        }
        fields = {name: round(value, 4) if isinstance(value, float) else value for name, value in entry.fields.items()}
        ACCESS_LOG.info(json.dumps(line | fields))


def _key(scope: Scope) -> bytes:
    """The key of a request: in its header, or among the subprotocols, as browsers send it for WebSockets."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    kind, _, key = given.partition(b" ")
    if kind.lower() == b"bearer":
        return key.strip()
    names = [name for name in scope.get("subprotocols", ()) if name.startswith(_KEY_PROTOCOL)]
    return names[0].removeprefix(_KEY_PROTOCOL).encode() if names else b""


def _size(message: Message) -> int:
    """Bytes of a message's content, or characters of its text."""
    return len(message.get("body") or message.get("text") or message.get("bytes") or b"")


class _Entry:
    """A request's line in the log, and its messages counted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.name = f"req_{secrets.token_hex(8)}"
        self.fields: dict[str, Any] = {}
        self.status: int | None = None
        self.bytes_in = self.bytes_out = 0
        self._started, self._complete = time.perf_counter(), False
        scope["omni.log"], scope["omni.clock"] = self.fields, self.clock

    def clock(self) -> float:
        """Seconds since the request."""
        return time.perf_counter() - self._started

    async def receive(self) -> Message:
        message = await self._receive()
        self.bytes_in += _size(message)
        if message["type"] == "http.disconnect" and not self._complete:
            self.fields["left"] = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] in _STARTS:
            self.status = message.get("status", 101)
            headers = [*message.get("headers", ()), (b"x-request-id", self.name.encode())]
            message = {**message, "headers": headers}
        else:
            self.bytes_out += _size(message)
            self._complete = not message.get("more_body", False)
        await self._send(message)
