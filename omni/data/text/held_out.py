"""Texts that a run holds out, and texts of a file: what an export is compared on."""

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.loading.jsonl import jsonl_rows
from omni.data.loading.run_data import local_entries, run_data
from omni.data.text.corpus import DocumentSplit, open_corpus, tail_split
from omni.data.text.documents import ReadableDocuments
from omni.errors import UserError


def held_out_texts(config: Any, limit: int) -> tuple[list[str], str]:
    """Texts that a run does not train on, of local `.txt` and `.jsonl` files.

    Args:
        config: The run's configuration; None if it has none.
        limit: Most texts.

    Returns:
        The texts, and the file's name; or no texts, and why.
    """
    data = run_data(config)
    options = data.options
    entries, train = _local(options.get("val")), _local(options.get("train"))
    for path in entries:
        if texts := texts_of_file(path, limit):
            return texts, str(path)
    # The two ways in which `omni.data.text.data.TextData` splits a corpus without validation data.
    if train and not options.get("val") and data.kind.endswith("TextData"):
        names = [str(path) for path in train]
        opened = open_corpus(
            names, text_column=options["text_column"], document_separator=options["document_separator"]
        )
        policy = BadRowPolicy(skip=options.get("bad_rows") == "skip", limit=options.get("max_bad_rows", sys.maxsize))
        corpus = [ReadableDocuments(source, RowErrors("train", policy)) for source in opened]
        if options["val_split"] == "tail":
            held = tail_split(corpus, options["val_fraction"])[1]
        else:
            held = DocumentSplit(corpus, options["val_fraction"], exact=True).parts()[1]
        lines = (line for source in held for text in source.read() for line in text.splitlines() if line.strip())
        if texts := list(islice(lines, limit)):
            return texts, names[0]
    return [], data.absent


def _local(entries: Any) -> list[Path]:
    """Those of the entries of a configuration that are local files of text or rows."""
    paths = [Path(name).expanduser() for name in local_entries(entries)]
    return [path for path in paths if path.suffix in (".txt", ".jsonl") and path.is_file()]


def texts_of_file(path: Path, limit: int) -> list[str]:
    """The first texts of a file: lines of a `.txt` file, or `text` or `messages` of the rows of a `.jsonl` file.

    Raises:
        UserError: If the file cannot be read, or a row has neither.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a .txt file with a text a line, or a .jsonl file")
    found = _rows(path) if path.suffix == ".jsonl" else _lines(path)
    return list(islice((text for text in found if text.strip()), limit))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): give a text file") from error


def _rows(path: Path) -> Iterator[str]:
    for where, row in jsonl_rows(path):
        if isinstance(row, UserError):
            raise row
        if isinstance(row.get("text"), str):
            yield row["text"]
        elif isinstance(row.get("messages"), list):
            yield " ".join(_texts_of(row["messages"]))
        else:
            raise UserError(f"{where}: has no `text` and no `messages`, but {', '.join(map(json.dumps, row))}")


def _texts_of(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if isinstance(part, Mapping) and "text" in part)
