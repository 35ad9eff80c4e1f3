"""What the report of a chain shows of each stage."""

from pathlib import Path

import pytest
import soundfile
from conftest import CONFIGS, TOY, TOY_CODEC, TOY_SPEECH, TOY_TALKER, TOY_VISION, TOY_VOCODER
from PIL import Image

from omni.errors import UserError
from omni.pipeline.samples import Sample, sample
from omni.training.configuration import Configuration


def shown(stage: str, options: dict[str, str], **changes: str) -> Sample:
    options = {**options, **{name.replace("__", "."): value for name, value in changes.items()}}
    pairs = [f"--{name}={value}" for name, value in options.items()]
    configuration = Configuration(["--config", str(CONFIGS / f"{stage}.yaml"), *pairs])
    return sample(configuration, configuration.folder / "best.ckpt", Path("samples") / stage)


def test_the_thinker_writes(fit):
    fit()
    found = shown("thinker", TOY, model__init_args__sample_prompts='["the red"]')
    assert found.lines["writes"].startswith("the red")


def test_the_recogniser_hears_a_recording_that_is_held_out(fit_audio, speech):
    fit_audio()
    found = shown("audio", TOY_SPEECH)
    assert found.lines.keys() == {"is said", "hears"}
    assert f'"text": "{found.lines["is said"]}"' in (speech / "val.jsonl").read_text()
    assert soundfile.info(found.files[0]).samplerate == 16_000


def test_pictures_are_classified_or_told_by_captions(fit_vision):
    fit_vision()
    found = shown("vision", TOY_VISION)
    assert found.lines["is there"] in ("blue", "green", "red")
    assert found.lines["sees"].split(": ")[1] in ("blue", "green", "red")
    with Image.open(found.files[0]) as shown_image:
        assert shown_image.size == (16, 20)


@pytest.mark.parametrize("stage", ["codec", "vocoder"])
def test_sound_is_made_again(stage, fit_codec, fit_vocoder):
    fit, options = {"codec": (fit_codec, TOY_CODEC), "vocoder": (fit_vocoder, TOY_VOCODER)}[stage]
    fit()
    found = shown(stage, options)
    original = Path("speech/val-0.wav")
    assert soundfile.info(found.files[0]).frames == soundfile.info(original).frames


def test_the_talker_speaks_and_is_heard(fit_talker):
    fit_talker(trainer__max_steps=60, trainer__val_check_interval=30)  # fewer, and it may say nothing at all
    found = shown("talker", TOY_TALKER)
    assert set(found.lines["is to say"]) <= set("abc")
    assert found.lines.keys() == {"is to say", "is heard to say"}
    assert soundfile.info(found.files[0]).frames > 0


def test_without_data_there_is_nothing_to_show(fit_audio, speech):
    fit_audio()
    (speech / "val.jsonl").unlink()
    with pytest.raises(UserError, match="does not exist"):
        shown("audio", TOY_SPEECH)
