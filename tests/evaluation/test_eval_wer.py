"""Word errors: counts, confidence intervals, comparisons of any systems, and the guard against repetition loops."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from any_text import HARD, random_texts

from omni.cli import main
from omni.errors import UserError
from omni.evaluation.hypotheses import load_transformers_recognizer
from omni.evaluation.repetition import remove_loops
from omni.evaluation.word_errors import Row, bootstrap, count_errors, errors_by_word, grouped, interval, worst_rows
from omni.text.normalization import WhisperNormalization

SAID = "the red star is above the blue circle"


def rows(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(f"row {i}", "xy"[i % 2], *pair) for i, pair in enumerate(pairs)]


class TestLoops:
    @pytest.mark.parametrize(
        "text",
        [
            "year 2000",
            "$5,000",
            "it was 1000000000000 dollars",
            "five five five five one two",
            "very very very very good",
            "that that is is not",
            "0000 0000 0000 0000",
            "Mississippi",
            "hahaha",
            "a  text   with   spaces",
            "",
        ],
    )
    def test_natural_repetitions_are_kept(self, text):
        assert remove_loops(text) == text

    @pytest.mark.parametrize(
        ("text", "once"),
        [
            ("the the the the the the", "the"),
            ("Thank you. Thank you. thank you, Thank you. Thank you.", "Thank you."),
            ("we saw " + "a red star " * 9 + "a red", "we saw a red star a red"),
            ("so " + "one two three four five six seven eight nine ten " * 5, "so one two three four five six seven "
             "eight nine ten"),
            ("w" + "ha" * 30, "wha"),
            ("in the year 2000 " + "and " * 40, "in the year 2000 and"),
            ("no " * 5 + "yes " * 5, "no yes"),
        ],
    )  # fmt: skip
    def test_a_loop_is_reduced_to_one_repetition(self, text, once):
        assert remove_loops(text) == once


class TestIntervals:
    def test_an_interval_contains_the_wer_and_narrows_with_more_utterances(self):
        rng = np.random.default_rng(0)
        some = [(SAID, " ".join(w for w in SAID.split() if rng.random() > 0.2)) for _ in range(160)]
        widths = []
        for count in (40, 160):
            found = rows(*some[:count])
            low, high = interval(bootstrap([found])[:, 0])
            assert low < count_errors(found).wer < high
            widths.append(high - low)
        assert widths[1] == pytest.approx(widths[0] / 2, rel=0.25)

    def test_intervals_have_their_nominal_coverage(self, monkeypatch):
        monkeypatch.setattr("omni.evaluation.word_errors.DRAWS", 300)
        rng, held = np.random.default_rng(1), 0
        for _ in range(60):
            found = rows(*((SAID, SAID.replace("red", "led") if rng.random() < 0.4 else SAID) for _ in range(50)))
            low, high = interval(bootstrap([found])[:, 0])
            held += low <= 0.4 / 8 <= high
        assert held >= 52  # 57 of 60

    def test_equal_systems_do_not_differ_and_a_clear_difference_is_significant(self):
        good, bad = rows(*[(SAID, SAID)] * 30), rows(*[(SAID, SAID.replace("red", "led"))] * 30)
        mixed = bad[:15] + good[15:]
        same = bootstrap((mixed, mixed))
        assert (same[:, 0] == same[:, 1]).all()  # both are scored on the same resamples
        different = bootstrap((bad, mixed))
        low, high = interval(different[:, 0] - different[:, 1])
        assert 0 < low < 1 / 16 < high

    def test_groups_hold_every_utterance_once(self):
        found = rows(*[("a " * n, "a") for n in (1, 5, 6, 10, 11, 20, 21, 99)])
        groups = grouped(found)
        assert {name: len(group) for name, group in groups["words"].items()} == {
            "1–5": 2, "6–10": 2, "11–20": 2, "over 20": 2}  # fmt: skip
        assert sum(map(len, groups["speaker"].values())) == len(found)

    def test_the_worst_utterances_are_first_and_those_without_errors_left_out(self):
        found = rows((SAID, SAID), (SAID, ""), (SAID, SAID.replace("red", "led")))
        assert [row.name for row in worst_rows(found, 5)] == ["row 1", "row 2"]


def test_the_whisper_normalizer_equals_whispers():
    pytest.importorskip("whisper_normalizer", reason="whisper-normalizer is not installed: the extra hf")
    english = WhisperNormalization()
    assert english("Mr. Park won't [laughs] pay twenty-five dollars for the colour, um, grey") == english(
        "mister park will not pay $25 for the color gray"
    )
    assert WhisperNormalization(english=False)("Où EST-il ? [rires]") == "où est il"


def save_ctc(folder: Path) -> str:
    """Saves an untrained wav2vec2 of one layer."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
    folder.mkdir()
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abc"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(10, 32), conv_kernel=(10, 32), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, pad_token_id=0,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(), transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    ).save_pretrained(folder)
    return str(folder)


def save_whisper(folder: Path) -> str:
    """Saves an untrained Whisper of one layer."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|transcribe|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    times = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    vocabulary = {token: i for i, token in enumerate([*bytes_to_unicode().values(), *special, *times])}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], language="en", task="transcribe")
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=len(vocabulary), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, max_target_positions=16,
        decoder_start_token_id=257, pad_token_id=256, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=257, eos_token_id=256, pad_token_id=256, no_timestamps_token_id=261, max_length=12,
        lang_to_id={"<|en|>": 258}, task_to_id={"transcribe": 259, "translate": 260}, is_multilingual=True,
        language="<|en|>", task="transcribe", max_initial_timestamp_index=50,
    )  # fmt: skip
    model.save_pretrained(folder)
    transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return str(folder)


class TestPeers:
    def test_a_ctc_model_equals_its_own_library(self, speech):
        transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
        import soundfile

        folder = save_ctc(Path("peer"))
        model = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
        processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
        audio, rate = soundfile.read(speech / "val-0.wav", dtype="float32")
        with torch.no_grad():
            ids = model(processor(audio, sampling_rate=rate, return_tensors="pt").input_values).logits.argmax(-1)
        assert load_transformers_recognizer(folder, "cpu")(audio) == processor.batch_decode(ids)[0]

    def test_a_manifest_is_scored_with_it(self, speech, capfd):
        val = str(speech / "val.jsonl")
        peer = f"hf:{save_ctc(Path('peer'))}"
        main(["eval", "wer", "--reference", val, "--hypothesis", peer, "--json_file", "report.json"])
        report = json.loads(Path("report.json").read_text())
        assert report["hypothesis"] == peer
        assert report["utterances"] == len(report["rows"]) == 8

    @pytest.mark.parametrize("seconds", [1, 31])
    def test_whisper_transcribes_short_and_long_audio(self, seconds, workplace):
        hear = load_transformers_recognizer(save_whisper(Path("whisper")), "cpu")
        assert isinstance(hear(np.zeros(seconds * 16_000, np.float32)), str)

    def test_a_model_that_is_no_recognizer_is_refused_in_one_line(self, speech, fails, monkeypatch):
        pytest.importorskip("transformers", reason="transformers is not installed: the extra hf")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        Path("nothing").mkdir()
        for name in ("nothing", "somebody/no-such-model"):
            told = fails(main, ["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", f"hf:{name}"])
            assert f"hf:{name} cannot be loaded as a speech recogniser" in told
            assert "hf:FOLDER" in told


class TestCommand:
    def write(self, name: str, texts: list[str]) -> str:
        Path(name).write_text("\n".join(texts) + "\n", encoding="utf-8")
        return name

    @pytest.fixture
    def truth(self, speech) -> list[str]:
        return [json.loads(line)["text"] for line in (speech / "val.jsonl").read_text().splitlines()]

    def test_several_systems_as_json_and_markdown(self, speech, truth, capfd):
        perfect = self.write("perfect.txt", truth)
        bad = self.write("bad.txt", ["c" if text != "c" else "b" for text in truth])
        loops = self.write("loops.txt", [f"{text} {'and ' * 9}" for text in truth])
        capfd.readouterr()
        main(["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", bad, "--other", perfect, loops,
              "--json_file", "report.json", "--markdown_file", "report.md", "--worst", "2"])  # fmt: skip
        report, table = json.loads(Path("report.json").read_text()), Path("report.md").read_text()
        out = capfd.readouterr().out
        assert [other["hypothesis"] for other in report["others"]] == [perfect, loops]
        assert report["others"][0]["interval"] == [0, 0]
        assert report["others"][0]["difference"]["wer"] == report["wer"]
        assert report["others"][0]["difference"]["low"] > 0
        for text in (f"{report['wer']:.2%}", f"{report['others'][1]['wer']:.2%}", ": significant", *report["worst"]):
            assert text in out
            assert text in table
        assert len(report["worst"]) == 2
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        assert len({line.count("|") for line in lines[:4]}) == 1

    @pytest.mark.parametrize("normalizer", ["omni", "whisper"])
    def test_any_hypothesis_is_scored_and_written_on_any_terminal(self, speech, truth, normalizer, monkeypatch):
        if normalizer == "whisper":
            pytest.importorskip("whisper_normalizer", reason="whisper-normalizer is not installed: the extra hf")
        said = [json.loads(line) for line in (speech / "val.jsonl").read_text().splitlines()]
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setattr("omni.evaluation.word_errors.DRAWS", 50)
        texts = [*HARD, *random_texts(3)]
        for first in range(0, len(texts), len(said)):
            some = texts[first : first + len(said)]
            rows = [{"audio": row["audio"], "text": text} for row, text in zip(said, some, strict=True)]
            files = ["--json_file", "report.json", "--markdown_file", "report.md"]
            hypotheses = self.write("any.jsonl", list(map(json.dumps, rows)))
            main(["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", hypotheses, "--worst", "9",
                  "--normalizer", normalizer, *files])  # fmt: skip
            report = json.loads(Path("report.json").read_text(encoding="utf-8"))
            assert len(report["rows"]) == len(said)
            assert Path("report.md").read_text(encoding="utf-8").count("HYP:") == len(report["worst"])
        terminal.flush()
        assert b"most word errors" in terminal.buffer.getvalue()

    def test_only_a_line_feed_ends_a_hypothesis(self, speech, truth):
        texts = self.write("texts.txt", [f"{text}\x85\u2028x" for text in truth])
        main(["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", texts,
              "--json_file", "report.json"])  # fmt: skip
        assert json.loads(Path("report.json").read_text())["insertions"] == len(truth)

    def test_the_guard_cuts_loops_of_all_systems_only_if_enabled(self, speech, truth):
        loops = self.write("loops.txt", [f"{text} {'uh ' * 9}" for text in truth])
        found = {}
        for flag in ([], ["--repetition_guard"]):
            main(["eval", "wer", "--reference", str(speech / "val.jsonl"), "--hypothesis", loops, "--other", loops,
                  "--json_file", "report.json", *flag])  # fmt: skip
            report = json.loads(Path("report.json").read_text())
            assert report["wer"] == report["others"][0]["wer"]
            found[bool(flag)] = report["insertions"]
        assert report["loops"] == 8
        assert found == {False: 72, True: 8}

    def test_both_sides_are_normalised_like_whispers(self, speech, truth, capfd):
        pytest.importorskip("whisper_normalizer", reason="whisper-normalizer is not installed: the extra hf")
        manifest = Path("speech/val.jsonl")
        rows = [json.loads(line) | {"text": "Mr. Gray won't pay $25."} for line in manifest.read_text().splitlines()]
        manifest.write_text("\n".join(map(json.dumps, rows)))
        spoken = self.write("spoken.txt", ["um mister grey will not pay twenty five dollars"] * 8)
        main(["eval", "wer", "--reference", str(manifest), "--hypothesis", spoken, "--normalizer", "whisper",
              "--json_file", "report.json"])  # fmt: skip
        assert json.loads(Path("report.json").read_text())["wer"] == 0

    def test_a_checkpoint_aligns_the_words_of_any_text(self, words, capfd):
        """Each letter of a word is one tone, 0.16 s long."""
        rows = [json.loads(line) for line in Path("words.jsonl").read_text().splitlines()]
        texts = self.write("texts.txt", [row["text"] if i else "abc" * 99 for i, row in enumerate(rows)])
        main(["eval", "wer", "--reference", "words.jsonl", "--hypothesis", texts, "--align", words["recognizer"],
              "--json_file", "report.json"])  # fmt: skip
        found = json.loads(Path("report.json").read_text())["rows"]
        assert found[0]["words"] is None
        assert "1 of 40 hypotheses cannot be aligned" in capfd.readouterr().out
        for row, told in zip(rows[1:], found[1:], strict=True):
            (word,) = told["words"]
            assert word["text"] == row["text"]
            assert word["start"] == pytest.approx(0.0, abs=0.2)
            assert word["end"] == pytest.approx(row["duration"], abs=0.2)

    def test_a_broken_recording_is_left_out_for_all_systems(self, words, fails):
        rows = [json.loads(line) for line in Path("words.jsonl").read_text().splitlines()]
        texts = self.write("texts.txt", [row["text"] for row in rows])
        Path("3.wav").write_bytes(b"no audio")
        complaint = fails(main, ["eval", "wer", "--reference", "words.jsonl", "--hypothesis", words["recognizer"],
                                 "--other", texts, "--json_file", "report.json"])  # fmt: skip
        assert "3.wav" in complaint
        report = json.loads(Path("report.json").read_text())
        assert len(report["rows"]) == report["utterances"] == report["others"][0]["utterances"] == 39
        assert report["left_out"] == len(report["unreadable"]) == 1

    @pytest.mark.parametrize("kind", ["recognizer", "txt", "jsonl"])
    def test_malformed_rows_are_left_out_and_named(self, kind, words, capfd):
        """The others keep their texts."""
        lines = Path("words.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [row["text"] for row in rows]
        systems = {
            "recognizer": lambda: words["recognizer"],
            "txt": lambda: self.write("texts.txt", [*texts[:3], "c", *texts[4:39], "b"]),
            "jsonl": lambda: self.write("texts.jsonl", lines),
        }
        system = systems[kind]()
        lines[3], lines[39] = json.dumps({"audio": "3.wav"}), lines[39][:-9]
        self.write("words.jsonl", lines)
        with pytest.raises(SystemExit) as stop:
            main(["eval", "wer", "--reference", "words.jsonl", "--hypothesis", system, "--json_file", "report.json",
                  "--markdown_file", "report.md"])  # fmt: skip
        assert stop.value.code == 2
        out, err = capfd.readouterr()
        named = [line for line in err.splitlines() if line.startswith("omni: ")]
        assert ["row 4: has no text" in named[0], "row 40: not JSON" in named[1]] == [True, True]
        report = json.loads(Path("report.json").read_text())
        assert report["utterances"] == len(report["rows"]) == 38
        assert report["left_out"] == len(report["unreadable"]) == 2
        assert "not scored: 2 rows that cannot be read" in out
        assert "Not scored: 2 rows that cannot be read." in Path("report.md").read_text()
        assert report["rows"][3]["name"] == "words.jsonl: row 5"
        assert report["rows"][3]["reference"] == texts[4]
        assert report["wer"] < 0.2
        assert report["wer"] == 0 or kind == "recognizer"

    def test_parts_of_a_recording_are_scored_each(self, words, fails):
        """Two words in one file; a `.jsonl` file of hypotheses would have one text for both."""
        both = [json.loads(line) for line in Path("words.jsonl").read_text().splitlines()[:2]]
        seconds = [row["duration"] for row in both]
        soundfile.write("both.wav", np.concatenate([soundfile.read(row["audio"])[0] for row in both]), 16_000)
        parts = [
            {"audio_filepath": "both.wav", "text": row["text"], "offset": at, "duration": row["duration"]}
            for row, at in zip(both, (0.0, seconds[0]), strict=True)
        ]
        for name, found in {"parts.jsonl": parts, "files.jsonl": both}.items():
            manifest = self.write(name, list(map(json.dumps, found)))
            main(["eval", "wer", "--reference", manifest, "--hypothesis", words["recognizer"], "--json_file", "r.json"])
            rows = json.loads(Path("r.json").read_text())["rows"]
            assert [row["hypothesis"] for row in rows] == [row["text"] for row in both]
        texts = self.write("texts.jsonl", [json.dumps({"audio": "both.wav", "text": "a"})])
        complaint = fails(main, ["eval", "wer", "--reference", "parts.jsonl", "--hypothesis", texts])
        assert "texts.jsonl: rows of the reference are parts of the same recording" in complaint

    def test_a_reference_without_a_usable_row_is_refused(self, workplace, fails):
        reference, texts = self.write("reference.jsonl", ["{}", "nothing"]), self.write("texts.txt", ["a", "b"])
        complaint = fails(main, ["eval", "wer", "--reference", reference, "--hypothesis", texts])
        assert "reference.jsonl: row 1: has no `audio`" in complaint

    def test_a_text_file_needs_a_line_for_each_row_malformed_ones_included(self, words, fails):
        lines = Path("words.jsonl").read_text().splitlines()
        self.write("words.jsonl", [*lines, "{}"])
        texts = self.write("texts.txt", [json.loads(line)["text"] for line in lines])
        complaint = fails(main, ["eval", "wer", "--reference", "words.jsonl", "--hypothesis", texts])
        assert "texts.txt has 40 lines, and the reference 41 rows" in complaint


def test_alignment_follows_the_words_it_is_given(words):
    from conftest import tones

    from omni.inference.recognizer import load_recognizer

    recognizer = load_recognizer(words["recognizer"], device="cpu")
    audio = torch.from_numpy(tones("ab  ca   b"))
    found = recognizer.align(audio, "ab ca b")
    assert [word.text for word in found] == ["ab", "ca", "b"]
    for word, start in zip(found, (0.0, 0.64, 1.44), strict=True):
        assert word.start == pytest.approx(start, abs=0.16)
    assert recognizer.align(audio, "") == ()
    with pytest.raises(UserError, match="is not in the CTC vocabulary"):
        recognizer.align(audio, "xyz")


def test_errors_by_word():
    found = errors_by_word(
        rows(("the red star", "the bed star"), ("a red star", "a bed star now"), ("red", ""), ("the star", "the star"))
    )
    assert list(found) == ["red", "a", "star", "the"]
    assert found["red"] == (3, 3, {"bed": 2, "": 1})
    assert found["star"] == (3, 0, {})
