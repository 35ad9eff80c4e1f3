"""Sample outputs of each stage in the report."""

from pathlib import Path

import pytest
import soundfile
from PIL import Image
from toy_commands import CONFIGS, TOY, TOY_CODEC, TOY_SPEECH, TOY_TALKER, TOY_VISION, TOY_VOCODER

from omni.errors import UserError
from omni.pipeline.samples import Sample, sample
from omni.training.configuration import Configuration


def shown(stage: str, options: dict[str, str], **changes: str) -> Sample:
    options = {**options, **{name.replace("__", "."): value for name, value in changes.items()}}
    pairs = [f"--{name}={value}" for name, value in options.items()]
    configuration = Configuration(["--config", str(CONFIGS / f"{stage}.yaml"), *pairs])
    return sample(configuration, configuration.folder / "best.ckpt", Path("samples") / stage)


def test_a_continuation(fit):
    fit()
    found = shown("thinker", TOY, model__init_args__sample_prompts='["the red"]')
    assert str(found["text"]).startswith("the red")


def test_a_transcript_of_a_held_out_recording(fit_audio, speech):
    fit_audio()
    found = shown("audio", TOY_SPEECH)
    assert found.keys() == {"reference", "transcript", "recording"}
    assert f'"text": "{found["reference"]}"' in (speech / "val.jsonl").read_text()
    assert soundfile.info(found["recording"]).samplerate == 16_000


def test_labels_of_an_image(fit_vision):
    fit_vision()
    found = shown("vision", TOY_VISION)
    assert found["reference"] in ("blue", "green", "red")
    assert str(found["labels"]).split(": ")[1].split(" (")[0] in ("blue", "green", "red")
    with Image.open(str(found["image"])) as shown_image:
        assert shown_image.size == (16, 20)


@pytest.mark.parametrize("stage", ["codec", "vocoder"])
def test_rebuilt_audio(stage, fit_codec, fit_vocoder):
    fit, options = {"codec": (fit_codec, TOY_CODEC), "vocoder": (fit_vocoder, TOY_VOCODER)}[stage]
    fit()
    found = shown(stage, options)
    original = Path("speech/val-0.wav")
    rebuilt = found["reconstruction" if stage == "codec" else "resynthesis"]
    assert soundfile.info(rebuilt).frames == soundfile.info(original).frames


def test_speech_and_its_transcript(fit_talker):
    fit_talker(trainer__max_steps=60, trainer__val_check_interval=30)  # with fewer steps the transcript may be empty
    found = shown("talker", TOY_TALKER)
    assert set(str(found["text"])) <= set("abc")
    assert found.keys() == {"text", "transcript of the speech", "speech"}
    assert soundfile.info(found["speech"]).frames > 0


def test_missing_data(fit_audio, speech):
    fit_audio()
    (speech / "val.jsonl").unlink()
    with pytest.raises(UserError, match="does not exist"):
        shown("audio", TOY_SPEECH)
