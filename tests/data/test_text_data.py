"""Text data: reading, holding out, caching and errors."""

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pyarrow.parquet
import pytest
import torch

from omni.batch import IGNORE
from omni.commands.data_tokenizer import train_tokenizer
from omni.data.text.corpus import open_corpus
from omni.data.text.data import TextData
from omni.errors import UserError
from omni.text.tokenizer import BOS, EOS, PAD, ByteTokenizer, open_tokenizer


def texts(count, seed=0, longest=60):
    """Different documents of letters, spaces, line ends and a two-byte character."""
    rng = random.Random(seed)
    return [f"{i} " + "".join(rng.choices("abc é\n", k=rng.randint(1, longest))) + "." for i in range(count)]


def write_jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


@pytest.fixture
def make(tmp_path):
    """Makes and sets up data with small defaults."""

    def make(train=None, *, setup=True, **options):
        if train is None:
            train = write_jsonl(tmp_path / "train.jsonl", texts(80))
        options = {"tokenizer": "bytes", "context": 16, "batch_size": 4, "cache_dir": str(tmp_path / "cache")} | options
        data = TextData(train, **options)
        if setup:
            data.setup()
        return data

    return make


def documents_of(loader):
    """The documents of an epoch's targets, if none is longer than a row."""
    done, document = [], []
    for batch in loader:
        for token, target in zip(batch.tokens.ravel().tolist(), batch.targets.ravel().tolist(), strict=True):
            if token == BOS:
                document = []
            if target == EOS:
                done.append(ByteTokenizer().decode(document))
            elif target != IGNORE:
                document.append(target)
    return done


def train_documents(data):
    return sorted(documents_of(data.train_dataloader()))


def test_every_document_is_complete_and_in_one_split(make, tmp_path):
    documents = texts(80, longest=20)
    data = make(write_jsonl(tmp_path / "t.jsonl", documents), val_fraction=0.2, batch_size=1, context=64)
    train, val = train_documents(data), sorted(documents_of(data.val_dataloader()))
    assert sorted(train + val) == sorted(documents)
    assert 4 < len(val) < 32
    assert data.report["train"].documents == len(train)
    assert data.report["val"].cropped == 0


def test_all_formats_give_the_same_documents(make, tmp_path):
    documents = [text.strip() for text in texts(30, longest=20)]
    (tmp_path / "t.txt").write_text("\n====\n".join(documents))
    write_jsonl(tmp_path / "t.jsonl", documents)
    pyarrow.parquet.write_table(pyarrow.table({"text": documents}), tmp_path / "t.parquet")
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", documents)
    entries = [tmp_path / "t.txt", tmp_path / "t.jsonl", tmp_path / "t.parquet", f"hub:{tmp_path / 'set'}"]
    for streaming in (False, True):
        for entry in entries:
            sources = open_corpus(
                [str(entry)], document_separator="\n=+\n", cache_dir=tmp_path / "cache", streaming=streaming
            )
            assert list(sources[0].read()) == documents
            shares = [set(sources[0].stream(share, 3, 0)) for share in range(3)]
            assert set.union(*shares) == set(documents)
            assert sum(map(len, shares)) == len(documents)


@pytest.mark.parametrize("separator", [r"<\|end\|>", r"^ = [^=]+ = $", r"(?=^ = [^=]+ = $)", r"\.(?! keep)"])
def test_a_separator_splits_alike_for_any_block_size(tmp_path, monkeypatch, separator):
    import omni.data.text.documents as module

    chapters = "".join(f"\n = Title {i} = \n" + "é word. keep.\n" * (7 * i % 11) + "<|end|>" for i in range(50))
    (tmp_path / "t.txt").write_text(chapters)
    whole = list(open_corpus([str(tmp_path / "t.txt")], document_separator=separator)[0].read())
    monkeypatch.setattr(module, "_BLOCK", 37)
    monkeypatch.setattr(module, "_REACH", 40)
    assert list(open_corpus([str(tmp_path / "t.txt")], document_separator=separator)[0].read()) == whole
    assert len(whole) >= 49


def test_copies_of_a_document_stay_together_and_splits_are_seeded(make, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [text for text in texts(40, longest=20) for _ in range(3)])
    data = make(path, val_fraction=0.3, batch_size=1, context=64)
    train, val = train_documents(data), documents_of(data.val_dataloader())
    assert val
    assert not {text.strip() for text in train} & {text.strip() for text in val}
    assert train_documents(make(path, val_fraction=0.3, batch_size=1, context=64, seed=5)) == train


def test_one_of_two_documents_can_be_held_out(make, tmp_path):
    for count in (2, 3):
        data = make(write_jsonl(tmp_path / f"{count}.jsonl", texts(count)), val_fraction=0.01)
        assert data.report["val"].documents >= 1
        assert data.report["train"].documents >= 1


def test_the_tail_split_is_the_last_characters(make, tmp_path):
    text = "".join(random.Random(0).choices("abcdé\n", k=1003))
    (tmp_path / "t.txt").write_text(text)
    data = make(str(tmp_path / "t.txt"), val_split="tail", val_fraction=0.1, context=2000, setup=False)
    train, val = (list(part[0].read()) for part in data._sources().values())
    assert (train, val) == ([text[:902]], [text[902:]])


def test_a_long_document_continues_in_other_rows(make, tmp_path):
    (tmp_path / "t.txt").write_text(text := "".join(map(chr, range(33, 127))) * 3)
    data = make(str(tmp_path / "t.txt"), val=write_jsonl(tmp_path / "v.jsonl", texts(3)), batch_size=1)
    scored = torch.cat([batch.targets[batch.targets != IGNORE] for batch in data.train_dataloader()])
    assert sorted(scored.tolist()) == sorted([*ByteTokenizer().encode(text), EOS])


def test_epochs_differ_and_cover_all_rows(make):
    loader = (data := make(batch_size=1)).train_dataloader()
    first, second = ([batch.rows.item() for batch in loader] for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(data.report["train"].rows))


def test_workers_change_nothing_and_no_global_randomness_is_used(make):
    state = torch.get_rng_state()
    batches = [list(make(num_workers=workers).train_dataloader()) for workers in (0, 2)]
    assert torch.equal(state, torch.get_rng_state())
    for one, two in zip(*batches, strict=True):
        assert all(map(torch.equal, one, two))


def files_of(path):
    return {file.name: file.stat().st_mtime_ns for file in path.iterdir()}


def test_tokens_are_cached_by_content_and_tokenizer(make, tmp_path):
    data = make()
    before = files_of(tmp_path / "cache")
    os.utime(tmp_path / "train.jsonl", (0, 0))
    assert make().fingerprint == data.fingerprint
    assert make(context=8, seed=3, batch_size=2).report["train"].tokens == data.report["train"].tokens
    assert files_of(tmp_path / "cache") == before
    assert make(val_fraction=0.5).fingerprint != data.fingerprint
    other = make(tokenizer="bpe", vocab_size=320)
    assert other.fingerprint != data.fingerprint
    assert other.report["train"].tokens < data.report["train"].tokens
    changed = make(write_jsonl(tmp_path / "train.jsonl", texts(81)))
    assert changed.fingerprint != data.fingerprint
    assert changed.report["train"].documents + changed.report["val"].documents == 81


@pytest.mark.parametrize("ending", [".bin", ".npy", ".json"])
def test_incomplete_tokens_are_made_again(make, tmp_path, ending):
    expected = make().report
    for file in (tmp_path / "cache").glob("*" + ending):
        file.write_bytes(file.read_bytes()[:20]) if ending == ".bin" else file.unlink()
    assert make().report == expected


def test_a_failed_run_leaves_nothing_in_the_cache(make, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "a b c"}) + "\n" + json.dumps({"text": 3}) + "\n")
    with pytest.raises(UserError):
        make(str(path), val=write_jsonl(tmp_path / "v.jsonl", texts(3)))
    assert not [*(tmp_path / "cache").iterdir()]


def test_bpe_is_learned_once_from_training_text_only(make, tmp_path):
    write_jsonl(tmp_path / "val.jsonl", ["zzzzzz " * 20])
    data = make(val=str(tmp_path / "val.jsonl"), tokenizer="bpe", vocab_size=320)
    assert data.tokenizer.vocab_size == 320
    assert data.tokenizer.encode("zzzz") == ByteTokenizer().encode("zzzz")
    before = files_of(tmp_path / "cache")
    assert make(val=str(tmp_path / "val.jsonl"), tokenizer="bpe", vocab_size=320).fingerprint == data.fingerprint
    assert files_of(tmp_path / "cache") == before
    batch = next(iter(data.val_dataloader()))
    assert data.tokenizer.decode(batch.tokens[0][batch.tokens[0] != PAD].tolist()).startswith("zzzzzz zz")


def test_a_long_text_in_segments_has_the_same_tokens(make, tmp_path, monkeypatch):
    import omni.data.text.token_file as module

    monkeypatch.setattr(module, "_SEGMENT", 10)
    monkeypatch.setattr(module, "_BATCH", 50)
    text = "".join(random.Random(0).choices(["abc ", "é", "\n", "the\n", "\r\n", "d e f ", "ghi"], k=300))
    (tmp_path / "t.txt").write_bytes(text.encode())
    val = write_jsonl(tmp_path / "v.jsonl", texts(3))
    data = make(str(tmp_path / "t.txt"), val=val, tokenizer="bpe", vocab_size=305)
    (file,) = (split for name, split in data.plan().files.items() if name == "train")
    assert file.tokens().tolist() == [BOS, *data.tokenizer.encode(text), EOS]
    assert file.counts["bytes"] == len(text.encode())


def test_train_tokenizer_writes_a_model_that_data_reads(make, tmp_path, capsys):
    path = write_jsonl(tmp_path / "t.jsonl", texts(80))
    train_tokenizer([path], tmp_path / "out" / "t.model", vocab_size=320)
    assert "320 ids" in capsys.readouterr().out
    data = make(path, tokenizer=str(tmp_path / "out" / "t.model"))
    assert data.tokenizer.fingerprint == open_tokenizer(tmp_path / "out" / "t.model").fingerprint
    with pytest.raises(UserError, match=r"its suffix must be \.model"):
        train_tokenizer([path], tmp_path / "t")


def test_two_processes_can_prepare_at_the_same_time(make):
    expected = make(cache_dir="/nonexistent", setup=False)
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(lambda _: make(setup=False), range(4)))
        list(pool.map(TextData.setup, prepared))
    assert len({data.fingerprint for data in [*prepared, expected]}) == 1
    assert len({tuple(train_documents(data)) for data in prepared}) == 1
