"""The page at `/`, on which one talks to the models in a browser."""

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

# The page is one file: it loads nothing from elsewhere, and talks to this server only.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@cache
def page_bytes() -> bytes:
    """The page's HTML."""
    return files("omni.serving").joinpath("static", "index.html").read_bytes()


async def page(http: Request) -> Response:
    """`GET /`."""
    return Response(page_bytes(), media_type="text/html", headers=_HEADERS)
