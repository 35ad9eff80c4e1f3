"""Errors of the API: status, and the body that OpenAI's clients read."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed"}
_MESSAGE = 500  # characters: messages may quote what a client sent


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status.
        message: What is wrong and what to do.
        param: The field that is wrong, such as `messages[0].content`.
        code: A constant that programs may compare.
        headers: More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, dict(headers or {})
        self.message = message if len(message) <= _MESSAGE else message[:_MESSAGE] + "…"
        self.code = code or _CODES.get(status, "invalid_value")

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The response."""
        return json_response(self.body, status=self.status, headers=self.headers)


def overloaded(message: str, *, status: int = 429, code: str = "queue_full", seconds: int = 1) -> ApiError:
    """An error that passes: the client may try again after some seconds."""
    return ApiError(status, message, code=code, headers={"Retry-After": str(seconds)})


def internal_error() -> ApiError:
    """An error of the server; its log says more."""
    return ApiError(500, "The server failed at this request.", code="internal_error")


def from_http(error: HTTPException) -> ApiError:
    """An error of the router: an unknown path, or a method that a path does not have."""
    messages = {404: "There is no such path; see GET /v1/models.", 405: "This path does not have that method."}
    return ApiError(error.status_code, messages.get(error.status_code, error.detail), headers=error.headers)


def from_validation(error: ValidationError) -> ApiError:
    """The first error of a request's schema."""
    first = error.errors(include_url=False, include_input=False)[0]
    extra = first.get("ctx", {}).get("param")
    param = param_of(first["loc"] if extra is None else (*first["loc"], extra))
    message = first["msg"]
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", param=param, code="missing_required_parameter")
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"The body is not valid JSON: {message.removeprefix('Invalid JSON: ')}", code="invalid_json"
        )
    return ApiError(400, f"{param}: {message}." if param else f"{message}.", param=param)


def param_of(loc: tuple[int | str, ...]) -> str | None:
    """The path of a field: `messages[0].content`; names of alternatives, which start with `~`, are left out."""
    path = ""
    for key in loc:
        if isinstance(key, int):
            path += f"[{key}]"
        elif not key.startswith("~"):
            path += f".{key}" if path else key
    return path or None


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8; a lone surrogate becomes `?`."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(json_bytes(content), status, headers, "application/json")
