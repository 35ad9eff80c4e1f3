"""`bad_rows: error | skip` and its limit: the same for speech, images, conversations and text."""

import json
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from omni.data.checks.findings import Report
from omni.data.checks.text import TEXT_KINDS, TextCheck
from omni.data.conversations.data import ConversationData
from omni.data.images.data import ImageData
from omni.data.loading.bad_rows import BadRowPolicy, BatchReader, RowErrors
from omni.data.speech.data import SpeechData
from omni.data.text.corpus import open_corpus
from omni.data.text.data import TextData
from omni.errors import UserError
from omni.text.media_positions import MediaLayout
from omni.text.tokenizer import NUM_SPECIALS

ROWS = 8
RATE = 16_000


def write(name: str, rows: list[Any]) -> str:
    """A manifest; a string is a line that is not JSON."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return name


def tone(number: int) -> str:
    name = f"{number}.flac"
    noise = np.random.default_rng(number).normal(0, 0.1, RATE)
    soundfile.write(name, noise.astype(np.float32), RATE)
    return name


def picture(number: int) -> str:
    name = f"{number}.png"
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(name)
    return name


def asked(medium: dict[str, str], answer: str = "yes") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [medium]}, {"role": "assistant", "content": answer}]}


class Speech:
    """Each medium: `file` writes one, `row` is its row, `malformed` a row, `make` the data module."""

    malformed: ClassVar[Any] = {"text": "a b"}
    file = staticmethod(tone)

    @staticmethod
    def row(file: str) -> dict[str, Any]:
        return {"audio": file, "text": "a b", "duration": 1.0}

    @staticmethod
    def make(**options: Any) -> SpeechData:
        data = SpeechData("train.jsonl", "val.jsonl", num_mels=16, batch_seconds=4, max_duration=4, **options)
        data.setup()
        return data


class Pictures:
    malformed: ClassVar[Any] = {"image": "0.png", "caption": ""}
    file = staticmethod(picture)

    @staticmethod
    def row(file: str) -> dict[str, Any]:
        return {"image": file, "caption": f"picture {file}"}

    @staticmethod
    def make(**options: Any) -> ImageData:
        data = ImageData("train.jsonl", "val.jsonl", image_size=16, batch_size=4, memory_gb=0, **options)
        data.setup("fit")
        return data


class Talk:
    malformed: ClassVar[Any] = {"messages": "hello"}
    file = staticmethod(tone)

    @staticmethod
    def row(file: str) -> dict[str, Any]:
        return asked({"type": "audio", "audio": file})

    @staticmethod
    def make(train: Any = "train.jsonl", **options: Any) -> ConversationData:
        data = ConversationData(
            train, "val.jsonl", tokenizer="bytes", num_mels=16, max_tokens=60, batch_tokens=160, **options
        )
        data.set_layout(MediaLayout(image_grid=(2, 2), mel_frames=8))
        return data


class Seen(Talk):
    file = staticmethod(picture)

    @staticmethod
    def row(file: str) -> dict[str, Any]:
        return asked({"type": "image", "image": file})


MEDIA = {kind.__name__: kind for kind in (Speech, Pictures, Talk, Seen)}


@pytest.fixture(params=MEDIA)
def medium(request, workplace):
    kind: Any = MEDIA[request.param]
    for split, first in (("train", 0), ("val", 100)):
        write(f"{split}.jsonl", [kind.row(kind.file(first + number)) for number in range(ROWS)])
    return kind


def spoil(name: str) -> None:
    """Cuts a file, whose header stays as it was."""
    Path(name).write_bytes(Path(name).read_bytes()[:-200])


def numbers(data: Any, workers: int = 0) -> list[int]:
    """The rows of an epoch, sorted."""
    data.num_workers = workers
    return sorted(row for batch in data.train_dataloader() for row in batch.rows.tolist())


def test_a_malformed_row_ends_the_run_or_is_left_out(medium):
    write("train.jsonl", [*(medium.row(medium.file(number)) for number in range(ROWS)), medium.malformed, "{"])
    with pytest.raises(UserError, match=r"^train\.jsonl: row 9: .*\(data\.init_args\.bad_rows: skip leaves") as refused:
        medium.make(bad_rows="error")
    assert "\n" not in str(refused.value)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = medium.make(bad_rows="skip")
    assert sum("train.jsonl: row 9" in str(each.message) for each in said) == 1
    assert numbers(data) == list(range(ROWS))


def test_more_bad_rows_than_the_limit_end_the_run_and_the_first_are_named(medium):
    write("train.jsonl", [*(medium.row(medium.file(number)) for number in range(ROWS)), *["{"] * 3])
    with pytest.raises(UserError, match=r"data\.train: more than 2 rows cannot be used \(data\.init_args\.max_bad_"):
        medium.make(bad_rows="skip", max_bad_rows=2)
    with pytest.warns(UserWarning, match=r"row 9.*"):
        medium.make(bad_rows="skip", max_bad_rows=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_in_training_is_left_out_and_counted_once(medium, workers):
    data = medium.make(bad_rows="skip")
    spoil(medium.file(3))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        first, second = (numbers(data, workers) for _ in range(2))
    assert first == second == [number for number in range(ROWS) if number != 3]
    if not workers:  # those of workers are printed by their processes
        assert sum("train: left out" in str(each.message) for each in said) == 1


@pytest.mark.filterwarnings("ignore:train")
@pytest.mark.parametrize("workers", [0, 1])
def test_training_ends_at_the_limit_in_one_line(medium, workers):
    data = medium.make(bad_rows="skip", max_bad_rows=2)
    for number in (1, 3, 5):
        spoil(medium.file(number))
    with pytest.raises(UserError) as refused:
        numbers(data, workers)
    assert str(refused.value).startswith("data.train: more than 2 rows cannot be used")
    assert "\n" not in str(refused.value)
    assert str(refused.value).count("; ") == 3  # one before the first, and three are named


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_in_training_ends_the_run_if_it_may_not_be_skipped(medium, workers):
    data = medium.make(bad_rows="error")
    spoil(medium.file(3))
    with pytest.raises(UserError, match=r"3\.(flac|png).*bad_rows: skip leaves such rows out") as refused:
        numbers(data, workers)
    assert "\n" not in str(refused.value)


def test_a_recording_whose_header_cannot_be_read_is_left_out_of_conversations(workplace):
    for split, first in (("train", 0), ("val", 100)):
        write(f"{split}.jsonl", [Talk.row(tone(first + number)) for number in range(ROWS)])
    Path("3.flac").write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"train\.jsonl: row 4: .*3\.flac"):
        Talk.make()
    with pytest.warns(UserWarning, match=r"train: 1 of 8 rows left out: .*3\.flac"):
        assert len(Talk.make(bad_rows="skip").dataset("train")) == ROWS - 1


@pytest.mark.filterwarnings("ignore:train")
def test_rows_of_a_weighted_file_are_counted_each_whenever_an_epoch_draws_them(workplace):
    """An epoch draws one of the four rows of each of two groups."""
    for split, first in (("train", 0), ("val", 100)):
        write(f"{split}.jsonl", [Talk.row(tone(first + number)) for number in range(ROWS)])
    some = {limit: Talk.make({"train.jsonl": 0.25}, bad_rows="skip", max_bad_rows=limit) for limit in (4, 5)}
    for number in range(5):
        spoil(f"{number}.flac")
    epochs = list(range(2 * 40))
    for data in some.values():
        data.setup()
        assert len(data.dataset("train")) == 2
    with pytest.raises(UserError, match=r"data\.train: more than 4 rows cannot be used"):
        some[4].dataset("train").__getitems__(epochs)
    assert set(some[5].dataset("train").__getitems__(epochs).rows.tolist()) == {5, 6, 7}


class TestText:
    def make(self, train: str = "docs.jsonl", **options: Any) -> TextData:
        options = {"tokenizer": "bytes", "context": 16, "batch_size": 2} | options
        data = TextData(train, "val.jsonl", **options)
        data.setup()
        return data

    @pytest.fixture(autouse=True)
    def documents(self, workplace):
        write("val.jsonl", [{"text": "held out, and long enough for a row"}])
        texts: list[Any] = [{"text": f"document {number} of a few words"} for number in range(ROWS)]
        return write("docs.jsonl", [*texts[:4], {"text": 7}, "{", {"other": "x"}, *texts[4:]])

    def test_bad_documents_end_the_run_or_are_left_out_of_the_tokens(self):
        with pytest.raises(UserError, match=r"docs\.jsonl: row 5, 'text': a int, not text.*bad_rows: skip leaves"):
            self.make()
        for _ in range(2):  # the second time the tokens are kept
            with pytest.warns(UserWarning, match=r"train: 3 rows are left out, the first: docs\.jsonl: row 5"):
                data = self.make(bad_rows="skip")
            assert data.report["train"].documents == ROWS
        with pytest.raises(UserError, match="more than 2 rows cannot be used"):
            self.make(bad_rows="skip", max_bad_rows=2, cache_dir="other")

    def test_a_stream_leaves_them_out(self):
        options = {"streaming": True, "shuffle_buffer": 4}
        with pytest.raises(UserError, match=r"docs\.jsonl: row 5, 'text'"):
            list(self.make(**options).stream())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            batches = list(self.make(**options, bad_rows="skip").stream())
        assert str(said[0].message).startswith("train: left out: docs.jsonl: row 5")
        assert len(said) == 3
        assert sum(len(batch.rows) for batch in batches) >= ROWS

    def test_bad_documents_of_replay_are_left_out_and_named(self):
        for split in ("talk", "held"):
            write(f"{split}.jsonl", [asked({"type": "text", "text": split})])
        options: Any = {"tokenizer": "bytes", "replay": "docs.jsonl"}
        with pytest.raises(UserError, match=r"docs\.jsonl: row 5, 'text'.*bad_rows: skip leaves"):
            ConversationData("talk.jsonl", "held.jsonl", **options).plan()
        with pytest.warns(UserWarning, match=r"replay: 3 rows are left out, the first: docs\.jsonl: row 5"):
            plan = ConversationData("talk.jsonl", "held.jsonl", bad_rows="skip", **options).plan()
        assert [len(source.rows) for source in plan.sources["train"]] == [1, ROWS]

    def test_a_file_that_is_not_text_is_left_out(self):
        Path("bad.txt").write_bytes(b"caf\xe9")
        data = TextData(
            ["docs.jsonl", "bad.txt"], "val.jsonl", tokenizer="bytes", context=16, batch_size=2, bad_rows="skip"
        )
        with pytest.warns(UserWarning, match="train: 4 rows are left out") as said:
            data.setup()
        assert len(said) == 1

    @pytest.mark.parametrize("separator", [None, r"\n\n+"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_byte_that_is_not_utf8_costs_its_line_only(self, separator, streaming, monkeypatch):
        """The text has no other letters than its lines; blocks are shorter than lines."""
        monkeypatch.setattr("omni.data.text.documents._BLOCK", 16)
        lines = [f"{letter * 30}\n\n".encode() for letter in "abcdefgh"]
        Path("bad.txt").write_bytes(b"".join([*lines[:3], b"x\xe9 xx\n\n", *lines[3:6], b"y\0\n", *lines[6:]]))
        options = {"document_separator": separator, "streaming": streaming, "shuffle_buffer": 2, "batch_size": 1}
        with pytest.raises(UserError, match=r"bad\.txt: line 7: byte 97 is not UTF-8 .*bad_rows: skip leaves"):
            self.letters(**options)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert self.letters(**options, bad_rows="skip") == dict.fromkeys("abcdefgh", 30)
        assert "bad.txt: line 7: byte 97" in str(said[0].message)
        assert "bad.txt: line 15: byte 200" in str(said[-1].message)
        report = Report(TEXT_KINDS)
        TextCheck(report).split("train", open_corpus(["bad.txt"], document_separator=separator))
        lines = [(finding.kind, finding.where) for finding in report.findings if finding.kind != "empty document"]
        assert lines == [("bad line", "bad.txt: line 7"), ("bad line", "bad.txt: line 15")]

    def letters(self, **options: Any) -> dict[str, int]:
        """Number of each letter in an epoch."""
        data = self.make("bad.txt", **options)
        batches = data.stream() if options["streaming"] else data.train_dataloader()
        tokens = [token for batch in batches for token in batch.tokens.flatten().tolist()]
        text = "".join(chr(token - NUM_SPECIALS) for token in tokens if token >= NUM_SPECIALS)
        return {letter: text.count(letter) for letter in sorted(set(text)) if letter.isalpha()}


class TestBatchReader:
    def reader(self, limit: int = 5, items: int = 6) -> BatchReader:
        return BatchReader(RowErrors("train", BadRowPolicy(skip=True, limit=limit)), items)

    def read(self, bad: set[int], items: int = 6):
        def one(number: int) -> int:
            if number % items in bad:
                raise UserError(f"row {number % items}: broken")
            return number

        return one

    @pytest.mark.filterwarnings("ignore:train")
    def test_an_empty_batch_takes_the_next_item_of_its_epoch(self):
        assert self.reader().read([0, 1, 3], self.read({1})) == [0, 3]
        assert self.reader().read([10], self.read({4, 5})) == [6]  # item 4 of epoch 1
        assert self.reader().read([10], self.read({4})) == [11]
        with pytest.raises(UserError, match=r"no row of data\.train can be read"):
            self.reader(limit=6).read([0], self.read(set(range(6))))

    def test_rows_are_named_one_by_one_and_then_only_every_hundredth(self):
        reader = self.reader(limit=300, items=300)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for number in range(210):
                reader.read([number, 299], self.read(set(range(210)), 300))
        assert len(said) == 12
        assert "(100 rows so far)" in str(said[10].message)

    def test_a_row_that_may_not_be_left_out_ends_every_attempt(self):
        reader = BatchReader(RowErrors("train", BadRowPolicy()), 6)
        for _ in range(2):
            with pytest.raises(UserError, match=r"row 1: broken \(data\.init_args\.bad_rows: skip"):
                reader.read([0, 1], self.read({1}))

    def test_an_error_that_comes_again_is_named_and_counted_once(self):
        """As in the second pass over a stream."""
        errors = RowErrors("train", BadRowPolicy(skip=True, limit=1), at_once=True)
        with pytest.warns(UserWarning, match="train: left out: row 1: broken"):
            errors.add(UserError("row 1: broken"))
        errors.add(UserError("row 1: broken"))  # a warning would fail the test
        assert len(errors) == 1

    def test_rows_left_out_before_training_count(self):
        errors = RowErrors("train", BadRowPolicy(skip=True, limit=1))
        errors.add(UserError("row 9: malformed"))
        errors.add(UserError("row 9: malformed"))
        assert len(errors) == 1
        with pytest.warns(UserWarning, match="broken"), pytest.raises(UserError, match=r"row 9: malformed; row 1: bro"):
            BatchReader(errors, 6).read([1], self.read({1}))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_a_broken_recording_trains_and_resumes_exactly(fit_audio, workers, monkeypatch, speech):
    rows = [json.loads(line) for line in (speech / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for number in (2, 7):
        samples, rate = soundfile.read(speech / rows[number]["audio"])
        rows[number]["audio"] = f"{number}.flac"
        soundfile.write(speech / f"{number}.flac", np.tile(samples, 20), rate)
        rows[number]["duration"] *= 1.0
        spoil(str(speech / f"{number}.flac"))
    (speech / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    seen: list[Any] = []
    monkeypatch.setattr(
        "omni.training.callbacks.Throughput.on_train_batch_start",
        lambda self, trainer, module, batch, index: seen.append((batch.rows.tolist(), float(batch.mels.sum()))),
    )
    monkeypatch.setattr("omni.training.callbacks.Throughput.on_train_batch_end", lambda *args: None)

    def run(*extra: str, steps: int) -> list[Any]:
        seen.clear()
        constant = {"model__init_args__schedule": "constant", "trainer__val_check_interval": 4}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit_audio("fit", *extra, data__init_args__num_workers=workers, trainer__max_steps=steps, **constant)
        return list(seen)

    whole = run(steps=8)
    weights = torch.load("lightning_logs/audio/last.ckpt", weights_only=False)["state_dict"]
    first = run(steps=4)
    assert first + run("--ckpt_path", "lightning_logs/audio/last.ckpt", steps=8) == whole
    assert not {2, 7} & {row for rows, _ in whole for row in rows}
    resumed = torch.load("lightning_logs/audio/last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
