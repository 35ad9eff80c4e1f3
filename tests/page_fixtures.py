"""Fixtures and helpers of the tests of the page: Chromium, with a file as microphone."""

import shutil
import time

import numpy as np
import pytest
import soundfile
from conftest import tones

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
LOUD = "abcabc"


@pytest.fixture(scope="module", name="microphone")
def speech_file(tmp_path_factory):
    """A file that the browser's microphone plays in a loop: a second of speech in three of silence."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    speech = 0.5 * np.asarray(tones(LOUD))
    silence = np.zeros(24_000)
    soundfile.write(path, np.concatenate((silence, speech, silence)), 16_000)
    return path


@pytest.fixture(scope="module", name="browser")
def chromium(microphone):
    options = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    playwright.expect.set_options(timeout=30_000)
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=BROWSER, args=options)
        yield launched
        launched.close()


@pytest.fixture(name="page")
def opened_page(browser, server):
    """The page; errors of its script, and requests to other hosts, fail the test."""
    context = browser.new_context(viewport={"width": 900, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if _unexpected(message) else None)
    opened.on("request", lambda request: problems.append(request.url) if _foreign(request.url, server.url) else None)
    opened.goto(server.url)
    playwright.expect(opened.locator("#state")).to_have_text("omni, talker, audio")
    fill(opened, {"tokens": "24"})
    yield opened
    context.close()
    assert problems == []


def _unexpected(message):
    return message.type == "error" and "status of 400" not in message.text  # the page shows what the server refuses


def _foreign(url, own):
    return not url.startswith((own, "data:", "blob:"))


def fill(page, values):
    page.locator("details.settings").evaluate("details => details.open = true")
    for name, value in values.items():
        page.fill(f"#{name}", value)
    page.locator("details.settings").evaluate("details => details.open = false")


def answer(page):
    """The text of the last answer, once it is complete and spoken."""
    last = page.locator(".message.omni").last
    last.locator("text=/first token \\d+ ms/").wait_for()
    playwright.expect(page.locator("#send")).to_be_visible()
    return last.locator(".text").inner_text()


def wait_until(page, expression):
    """Waits until an expression is true; `wait_for_function` needs what the page's policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def expected(server, content):
    assistant = server.service.models.assistant
    prompt = assistant.prompt([{"role": "user", "content": content}], max_tokens=24)
    return "".join(assistant.responder.stream(prompt, max_tokens=24))


@pytest.fixture(name="sent")
def sent_questions(page):
    """The bodies of the questions that the page sends."""
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if "/chat/" in request.url else None)
    return bodies
