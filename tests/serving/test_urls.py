"""Fetching images: public addresses only, also after redirects and through names."""

import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from toy_server import CHAT, RunningServer, png

from omni.serving import urls
from omni.serving.errors import ApiError
from omni.serving.urls import fetch, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


class Handler(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self):
        path, _, argument = self.path.partition("?")
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", argument)
            self.end_headers()
            return
        self.send_response(404 if path == "/missing" else 200)
        content = png()
        self.send_header("Content-Length", str(10_000_000 if path == "/cut" else len(content)))
        self.end_headers()
        if path == "/slow":
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
            return
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of a server of images."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def only_this(address):
    """Stands for the public internet: 127.0.0.1 and no other."""
    return str(address) == "127.0.0.1"


def refusal(url, **options):
    with pytest.raises(ApiError) as error:
        fetch(url, **{"param": "url", "max_bytes": 1_000_000, **options})
    assert error.value.status == 400
    assert error.value.param == "url"
    return error.value


def test_an_image_is_fetched(site):
    options = {"param": "url", "max_bytes": 1_000_000, "allowed": only_this}
    assert fetch(f"{site}/a.png", **options) == png()
    assert fetch(f"{site}/moved?/a.png", **options) == png()
    assert fetch(f"{site}/moved?{site}/moved?/a.png", **options) == png()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "http://2130706433:1/", "http://0x7f.1:1/",
     "http://0:1/", "http://[::ffff:7f00:1]:1/", "http://169.254.169.254/latest/meta-data"],
)  # fmt: skip
def test_this_machine_and_its_network_are_refused(url):
    assert refusal(url).code in ("url_refused", "fetch_failed")  # the second: no such address on this machine


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/a.png", "http://[::1]:{port}/a.png", "http://2130706434/"])
def test_redirects_are_checked(site, target):
    target = target.format(port=site.rpartition(":")[2])
    assert refusal(f"{site}/moved?{target}", allowed=only_this).code == "url_refused"


def test_redirects_to_files_are_refused(site):
    assert "not a valid" in refusal(f"{site}/moved?file:///etc/passwd", allowed=only_this).message


def test_a_name_is_resolved_once(monkeypatch, site):
    """The second answer for a name must not be used: it may differ from the one that was checked."""
    port, asked = int(site.rpartition(":")[2]), []

    def resolved(host, *args, **options):
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(urls.socket, "getaddrinfo", resolved)
    monkeypatch.setattr(urls.socket, "create_connection", _connected_by_number)
    assert fetch(f"http://rebinding.test:{port}/", param="url", max_bytes=10_000, allowed=only_this) == png()
    assert asked == ["rebinding.test"]


def _connected_by_number(address, timeout):
    """As `socket.create_connection`, without names."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    connection.connect((str(ipaddress.ip_address(address[0])), address[1]))
    return connection


def test_https_checks_the_certificate_of_the_name(monkeypatch, site):
    """The connection is made to an address, the certificate is that of the name."""
    port, names = int(site.rpartition(":")[2]), []

    class Context:
        def wrap_socket(self, plain, server_hostname):
            names.append(server_hostname)
            return plain  # the site has no TLS

    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
    monkeypatch.setattr(urls.socket, "getaddrinfo", lambda *args, **options: [entry])
    monkeypatch.setattr(urls.socket, "create_connection", _connected_by_number)
    monkeypatch.setattr(urls.ssl, "create_default_context", Context)
    url = f"https://images.test:{port}/a.png"
    assert fetch(url, param="url", max_bytes=10_000, allowed=only_this) == png()
    assert names == ["images.test"]


def test_a_certificate_that_is_not_trusted_is_refused(monkeypatch, site):
    """The default context of Python verifies; a server without TLS fails too."""
    assert refusal(site.replace("http:", "https:"), allowed=only_this).message.endswith("SSLError.")
    assert urls.ssl.create_default_context().verify_mode is urls.ssl.CERT_REQUIRED


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(urls.socket, "getaddrinfo", lambda *args, **options: entries)
    assert refusal("http://example.test/").code == "url_refused"


@pytest.mark.parametrize(
    ("path", "part"),
    [("/missing", "status 404"), ("/cut", "IncompleteRead"), ("/moved?/moved?/moved?/moved?/", "redirects")],
)
def test_fetches_that_fail(site, path, part):
    if path.startswith("/moved"):
        path = f"/moved?{site}/moved?{site}/moved?{site}/moved?{site}/a"
    assert refusal(f"{site}{path}", allowed=only_this).code == "fetch_failed"


def test_too_large(site):
    assert "larger than" in refusal(f"{site}/a.png", allowed=only_this, max_bytes=50).message


def test_too_slow(monkeypatch, site):
    monkeypatch.setattr(urls, "_SECONDS", 0.3)
    started = time.monotonic()
    assert refusal(f"{site}/slow", allowed=only_this).code == "fetch_failed"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("url", ["http://", "http://a:99999/", "http://user:pass@8.8.8.8/", "http://a b/", "http://é/"])
def test_bad_urls(url):
    refusal(url)


def test_the_server_refuses_private_addresses(site):
    with RunningServer(allow_urls=True) as server, server.http() as http:
        image = {"type": "image_url", "image_url": {"url": f"{site}/a.png"}}
        body = {"model": CHAT, "messages": [{"role": "user", "content": [image]}]}
        response = http.post("/v1/chat/completions", json=body)
    assert response.json()["error"]["code"] == "url_refused"
    assert response.json()["error"]["param"] == "messages[0].content[0].image_url.url"
