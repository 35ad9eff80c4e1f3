"""Transcription: batches, windows and timestamps do not change the text."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from omni.cli import main
from omni.commands.transcribe import formatted
from omni.data.speech.data import SpeechData
from omni.errors import UserError
from omni.inference.long_form import ChunkMerger
from omni.inference.recognizer import Recognizer
from omni.inference.subtitles import captions
from omni.media.audio import SAMPLE_RATE
from omni.models.audio_encoder import AudioEncoder
from omni.text.ctc_vocabulary import CharacterVocabulary
from omni.text.transcript import Transcript, Word


def nearby(mask: torch.Tensor, _: None, time: int) -> torch.Tensor:
    """Attends to two frames on either side, so that windows give the same result as the whole recording."""
    order = torch.arange(time)
    distance = (order - order[:, None]).abs()
    return (mask[:, None, None, :] & (distance <= 2)) | (distance == 0)


@pytest.fixture(scope="module")
def trained() -> Recognizer:
    """A tiny recognizer of tones with a context of a few frames, trained for a few seconds."""
    from conftest import tones

    from omni.decoding.ctc import ctc_nll
    from omni.media.audio import LogMel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    units = CharacterVocabulary(" abc")
    encoder = AudioEncoder(
        vocab_size=5,
        num_mels=16,
        dim=32,
        num_layers=1,
        num_heads=2,
        ffn_dim=48,
        conv_channels=4,
        head_dim=16,
    )
    encoder.transformer._attention_mask = nearby  # pyright: ignore[reportAttributeAccessIssue]
    log_mel, optimizer = LogMel(16), torch.optim.AdamW(encoder.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(180):
        texts = []
        for _ in range(8):
            words = torch.randint(1, 4, (3,), generator=generator).tolist()
            texts.append(
                " ".join(
                    "".join("abc"[int(torch.randint(3, (1,), generator=generator))] for _ in range(n)) for n in words
                )
            )
        audios = [torch.from_numpy(tones(f" {text} ")) for text in texts]
        mels = log_mel(torch.nn.utils.rnn.pad_sequence(audios, batch_first=True))
        lengths = log_mel.num_frames(torch.tensor([len(audio) for audio in audios]))
        targets = [torch.tensor(units.encode(text)) for text in texts]
        padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
        nll, _ = ctc_nll(*encoder.emit(encoder(mels, lengths)), padded, torch.tensor([len(t) for t in targets]))
        optimizer.zero_grad()
        nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
    return Recognizer(encoder.eval(), units)


def say(text: str) -> torch.Tensor:
    from conftest import tones

    return torch.from_numpy(tones(f" {text} "))


LONG = "abc ab c bca cab a bb cc abc ba ca bac cba ab bc ca abc cab bca a b c"


def test_it_is_trained(trained):
    assert [t.text for t in trained.transcribe([say("abc ba"), say("c")])] == ["abc ba", "c"]


def test_a_batch_equals_single_recordings_in_order(trained):
    audio = [say("abc ba c"), say("a"), say("cab cab"), say("bb")]
    together = trained.transcribe(audio)
    assert together == [trained.transcribe(one)[0] for one in audio]
    assert trained.transcribe(audio, batch_seconds=0.5) == together


@pytest.mark.parametrize("window", [2.0, 3.3, 5.0])
def test_windows_that_cut_no_word_equal_the_whole(trained, window):
    audio = say(LONG)
    whole = trained.transcribe(audio, timestamps="word", window=60)[0]
    assert whole.text == LONG
    parts = trained.transcribe(audio, timestamps="word", window=window, overlap=0.96)[0]
    assert parts.text == whole.text
    assert parts.duration == pytest.approx(whole.duration, abs=0.01) == pytest.approx(len(audio) / SAMPLE_RATE)
    for one, other in zip(whole.words, parts.words, strict=True):
        assert one.start == pytest.approx(other.start, abs=0.09)
        assert one.end == pytest.approx(other.end, abs=0.09)


def test_a_file_read_in_pieces_gives_the_same_text(trained, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.flac", say(LONG).numpy(), SAMPLE_RATE)
    heard: list[float] = []
    emit = Recognizer.emit
    monkeypatch.setattr(Recognizer, "emit", lambda self, audios: heard.extend(map(len, audios)) or emit(self, audios))
    assert trained.transcribe(tmp_path / "long.flac", window=3.04, overlap=0.96)[0].text == LONG
    assert max(heard) <= 3.04 * SAMPLE_RATE
    assert trained.transcribe((tmp_path / "long.flac").read_bytes())[0].text == LONG


@pytest.mark.parametrize("kind", ["word", "char"])
def test_times_follow_the_text(trained, kind):
    transcript = trained.transcribe(say("abc ba c"), timestamps=kind)[0]
    joined = [word.text for word in transcript.words]
    assert joined == (["abc", "ba", "c"] if kind == "word" else [*"abcbac"])
    ends = [time for word in transcript.words for time in (word.start, word.end)]
    assert ends == sorted(ends)
    assert 0 <= ends[0] < ends[-1] <= transcript.duration
    assert all(0.1 < word.score <= 1 for word in transcript.words)
    starts = {"word": (0.16, 0.8, 1.28), "char": (0.16, 0.32, 0.48, 0.8, 0.96, 1.28)}[kind]  # 0.16 s a letter or space
    for word, start in zip(transcript.words, starts, strict=True):
        assert word.start == pytest.approx(start, abs=0.16)


def test_silence_and_a_single_sample_give_no_text(trained):
    assert trained.transcribe(torch.zeros(1))[0].text == ""
    assert trained.transcribe(torch.zeros(30 * SAMPLE_RATE), window=4, overlap=1)[0].text.strip("abc ") == ""


def test_unreadable_audio_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        trained.transcribe(tmp_path / "nothing.wav")
    with pytest.raises(UserError, match="finite numbers"):
        trained.transcribe(torch.full((100,), float("nan")))
    with pytest.raises(UserError, match="at most half of it"):
        trained.transcribe(say("a"), window=2, overlap=1.5)


def test_subtitles_are_split_at_pauses_and_by_length():
    words = [Word(f"word{i}", i * 0.5, i * 0.5 + 0.4, 1.0) for i in range(20)]
    groups = captions([*words, Word("later", 30.0, 30.5, 1.0)])
    assert [word for group in groups for word in group][-1].text == "later"
    assert len(groups[-1]) == 1
    assert all(group[-1].end - group[0].start <= 7 for group in groups)


class TestCommand:
    @pytest.fixture
    def checkpoint(self, fit_audio) -> str:
        fit_audio()
        return "lightning_logs/audio/last.ckpt"

    def test_prints_a_line_per_file_and_continues_after_a_bad_one(self, checkpoint, speech, capfd):
        files = [str(speech / "val-0.wav"), "nowhere.wav", str(speech / "val-1.wav")]
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["transcribe", *files, "--checkpoint", checkpoint])
        assert stop.value.code == 2
        out, err = capfd.readouterr()
        assert [line.split(": ")[0] for line in out.splitlines()] == [files[0], files[2]]
        assert "omni: nowhere.wav: does not exist" in err

    def test_writes_json_and_subtitles(self, checkpoint, speech, capfd, tmp_path):
        capfd.readouterr()
        file = str(speech / "val-0.wav")
        main(["transcribe", "--checkpoint", checkpoint, file, "--format", "json", "--timestamps", "char"])
        row = json.loads(capfd.readouterr().out)
        assert "".join(word["text"] for word in row.get("words", [])) == row["text"].replace(" ", "")
        assert row["duration"] == pytest.approx(soundfile.info(file).duration, abs=1e-3)
        (tmp_path / "out").mkdir()
        main(["transcribe", file, str(speech / "val-1.wav"), "--checkpoint", checkpoint, "--format", "vtt",
              "--out", str(tmp_path / "out")])  # fmt: skip
        assert all(path.read_text().startswith("WEBVTT") for path in (tmp_path / "out").glob("*.vtt"))
        assert len(list((tmp_path / "out").iterdir())) == 2

    def test_pseudo_labels_are_a_manifest_of_certain_transcripts(self, words, speech, capfd, fails):
        arguments = ["transcribe", str(speech), "--checkpoint", words["recognizer"], "--format", "json"]
        main([*arguments, "--min_confidence", "0", "--out", "labels/all.jsonl"])
        rows = [json.loads(line) for line in Path("labels/all.jsonl").read_text().splitlines()]
        assert len(rows) == 32  # all recordings of the folder
        assert all(0 < row["confidence"] <= 1 and "words" not in row for row in rows)
        least = sorted(row["confidence"] for row in rows)[16]
        capfd.readouterr()
        main([*arguments, "--min_confidence", str(least), "--out", "some.jsonl"])
        some = [json.loads(line) for line in Path("some.jsonl").read_text().splitlines()]
        assert f"{len(some)} of 32 transcripts" in capfd.readouterr().err
        assert {row["confidence"] for row in some} == {one for row in rows if (one := row["confidence"]) >= least}
        data = SpeechData("labels/all.jsonl", str(speech / "val.jsonl"), min_confidence=least, characters=" abc")
        with pytest.warns(UserWarning, match="less certain"):
            data.setup()
        assert len(data.dataset("train")) == len(some)
        for wrong, told in (
            (["--min_confidence", "2"], "between 0 and 1"),
            (["--out", "speech"], "writes one manifest"),
        ):
            assert told in fails(main, [*arguments, "--min_confidence", "0", *wrong])
        Path("empty").mkdir()
        assert "empty holds no audio" in fails(main, ["transcribe", "empty", "--checkpoint", words["recognizer"]])

    def test_scores_a_manifest_and_compares(self, checkpoint, speech, capfd):
        val = str(speech / "val.jsonl")
        perfect = [
            {"id": json.loads(line)["id"], "text": json.loads(line)["text"]}
            for line in Path(val).read_text().splitlines()
        ]
        Path("perfect.jsonl").write_text("\n".join(map(json.dumps, perfect)), encoding="utf-8")
        capfd.readouterr()
        main(["eval", "wer", "--reference", val, "--hypothesis", checkpoint, "--other", "perfect.jsonl",
              "--json_file", "report.json"])  # fmt: skip
        out = capfd.readouterr().out
        report = json.loads(Path("report.json").read_text())
        (other,) = report["others"]
        assert other["wer"] == 0
        assert f"{report['wer']:.2%}" in out
        assert report["interval"][0] <= report["wer"] <= report["interval"][1]
        assert other["difference"]["low"] <= other["difference"]["wer"] <= other["difference"]["high"]
        assert sum(part["words"] for part in report["by_speaker"].values()) == report["words"]
        assert sum(part["utterances"] for part in report["by_words"].values()) == 8

    def test_files_of_equal_name_are_distinguished_by_their_folders(self, checkpoint, speech, capfd, fails):
        rows = [json.loads(line) for line in (speech / "val.jsonl").read_text().splitlines()]
        for row in rows:
            folder = Path("takes", row["id"])
            folder.mkdir(parents=True)
            shutil.copy(speech / row["audio"], folder / "take.wav")
            row["audio"] = f"{row['id']}/take.wav"
        Path("takes/all.jsonl").write_text("\n".join(map(json.dumps, rows)))
        Path("perfect.jsonl").write_text("\n".join(json.dumps({"audio": r["audio"], "text": r["text"]}) for r in rows))
        main(
            ["eval", "wer", "--reference", "takes/all.jsonl", "--hypothesis", "perfect.jsonl", "--json_file", "r.json"]
        )
        assert json.loads(Path("r.json").read_text())["wer"] == 0
        Path("out").mkdir()
        files = [f"takes/{row['audio']}" for row in rows[:2]]
        main(["transcribe", *files, "--checkpoint", checkpoint, "--out", "out"])
        assert sorted(map(str, Path("out").rglob("*.txt"))) == [f"out/{row['id']}/take.txt" for row in rows[:2]]
        shutil.copy(files[0], files[0].replace(".wav", ".flac"))
        again = [*files, files[0].replace(".wav", ".flac")]
        told = fails(main, ["transcribe", *again, "--checkpoint", checkpoint, "--out", "out"])
        assert "would both be written to" in told

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('{"id": "val-0", "text": null}', "row 1: `text` is None, not a string"),
            ('{"id": "val-0", "text": "a"}\n{"id": "val-0", "text": "b"}', "row 2: val-0 has two different texts"),
            ("[]", "row 1 is not a JSON object"),
        ],
    )
    def test_invalid_hypotheses_are_refused(self, speech, fails, line, words):
        Path("bad.jsonl").write_text(line)
        arguments = ["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", "bad.jsonl"]
        assert words in fails(main, arguments)

    def test_subtitles_consist_of_whole_words(self, checkpoint, speech, fails):
        file = str(speech / "val-0.wav")
        arguments = ["transcribe", file, "--checkpoint", checkpoint, "--format", "srt", "--timestamps", "char"]
        assert "subtitles have times of words" in fails(main, arguments)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["transcribe", "a.wav", "--checkpoint", "none.ckpt"], "does not exist"),
            (["transcribe", "--checkpoint", "none.ckpt"], "files"),
            (["eval", "wer", "--reference", "speech/val.jsonl", "--hypothesis", "short.txt"], "has 1 lines"),
            (["eval", "wer", "--reference", "speech/val.jsonl", "--hypothesis", "short.jsonl"], "no row for"),
            (["eval", "wer", "--reference", "none.jsonl", "--hypothesis", "short.txt"], "does not exist"),
        ],
    )
    def test_bad_arguments_end_in_one_line(self, speech, fails, arguments, words):
        Path("short.txt").write_text("a\n")
        Path("short.jsonl").write_text('{"id": "x", "text": "a"}\n')
        assert words in fails(main, arguments)


def test_subtitle_timestamps():
    transcript = Transcript("a", (Word("a", 3661.5, 3662.0, 1.0),), 4000.0)
    assert "01:01:01,500 --> 01:01:02,000" in formatted(transcript, "srt")
    assert "01:01:01.500 --> 01:01:02.000" in formatted(transcript, "vtt")


@pytest.mark.parametrize("beam", [1, 4])
def test_a_unit_across_a_window_boundary_is_output_once(beam):
    def heard(units: list[int]) -> torch.Tensor:
        return torch.full((len(units), 5), -9.0).scatter(1, torch.tensor(units)[:, None], -1e-3)

    merger = ChunkMerger(CharacterVocabulary(" abc"), seconds=0.02, overlap=0.2, beam=beam, timestamps=None)
    merger.add(heard([0] * 10 + [2] * 10), 0.4)
    merger.add(heard([2] * 12 + [0] * 4 + [2, 0]), 0.16)
    assert merger.finish().text == "aa"
