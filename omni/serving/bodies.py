"""Bodies of requests: read into memory up to a limit, within a time, and parsed. Nothing is written to disk."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from omni.serving.errors import ApiError, from_validation, overloaded
from omni.serving.limits import Limits

S = TypeVar("S", bound=BaseModel)

_LARGE = 200_000  # bytes of JSON that are parsed in a thread
_MAX_FIELDS = 64


class Uploads:
    """Memory that bodies of requests take, over all requests.

    Args:
        limits: Limits of a body and of all.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Reads the body of a request, which counts as held until the end of the context.

        Raises:
            ApiError: If it is too large, too slow, or there is no memory left for it.
        """
        held = 0
        try:
            content = bytearray()
            self._check_size(request)
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    async for chunk in request.stream():
                        content += chunk
                        held += len(chunk)
                        self.held += len(chunk)
                        self._check(len(content))
            except TimeoutError as error:
                message = f"The body did not arrive within {self.limits.body_seconds:g} s."
                raise ApiError(408, message, code="request_timeout") from error
            except ClientDisconnect as error:
                raise ApiError(499, "The client has left.", code="client_left") from error
            yield bytes(content)
        finally:
            self.held -= held

    def hold(self, size: int, *, forced: bool = False) -> None:
        """Counts memory, in bytes, that a session holds.

        Args:
            size: The bytes.
            forced: Count them in any case.

        Raises:
            ApiError: If there is no memory left for it.
        """
        if not forced and self.held + size > self.limits.max_uploads * 1e6:
            raise self._full()
        self.held += size

    def release(self, size: int) -> None:
        """Counts memory that is free again."""
        self.held -= size

    def _check_size(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "Compressed bodies are not read: send it without Content-Encoding.", code="unsupported")
        claimed = request.headers.get("content-length", "")
        if claimed.isdecimal():
            self._check(int(claimed[:20]))

    def _check(self, size: int) -> None:
        if size > self.limits.upload_bytes:
            message = f"The body is larger than {self.limits.max_upload:g} MB, the limit of this server."
            raise ApiError(413, message, code="request_too_large")
        if self.held > self.limits.max_uploads * 1e6:
            raise self._full()

    @staticmethod
    def _full() -> ApiError:
        return overloaded("Other uploads fill the memory for uploads: try again later.", code="uploads_full")


async def read_json(request: Request, body: bytes, schema: type[S]) -> S:
    """Parses a body of JSON.

    Raises:
        ApiError: If it is not JSON, or not as in the schema.
    """
    kind = _content_type(request)
    if kind not in ("application/json", "") and not kind.endswith("+json"):
        raise _wrong_type(kind, "application/json")
    try:
        if len(body) > _LARGE:
            return await asyncio.to_thread(schema.model_validate_json, body)
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from error


async def read_form(request: Request, body: bytes, schema: type[S], *, lists: tuple[str, ...]) -> tuple[S, bytes]:
    """Parses a multipart form with a file called `file`.

    Args:
        request: The request.
        body: Its body.
        schema: The fields besides the file.
        lists: Fields that may be repeated, with or without `[]` after the name.

    Returns:
        The fields, and the content of the file. Its name is not used.

    Raises:
        ApiError: If it is not such a form, or there is no file.
    """
    kind = _content_type(request)
    if kind != "multipart/form-data":
        raise _wrong_type(kind, "multipart/form-data")

    async def whole() -> AsyncIterator[bytes]:
        yield body

    parser = _MemoryParser(request.headers, whole(), max_files=1, max_fields=_MAX_FIELDS)  # pyright: ignore
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"The form cannot be read: {error.message}", code="invalid_form") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            message = "file is missing: send the recording as a file."
            raise ApiError(400, message, param="file", code="missing_required_parameter")
        content = await file.read()
    finally:
        await form.close()
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        key = name.removesuffix("[]")
        if name == "file" or isinstance(value, UploadFile):
            continue
        if key in lists:
            fields.setdefault(key, []).append(value)
        elif value != "":  # as if left out
            fields[key] = value
    try:
        return schema.model_validate(fields), content
    except ValidationError as error:
        raise from_validation(error) from error


class _MemoryParser(MultiPartParser):
    """Keeps files in memory, whatever their size: the body has a limit."""

    spool_max_size = sys.maxsize


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _wrong_type(kind: str, needed: str) -> ApiError:
    return ApiError(415, f"The body is {kind or 'of no type'}: send {needed}.", code="unsupported_media_type")
