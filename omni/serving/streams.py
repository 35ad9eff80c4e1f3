"""Responses that are sent while a job runs; a client that leaves ends the job."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from omni.errors import UserError
from omni.serving.engine import Job
from omni.serving.errors import ApiError, internal_error, json_bytes

DONE = b"data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second: proxies of nginx pass chunks on


def sse(content: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json_bytes(content) + b"\n\n"


def as_api_error(error: Exception) -> ApiError:
    """The error that a client sees."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, f"{error}.")
    return internal_error()


@asynccontextmanager
async def watched(request: Request, job: Job) -> AsyncIterator[Job]:
    """Cancels a job when its client leaves, and at the end of the context."""
    leaving = asyncio.create_task(_wait_until_left(request, job))
    try:
        yield job
    finally:
        leaving.cancel()
        job.cancel()
        if leaving.done() and not leaving.cancelled() and leaving.exception() is None and leaving.result():
            raise ApiError(499, "The client has left.", code="client_left")


async def first_of(request: Request, job: Job, parts: AsyncIterator[bytes]) -> bytes:
    """The first part of a job's response; empty if there is none. Cancels the job if the client leaves meanwhile."""
    leaving = asyncio.create_task(_wait_until_left(request, job))
    try:
        return await anext(parts, b"")
    except BaseException:
        job.cancel()
        raise
    finally:
        leaving.cancel()


async def _wait_until_left(request: Request, job: Job) -> bool:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()
    return True


def event_stream(
    job: Job, chunks: AsyncIterator[Mapping[str, Any]], *, before: Iterable[Mapping[str, Any]] = ()
) -> StreamingResponse:
    """A response of server-sent events, which ends with `[DONE]`, or with an error.

    Args:
        job: Its work, cancelled when the client leaves.
        chunks: The events, made of those of the job.
        before: Events to send at once.
    """

    async def body() -> AsyncIterator[bytes]:
        try:
            for chunk in before:
                yield sse(chunk)
            async for chunk in chunks:
                yield sse(chunk)
            yield DONE
        except Exception as error:
            yield sse(as_api_error(error).body)
        finally:
            job.cancel()

    return StreamingResponse(body(), media_type="text/event-stream", headers=_HEADERS)
