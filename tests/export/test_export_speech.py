"""`omni export --to onnx` of codec, vocoder, Talker and a model with media, on the rows that runs hold out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import save
from toy_voice import UNITS, codec_of, save_recognizer, save_talker, save_vocoder

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.errors import UserError
from omni.export.onnx_folder import compare, find_parts
from omni.export.parts.codec import CodecEncoderPart
from omni.export.parts.part import Rows, Spoken
from omni.export.parts.talker import TalkerTextPart
from omni.models.vocoder import Vocos
from omni.runtime.manifest import read_manifest

pytestmark = pytest.mark.slow


def exported(checkpoint: str, *options: str) -> dict[str, Any]:
    main(["export", checkpoint, "--to", "onnx", "--out", "out", *options])
    return read_manifest(Path("out"), target="onnx")


def check(manifest: dict[str, Any], names: set[str], source: str) -> None:
    assert names == manifest["parts"].keys() == manifest["parity"].keys()
    for name in names:
        parity = manifest["parity"][name]
        assert parity["max_abs_difference"] < 1e-3
        assert parity["results"]["equal"] == parity["results"]["count"] > 0
        assert parity["integers"]["equal"] == parity["integers"]["count"]
        assert not parity["rows"]["random"]
        assert parity["rows"]["source"].startswith(source)


def test_codec_and_vocoder(fit_codec, fit_vocoder):
    fit_codec(trainer__max_steps=1)
    check(exported("lightning_logs/codec/last.ckpt"), {"codec_encoder", "codec_decoder"}, "speech/val.jsonl")
    fit_vocoder(trainer__max_steps=1)
    manifest = exported("lightning_logs/vocoder/last.ckpt", "--int8")
    check(manifest, {"vocoder"}, "speech/val.jsonl")
    assert manifest["parity"]["vocoder"]["quality"]["metric"] == "loss"
    assert manifest["parts"]["vocoder"]["variants"]["int8"]["quality"]["value"] > 0


def test_talker_with_its_codec(words):
    rows = ["--rows", "words.jsonl"]
    manifest = exported(save_talker(Path("talker.ckpt"), num_speakers=3), *rows)
    check(manifest, {"talker", "talker_text", "codec_encoder", "codec_decoder"}, "words.jsonl")
    assert manifest["parts"]["talker"]["constants"]["speakers"] == ["x", "y", "z"]


def test_int8_of_a_voice_is_chosen_by_its_round_trip(words):
    others = ["--vocoder", save_vocoder(Path("vocoder.ckpt")), "--recognizer", save_recognizer(Path("audio.ckpt"))]
    talker = save_talker(Path("talker.ckpt"), num_speakers=3)
    parts = exported(talker, "--int8", "--rows", "words.jsonl", *others)["parts"]
    for name in ("talker", "talker_text", "codec_decoder"):  # untrained: nobody understands them
        assert parts[name]["chosen"] == "fp32"
        assert "the recogniser transcribes them with a WER of" in parts[name]["reason"]
    assert "there are no rows with references" in parts["codec_encoder"]["reason"]


def test_model_with_images_and_audio(fit_omni):
    fit_omni(trainer__max_steps=1)
    manifest = exported("lightning_logs/omni/last.ckpt")
    check(manifest, {"omni_thinker", "image_embeddings", "audio_embeddings"}, "val.jsonl")
    assert manifest["parity"]["omni_thinker"]["quality"]["metric"] == "accuracy"
    assert manifest["parity"]["omni_thinker"]["results"]["count"] == 12


def test_texts_that_a_talker_cannot_spell(tmp_path: Path):
    part = TalkerTextPart(Checkpoint(save_talker(tmp_path / "talker.ckpt", num_speakers=3)))
    assert len(part.texts(part.random_items())) == 3
    with pytest.raises(UserError, match="no row has a text that the Talker can spell"):
        part.texts([Spoken(torch.zeros(1), "xyz")])


def test_other_codes_are_not_exported(tmp_path: Path):
    part = CodecEncoderPart(Checkpoint(save(tmp_path / "a.ckpt", "codec", codec_of(), UNITS)))
    run, none = part.module_run(), Rows([], "no data")

    def other(inputs: Any, *, every: int) -> list[Any]:
        codes, present = run(inputs)
        wrong = np.arange(codes.size).reshape(codes.shape) % every == 0
        return [np.where(wrong, (codes + 1) % 12, codes), present]

    compare(part, run, none)
    with pytest.raises(UserError, match=r"chooses .* integers otherwise than PyTorch"):
        compare(part, lambda inputs: other(inputs, every=50), none)


def test_vocoder_that_reads_ahead_is_refused(tmp_path: Path):
    vocoder = Vocos(num_mels=16, dim=16, num_layers=1, causal=False)
    with pytest.raises(UserError, match=r"the vocoder reads future frames"):
        find_parts(Checkpoint(save(tmp_path / "a.ckpt", "vocoder", vocoder, UNITS)))
