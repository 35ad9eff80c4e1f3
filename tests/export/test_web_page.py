"""`omni export --to web`, whole: a page of toy models answers in Chromium as omni does, without a network."""

import json
import shutil

import pytest
import torch
from page_fixtures import NEEDS_BROWSER, chromium, playwright, speech_file  # noqa: F401  fixtures
from PIL import Image
from static_host import hosted
from toy_assistant import answering_omni, save_omni
from toy_voice import save_talker, save_vocoder

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.export.web import find_runtime
from omni.inference.assistant import Assistant
from omni.inference.prompt import question

NEEDS_NPM = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
pytestmark = [pytest.mark.slow, NEEDS_BROWSER, NEEDS_NPM]
QUESTION = "abba cd"


@pytest.fixture(scope="module", name="made")
def exported_page(tmp_path_factory):
    """The folder of the page, and the checkpoint that answers."""
    folder = tmp_path_factory.mktemp("page")
    answers = save_omni(folder / "omni.ckpt", answering_omni())
    save_talker(folder / "talker.ckpt", num_speakers=3)
    speech = ["--voice", str(folder / "talker.ckpt"), "--vocoder", save_vocoder(folder / "vocoder.ckpt")]
    runtime = ["--ort_web", str(find_runtime(None))]
    main(["export", answers, "--to", "web", *speech, "--out", str(folder / "page"), *runtime])
    return folder / "page", answers


@pytest.fixture(name="page")
def opened_page(browser, made):
    context = browser.new_context(viewport={"width": 900, "height": 900}, permissions=["microphone"])
    opened, problems = context.new_page(), []

    def check_host(request):
        if not request.url.startswith((address, "blob:", "data:")):
            problems.append(request.url)

    with hosted(made[0]) as address:
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        opened.on("request", check_host)
        opened.goto(address)
        playwright.expect(opened.locator("#state")).to_contain_text("ready")
    context.set_offline(True)  # and the host has stopped
    yield opened
    context.close()
    assert problems == []


def expected(made, **media):
    assistant = Assistant.from_pretrained(Checkpoint(made[1]), device="cpu")
    prompt = assistant.prompt([question(media.pop("text", ""), **media)], max_tokens=96)
    return "".join(assistant.responder.stream(prompt, max_tokens=96))


def answered(page):
    """What the page knows of its last answer, once it is complete."""
    playwright.expect(page.locator(".message.omni .times").last).to_contain_text("speech")
    return page.evaluate("({...omniPage.last, spoken: omniPage.spoken.length})")


def test_a_typed_question_is_answered_aloud(page, made):
    page.fill("#text", QUESTION)
    page.click("#send")
    found = answered(page)
    assert found["answer"] == expected(made, text=QUESTION)
    assert len(set(found["answer"])) > 2
    assert found["first token"] <= found["first sound"] <= found["speech"]
    assert found["spoken"] > 1600


def test_a_question_about_a_picture_is_answered(page, made, tmp_path):
    path = tmp_path / "picture.png"
    noise = torch.randint(256, (20, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path)
    page.set_input_files("#file", path)
    page.locator("#picture img").wait_for()
    page.fill("#text", QUESTION)
    page.click("#send")
    answer = answered(page)["answer"]
    assert answer == expected(made, text=QUESTION, image=[str(path)])
    assert answer != expected(made, text=QUESTION)


def test_a_spoken_question_is_answered(page):
    page.locator("#hold").hover()
    page.mouse.down()
    page.wait_for_timeout(1500)
    page.mouse.up()
    assert answered(page)["answer"].strip()
    playwright.expect(page.locator(".message.user audio")).to_have_count(1)


def test_the_manifest_has_only_what_is_there(made):
    folder = made[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["target"] == "web"
    assert manifest["members"].keys() == {"checkpoint", "voice", "vocoder"}
    graphs = {variant["file"] for part in manifest["parts"].values() for variant in part["variants"].values()}
    assert graphs == {path.name for path in folder.glob("*.onnx")}
    assert "codec_encoder" not in manifest["parts"]
    assert all((folder / name).is_file() for name in manifest["files"])


def test_a_folder_that_is_not_whole_says_so(browser, made, tmp_path):
    page = browser.new_page()
    (tmp_path / "index.html").write_text((made[0] / "index.html").read_text())
    for name in made[0].glob("*.js"):
        (tmp_path / name.name).write_bytes(name.read_bytes())
    (tmp_path / "ort").mkdir()
    for name in (made[0] / "ort").iterdir():
        (tmp_path / "ort" / name.name).write_bytes(name.read_bytes())
    with hosted(tmp_path) as address:
        page.goto(address)
        wanted = "./manifest.json cannot be read (404): serve the whole exported folder"
        playwright.expect(page.locator("#state")).to_have_text(wanted)
    page.close()
