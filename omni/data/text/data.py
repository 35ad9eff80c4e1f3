"""Text for next-token prediction."""

import hashlib
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from omni.batch import TextBatch
from omni.data.loading.resumable import OrderedBatches, ShuffledBatches
from omni.data.loading.streaming import StreamableData, StreamLoader
from omni.data.text.corpus import DocumentSplit, FirstDocuments, fingerprint, open_corpus, tail_split
from omni.data.text.documents import Documents
from omni.data.text.packing import PackingReport
from omni.data.text.stream import TextStream
from omni.data.text.token_file import PackedRows, TokenFile
from omni.data.text.tokenizer_training import find_tokenizer
from omni.errors import UserError
from omni.text.tokenizer import NUM_SPECIALS, Tokenizer

_STREAM_VAL_DOCUMENTS = (
    1000  # held out of each source of a stream: 0.5 M tokens or so, a minute of validation at tiny size
)


class _Plan(NamedTuple):
    """What is read with what; found anew by every process."""

    sources: dict[str, list[Documents]]  # by split, as the next two
    identities: dict[str, str]
    files: dict[str, TokenFile]  # a stream has none for its training split
    tokenizer: Tokenizer


@final
class TextData(StreamableData):
    """Text, tokenised once, packed into full rows and shuffled anew each epoch; see `omni.batch.TextBatch`.

    Each document becomes bos, its tokens, eos. Documents share rows, are never cropped, and no row is asked to predict
    across the border between two. The tokens are kept in `cache_dir` under a key of content and tokenizer.

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
        val_split: Hold out `documents`, chosen by their text whatever the seed, or the `tail` of every file.
        document_separator: Regular expression between the documents of a .txt file; by default a file is one document.
        text_column: Where the text is in .jsonl, .parquet and on the Hub.
        streaming: Tokenise and pack while reading, for a corpus too large to prepare. Resuming reads the pass again.
        shuffle_buffer: Rows that are packed and shuffled together when streaming.
        num_workers: Processes that load batches; 0: the training process does, which is fast unless streaming.
        seed: Of the shuffling.
        cache_dir: Where tokens, tokenizers and downloads are kept.

    Attributes:
        tokenizer: Encodes the text; after `setup`.
        report: What packing made of each split; after `setup`. A stream's training split is not in it.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: Tokenizer

    no_effect = frozenset({"val_batch_size"})

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
        streaming: bool = False,
        shuffle_buffer: int = 2048,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ):
        super().__init__(streaming=streaming, num_workers=num_workers, seed=seed)
        self.train_entries = [train] if isinstance(train, str) else list(train)
        self.val_entries = [val] if isinstance(val, str) else val
        self.test_entries = [test] if isinstance(test, str) else test
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
        self.cache_dir = Path(cache_dir).expanduser()
        self.report: dict[str, PackingReport] = {}
        self._check_arguments()
        self._plan: _Plan | None = None
        self._rows: dict[str, PackedRows] = {}

    def find_fingerprint(self) -> str:
        plan = self._plan_of(may_write=False)
        options = (self.context, self.streaming, self.shuffle_buffer if self.streaming else 0)
        return _digest(plan.identities["train"], plan.identities["val"], plan.tokenizer.fingerprint, *options)

    def prepare_data(self) -> None:
        plan = self._plan_of(may_write=True)
        for split, file in plan.files.items():
            if not file.complete:
                file.write(plan.sources[split], plan.tokenizer, label=split)

    def setup(self, stage: str | None = None) -> None:
        if self._rows:
            return
        if self.trainer is None:
            self.prepare_data()
        plan = self._plan_of(may_write=False)
        self.tokenizer = plan.tokenizer
        for split, file in plan.files.items():
            self._check_file(split, file)
            self._rows[split] = PackedRows(file, self.context)
            self.report[split] = report = self._rows[split].packing.report
            rank_zero_info(
                f"{split}: {report.documents:,} documents, {report.tokens:,} tokens in {report.rows:,} rows of "
                f"{self.context + 1}, {report.padding:.2%} padding, {report.cropped:.2%} cropped"
            )

    def train_batches(self) -> ShuffledBatches:
        rows = len(self._rows["train"])
        return ShuffledBatches(rows, self.batch_size, seed=self.seed, position=self.position, **self.rank())

    def train_dataloader(self) -> DataLoader[TextBatch]:
        return self._stream_loader() if self.streaming else self.loader(self._rows["train"], self.train_batches())

    def val_dataloader(self) -> DataLoader[TextBatch]:
        return self._ordered("val")

    def test_dataloader(self) -> DataLoader[TextBatch]:
        return self._ordered("test")

    def predict_dataloader(self) -> DataLoader[TextBatch]:
        # Lightning wraps the sampler, to know which rows a prediction is of; it cannot wrap a batch sampler of ours.
        loader, share = self._ordered("test"), self.rank()
        rows = range(share["rank"], len(self._rows["test"]), share["world_size"])
        batch_size = self.val_batch_size or self.batch_size
        return DataLoader(loader.dataset, batch_size=batch_size, sampler=rows, collate_fn=loader.collate_fn)

    def _ordered(self, split: str) -> DataLoader[TextBatch]:
        if split not in self._rows:
            raise UserError(f"there is no text to {split} on: give data.init_args.{split}")
        rows, batch_size = self._rows[split], self.val_batch_size or self.batch_size
        return self.loader(rows, OrderedBatches(len(rows), batch_size, **self.rank()))

    @property
    def stream_identity(self) -> str:
        return f"{self.fingerprint} {self.batch_size}"

    def _stream_loader(self) -> StreamLoader:
        plan = self._plan_of(may_write=False)
        stream = TextStream(
            plan.sources["train"],
            plan.tokenizer,
            context=self.context,
            batch_size=self.batch_size,
            buffer=self.shuffle_buffer,
            seed=self.seed,
            **self.rank(),
        )
        return self.stream_loader(stream)

    def _plan_of(self, *, may_write: bool) -> _Plan:
        """What to read with what, found once by each process.

        Raises:
            UserError: If a source is not there, or the tokenizer is not and must not be learned by this process.
        """
        if self._plan is None:
            sources = self._sources()
            content = not self.streaming
            identities = {split: fingerprint(part, content=content) for split, part in sources.items()}
            tokenizer = find_tokenizer(
                self.tokenizer_spec,
                sources["train"],
                identity=identities["train"],
                vocab_size=self.vocab_size,
                cache_dir=self.cache_dir,
                may_train=may_write,
            )
            files = {
                split: TokenFile(self.cache_dir / _digest(identity, tokenizer.fingerprint)[:32])
                for split, identity in identities.items()
                if split != "train" or not self.streaming
            }
            self._plan = _Plan(sources, identities, files, tokenizer)
        return self._plan

    def _sources(self) -> dict[str, list[Documents]]:
        """The documents of each split."""
        options: dict[str, Any] = {
            "text_column": self.text_column,
            "document_separator": self.document_separator,
            "cache_dir": self.cache_dir,
            "streaming": self.streaming,
        }
        train = open_corpus(self.train_entries, **options)
        if self.val_entries is not None:
            val = open_corpus(self.val_entries, hub_split="validation", **options)
            if twice := {source.name for source in train} & {source.name for source in val}:
                raise UserError(f"{min(twice)} is in data.train and in data.val: leave it out of one")
        elif self.val_split == "tail":
            train, val = tail_split(train, self.val_fraction)
        else:
            train, val = DocumentSplit(train, self.val_fraction, exact=not self.streaming).parts()
            if self.streaming:
                val = [*(FirstDocuments(source, _STREAM_VAL_DOCUMENTS) for source in val)]
        splits = {"train": [*train], "val": [*val]}
        if self.test_entries is not None:
            splits["test"] = [*open_corpus(self.test_entries, hub_split="test", **options)]
        return splits

    def _check_file(self, split: str, file: TokenFile) -> None:
        if not file.complete:
            raise UserError(
                f"{file.stem}.bin is not there: data.cache_dir must be a folder that all ranks of a node see"
            )
        if not file.counts["documents"]:
            raise UserError(f"no document is left for data.{split}: change data.val_fraction, or give data.val")
        if split == "train" and file.counts["tokens"] <= self.context:
            raise UserError(
                f"data.train has {file.counts['tokens']} tokens, fewer than one row of {self.context + 1}: "
                "give more text, or set data.context lower"
            )

    def _check_arguments(self) -> None:
        least = {"context": 1, "batch_size": 1, "val_batch_size": 1, "shuffle_buffer": 1, "num_workers": 0, "seed": 0}
        for name, limit in least.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise UserError(f"data.{name} is {value}: it must be {limit} or more")
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: it must lie between 0 and 1")
        if self.tokenizer_spec == "bpe" and self.vocab_size <= NUM_SPECIALS + 256:
            raise UserError(
                f"data.vocab_size is {self.vocab_size}: it must be more than {NUM_SPECIALS} specials + 256 bytes"
            )
        if self.streaming and self.val_split == "tail" and self.val_entries is None:
            raise UserError("data.val_split: tail needs the end of a stream: give data.val, or set it to documents")
        for name, entries in (
            ("train", self.train_entries),
            ("val", self.val_entries),
            ("test", self.test_entries),
        ):
            if entries is not None and not entries:
                raise UserError(f"data.{name} is an empty list: name a file, a pattern, a folder or hub:OWNER/NAME")
        try:
            re.compile(self.document_separator or "")
        except re.error as error:
            raise UserError(f"data.document_separator is no regular expression: {error}") from None


def _digest(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
