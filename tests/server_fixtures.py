"""Fixtures of the tests that ask one server of toy models: import them where they are used."""

import openai
import pytest
from toy_server import RunningServer


@pytest.fixture(scope="module", name="server")
def toy_server():
    """A running server."""
    with RunningServer() as running:
        yield running


@pytest.fixture(scope="module", name="client")
def openai_client(server):
    """OpenAI's own client of the server."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client
