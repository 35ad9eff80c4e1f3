"""The Python of the documentation runs, page by page, on the models of the smoke chain (`make smoke`)."""

from pathlib import Path

import pytest
import soundfile
from doc_pages import PAGES, ROOT, SMOKE, blocks, name_of
from PIL import Image

CHAIN = SMOKE / "lightning_logs/world"
STAGES = ("thinker", "audio", "vision", "codec", "talker", "omni")
# Pages whose blocks are run by another test.
ELSEWHERE = {
    "CONTRIBUTING.md": "test_extending.py",
    "docs/howto/llm.md": "test_docs.py, on a pretrained model of toy size",
}
# Blocks that no test runs, by page and number.
NOT_RUN = {
    (
        "docs/export.md",
        0,
    ): "needs a clone of llama.cpp: tests/export/test_external_engines.py runs it where there is one",
    (
        "docs/export.md",
        1,
    ): "needs onnxruntime-genai: tests/export/test_external_engines.py makes these calls where it is installed",
    (
        "docs/export.md",
        2,
    ): "its package is compiled for minutes: tests/export/test_archives.py compiles and loads one of a smaller graph",
}


def python_blocks(page):
    return [block.text for block in blocks(page.read_text(encoding="utf-8")) if block.language == "python"]


RUN = {
    name_of(page): {
        number: text for number, text in enumerate(python_blocks(page)) if (name_of(page), number) not in NOT_RUN
    }
    for page in PAGES
    if python_blocks(page) and name_of(page) not in ELSEWHERE
}


def test_every_block_is_run_or_has_a_reason():
    found = {(name_of(page), number) for page in PAGES for number in range(len(python_blocks(page)))}
    run = {(name, number) for name, texts in RUN.items() for number in texts}
    elsewhere = {(name, number) for name, number in found if name in ELSEWHERE}
    assert len(run) >= 10
    assert elsewhere
    assert found == run | elsewhere | NOT_RUN.keys()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the chain's models under the names of the pages, and files of the world under theirs."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "lightning_logs").mkdir()
    for stage in STAGES:
        (folder / "lightning_logs" / stage).symlink_to(CHAIN / stage)
    (folder / "data").symlink_to(SMOKE / "data")  # rows that the export compares with
    recording = max((SMOKE / "data").rglob("*.wav"), key=lambda path: (path.stat().st_size, path))
    samples, rate = soundfile.read(recording)
    soundfile.write(folder / "talk.mp3", samples, rate)
    picture = Image.open(min((SMOKE / "data").rglob("*.png")))
    picture.save(folder / "a.png")
    picture.convert("RGB").save(folder / "holiday.jpg")
    return folder


def before(page):
    """What a reader has before the block: a function of their own."""
    return {"play": lambda samples: None} if "play(" in page else {}


@pytest.mark.slow
@pytest.mark.skipif(not (CHAIN / "report.json").exists(), reason="run `make smoke` first")
@pytest.mark.parametrize("name", RUN)
def test_runs_on_the_smoke_chain(name, place, monkeypatch):
    monkeypatch.chdir(place)
    names = before((ROOT / name).read_text(encoding="utf-8"))
    for number, text in RUN[name].items():
        exec(compile(text, f"{name}, block {number}", "exec"), names)
    if name == "AGENTS.md":
        assert isinstance(names["missed"](Path(CHAIN, "report.json")), dict)
