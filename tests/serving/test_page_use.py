"""Settings, files, keys and the microphone of the page, and servers that lack a model."""

import base64
import json

from page_fixtures import (
    NEEDS_BROWSER,
    answer,
    chromium,  # noqa: F401  a fixture
    fill,
    opened_page,  # noqa: F401  a fixture
    playwright,
    sent_questions,  # noqa: F401  a fixture
    speech_file,  # noqa: F401  a fixture
    wait_until,
)
from server_fixtures import toy_server  # noqa: F401  a fixture
from toy_server import RunningServer, recording, toy_models

from omni.serving.served_models import ModelName

pytestmark = NEEDS_BROWSER


def test_settings_are_sent(page, sent):
    fill(page, {"temperature": "0.5", "tokens": "5"})
    page.select_option("#voice", "y")
    for history in (False, True):
        page.evaluate(f"document.getElementById('history').checked = {json.dumps(history)}")
        for text in ("one", "two"):
            page.fill("#text", text)
            page.press("#text", "Enter")
            said = answer(page)
    assert [(one["temperature"], one["max_tokens"], one["audio"]["voice"]) for one in sent] == [(0.5, 5, "y")] * 4
    assert [len(one["messages"]) for one in sent] == [1, 1, 5, 7]
    assert [one["role"] for one in sent[-1]["messages"]] == [*["user", "assistant"] * 3, "user"]
    page.evaluate("document.getElementById('speak').checked = false")
    page.fill("#text", "three")
    page.press("#text", "Enter")
    assert said
    answer(page)
    assert "modalities" not in sent[-1]
    assert sent[-1]["messages"][-2]["content"].strip() == said.strip()


def test_the_key_is_sent(browser):
    with RunningServer(api_key="secret") as closed:
        page = browser.new_page()
        page.goto(closed.url)
        playwright.expect(page.locator("#state")).to_contain_text("The API key is missing or wrong")
        playwright.expect(page.locator("#send")).to_be_disabled()
        page.fill("#key", "secret")
        page.press("#key", "Tab")
        playwright.expect(page.locator("#state")).to_have_text("omni, talker, audio")
        fill(page, {"tokens": "5"})
        page.fill("#text", "hello")
        page.press("#text", "Enter")
        assert answer(page)
        page.close()


def test_an_error_within_an_answer_is_shown(page):
    body = 'data: {"choices": [{"delta": {"content": "so far"}}]}\n\ndata: {"error": {"message": "it broke"}}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.fill("#text", "hello")
    page.press("#text", "Enter")
    playwright.expect(page.locator(".message .error")).to_have_text("it broke")
    playwright.expect(page.locator(".message.omni .text").first).to_have_text("so far")


def test_files_are_pasted_dropped_and_removed(page):
    page.evaluate("""() => {
        const files = name => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["x"], name, {type: name.endsWith("png") ? "image/png" : "audio/wav"}));
            return transfer;
        };
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files("a.png"), cancelable: true}));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: files("b.wav"), cancelable: true}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files("c.png"), cancelable: true}));
    }""")
    names = "omniPage.attached.map(one => `${one.kind} ${one.name}`)"
    assert page.evaluate(names) == ["image a.png", "audio b.wav", "image c.png"]
    page.get_by_label("Remove b.wav").click()
    assert page.evaluate(names) == ["image a.png", "image c.png"]


def test_the_space_bar_records_while_it_is_held(page, sent):
    page.evaluate("""() => {
        const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        window.streams = [];
        navigator.mediaDevices.getUserMedia = async asked => {
            streams.push(await open(asked));
            return streams.at(-1);
        };
    }""")
    page.focus("#hold")
    page.keyboard.down(" ")
    playwright.expect(page.locator("#hold")).to_have_text("Listening")
    page.wait_for_timeout(800)
    page.keyboard.up(" ")
    playwright.expect(page.locator("#hold")).to_have_text("Hold to talk")
    assert answer(page)
    (part,) = sent[0]["messages"][0]["content"]
    assert part["type"] == "input_audio"
    assert page.evaluate("streams.flatMap(one => one.getTracks()).map(one => one.readyState)") == ["ended"]


def test_the_word_that_is_heard_is_marked(page):
    words = [{"word": "abc", "start": 0.2, "end": 0.4}, {"word": "cab", "start": 0.5, "end": 0.7}]
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(json={"words": words}))
    content = base64.b64encode(recording("abc   cab")).decode()
    page.evaluate(
        """content => {
            document.getElementById("speak").checked = false;
            const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
            attachSound(new Blob([bytes], {type: "audio/wav"}), "a.wav");
            return send();
        }""",
        content,
    )
    answer(page)
    page.locator(".message.user >> text=Words and times").click()
    page.locator(".message.user .words li").nth(1).wait_for()
    marked = page.evaluate("""async () => {
        const audio = document.querySelector(".message.user audio"), found = [];
        for (const time of document.querySelectorAll(".message.user .words time")) {
            const moved = new Promise(done => { audio.onseeked = done; });
            audio.currentTime = parseFloat(time.textContent) + 0.05;
            await moved;
            audio.ontimeupdate();
            found.push([...document.querySelectorAll(".words .now")].map(one => one.lastChild.textContent).join());
        }
        return found;
    }""")
    assert marked == ["abc", "cab"]


def test_a_server_without_a_chat_model_transcribes_and_speaks(browser):
    names = [ModelName("talker", 2, ("speech",)), ModelName("audio", 3, ("transcription",))]
    with RunningServer(toy_models(assistant=None, names=names)) as partial:
        page = browser.new_page()
        page.goto(partial.url)
        playwright.expect(page.locator("#state")).to_have_text("talker, audio")
        page.fill("#text", "abc")
        page.press("#text", "Enter")
        wait_until(page, "document.querySelector('.message.user audio')?.duration > 0.1")
        page.set_input_files("#file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": recording("cab")})
        page.click("#send")
        playwright.expect(page.locator(".message.user .text").last).to_have_text("cab")
        page.close()


def test_a_server_that_only_speaks_needs_no_microphone(browser):
    names = [ModelName("talker", 2, ("speech",))]
    with RunningServer(toy_models(assistant=None, recognizer=None, names=names)) as mute:
        page = browser.new_page()
        page.goto(mute.url)
        playwright.expect(page.locator("#state")).to_have_text("talker")
        playwright.expect(page.locator("#hold")).to_be_disabled()
        playwright.expect(page.locator("#free")).to_be_disabled()
        playwright.expect(page.locator("#send")).to_be_enabled()
        page.close()
