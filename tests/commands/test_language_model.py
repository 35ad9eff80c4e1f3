"""`omni data ngram`, `omni eval lm`, and recognition with a language model and hotwords by the command."""

import json
from pathlib import Path

import pytest
import torch
from toy_speech import ToneEncoder

from omni.cli import main
from omni.commands.data_ngram import read_sentences
from omni.decoding.fusion_options import FusionOptions
from omni.inference.live_recognizer import LiveRecognizer
from omni.inference.recognizer import load_recognizer
from omni.models.audio_encoder import AudioFeatures, Emissions
from omni.text.arpa import read_arpa
from omni.text.normalization import TextNormalization

FEW = ("a", "b", "ab")  # words of the language model


@pytest.fixture
def lm(words: dict[str, str], workplace: Path) -> dict[str, str]:
    """Those of `words`, and `lm.arpa` of few words."""
    Path("few.txt").write_text("\n".join(FEW * 5) + "\n")
    main(["data", "ngram", "few.txt", "--out", "lm.arpa", "--order", "2"])
    return words


@pytest.fixture
def soft(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recogniser of `words` is in doubt between letters."""
    emit = ToneEncoder.emit

    def emit_soft(self: ToneEncoder, features: AudioFeatures) -> Emissions:
        log_probs, lengths = emit(self, features)
        return Emissions((0.2 * log_probs).log_softmax(-1), lengths)

    monkeypatch.setattr(ToneEncoder, "emit", emit_soft)


def test_texts_are_read_and_normalised(workplace, fails, capfd):
    Path("a.txt").write_text("The RED star, No. 3!\n\n...\nüber\n", encoding="utf-8")
    Path("b.jsonl").write_text('{"text": "a star", "audio": "x.wav"}\n{"text": "", "audio": "y.wav"}\n')
    found = list(read_sentences(["a.txt", "b.jsonl"], TextNormalization()))
    assert found == [["the", "red", "star", "no", "three"], ["über"], ["a", "star"]]
    main(["data", "ngram", "a.txt", "b.jsonl", "--out", "lm.arpa"])
    lm = read_arpa("lm.arpa")
    assert lm.order == 3
    assert lm.words == {"the", "red", "star", "no", "three", "über", "a", "</s>", "<unk>"}
    assert "lm.arpa: 7 words; 10 1-grams, 11 2-grams" in capfd.readouterr().out
    for texts, out, complaint in (
        ("a.txt", "lm.bin", "out is lm.bin: its suffix must be .arpa"),
        ("none.txt", "lm.arpa", "none.txt does not exist"),
        ("c.csv", "lm.arpa", "c.csv: texts are .txt files"),
        ("c.jsonl", "lm.arpa", "c.jsonl: row 2: has no text in `text`"),
        ("d.txt", "lm.arpa", "d.txt: is not UTF-8 (byte 1)"),
        ("e.txt", "lm.arpa", "no words"),
    ):
        Path("c.csv").write_text("text\na\n")
        Path("c.jsonl").write_text('{"text": "a"}\n{"audio": "x.wav"}\n')
        Path("d.txt").write_bytes(b"a\xe9")
        Path("e.txt").write_text("...\n")
        assert complaint in fails(main, ["data", "ngram", texts, "--out", out])
    assert read_arpa("lm.arpa") == lm


def test_the_normalisation_is_that_of_a_checkpoint(words, workplace):
    content = torch.load(words["recognizer"], weights_only=True)
    content["tokenizer"]["normalization"]["case"] = "upper"
    torch.save(content, "upper.ckpt")
    Path("a.txt").write_text("a b")
    main(["data", "ngram", "a.txt", "--out", "lm.arpa", "--checkpoint", "upper.ckpt"])
    assert read_arpa("lm.arpa").words >= {"A", "B"}


def texts_of(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    capsys.readouterr()
    main(["transcribe", *(f"{number}.wav" for number in range(40)), *options])
    return [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("soft")
def test_a_language_model_and_hotwords_change_transcripts(lm, capsys):
    checkpoint = ("--checkpoint", lm["recognizer"])
    plain = texts_of(capsys, *checkpoint)
    # A weight that outweighs the audio, which has no doubt: words of the language model only.
    fused = texts_of(capsys, *checkpoint, "--lm", "lm.arpa", "--lm_weight", "50", "--word_bonus", "0")
    assert set(plain) - set(FEW)
    assert set(fused) <= {*FEW, ""}
    assert texts_of(capsys, *checkpoint, "--lm", "lm.arpa", "--lm_weight", "0", "--word_bonus", "0") == plain
    long = next(text for text in plain if len(text) == 5)
    hot = next(word for word in (long[:-1] + letter for letter in "abc") if word not in plain)
    assert any(hot in text.split() for text in texts_of(capsys, *checkpoint, "--hotwords", f"cab, {hot.upper()}"))


def test_what_makes_no_sense_is_refused_in_one_line(lm, fails, workplace, monkeypatch):
    base = ["transcribe", "0.wav", "--checkpoint", lm["recognizer"]]
    assert "give a beam of 2 or more" in fails(main, [*base, "--lm", "lm.arpa", "--beam", "1"])
    assert "give a beam of 2 or more" in fails(main, [*base, "--hotwords", "a", "--beam", "1"])
    assert "lm_weight is of a language model" in fails(main, [*base, "--lm_weight", "1"])
    Path("bad.arpa").write_text("\\data\\\nngram 1=x\n")
    assert "bad.arpa: line 2: " in fails(main, [*base, "--lm", "bad.arpa"])
    monkeypatch.setattr("omni.commands.transcribe.uses_onnx", lambda checkpoint, runtime: True)
    complaint = fails(main, ["transcribe", "0.wav", "--checkpoint", "out", "--hotwords", "a"])
    assert "an exported folder has no language model or hotwords: give the checkpoint" in complaint
    Path("texts.txt").write_text("a\n" * 40)
    wer = ["eval", "wer", "--reference", "words.jsonl", "--hypothesis", "texts.txt", "--lm", "lm.arpa"]
    assert "texts.txt: a language model and hotwords are for checkpoints of stage B" in fails(main, wer)


@pytest.mark.usefixtures("soft")
def test_weights_are_chosen_on_rows_and_the_best_is_what_eval_wer_counts(lm, capfd, fails):
    options = ["--checkpoint", lm["recognizer"], "--lm", "lm.arpa", "--rows", "words.jsonl"]
    weights = ["--lm_weights", "0", "30", "--word_bonuses", "0", "1"]
    capfd.readouterr()
    main(["eval", "lm", *options, *weights])
    out = capfd.readouterr().out
    assert "words.jsonl: 40 utterances, 40 words, " in out
    assert "best: --lm_weight 0 --word_bonus 0, WER" in out
    [row] = [line.split() for line in out.splitlines() if line.split()[:1] == ["30"]]
    wer = ["eval", "wer", "--reference", "words.jsonl", "--hypothesis", lm["recognizer"], "--json_file", "r.json"]
    main([*wer, "--lm", "lm.arpa", "--lm_weight", "30", "--word_bonus", "0", "--other", lm["recognizer"]])
    report = json.loads(Path("r.json").read_text())
    assert f"{report['wer']:.2%}" == row[1]
    assert report["hypothesis"].endswith(" with lm lm.arpa, lm_weight 30.0, word_bonus 0.0")
    assert f"WER without a language model: {report['others'][0]['wer']:.2%}" in out
    assert report["others"][0]["wer"] < report["wer"]
    assert "beam is 1" in fails(main, ["eval", "lm", *options, "--beam", "1"])
    assert "lm_weights has -1" in fails(main, ["eval", "lm", *options, "--lm_weights", "-1"])


def test_windows_and_live_recognition_keep_the_context(lm, workplace):
    from conftest import tones

    Path("chain.txt").write_text("a b ab c\n" * 9)
    main(["data", "ngram", "chain.txt", "--out", "chain.arpa"])
    fusion = FusionOptions(lm=Path("chain.arpa"), lm_weight=1.0, word_bonus=0.0)
    recognizer = load_recognizer(lm["recognizer"], device="cpu", fusion=fusion)
    audio = torch.from_numpy(tones("a   b   ab   c  "))
    whole = recognizer.transcribe(audio)[0].text
    assert recognizer.transcribe(audio, window=1.28, overlap=0.32)[0].text == whole
    live = LiveRecognizer(recognizer, step=0.16, look_ahead=0.16, context=0.5)
    text = "".join(live.push(piece) for piece in audio.split(1000))
    assert text + live.finish() == whole
