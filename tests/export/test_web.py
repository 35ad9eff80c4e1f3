"""The folder of a page: what is refused, and where onnxruntime-web comes from."""

import gzip
import stat

import pytest

from omni.errors import UserError
from omni.export import web
from omni.export.web import ORT_WEB, characters_state, find_runtime, page_manifest, tokenizer_state, write_page
from omni.text.ctc_vocabulary import CharacterVocabulary, SubwordVocabulary
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.tokenizer import ByteTokenizer


@pytest.fixture(name="runtime")
def runtime_of_two_files(tmp_path):
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (web._SCRIPT, web._WASM):
        (folder / name).write_text(name)
    return folder


def part(name):
    variants = {kind: {"file": f"{name}.{kind}.onnx", "bytes": 1} for kind in ("fp32", "int8")}
    return {"chosen": "int8", "variants": variants, "constants": {}, "inputs": []}


@pytest.fixture(name="export")
def exported_parts(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    names = ("recognizer", "omni_thinker", "audio_embeddings", *web.SPEAKS)
    for name in names:
        for kind in ("fp32", "int8"):
            (folder / f"{name}.{kind}.onnx").write_text(kind)
    return folder, {"parts": {name: part(name) for name in names}, "parity": {}}


def test_the_chosen_graphs_the_page_and_the_runtime_are_in_the_folder(export, runtime, tmp_path):
    source, manifest = export
    out = tmp_path / "page"
    out.mkdir()
    kept = write_page(out, source, manifest, runtime)
    assert sorted(kept) == sorted(("omni_thinker", "audio_embeddings", *web.SPEAKS))  # the page has no recogniser
    assert (out / "talker.int8.onnx").read_text() == "int8"
    assert not list(out.glob("*fp32*"))
    assert gzip.decompress((out / "ort" / f"{web._WASM}.gz").read_bytes()).decode() == web._WASM
    for name in ("index.html", "app.js", "text.js"):
        assert (out / name).read_bytes() == (web._PAGE / name).read_bytes()
    written = page_manifest(manifest, kept, tokenizer={"kind": "bytes"})
    assert written["parts"]["talker"]["variants"] == {"int8": {"file": "talker.int8.onnx", "bytes": 1}}
    assert written["web"] == {"onnxruntime_web": ORT_WEB, "tokenizer": {"kind": "bytes"}}
    assert len(manifest["parts"]["talker"]["variants"]) == 2  # the export's own is as it was


def test_a_talker_without_vocoder_is_left_out(export, runtime, tmp_path):
    source, manifest = export
    del manifest["parts"]["vocoder"]
    out = tmp_path / "page"
    out.mkdir()
    assert sorted(write_page(out, source, manifest, runtime)) == ["audio_embeddings", "omni_thinker"]


def test_an_export_that_cannot_answer_is_refused(export, runtime, tmp_path):
    source, manifest = export
    del manifest["parts"]["omni_thinker"]
    with pytest.raises(UserError, match="has no omni_thinker"):
        write_page(tmp_path, source, manifest, runtime)


def test_vocabularies_that_the_page_cannot_read_are_refused():
    assert tokenizer_state(ByteTokenizer()) == {"kind": "bytes"}
    with pytest.raises(UserError, match="own tokenizers only"):
        tokenizer_state(object())
    assert characters_state(CharacterVocabulary())["kind"] == "characters"
    model = train_sentencepiece(["some words to learn"] * 9, vocab_size=300).state()["model"]
    with pytest.raises(UserError, match="read characters only"):
        characters_state(SubwordVocabulary(model))


class TestRuntime:
    def test_a_given_folder_is_checked(self, runtime):
        assert find_runtime(runtime) == runtime
        (runtime / web._WASM).unlink()
        with pytest.raises(UserError, match=f"give the folder dist of onnxruntime-web {ORT_WEB}"):
            find_runtime(runtime)

    def test_npm_is_named_where_it_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match="install npm, or give the folder"):
            find_runtime(None)

    @pytest.mark.parametrize("fails", [True, False])
    def test_npm_is_asked_once(self, fails, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        npm(tmp_path, "echo 'npm error network' >&2; exit 1" if fails else PACK)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        if fails:
            with pytest.raises(UserError, match=r"npm cannot fetch .* \(npm error network\): try again"):
                find_runtime(None)
            assert not list((tmp_path / ".cache" / "omni").iterdir())
            return
        found = find_runtime(None)
        assert (found / web._WASM).read_text() == "wasm\n"
        npm(tmp_path, "exit 1")
        assert find_runtime(None) == found


PACK = f"""mkdir -p package/dist; echo script > package/dist/{web._SCRIPT}; echo wasm > package/dist/{web._WASM}
test "$1 $2" = "pack onnxruntime-web@{ORT_WEB}" && tar czf onnxruntime-web.tgz package"""


def npm(folder, script):
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
