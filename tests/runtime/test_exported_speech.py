"""The verbs that speak and converse on an exported whole model: the output of the checkpoints, without PyTorch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
import torch
from conftest import tones
from PIL import Image
from toy_assistant import answering_omni, save_omni
from toy_voice import save_talker, save_vocoder
from without_torch import WITHOUT_TORCH, without_torch

from omni.cli import main
from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.inference.synthesizer import load_synthesizer
from omni.runtime import Assistant, Synthesizer
from omni.runtime.talker import frames

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]  # the exporter's own use of PyTorch
CHECKPOINTS = {"--voice": "talker.ckpt", "--vocoder": "vocoder.ckpt"}
ASKED = ["--max_tokens", "24", "--text", "abba cd", "--image", "picture.png", "--audio", "speech.wav"]


@pytest.fixture(scope="module", name="models")
def exported_models(tmp_path_factory):
    """A folder with checkpoints, the export `out` of all of them, `mute` without a voice, a picture and a recording."""
    folder = tmp_path_factory.mktemp("models")
    answers = save_omni(folder / "omni.ckpt", answering_omni(), template="chat")
    save_talker(folder / "talker.ckpt", num_speakers=3)
    save_vocoder(folder / "vocoder.ckpt")
    voice = [option for name, file in CHECKPOINTS.items() for option in (name, str(folder / file))]
    main(["export", answers, "--to", "onnx", *voice, "--out", str(folder / "out")])
    main(["export", answers, "--to", "onnx", "--out", str(folder / "mute")])
    noise = torch.randint(256, (20, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(folder / "picture.png")
    soundfile.write(folder / "speech.wav", 0.5 * np.asarray(tones("ab")), 16_000)
    return folder


@pytest.fixture(autouse=True)
def at_the_models(models, monkeypatch):
    monkeypatch.chdir(models)


def test_answers_about_media_are_those_of_the_checkpoint(capsys):
    main(["generate", "--checkpoint", "omni.ckpt", "--device", "cpu", *ASKED])
    expected = capsys.readouterr().out
    assert without_torch("generate", "--checkpoint", "out", *ASKED) == expected
    several = ["--text", json.dumps(["ab", "dd c", "a"]), "--max_tokens", "12"]
    main(["generate", "--checkpoint", "omni.ckpt", "--device", "cpu", *several])
    assert without_torch("generate", "--checkpoint", "out", *several) == capsys.readouterr().out
    assert len(set(expected)) > 2


def test_answers_are_spoken_as_by_the_checkpoint(capsys):
    voice = ["--voice", "talker.ckpt", "--vocoder", "vocoder.ckpt", "--speaker", "y"]
    main(["generate", "--checkpoint", "omni.ckpt", "--device", "cpu", "--speak", "a.wav", *voice, *ASKED])
    expected = capsys.readouterr().out.replace("a.wav", "b.wav")
    assert without_torch("generate", "--checkpoint", "out", "--speak", "b.wav", *voice[4:], *ASKED) == expected
    same_sound("a.wav", "b.wav")


def same_sound(*files):
    wanted, found = (soundfile.read(file)[0] for file in files)
    assert len(wanted) == len(found) > 1600
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert np.abs(wanted).max() > 0.01


def test_texts_are_spoken_as_by_the_checkpoint(capsys):
    Path("lines.txt").write_text("abc da. bad [pause 0.1] cab\n\ndada\n")
    for options in (["--speaker", "1", "--seed", "3"], ["--temperature", "0"]):
        shared = ["--file", "lines.txt", *options]
        main(["speak", *shared, "--out", "wanted", "--checkpoint", "talker.ckpt", "--vocoder", "vocoder.ckpt"])
        expected = capsys.readouterr().out.replace("wanted", "found")
        assert without_torch("speak", *shared, "--out", "found", "--checkpoint", "out") == expected
        for name in ("0001.wav", "0003.wav"):
            same_sound(f"wanted/{name}", f"found/{name}")


def test_streamed_samples_are_those_of_the_file():
    command = [sys.executable, "-c", WITHOUT_TORCH, "speak", "abc da. bad", "--stream", "--checkpoint", "out"]
    done = subprocess.run(command, capture_output=True, check=True)
    whole = Synthesizer("out").speak("abc da. bad")
    np.testing.assert_allclose(np.frombuffer(done.stdout, "<i2") / 32767, whole, atol=1e-4)
    expected = load_synthesizer("talker.ckpt", vocoder="vocoder.ckpt", device="cpu").speak("abc da. bad")[0].audio
    np.testing.assert_allclose(whole, expected.numpy(), atol=1e-3)


def test_a_conversation_is_that_of_the_checkpoint():
    lines = (
        "/image picture.png\nabba\n/audio speech.wav\n\ndd\n/speak said\nab\n/history\n/video picture.png\n/reset\nab\n"
    )
    voice = ["--voice", "talker.ckpt", "--vocoder", "vocoder.ckpt"]

    def chatted(script, *options):
        command = [sys.executable, "-c", script, "chat", "--max_tokens", "12", *options]
        return subprocess.run(command, input=lines, capture_output=True, text=True, check=False)

    by_torch = chatted("import sys\nfrom omni.cli import main\nmain(sys.argv[1:])", "--checkpoint", "omni.ckpt", *voice)
    Path("said").rename("said-wanted")
    by_graphs = chatted(WITHOUT_TORCH, "--checkpoint", "out")
    assert "/video needs the checkpoint" in by_graphs.stderr
    assert by_graphs.returncode == 2
    assert by_torch.stdout.splitlines()[:-2] == by_graphs.stdout.splitlines()[:-2]
    assert by_torch.stdout.splitlines()[-1] == by_graphs.stdout.splitlines()[-1]
    same_sound("said-wanted/0001.wav", "said/0001.wav")


def test_a_conditioned_talker_leaves_answers_in_writing(fails, capfd):
    shutil.copytree("out", "conditioned", dirs_exist_ok=True)
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["parts"]["conditioner"] = manifest["parts"]["talker"]
    manifest["parts"]["talker"]["constants"]["thinker_dim"] = 8
    Path("conditioned/manifest.json").write_text(json.dumps(manifest))
    answers = []
    for folder in ("out", "conditioned"):
        main(["generate", "--checkpoint", folder, "--text", "abba cd", "--max_tokens", "8"])
        answers.append(capfd.readouterr().out)
    assert answers[0] == answers[1]
    asked = ["generate", "--checkpoint", "conditioned", "--text", "a", "--speak", "a.wav"]
    assert "has no voice that speaks alone" in fails(main, asked)
    assert "is conditioned on a Thinker" in fails(
        main, ["speak", "abc", "--out", "x.wav", "--checkpoint", "conditioned"]
    )


def test_the_oldest_exchanges_are_dropped():
    assistant = Assistant("mute", context=60)
    for text in ("a", "b", "c"):
        forgotten = assistant.chat(text * 12, max_tokens=16)
        said = "".join(piece for piece in forgotten if isinstance(piece, str))
    assert forgotten.forgotten > 0
    assert assistant.history[-1] == {"role": "assistant", "content": said}
    with pytest.raises(UserError, match=r"the question takes \d+ tokens, and 44 fit: the context is 60"):
        assistant.chat("a" * 90, max_tokens=16)
    assistant.reset()
    assert not assistant.history


def test_each_frame_moves_on_in_time():
    """A Talker that never advances is moved by the host."""
    stays = [np.zeros((1, 2), dtype=np.int64), np.array([0]), np.zeros(0, dtype=np.float32)]
    options = {"frame_rate": 4.0, "num_codebooks": 2, "draws": Random(0), "sampling": SpeechSampling()}
    encoded = np.zeros((1, 3, 8), dtype=np.float32)
    positions = [one.position for one in frames(lambda inputs: stays, encoded, stays[2], **options)]
    assert positions == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["generate", "--checkpoint", "mute", "--text", "a", "--speak", "a.wav"], "export with --voice and --vocoder"),
        (["generate", "--checkpoint", "out", "--text", "a", "--video", "picture.png"], "--video needs the checkpoint"),
        (["generate", "--checkpoint", "out", "--text", "a", "--voice", "t.ckpt"], "leave --voice out"),
        (["generate", "--checkpoint", "out"], "there is nothing to answer"),
        (["generate", "--checkpoint", "out", "--image", "none.png"], "none.png"),
        (["generate", "--checkpoint", "out", "--text", "a", "--device", "cuda"], "runs on the CPU"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "mute"], "mute cannot speak: it has no talker_text"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "out", "--speed", "2"], "--speed needs the checkpoint"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "out", "--refine", "8"], "--refine needs the checkpoint"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "out", "--timestamps", "word"], "no times of words"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "out", "--vocoder", "v.ckpt"], "its own vocoder"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "out", "--speaker", "w"], "there is no speaker 'w'"),
        (["speak", "xyz", "--out", "x.wav", "--checkpoint", "out"], "was not trained on x y z"),
        (["speak", "abc", "--out", "x.wav", "--checkpoint", "talker.ckpt", "--runtime", "onnx"], "is not an export"),
        (["chat", "--checkpoint", "out", "--vocoder", "v.ckpt"], "leave --vocoder out"),
        (["chat", "--checkpoint", "out", "--speak", "said", "--runtime", "torch"], "runs by onnxruntime"),
    ],
)
def test_what_an_export_cannot_do_is_refused(fails, options, words):
    assert words in fails(main, options)
    assert not Path("x.wav").exists()
