"""The folder of a page: what is refused, and where onnxruntime-web comes from."""

import gzip
import stat
from types import SimpleNamespace

import pytest

from omni.cli import main
from omni.errors import UserError
from omni.export import web
from omni.export.web import (
    ORT_WEB,
    characters_state,
    chosen_alone,
    find_runtime,
    on_page,
    page_state,
    tokenizer_state,
    write_page,
)
from omni.export.whole import Member
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


def part(name, **given):
    variants = {kind: {"file": f"{name}.{kind}.onnx", "bytes": 1} for kind in ("fp32", "int8")}
    return {"file": f"{name}.onnx", "chosen": "int8", "variants": variants, "constants": {}, "inputs": [], **given}


def test_the_chosen_graphs_the_page_and_the_runtime_are_in_the_folder(runtime, tmp_path):
    source, out = tmp_path / "export", tmp_path / "page"
    parts = {"talker": part("talker"), "vocoder": part("vocoder", chosen="fp32", vocabulary={"file": "a.json"})}
    for folder in (source, out):
        folder.mkdir()
    for name in parts:
        for kind in ("fp32", "int8"):
            (source / f"{name}.{kind}.onnx").write_text(kind)
    write_page(out, source, parts, runtime)
    assert sorted(path.name for path in out.glob("*.onnx")) == ["talker.int8.onnx", "vocoder.fp32.onnx"]
    assert (out / "talker.int8.onnx").read_text() == "int8"
    assert gzip.decompress((out / "ort" / f"{web._WASM}.gz").read_bytes()).decode() == web._WASM
    for name in ("index.html", "app.js", "text.js"):
        assert (out / name).read_bytes() == (web._PAGE / name).read_bytes()
    alone = chosen_alone(parts["vocoder"])
    assert alone["variants"] == {"fp32": {"file": "vocoder.fp32.onnx", "bytes": 1}}
    assert not {"file", "vocabulary"} & alone.keys()


def member(role, content, *names):
    return Member(role, content, [SimpleNamespace(name=name) for name in names])


def checkpoint(**content):
    return SimpleNamespace(tokenizer=ByteTokenizer(), ctc_vocabulary=CharacterVocabulary(), **content)


ANSWERS = member("checkpoint", checkpoint(), "thinker", "omni_thinker", "audio_embeddings")
VOICE = member("voice", checkpoint(), "talker_text", "talker", "codec_encoder", "codec_decoder")
VOCODER = member("vocoder", checkpoint(), "vocoder")


def test_the_page_knows_the_tokenizer_and_the_characters():
    assert page_state([ANSWERS]) == {"onnxruntime_web": ORT_WEB, "tokenizer": {"kind": "bytes"}}
    assert page_state([ANSWERS, VOICE, VOCODER])["characters"]["kind"] == "characters"


def test_only_parts_that_the_page_runs_are_exported():
    kept = [[one.name for one in member.parts] for member in on_page([ANSWERS, VOICE, VOCODER])]
    assert kept == [["omni_thinker", "audio_embeddings"], ["talker_text", "talker", "codec_decoder"], ["vocoder"]]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([VOCODER], "has no Thinker that reads media: give a checkpoint of stage E"),
        ([ANSWERS, VOICE], "needs vocoder, too: give --voice and --vocoder, or neither"),
        ([ANSWERS, VOCODER], "needs talker_text, talker, codec_decoder, too"),
        ([ANSWERS, member("voice", checkpoint(), *web.SPEAKS, "conditioner")], "is conditioned on a Thinker"),
    ],
)
def test_models_that_the_page_cannot_run_are_refused(members, words):
    with pytest.raises(UserError, match=words):
        page_state(members)


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


def test_a_recognizer_that_has_nothing_to_judge_is_refused(fails):
    line = fails(main, ["export", "omni.ckpt", "--to", "web", "--recognizer", "audio.ckpt"])
    assert "--recognizer judges the voice of a page in int8: give --int8, too, or leave it out" in line
