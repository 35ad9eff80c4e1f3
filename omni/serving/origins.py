"""Pages of other origins whose scripts may call the API: CORS."""

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from omni.errors import UserError

ANY = "*"
_VISIBLE = ("x-request-id", "retry-after")  # headers of responses that scripts may read


def cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """Starlette's middleware for other origins; none if no origin is allowed.

    Args:
        origins: Such as https://chat.example.org or http://localhost:3000, or * alone for all.

    Raises:
        UserError: If one is not an origin.
    """
    for origin in origins:
        if origin != ANY and not _valid(origin):
            raise UserError(
                f"allow_origins: {origin!r} is not an origin: write scheme://host or scheme://host:port in lower case, "
                f"without a path, or {ANY}"
            )
    options = {"allow_methods": ("GET", "POST"), "allow_headers": (ANY,), "expose_headers": _VISIBLE}
    return [Middleware(CORSMiddleware, allow_origins=origins, **options)] if origins else []


def opens_sessions(headers: Iterable[tuple[bytes, bytes]], allowed: Sequence[str]) -> bool:
    """Whether a WebSocket may be opened: browsers ask no permission for other origins, as they do for requests.

    Args:
        headers: Of the request. Programs that are no browsers send no origin.
        allowed: Origins besides the server's own; see `cross_origin`.
    """
    given = {name: value.decode("latin-1") for name, value in headers if name in (b"origin", b"host")}
    origin = given.get(b"origin")
    return origin is None or ANY in allowed or origin in allowed or urlsplit(origin).netloc == given.get(b"host")


def _valid(origin: str) -> bool:
    """Whether a browser could send it: origins are compared as text."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    host = parts.netloc if port is None else parts.netloc.removesuffix(f":{port}")
    known = parts.scheme in ("http", "https") and host.strip("[]") == (parts.hostname or "-") and "@" not in host
    return known and origin == f"{parts.scheme}://{parts.netloc}"
