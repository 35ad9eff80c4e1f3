"""The page, used in a real browser that has no network but the server, with a file as microphone."""

import re

import pytest
from page_fixtures import (
    NEEDS_BROWSER,
    answer,
    chromium,  # noqa: F401  a fixture
    expected,
    fill,
    opened_page,  # noqa: F401  a fixture
    playwright,
    speech_file,  # noqa: F401  a fixture
    wait_until,
)
from server_fixtures import toy_server  # noqa: F401  a fixture
from toy_server import png

from omni.inference.speech_streamer import SpeechStreamer
from omni.media.audio import SAMPLE_RATE

pytestmark = NEEDS_BROWSER


def test_a_typed_question_is_answered_and_spoken(page, server):
    page.fill("#text", "hello")
    page.press("#text", "Enter")
    assert answer(page) == expected(server, "hello").strip()
    times = page.evaluate("omniPage.last")
    assert 0 < times["first token"] <= times["whole"]
    assert times["first sound"] > 0
    played = page.locator(".message.omni audio").evaluate("sound => new Promise(done => "
        "sound.readyState ? done(sound.duration) : sound.onloadedmetadata = () => done(sound.duration))")  # fmt: skip
    spoken = SpeechStreamer(server.service.models.synthesizer).synthesize(expected(server, "hello")).audio
    assert played == pytest.approx(len(spoken) / SAMPLE_RATE, abs=0.02)


def test_a_question_about_a_picture_is_asked_aloud(page, server, tmp_path):
    picture = tmp_path / "red.png"
    picture.write_bytes(png())
    with page.expect_file_chooser() as chooser:
        page.click("#attach")
    chooser.value.set_files(picture)
    playwright.expect(page.locator("#attached img")).to_have_count(1)
    requests = []
    page.on("request", lambda request: requests.append(request.post_data) if "/chat/" in request.url else None)
    page.locator("#hold").dispatch_event("pointerdown", {"pointerId": 1})
    playwright.expect(page.locator("#hold")).to_have_text("Listening")
    page.wait_for_timeout(1500)
    page.locator("#hold").dispatch_event("pointerup", {"pointerId": 1})
    assert answer(page)
    (sent,) = requests
    assert '"image_url":{"url":"data:image/png;base64,' in sent
    assert '"input_audio":{"data":"UklGR' in sent  # RIFF
    assert page.evaluate("omniPage.last['first sound']") > 0
    page.locator(".message.user >> text=Words and times").click()
    playwright.expect(page.locator(".message.user .words time").first).to_be_visible()


def test_a_turn_ends_with_silence_and_speech_stops_an_answer(page, server):
    page.click("#free")
    playwright.expect(page.locator("#free")).to_have_text("Listening: stop")
    page.locator(".message.user audio").first.wait_for()
    page.locator(".message.user audio").nth(1).wait_for()  # the next turn, though the first answer may still be heard
    page.click("#free")
    playwright.expect(page.locator("#free")).to_have_text("Talk freely")
    assert page.locator(".message.omni .error").count() == 0


@pytest.mark.parametrize("by", ["the button", "the escape key"])
def test_an_answer_is_stopped(page, server, by):
    fill(page, {"tokens": "200"})
    page.fill("#text", "a long one")
    page.click("#send")
    wait_until(page, "Boolean(omniPage.player && omniPage.player.playing)")
    page.evaluate("window.player = omniPage.player")
    page.click("#stop") if by == "the button" else page.keyboard.press("Escape")
    playwright.expect(page.locator("#send")).to_be_visible()
    assert not page.evaluate("player.playing")
    wait_until(page, "player.context.state === 'closed'")
    server.idle()


def test_errors_of_the_server_are_shown(page, server):
    page.evaluate("omniPage.attached.push({kind: 'audio', blob: new Blob(['no sound']), name: 'x.wav'})")
    page.evaluate("send()")
    playwright.expect(page.locator(".message .error")).to_contain_text("is no audio that can be read")
    page.fill("#text", "hello")
    page.click("#send")
    assert answer(page)


def test_requests_are_shown_as_code(page, server):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.fill("#text", "it's")
    page.press("#text", "Enter")
    answer(page)
    page.locator(".message.omni >> text=Copy as Python").click()
    playwright.expect(page.locator("text=Copied")).to_be_visible()
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "copied", "exec")
    assert f'base_url="{server.url}/v1"' in code
    page.locator(".message.omni >> text=Copy as curl").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.includes('curl -N'))")
    assert "it'\\''s" in page.evaluate("navigator.clipboard.readText()")


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page):
    names = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea")]
        .filter(one => one.offsetParent && one.tabIndex >= 0)
        .map(one => one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent.trim())""")
    assert all(names)
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"voice", "speak", "log", "text", "attach", "camera", "hold", "free", "send"} <= reached


def test_a_phone_needs_no_sideways_scrolling(browser, server):
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    playwright.expect(page.locator("#state")).to_have_text("omni, talker, audio")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert [int(part) for part in re.findall(r"\d+", dark)] == [22, 24, 28]
    context.close()
