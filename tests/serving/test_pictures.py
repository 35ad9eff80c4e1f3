"""Pictures of both pages with trained models, as the README shows them: a question about an image is asked aloud.

    OMNI_RUNS=lightning_logs/world OMNI_PICTURES=docs/images python -m pytest -m slow tests/serving/test_pictures.py

`OMNI_RUNS` is the folder of a chain's runs, trained in the folder of its data; `OMNI_PICTURES` keeps the pictures.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from page_fixtures import NEEDS_BROWSER, chromium, playwright  # noqa: F401  a fixture
from static_host import hosted

RUNS = Path(os.environ.get("OMNI_RUNS", "none"))
DATA = RUNS.absolute().parent.parent / "data/world/conversations"
pytestmark = [
    pytest.mark.slow,
    NEEDS_BROWSER,
    pytest.mark.skipif(not (RUNS / "omni/best.ckpt").is_file(), reason="needs a trained chain in OMNI_RUNS"),
]


def checkpoint(stage):
    return str(RUNS.absolute() / stage / "best.ckpt")


@pytest.fixture(scope="module", name="row")
def spoken_question():
    """Image and recording of the first held-out question that is spoken after its image."""
    rows = map(json.loads, (DATA / "val.jsonl").read_text(encoding="utf-8").splitlines())
    row = next(row for row in rows if [part["type"] for part in row["messages"][0]["content"]] == ["image", "audio"])
    image, audio = row["messages"][0]["content"]
    return DATA / image["image"], DATA / audio["audio"]


@pytest.fixture(scope="module", name="microphone")
def question_file(row, tmp_path_factory):
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    audio, rate = soundfile.read(row[1], dtype="float32")
    soundfile.write(path, np.concatenate((audio, np.zeros(20 * rate, dtype="float32"))), rate)
    return path


def keep(page, path):
    page.screenshot(path=path)
    assert path.stat().st_size > 10_000
    if "OMNI_PICTURES" in os.environ:
        folder = Path(os.environ["OMNI_PICTURES"])
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)


def hold_to_talk(page, row):
    seconds = soundfile.info(row[1]).duration
    page.locator("#hold").hover()
    page.mouse.down()
    page.wait_for_timeout(1000 * seconds + 500)
    page.mouse.up()


@pytest.fixture(name="served")
def page_of_the_server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    models = [("checkpoint", "omni"), ("voice", "talker"), ("vocoder", "vocoder"), ("recognizer", "audio")]
    options = [word for name, stage in models for word in (f"--{name}", checkpoint(stage))]
    command = [sys.executable, "-m", "omni", "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=RUNS.absolute().parent.parent)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address, process):
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/ready") as answer:
                if answer.status == 200:
                    return
        except OSError:
            assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError("the server is not ready after a minute")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_the_server(scheme, browser, served, row, tmp_path):
    context = browser.new_context(
        viewport={"width": 900, "height": 620}, permissions=["microphone"], color_scheme=scheme
    )
    page = context.new_page()
    page.goto(served)
    playwright.expect(page.locator("#state")).to_have_text("omni, talker, audio")
    with page.expect_file_chooser() as chooser:
        page.click("#attach")
    chooser.value.set_files(row[0])
    playwright.expect(page.locator("#attached img")).to_have_count(1)
    hold_to_talk(page, row)
    page.locator(".message.omni >> text=/first sound \\d+ ms/").wait_for()
    playwright.expect(page.locator("#send")).to_be_visible()
    assert page.locator(".message.omni .text").inner_text().strip()  # right or not, as the model answers it
    keep(page, tmp_path / f"serving-{scheme}.png")
    context.close()


def test_the_exported_page(browser, row, tmp_path):
    options = ["--voice", checkpoint("talker"), "--vocoder", checkpoint("vocoder")]
    options += ["--recognizer", checkpoint("audio"), "--int8", "--out", str(tmp_path / "page")]
    command = [sys.executable, "-m", "omni", "export", checkpoint("omni"), "--to", "web", *options]
    subprocess.run(command, check=True, cwd=RUNS.absolute().parent.parent)
    context = browser.new_context(viewport={"width": 900, "height": 620}, permissions=["microphone"])
    page = context.new_page()
    with hosted(tmp_path / "page") as address:
        page.goto(address)
        playwright.expect(page.locator("#state")).to_contain_text("ready")
    context.set_offline(True)
    page.set_input_files("#file", row[0])
    hold_to_talk(page, row)
    playwright.expect(page.locator(".message.omni .times").last).to_contain_text("speech")
    assert page.evaluate("omniPage.last.answer").strip()
    keep(page, tmp_path / "exported.png")
    context.close()
