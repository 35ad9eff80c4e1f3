"""Calls by scripts of pages of other origins."""

import pytest
from toy_server import CHAT, RunningServer

from omni.errors import UserError
from omni.serving.origins import cross_origin

OURS, FOREIGN = "https://chat.example.org", "https://evil.example"
BODY = {"model": CHAT, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


def preflight(http, origin):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return http.options("/v1/chat/completions", headers={"Origin": origin, **asked})


@pytest.fixture(scope="module")
def server():
    with RunningServer(allow_origins=[OURS], api_key="secret") as running:
        yield running


class TestAllowedOrigins:
    def test_a_preflight_needs_no_key(self, server):
        with server.http() as http:
            allowed, foreign = preflight(http, OURS), preflight(http, FOREIGN)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == OURS
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert allowed.headers["access-control-allow-headers"] == "authorization,content-type"
        assert foreign.status_code == 400
        assert "access-control-allow-origin" not in foreign.headers

    @pytest.mark.parametrize("key", ["secret", "wrong"])
    def test_a_request_needs_the_key_and_errors_can_be_read(self, server, key):
        headers = {"Authorization": f"Bearer {key}"}
        with server.http() as http:
            ours, foreign, none = (
                http.post("/v1/chat/completions", json=BODY, headers=headers | more)
                for more in ({"Origin": OURS}, {"Origin": FOREIGN}, {})
            )
        assert ours.status_code == foreign.status_code == none.status_code == (200 if key == "secret" else 401)
        assert ours.headers["access-control-allow-origin"] == OURS
        assert "retry-after" in ours.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-origin" not in {*foreign.headers, *none.headers}


@pytest.mark.parametrize(("origins", "status"), [((), 405), (["*"], 200)])
def test_none_by_default_and_all_by_a_star(origins, status):
    with RunningServer(allow_origins=origins) as server, server.http() as http:
        asked = preflight(http, FOREIGN)
        answer = http.post("/v1/chat/completions", json=BODY, headers={"Origin": FOREIGN})
    assert asked.status_code == status
    assert answer.status_code == 200
    assert answer.headers.get("access-control-allow-origin") == ("*" if origins else None)


@pytest.mark.parametrize("origin", ["https://a.b", "http://localhost:3000", "http://127.0.0.1", "http://[::1]:80", "*"])
def test_origins(origin):
    assert len(cross_origin([origin])) == 1


@pytest.mark.parametrize(
    "origin", ["", "a.b", "https://a.b/", "https://A.b", "ftp://a", "https://u@a", "https://a:x", "https://", "null"]
)
def test_values_that_are_not_origins(origin):
    with pytest.raises(UserError, match=r"allow_origins: .* is not an origin"):
        cross_origin([origin])
