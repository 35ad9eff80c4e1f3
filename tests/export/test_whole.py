"""A whole model of several checkpoints: which parts are exported of each, and which checkpoints do not fit."""

import pytest
from toy_assistant import save_omni
from toy_speech import save
from toy_voice import NUM_MELS, UNITS, codec_of, save_recognizer, save_talker, save_vocoder

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.export.whole import gather


@pytest.fixture(name="files")
def checkpoints(tmp_path):
    save_talker(tmp_path / "talker.ckpt", num_speakers=3)
    return {
        "omni": save_omni(tmp_path / "omni.ckpt"),
        "voice": str(tmp_path / "talker.ckpt"),
        "vocoder": save_vocoder(tmp_path / "vocoder.ckpt"),
        "recognizer": save_recognizer(tmp_path / "audio.ckpt"),
    }


def test_each_checkpoint_gives_the_parts_of_its_role(files):
    main = Checkpoint(files.pop("omni"))
    found = {member.role: [part.name for part in member.parts] for member in gather(main, files)}
    assert found == {
        "checkpoint": ["image_embeddings", "audio_embeddings", "omni_thinker"],
        "voice": ["talker_text", "talker", "codec_encoder", "codec_decoder"],
        "vocoder": ["vocoder"],
        "recognizer": ["recognizer"],
    }


def test_a_checkpoint_alone_gives_all_its_parts(files):
    (member,) = gather(Checkpoint(files["voice"]), {"voice": None, "vocoder": None})
    assert [part.name for part in member.parts] == ["talker_text", "talker", "codec_encoder", "codec_decoder"]


@pytest.mark.parametrize("role", ["voice", "vocoder", "recognizer"])
def test_a_checkpoint_of_another_role_is_refused(files, role):
    other = files["recognizer" if role == "vocoder" else "vocoder"]
    with pytest.raises(UserError, match=r"holds nothing that --to onnx exports"):
        gather(Checkpoint(files["omni"]), {role: other})


def test_a_part_is_exported_once(files):
    with pytest.raises(UserError, match=r"both hold talker_text: leave --voice out"):
        gather(Checkpoint(files["voice"]), {"voice": files["voice"]})


def test_a_vocoder_of_other_spectrograms_is_refused(files, tmp_path):
    other = save_vocoder(tmp_path / "other.ckpt", num_mels=NUM_MELS + 4)
    with pytest.raises(UserError, match=r"takes 20 mel filters, and the codec of .* outputs 16"):
        gather(Checkpoint(files["omni"]), {"voice": files["voice"], "vocoder": other})
    save(tmp_path / "codec.ckpt", "codec", codec_of(), UNITS)
    with pytest.raises(UserError, match=r"takes 20 mel filters"):
        gather(Checkpoint(tmp_path / "codec.ckpt"), {"vocoder": other})
