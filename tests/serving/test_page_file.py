"""The page as a file: what it may load, and from where."""

import re

from toy_server import RunningServer

from omni.serving.page import page_bytes


def test_the_page_names_no_other_host():
    assert not re.findall(rb"https?://", page_bytes())


def test_its_headers_forbid_other_hosts_and_frames():
    with RunningServer() as server, server.http() as http:
        response = http.get("/")
    assert response.content == page_bytes()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.split(maxsplit=1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("script-src") == "'unsafe-inline' blob:"  # the worklet of the microphone is a blob
    assert policy.pop("style-src") == "'unsafe-inline'"
    assert {source for name in ("img-src", "media-src") for source in policy.pop(name).split()} == {"data:", "blob:"}
    assert policy == dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
