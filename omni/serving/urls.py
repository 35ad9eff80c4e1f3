"""Fetches images from public addresses only: what a client names must not reach this machine or its network."""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from omni.serving.errors import ApiError

_REDIRECTS = 3
_SECONDS = 10.0  # for all of a fetch
_MOVED = (301, 302, 303, 307, 308)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet, also where it is an IPv4 address inside an IPv6 address."""
    inner: list[Address | None] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo
        inner += [address.ipv4_mapped, address.sixtofour, None if teredo is None else teredo[1]]
        if address in _NAT64 or address in _COMPATIBLE:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    checked = [one for one in inner if one is not None]
    # A mapped address is judged by the address inside: is_global differs between versions of Python.
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return all(one.is_global and not one.is_multicast for one in checked[1 if mapped else 0 :])


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def fetch(url: str, *, param: str, max_bytes: int, allowed: Callable[[Address], bool] = is_public) -> bytes:
    """The content of a URL.

    The host is resolved once for each redirect, all of its addresses are checked, and the connection is made to the
    address that was checked. Proxies of the environment are not used.

    Args:
        url: An `http:` or `https:` URL.
        param: Its field, for errors.
        max_bytes: Largest content.
        allowed: Whether an address may be connected to.

    Raises:
        ApiError: If it is refused, cannot be fetched in time, or is too large.
    """
    deadline = time.monotonic() + _SECONDS
    for _ in range(_REDIRECTS + 1):
        parts = _split(url, param)
        try:
            connection = _connection(parts, _address(parts, param, allowed), deadline)
            timer = threading.Timer(max(0.01, deadline - time.monotonic()), _cut, [connection.sock])
            timer.start()
            try:
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target or "/", headers={"User-Agent": "omni", "Accept": "image/*"})
                with connection.getresponse() as response:
                    if response.status in _MOVED and (location := response.headers.get("Location")):
                        url = urljoin(url, location)
                        continue
                    if response.status != 200:
                        raise _failed(param, f"the server answered with status {response.status}")
                    return _read(response, param, max_bytes)
            finally:
                timer.cancel()
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failed(param, type(error).__name__) from error
    raise _failed(param, f"it redirects more than {_REDIRECTS} times")


def _split(url: str, param: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, valid = SplitResult("", "", "", "", ""), False
    if not valid or any(not "!" <= character <= "~" for character in url):
        raise ApiError(400, "The URL of the image is not a valid http: or https: URL.", param=param)
    if parts.username is not None or parts.password is not None:
        raise ApiError(400, "The URL of the image must not have a user name or password.", param=param)
    return parts


def _address(parts: SplitResult, param: str, allowed: Callable[[Address], bool]) -> tuple[str, int]:
    """The first address of the host, if all may be connected to."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    assert parts.hostname is not None
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(allowed(ipaddress.ip_address(one.partition("%")[0])) for one in addresses):
        raise ApiError(
            400, "The URL of the image leads to an address that is not public.", param=param, code="url_refused"
        )
    return addresses[0], port


def _connection(parts: SplitResult, address: tuple[str, int], deadline: float) -> http.client.HTTPConnection:
    """A connection to a checked address, under the name of the host."""
    assert parts.hostname is not None
    plain = socket.create_connection(address, timeout=max(0.01, deadline - time.monotonic()))
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    if parts.scheme == "https":
        try:
            plain = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
        except BaseException:
            plain.close()
            raise
        connection.default_port = 443
    connection.sock = plain
    return connection


def _cut(connection: socket.socket) -> None:
    """Ends a fetch that takes too long, whatever it waits for: timeouts of sockets start again with each byte."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, param: str, max_bytes: int) -> bytes:
    content = bytearray()
    while chunk := response.read1(65_536):
        content += chunk
        if len(content) > max_bytes:
            raise _failed(param, f"it is larger than {max_bytes / 1e6:g} MB")
    if response.length:
        raise _failed(param, "it is cut off")
    return bytes(content)


def _failed(param: str, reason: str) -> ApiError:
    return ApiError(400, f"The image cannot be fetched: {reason}.", param=param, code="fetch_failed")
