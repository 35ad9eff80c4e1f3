"""Text for next-token prediction."""

import hashlib
import re
from typing import Any, Literal, NamedTuple, final

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from omni.data.loading.batched_data import FixedSizeData
from omni.data.loading.statistics import DataStatistics
from omni.data.text.corpus import DocumentSplit, corpus_fingerprint, first_documents, open_corpus, tail_split
from omni.data.text.documents import Documents, ReadableDocuments
from omni.data.text.packing import PackingReport
from omni.data.text.stream import TextStream
from omni.data.text.token_file import PackedDataset, TokenFile
from omni.data.text.tokenizer_training import find_tokenizer
from omni.errors import UserError
from omni.text.tokenizer import NUM_SPECIALS, Tokenizer

# Held out of each source of a stream: about 0.5 M tokens, a minute of validation at tiny size.
_STREAM_VAL_DOCUMENTS = 1000


class _Plan(NamedTuple):
    """The documents of each split, and what encodes them."""

    sources: dict[str, list[Documents]]  # by split, as the next two
    fingerprints: dict[str, str]
    files: dict[str, TokenFile]  # without the training split of a stream
    tokenizer: Tokenizer


@final
class TextData(FixedSizeData[_Plan]):
    """Text, tokenised once, packed into full rows and shuffled in each epoch; see `omni.batch.TextBatch`.

    Each document becomes bos, its tokens, eos. Documents share rows, are never cropped, and no target crosses the
    border between two of them. The tokens are kept in `cache_dir` under a hash of content and tokenizer.

    Args:
        train: Files (.txt, .jsonl, .parquet), patterns, folders, or hub:OWNER/NAME[:CONFIG[:SPLIT]].
        val: The same, for validation. By default it is held out of `train`.
        test: The same, for `omni test` and `omni predict`.
        tokenizer: `bpe` (learned from the training text at first use), `bytes`, a .model file, or a .ckpt file.
        vocab_size: Of `bpe`: 32 specials, 256 bytes, the rest learned.
        context: Tokens that the model reads in a row.
        batch_size: Rows of a batch on each device.
        val_batch_size: Rows of a validation batch; by default `batch_size`.
        val_fraction: Share held out where `val` is not given.
        val_split: Hold out `documents`, chosen by a hash of their text, or the `tail` of every file.
        document_separator: Regular expression of the text between two documents of a .txt file; by default a file is
            one document.
        text_column: Column of the text in .jsonl, .parquet and on the Hub.
        shuffle_buffer: Rows that are packed and shuffled together when streaming.
        kwargs: See `SplitData`.

    Attributes:
        tokenizer: Encodes the text; after `setup`.
        report: Statistics of the packing of each split; after `setup`. Without the training split of a stream.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: Tokenizer

    no_effect = frozenset({"val_batch_size"})
    row_name = "documents"

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        *,
        tokenizer: str = "bpe",
        vocab_size: int = 32000,
        context: int = 256,
        batch_size: int = 8,
        val_batch_size: int | None = None,
        val_fraction: float = 0.05,
        val_split: Literal["documents", "tail"] = "documents",
        document_separator: str | None = None,
        text_column: str = "text",
        shuffle_buffer: int = 2048,
        **kwargs: Any,
    ):
        super().__init__({"train": train, "val": val, "test": test}, **kwargs)
        self.tokenizer_spec = tokenizer
        self.vocab_size = vocab_size
        self.context = context
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.val_fraction = val_fraction
        self.val_split = val_split
        self.document_separator = document_separator
        self.text_column = text_column
        self.shuffle_buffer = shuffle_buffer
        self.report: dict[str, PackingReport] = {}
        self._check_arguments()

    def find_fingerprint(self) -> str:
        plan = self.plan()
        options = (self.context, self.streaming, self.shuffle_buffer if self.streaming else 0)
        return _sha256(plan.fingerprints["train"], plan.fingerprints["val"], plan.tokenizer.fingerprint, *options)

    @property
    def stream_identity(self) -> str:
        return f"{self.fingerprint} {self.batch_size}"

    def prepare_data(self) -> None:
        plan = self.plan(may_write=True)
        for split, file in plan.files.items():
            if not file.complete:
                errors = self.row_errors(split if split in self.entries else "train")
                file.write(plan.sources[split], plan.tokenizer, label=split, errors=errors)

    def open_splits(self, plan: _Plan) -> None:
        self.tokenizer = plan.tokenizer
        for split, file in plan.files.items():
            self._check_file(split, file)
            if left_out := file.counts.get("left_out"):  # of files of earlier versions it is not known
                rank_zero_warn(left_out)
            rows = self.datasets[split] = PackedDataset(file, self.context)
            self.report[split] = report = rows.packing.report
            rank_zero_info(
                f"{split}: {report.documents:,} documents, {report.tokens:,} tokens in {report.rows:,} rows of "
                f"{self.context + 1}, {report.padding:.2%} padding, {report.cropped:.2%} cropped"
            )

    def statistics(self) -> DataStatistics:
        self.setup()  # the tokens are kept: training does not count them again
        splits = {split: self.report[split] for split in ("train", "val") if split in self.report}
        counts = {
            split: {"documents": report.documents, "tokens": report.tokens, "rows": report.rows}
            for split, report in splits.items()
        }
        return self.statistics_of("tokens", counts, {split: report.rows for split, report in splits.items()})

    def stream(self) -> TextStream:
        plan = self.plan()
        return TextStream(
            plan.sources["train"],
            plan.tokenizer,
            context=self.context,
            batch_size=self.batch_size,
            **self.stream_options,
        )

    def make_plan(self, *, may_write: bool) -> _Plan:
        """The documents of each split, and what encodes them.

        Raises:
            UserError: If a source does not exist, or this process must not train the tokenizer that is missing.
        """
        sources = self._sources()
        fingerprints = {split: corpus_fingerprint(part, content=not self.streaming) for split, part in sources.items()}
        tokenizer = find_tokenizer(
            self.tokenizer_spec,
            sources["train"],
            fingerprint=fingerprints["train"],
            vocab_size=self.vocab_size,
            cache_dir=self.cache_dir,
            may_train=may_write,
        )
        files = {
            split: TokenFile(self.cache_dir / _sha256(fingerprint, tokenizer.fingerprint)[:32])
            for split, fingerprint in fingerprints.items()
            if split != "train" or not self.streaming
        }
        return _Plan(sources, fingerprints, files, tokenizer)

    def _sources(self) -> dict[str, list[Documents]]:
        """The documents of each split."""
        options: dict[str, Any] = {
            "text_column": self.text_column,
            "document_separator": self.document_separator,
            "cache_dir": self.cache_dir,
            "streaming": self.streaming,
            "columns": self.columns,
        }
        splits = {split: self._open(split, names, **options) for split, names in self.entries.items()}
        train = splits["train"]
        if "val" in splits:
            if twice := {source.name for source in train} & {source.name for source in splits["val"]}:
                raise UserError(f"{min(twice)} is in data.train and in data.val: leave it out of one")
        elif self.val_split == "tail":
            splits["train"], splits["val"] = tail_split(train, self.val_fraction)
        else:
            splits["train"], splits["val"] = DocumentSplit(train, self.val_fraction, exact=not self.streaming).parts()
            if self.streaming:
                splits["val"] = [first_documents(source, _STREAM_VAL_DOCUMENTS) for source in splits["val"]]
        return splits

    def _open(self, split: str, names: list[str], **options: Any) -> list[Documents]:
        errors = self.stream_errors() if split == "train" and self.streaming else self.row_errors(split)
        return [ReadableDocuments(source, errors) for source in open_corpus(names, split=split, **options)]

    def _check_file(self, split: str, file: TokenFile) -> None:
        if not file.complete:
            raise UserError(
                f"{file.stem}.bin does not exist: data.cache_dir must be a folder that all ranks of a node see"
            )
        if not file.counts["documents"]:
            raise UserError(f"no document is left for data.{split}: change data.val_fraction, or give data.val")
        if split == "train" and file.counts["tokens"] <= self.context:
            raise UserError(
                f"data.train has {file.counts['tokens']} tokens, fewer than one row of {self.context + 1}: "
                "give more text, or set data.context lower"
            )

    def _check_arguments(self) -> None:
        self.check_arguments(context=1, batch_size=1, val_batch_size=1)
        if self.tokenizer_spec == "bpe" and self.vocab_size <= NUM_SPECIALS + 256:
            raise UserError(
                f"data.vocab_size is {self.vocab_size}: it must be more than {NUM_SPECIALS} specials + 256 bytes"
            )
        if self.streaming and self.val_split == "tail" and "val" not in self.entries:
            raise UserError("data.val_split: tail needs the end of a stream: give data.val, or set it to documents")
        try:
            re.compile(self.document_separator or "")
        except re.error as error:
            raise UserError(f"data.document_separator is not a regular expression: {error}") from None


def _sha256(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
