"""Files of codes: encoding, decoding, and errors."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.cli import main
from omni.inference.codec_files import Coded, decode, encode
from omni.media.audio import LogMel, read_audio
from omni.models.codec import Codec

CHECKPOINT = "lightning_logs/codec/last.ckpt"


@pytest.fixture
def trained(fit_codec, speech) -> Path:
    """A folder of speech, and the checkpoint of a codec trained for a few steps."""
    fit_codec(trainer__max_steps=2, trainer__val_check_interval=2)
    return speech


def test_files_are_encoded_and_decoded_to_the_same_length(trained, capsys):
    audio = [str(trained / f"val-{number}.wav") for number in (0, 1)]
    main(["codec", "encode", *audio, "--checkpoint", CHECKPOINT, "--out", "codes"])
    main(["codec", "decode", "codes/val-0.npz", "--checkpoint", CHECKPOINT, "--iterations", "2"])
    assert sorted(path.name for path in Path("codes").iterdir()) == ["val-0.npz", "val-0.wav", "val-1.npz"]
    assert len(read_audio(Path("codes/val-0.wav"))) == len(read_audio(Path(audio[0])))
    assert re.search(r"codes/val-1.npz: \d+ × 2 codes for \d\.\d\d s", capsys.readouterr().out)
    codec = Checkpoint(CHECKPOINT).part("codec", Codec)
    coded = Coded.load(Path("codes/val-0.npz"))
    whole = codec.encode(LogMel(16)(read_audio(Path(audio[0])))[None])[0]
    assert np.array_equal(coded.codes, whole.numpy())
    assert (coded.frame_rate, coded.codebook_size, coded.codec) == (25.0, 16, codec.fingerprint)


def test_files_that_omni_did_not_write_stay(trained, fails, monkeypatch):
    options = ["--checkpoint", str(Path(CHECKPOINT).resolve())]
    monkeypatch.chdir(trained)
    recording = Path("val-0.wav").read_bytes()
    main(["codec", "encode", "val-0.wav", *options])
    main(["codec", "encode", "val-0.wav", *options])  # codes of omni may be replaced
    decode_it = ["codec", "decode", "val-0.npz", *options, "--iterations", "1"]
    assert "val-0.wav exists, and may not be omni's" in fails(main, decode_it)
    assert Path("val-0.wav").read_bytes() == recording
    main([*decode_it, "--out", "again.wav"])
    main([*decode_it, "--out", "again.wav"])  # audio of omni, too
    main([*decode_it, "--overwrite"])
    assert Path("val-0.wav").read_bytes() != recording


def test_the_other_files_are_done(trained, capsys):
    Path("bad.raw").write_bytes(bytes(800))
    good = str(trained / "val-0.wav")
    with pytest.raises(SystemExit) as end:
        main(["codec", "encode", "bad.raw", good, "--checkpoint", CHECKPOINT, "--out", "codes"])
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert printed.err.startswith("omni: bad.raw: has no header")
    assert printed.err.count("\n") == 1
    Path("codes/bad.npz").write_bytes(b"no codes")
    with pytest.raises(SystemExit) as end:
        main(["codec", "decode", "codes/bad.npz", "codes/val-0.npz", "--checkpoint", CHECKPOINT, "--iterations", "1"])
    assert end.value.code == 2
    assert Path("codes/val-0.wav").is_file()


def test_fewer_codebooks_are_kept_or_used(trained):
    audio = str(trained / "val-0.wav")
    main(["codec", "encode", audio, "--checkpoint", CHECKPOINT, "--out", "one.npz", "--codebooks", "1"])
    main(["codec", "encode", audio, "--checkpoint", CHECKPOINT, "--out", "two.npz"])
    assert Coded.load(Path("one.npz")).codes.shape[1] == 1
    for name, options in {"one": [], "two": ["--codebooks", "1"]}.items():
        call = [
            "codec",
            "decode",
            f"{name}.npz",
            "--checkpoint",
            CHECKPOINT,
            "--out",
            f"{name}.wav",
            "--iterations",
            "2",
        ]
        main([*call, *options])
    assert torch.equal(read_audio(Path("one.wav")), read_audio(Path("two.wav")))


def test_bad_files_end_in_one_line(trained, fails):
    audio = str(trained / "val-0.wav")
    main(["codec", "encode", audio, "--checkpoint", CHECKPOINT, "--out", "good.npz"])
    good = Coded.load(Path("good.npz"))
    good._replace(codec="0" * 64).save(Path("other.npz"))
    good._replace(codes=good.codes + 1000).save(Path("outside.npz"))
    good._replace(codes=good.codes[:-1]).save(Path("short.npz"))
    good._replace(codes=good.codes.astype(float)).save(Path("floats.npz"))
    np.savez("nothing.npz", a=np.zeros(3))
    Path("text.npz").write_text("no codes", encoding="utf-8")
    for file, words in {
        "other.npz": "another codec",
        "outside.npz": "from 0 to 15",
        "short.npz": "samples are",
        "floats.npz": "not integers",
        "nothing.npz": "not a file of codes",
        "text.npz": "not a file of codes",
        "nowhere.npz": "does not exist",
    }.items():
        message = fails(main, ["codec", "decode", file, "--checkpoint", CHECKPOINT])
        assert file in message
        assert words in message


def test_bad_arguments_end_in_one_line(trained, fails):
    audio = str(trained / "val-0.wav")
    call = ["codec", "encode", audio, "--checkpoint", CHECKPOINT]
    assert "codebooks is 3" in fails(main, [*call, "--codebooks", "3"])
    assert "device" in fails(main, [*call, "--device", "abacus"])
    assert "does not exist" in fails(main, ["codec", "encode", audio, "--checkpoint", "nowhere.ckpt"])
    assert "nowhere.wav" in fails(main, ["codec", "encode", "nowhere.wav", "--checkpoint", CHECKPOINT])
    assert "give a folder" in fails(main, ["codec", "encode", audio, *call[2:], "--out", "x.npz"])
    assert "both be written" in fails(main, ["codec", "encode", audio, audio, "--checkpoint", CHECKPOINT])
    assert "iterations is -1" in fails(
        main, ["codec", "decode", "x.npz", "--checkpoint", CHECKPOINT, "--iterations=-1"]
    )


def test_pieces_equal_the_whole():
    torch.manual_seed(0)
    codec = Codec(num_mels=4, dim=8, codebook_size=8, codebook_dim=4)
    codec(torch.randn(8, 64, 4))
    codec.eval()
    mels = torch.randn(3100, 4)  # longer than a piece
    with torch.no_grad():
        codes = codec.encode(mels[None])[0]
        assert torch.equal(encode(codec, mels), codes)
        torch.testing.assert_close(decode(codec, codes), codec.decode(codes[None])[0], atol=1e-5, rtol=1e-5)
