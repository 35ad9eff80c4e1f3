"""int8 of Talker and codec, chosen by the word error rate of their speech."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_voice import UNITS, save_recognizer, save_talker, save_vocoder

from omni.checkpoints.checkpoint import Checkpoint
from omni.export.parts.codec import CodecDecoderPart
from omni.export.parts.part import Quality, Spoken
from omni.export.parts.talker import TalkerStepPart, TalkerTextPart
from omni.export.parts.vocoder import VocoderPart
from omni.export.round_trip import RoundTrip, Speakers, choose_by_round_trip, choose_in_turn
from omni.export.whole import gather

SPEAKS = (TalkerTextPart, TalkerStepPart, CodecDecoderPart, VocoderPart)
JUDGED = (CodecDecoderPart, TalkerTextPart, TalkerStepPart)
TEXTS = [Spoken(torch.zeros(1), "abc")]


@pytest.fixture(name="speakers")
def parts_that_speak(tmp_path):
    voice = Checkpoint(Path(save_talker(tmp_path / "talker.ckpt", num_speakers=3)))
    vocoder = Checkpoint(Path(save_vocoder(tmp_path / "vocoder.ckpt")))
    return Speakers(TalkerStepPart(voice), CodecDecoderPart(voice), VocoderPart(vocoder)), TalkerTextPart(voice)


def test_sentences_are_spoken_and_transcribed(speakers):
    (talker, codec, vocoder), text = speakers
    heard = []

    def quality(run, items):
        heard.extend(items)
        return Quality("wer", 0.5, 0.4, 0.6, len(items))

    listener: Any = SimpleNamespace(quality=quality, module_run=lambda: None)
    trip = RoundTrip(speakers[0], listener, talker.texts([Spoken(torch.zeros(1), one) for one in ("abc", "dad")]))
    runs = {part.name: part.module_run() for part in (talker, codec, vocoder, text)}
    assert trip.quality(runs) == Quality("round_trip_wer", 0.5, 0.4, 0.6, 2)
    assert [one.text for one in heard] == ["abc", "dad"]
    codes = talker.spoken(UNITS.encode("dad"), runs["talker_text"], runs["talker"]).codes
    with torch.no_grad():
        wanted = vocoder.vocoder(codec.codec.decode(torch.from_numpy(codes)[None]))[0]
    torch.testing.assert_close(heard[1].audio, wanted, atol=1e-4, rtol=0)


def entries(*, fast=2.0):
    """Manifest entries of the parts that speak; the vocoder is chosen already."""
    figures = {"fp32": {"milliseconds": 10.0, "bytes": 40}, "int8": {"milliseconds": 10.0 / fast, "bytes": 10}}
    found = {}
    for part in SPEAKS:
        variants = {name: {**one, "file": f"{part.name}.{name}.onnx", "quality": None} for name, one in figures.items()}
        found[part.name] = {"chosen": "fp32", "reason": "before", "variants": variants}
    found["vocoder"]["chosen"] = "int8"
    return found


@pytest.mark.parametrize(
    ("costs", "small"),
    [
        ((0.005, 0.004, 0.004), {"codec_decoder", "talker_text"}),
        ((0.02, 0.004, 0.004), {"talker_text", "talker"}),
        ((-0.004, 0.006, 0.0079), {"codec_decoder", "talker_text", "talker"}),
    ],
)
def test_all_choices_together_hold_the_quality(costs, small):
    added = dict(zip(("codec_decoder", "talker_text", "talker"), costs, strict=True))

    def quality(chosen):
        assert chosen["vocoder"] == "int8"
        value = 0.1 + sum(added.get(name, 0.0) for name, variant in chosen.items() if variant == "int8")
        return {"metric": "round_trip_wer", "value": value}

    found = entries()
    choose_in_turn(JUDGED, found, quality)
    assert {name for name in added if found[name]["chosen"] == "int8"} == small
    assert all(found[name]["variants"]["fp32"]["quality"]["value"] == 0.1 for name in added)
    rejected = found[(added.keys() - small or {"talker"}).pop()]
    assert ("worse by" in rejected["reason"]) == (len(small) < 3)


def test_int8_that_is_not_faster_is_chosen_only_for_its_size():
    for smaller, chosen in ((False, "fp32"), (True, "int8")):
        found = entries(fast=1.0)
        choose_in_turn(JUDGED, found, lambda _: {"metric": "round_trip_wer", "value": 0.1}, smaller=smaller)
        assert [found[part.name]["chosen"] for part in JUDGED] == [chosen] * 3


@pytest.mark.parametrize(
    ("quality", "words"),
    [(None, "transcribes no sentence"), ({"metric": "round_trip_wer", "value": 0.8}, "with a WER of 0.80 in fp32")],
)
def test_int8_is_not_chosen_by_a_recognizer_that_understands_nothing(quality, words):
    found = entries()
    choose_in_turn(JUDGED, found, lambda _: quality, smaller=True)
    for part in JUDGED:
        assert found[part.name]["chosen"] == "fp32"
        assert words in found[part.name]["reason"]


@pytest.mark.parametrize("without", [{"recognizer"}, {"vocoder"}, {"recognizer", "vocoder"}])
def test_what_is_missing_is_named(without, tmp_path):
    roles = {"vocoder": save_vocoder, "recognizer": save_recognizer}
    others = {role: None if role in without else write(tmp_path / f"{role}.ckpt") for role, write in roles.items()}
    members = gather(Checkpoint(Path(save_talker(tmp_path / "talker.ckpt", num_speakers=3))), others)
    found = {name: entry for name, entry in entries().items() if name not in without}
    choose_by_round_trip(members, found, tmp_path, TEXTS)
    for part in JUDGED:
        assert found[part.name]["chosen"] == "fp32"
        assert all(name in found[part.name]["reason"] for name in without)


def test_nothing_is_judged_without_texts_or_without_a_voice(tmp_path):
    members = gather(Checkpoint(Path(save_vocoder(tmp_path / "vocoder.ckpt"))), {})
    found = {"vocoder": entries()["vocoder"]}
    choose_by_round_trip(members, found, tmp_path, TEXTS)
    assert found == {"vocoder": entries()["vocoder"]}
    members = gather(Checkpoint(Path(save_talker(tmp_path / "talker.ckpt", num_speakers=3))), {})
    found = entries()
    choose_by_round_trip(members, found, tmp_path, [])
    assert found == entries()
