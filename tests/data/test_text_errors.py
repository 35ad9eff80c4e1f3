"""Errors of text data: one line that names the file, the row or the argument."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from omni.data.text.data import TextData
from omni.errors import UserError


def write_jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


@pytest.fixture
def make(tmp_path):
    """Makes and sets up data with small defaults."""

    def make(train=None, *, setup=True, **options):
        if train is None:
            train = write_jsonl(tmp_path / "train.jsonl", map("document {}".format, range(30)))
        options = {"tokenizer": "bytes", "context": 16, "batch_size": 4, "cache_dir": str(tmp_path / "cache")} | options
        data = TextData(train, **options)
        if setup:
            data.setup()
        return data

    return make


def bad_file(name, content):
    def write(folder):
        path = folder / name
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
        return str(path)

    return write


def bad_parquet(name, **columns):
    def write(folder):
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
        return str(folder / name)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (bad_file("a.txt", b""), r"a\.txt: is empty"),
        (bad_file("a.txt", " \n\t"), r"a\.txt: holds only whitespace"),
        (bad_file("a.jsonl", "\n\n"), r"a\.jsonl: holds only whitespace"),
        (bad_file("a.txt", b"abc\0def"), r"a\.txt: line 1: byte 3 is NUL: a binary file \(or UTF-16\)"),
        (bad_file("a.txt", b"abcd\xe9 more"), r"a\.txt: line 1: byte 4 is not UTF-8"),
        (bad_file("a.txt", b"ab\ncd\n\nef\xc3"), r"a\.txt: line 4: byte 9 is not UTF-8 \(unexpected end of data\)"),
        (bad_file("a.jsonl", '{"text": "a"}\n\n{"text": \n'), r"a\.jsonl: row 3: not JSON \(.* at column \d+\)"),
        (bad_file("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n'), r"a\.jsonl: row 2: byte 10 is not UTF-8"),
        (bad_file("a.jsonl", '{"text": "a"}\n["a"]\n'), r"a\.jsonl: row 2: a list, not an object"),
        (bad_file("a.jsonl", '{"body": "a"}\n'), r"a\.jsonl: row 1: no 'text', only \['body'\]: set data.text_column"),
        (bad_file("a.jsonl", '{"text": null}\n'), r"a\.jsonl: row 1, 'text': a NoneType, not text"),
        (bad_file("a.jsonl", '{"text": "\\ud800"}\n'), r"a\.jsonl: row 1, 'text': character 0 is a lone surrogate"),
        (bad_file("a.parquet", "no parquet"), r"a\.parquet: not a Parquet file"),
        (bad_parquet("a.parquet", body=["a"]), r"a\.parquet: no column 'text', only \['body'\]"),
        (bad_parquet("a.parquet", text=["a", None]), r"a\.parquet: row 2, 'text': a NoneType, not text"),
        (bad_parquet("a.parquet", text=[1, 2]), r"a\.parquet: row 1, 'text': a int, not text"),
        (bad_file("a.csv", "text"), r"a\.csv: unknown kind of file '\.csv': use \.txt, \.jsonl, \.parquet"),
        (lambda folder: str(folder / "none.txt"), r"none\.txt: does not exist"),
        (lambda folder: str(folder / "*.txt"), r"\*\.txt: matches no file"),
        (lambda folder: str(folder), r"the folder holds no \.txt, \.jsonl, \.parquet file"),
        (bad_file("a.txt", "one document"), r"a\.txt: 1 document cannot be split .* data.val_split: tail"),
        (bad_file("a.jsonl", '{"text": "ab"}\n{"text": "cd"}\n'), r"data.train has 4 tokens, fewer than one row of 17"),
        (lambda folder: "hub:", r"'hub:' does not name a data set"),
        (lambda folder: f"hub:{folder}/none", r"hub:.*/none::train: "),
    ],
)
def test_unusable_data_is_named(make, tmp_path, write, message):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=message) as error:
        make(write(tmp_path / "in"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "data.context is 0: it must be 1 or more"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"val_batch_size": -1}, "data.val_batch_size is -1"),
        ({"num_workers": -1}, "data.num_workers is -1"),
        ({"shuffle_buffer": 0}, "data.shuffle_buffer is 0"),
        ({"seed": -1}, "data.seed is -1"),
        ({"val_fraction": 0.0}, "data.val_fraction is 0.0"),
        ({"val_fraction": 1.0}, "data.val_fraction is 1.0"),
        ({"tokenizer": "bpe", "vocab_size": 288}, "data.vocab_size is 288"),
        ({"document_separator": "("}, "data.document_separator is not a regular expression"),
        ({"streaming": True, "val_split": "tail"}, "data.val_split: tail"),
        ({"val": []}, "data.val is an empty list"),
    ],
)
def test_arguments_out_of_range_are_named(make, options, message):
    with pytest.raises(UserError, match=message):
        make(setup=False, **options)


def test_a_file_in_both_splits_is_refused(make, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", ["a", "b"])
    with pytest.raises(UserError, match=r"t\.jsonl is in data\.train and in data\.val"):
        make(str(tmp_path / "*.jsonl"), val=path)


def test_an_unwritable_cache_is_named(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir .* cannot be written"):
        make(cache_dir=str(tmp_path / "file" / "cache"))


def test_an_unreachable_hub_is_reported_in_one_line(make, monkeypatch):
    import datasets

    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(
        UserError, match=r"^hub:a/b::train: the Hub cannot be reached.*name its files in data\.train"
    ) as error:
        make("hub:a/b")
    assert "\n" not in str(error.value)


def test_a_rank_without_the_files_is_reported(make, tmp_path):
    data = make(setup=False)
    data.trainer = object()  # with a trainer, prepare_data writes on one rank
    with pytest.raises(UserError, match=r"does not exist: data\.cache_dir must be a folder that all ranks"):
        data.setup()


def test_hub_rows_without_text_are_named(make, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"body": "a"}\n{"body": null}\n')
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"hub:.*set::train: no column 'text', only \['body'\]"):
            make(f"hub:{tmp_path / 'set'}", streaming=streaming)
        with pytest.raises(UserError, match=r"hub:.*set::train: row 2, 'body': a NoneType"):
            make(f"hub:{tmp_path / 'set'}", streaming=streaming, text_column="body")
        with pytest.raises(UserError, match=r"hub:.*set::test: cannot be loaded"):
            make(f"hub:{tmp_path / 'set'}::test", streaming=streaming)
