"""Conversations: the data module."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from omni.batch import ConversationBatch
from omni.data.conversations.dataset import ConversationRows, Reader
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.rows import Row, Skipped, conversation_rows, encoded, files_of, fitted, groups, replay_rows
from omni.data.conversations.sources import Conversations
from omni.data.conversations.speech import TranscriptionPrompt, one_noise
from omni.data.conversations.stream import ConversationStream
from omni.data.loading.bucketing import BucketedBatches, SortedBatches, padding_share
from omni.data.loading.streaming import StreamableData
from omni.data.speech.manifests import fingerprint
from omni.data.text.corpus import open_corpus
from omni.data.text.tokenizer_training import find_tokenizer
from omni.errors import UserError
from omni.media.images import Fit, Preprocessing
from omni.text.chat_template import Template, stop_token
from omni.text.media_positions import MediaLayout
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import Tokenizer

Entries = str | list[str] | dict[str, float]


class _Source(NamedTuple):
    """Rows that share a weight."""

    rows: list[Row]
    weight: float


class _Split(NamedTuple):
    """What a split reads, once the model has told how it takes media in."""

    rows: list[Row]
    entries: list[np.ndarray]  # numbers of rows that stand for each other
    lengths: np.ndarray  # most tokens of each entry


@final
class ConversationData(StreamableData):
    """Conversations about text, images and sound, in batches of similar length; see `omni.batch.ConversationBatch`.

    A row is `{"messages": [...], "task": "..."}`, with messages as the chat APIs have them: `role` (system, user,
    assistant) and `content`, a string or a list of parts `{"type": "text", "text": "..."}`, `{"type": "image", "image":
    FILE}`, `{"type": "audio", "audio": FILE}` or `{"type": "video", "frames": [FILES], "times": [SECONDS]}`. Only the
    assistant's turns are learned; validation asks for the last of them. A row that is too long loses as many of its
    last exchanges as it must; where not even the first fits, it is left out and counted. Audio in a turn of the
    assistant is how it is said: a Talker's affair (`CodesData`), and not read here.

    Speech with transcripts, as `SpeechData` reads it, is made into conversations: a recording, one of `instructions`,
    and what is said as the answer.

    Args:
        train: `.jsonl` files, manifests or folders of speech, or hub:OWNER/NAME[:CONFIG[:SPLIT]]; with weights,
            `{FILE: 0.5}`, the share of its rows that an epoch takes, other ones each time; 2 takes each row twice.
        val: The same, for validation; without weights.
        test: The same, for `omni test` and `omni predict`.
        replay: Plain text to go on learning from, as in `TextData.train`; with weights as in `train`.
        tokenizer: The Thinker's: its .ckpt file, a .model file, `bytes`, or `pretrained:` and the name or the folder of
            a pretrained model.
        image_size: Side of the squares that the model sees, in pixels; the encoder's.
        fit: What happens to an image that is no square: `crop` (its middle), `pad` (with black) or `stretch`.
        num_mels: Mel filters; the encoder's. 0 for waveforms, which pretrained encoders hear.
        template: `chat`, with roles, or `plain`, for a Thinker that has read nothing but text: what is asked, the
            answer, an end of document.
        instructions: What stands behind a recording of speech; a row has one of them, by its number.
        labels: How transcripts of speech are written; by default as they are.
        text_column: Where they are in manifests and on the Hub.
        noise_share: Noises, which are answered by nothing, for each training row.
        max_tokens: Most tokens of a row, those of media counted.
        batch_tokens: Most tokens of a batch on each device, padding counted.
        max_batch_rows: Most conversations of a batch.
        bad_rows: `fail` at the first row that cannot be used, or `skip` and count them.
        streaming: Read `train` while training, where it is too large to be prepared. Resuming reads again.
        shuffle_buffer: Conversations that are shuffled and sorted into batches together when streaming.
        num_workers: Processes that load batches; 0: the training process does.
        seed: Of shuffling.
        cache_dir: Where downloads are kept.

    Attributes:
        tokenizer: After `setup`.

    Raises:
        UserError: If an argument is out of range.
    """

    tokenizer: Tokenizer

    def __init__(
        self,
        train: Entries,
        val: Entries,
        test: Entries | None = None,
        *,
        tokenizer: str,
        replay: Entries | None = None,
        image_size: int = 224,
        fit: Fit = "crop",
        num_mels: int = 128,
        template: Template = "chat",
        instructions: Sequence[str] = (),
        labels: TextNormalization | None = None,
        text_column: str = "text",
        noise_share: float = 0.0,
        max_tokens: int = 512,
        batch_tokens: int = 4096,
        max_batch_rows: int = 64,
        bad_rows: Literal["fail", "skip"] = "fail",
        streaming: bool = False,
        shuffle_buffer: int = 512,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str = "data/cache",
    ):
        super().__init__(streaming=streaming, num_workers=num_workers, seed=seed)
        self.entries = {"train": files_of(train), "val": files_of(val), "test": files_of(test)}
        self.replay = files_of(replay)
        self.tokenizer_spec = tokenizer
        self.preprocessing, self.num_mels = Preprocessing(image_size, fit), num_mels
        self.template: Template = template
        self.dictation = TranscriptionPrompt(instructions=tuple(instructions), labels=labels, text_column=text_column)
        self.noise_share, self.shuffle_buffer = noise_share, shuffle_buffer
        self.max_tokens, self.batch_tokens, self.max_batch_rows = max_tokens, batch_tokens, max_batch_rows
        self.bad_rows = bad_rows
        self.cache_dir = Path(cache_dir).expanduser()
        self._check_arguments()
        self._sources: dict[str, list[_Source]] = {}
        self._splits: dict[str, _Split] = {}
        self._layout = MediaLayout()

    # ------------------------------------------------------------------ what Lightning calls

    def find_fingerprint(self) -> str:
        texts = [self.tokenizer.fingerprint, str(self.preprocessing), str(self._layout)]
        texts += [str((self.num_mels, self.max_tokens, self.batch_tokens, self.max_batch_rows))]
        texts += [f"{self.template} {self.dictation} {self.noise_share}"]
        texts += [" ".join(self.entries["train"])] if self.streaming else []
        for split in ("train", "val"):
            for rows, weight in self._sources.get(split, ()):
                texts += [str(weight), *(row.identity() for row in rows)]
        return fingerprint(texts)

    def setup(self, stage: str | None = None) -> None:
        if self._sources:
            return
        options: Any = {"identity": "", "vocab_size": 0, "cache_dir": self.cache_dir, "may_train": False}
        self.tokenizer = find_tokenizer(self.tokenizer_spec, [], **options)
        for split, entries in self.entries.items():
            if entries and not (self.streaming and split == "train"):
                self._sources[split] = [_Source(self._read(split, entry), w) for entry, w in entries.items()]
        for entry, weight in self.replay.items():
            documents = open_corpus([entry], cache_dir=self.cache_dir)
            rows = [*replay_rows(documents, self.tokenizer, max_tokens=self.max_tokens)]
            self._sources["train"].append(_Source(rows, weight))
        if self.noise_share and not self.streaming:
            number = round(
                self.noise_share * sum(len(source.rows) * source.weight for source in self._sources["train"])
            )
            some = (one_noise(index, self.dictation, self.seed) for index in range(number))
            rows = [encoded(one, self.tokenizer, self.template) for one in some]
            self._sources["train"].append(_Source(rows, 1.0))

    def lay_out(self, layout: MediaLayout) -> None:
        """Learns how many tokens media take; for a stage to call in `setup`.

        Raises:
            UserError: If the model cannot take in what is there, or no row is short enough.
        """
        self.setup()
        self._layout, self._fingerprint = layout, None
        self._splits = {split: self._fit(split, sources) for split, sources in self._sources.items()}
        if "train" in self._splits and self._split("train").rows:
            batches, lengths = self.train_batches(), self._splits["train"].lengths
            share = padding_share(lengths, [batch % batches.num_rows for batch in batches.epoch(0)])
            rank_zero_info(f"train: {len(batches)} batches an epoch, {share:.1%} padding")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that validation and test ask for, sorted."""
        asked = {row.task for name in ("val", "test") for source in self._sources.get(name, ()) for row in source.rows}
        return tuple(sorted(asked))

    def train_batches(self) -> BucketedBatches:
        options: Any = {"seed": self.seed, "position": self.position, **self.rank()}
        return BucketedBatches(self._split("train").lengths, **self._bounds, **options)

    @property
    def stream_identity(self) -> str:
        return f"{self.fingerprint} {self.shuffle_buffer}"

    @property
    def stop(self) -> int:
        """The token that ends an answer."""
        return stop_token(self.tokenizer, self.template)

    def _stream(self) -> ConversationStream:
        return ConversationStream(
            self._open("train", [*self.entries["train"]]),
            reader=self._reader,
            tokenizer=self.tokenizer,
            template=self.template,
            dictation=self.dictation,
            noise_share=self.noise_share,
            max_tokens=self.max_tokens,
            batch_tokens=self.batch_tokens,
            max_rows=self.max_batch_rows,
            skip=self.bad_rows == "skip",
            buffer=self.shuffle_buffer,
            seed=self.seed,
            **self.rank(),
        )

    def train_dataloader(self) -> DataLoader[ConversationBatch]:
        if self.streaming:
            return self.stream_loader(self._stream())
        return self.loader(self._dataset("train"), self.train_batches())

    def val_dataloader(self) -> DataLoader[ConversationBatch]:
        return self._sorted("val")

    def test_dataloader(self) -> DataLoader[ConversationBatch]:
        return self._sorted("test")

    def predict_dataloader(self) -> DataLoader[ConversationBatch]:
        # Lightning wraps the sampler, to know which rows a prediction is of; it cannot wrap a batch sampler of ours.
        loader, share = self._sorted("test"), self.rank()
        rows = range(share["rank"], len(self._split("test").entries), share["world_size"])
        return DataLoader(loader.dataset, batch_size=8, sampler=rows, collate_fn=loader.collate_fn)

    # ------------------------------------------------------------------ what is read

    @property
    def _bounds(self) -> dict[str, Any]:
        return {"capacity": self.batch_tokens, "max_rows": self.max_batch_rows}

    def _sorted(self, split: str) -> DataLoader[ConversationBatch]:
        batches = SortedBatches(self._split(split).lengths, **self._bounds, **self.rank())
        return self.loader(self._dataset(split), batches)

    def _split(self, split: str) -> _Split:
        if split not in self._sources:
            raise UserError(f"there are no conversations to {split} on: give data.init_args.{split}")
        if split not in self._splits:
            self._splits[split] = self._fit(split, self._sources[split])
        return self._splits[split]

    def _dataset(self, split: str) -> ConversationRows:
        rows, entries, _ = self._split(split)
        return ConversationRows(
            rows,
            entries,
            reader=self._reader,
            tokenizer=self.tokenizer,
            skip=self.bad_rows == "skip",
            seed=self.seed,
        )

    def _read(self, split: str, entry: str) -> list[Row]:
        skip = self.bad_rows == "skip"
        found = [*conversation_rows(self._open(split, [entry]), self.tokenizer, template=self.template, skip=skip)]
        rows = [row for row in found if isinstance(row, Row)]
        self._report(split, [row for row in found if isinstance(row, Skipped)], len(rows))
        return rows

    @property
    def _reader(self) -> Reader:
        return Reader(self._layout, self.preprocessing, self.num_mels)

    def _open(self, split: str, entries: Sequence[str]) -> list[Conversations]:
        hub_split = {"val": "validation"}.get(split, split)
        return open_conversations(entries, dictation=self.dictation, cache_dir=self.cache_dir, hub_split=hub_split)

    def _fit(self, split: str, sources: Sequence[_Source]) -> _Split:
        """The rows of a split that fit, in groups, and their lengths."""
        rows: list[Row] = []
        entries: list[np.ndarray] = []
        lengths: list[int] = []
        skipped: list[Skipped] = []
        shortened = 0
        for source in sources:
            first = len(rows)
            for row in source.rows:
                found = fitted(row, self._layout, self.max_tokens)
                if found is None:
                    why = f"its first exchange takes more than data.max_tokens, {self.max_tokens}"
                    skipped.append(Skipped(row.where, why))
                    continue
                shortened += len(found[0].chat.tokens) < len(row.chat.tokens)
                rows.append(found[0])
                lengths.append(found[1])
            some = groups(lengths[first:], source.weight) if len(rows) > first else []
            entries += [group + first for group in some]
        self._report(split, skipped, len(rows))
        if shortened:
            rank_zero_warn(f"{split}: {shortened} of {len(rows)} rows lost their last exchanges (data.max_tokens)")
        longest = np.array([max(lengths[row] for row in group) for group in entries])
        rank_zero_info(f"{split}: {len(rows):,} conversations, {sum(lengths):,} tokens, {len(entries):,} an epoch")
        return _Split(rows, entries, longest)

    @staticmethod
    def _report(split: str, skipped: Sequence[Skipped], used: int) -> None:
        """Says how many rows are left out and why."""
        if not used:
            first = f"; the first, {skipped[0].where}: {skipped[0].why}" if skipped else ""
            raise UserError(f"data.{split} has no conversation that can be used{first}")
        for why, number in Counter(skip.why for skip in skipped).most_common(5):
            example = next(skip.where for skip in skipped if skip.why == why)
            rank_zero_warn(f"{split}: {number} of {used + len(skipped)} rows left out: {why} ({example})")

    def _check_arguments(self) -> None:
        least = {"max_tokens": 4, "max_batch_rows": 1, "shuffle_buffer": 1, "num_workers": 0, "seed": 0, "num_mels": 0}
        least["noise_share"] = 0
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise UserError(f"data.{name} is {getattr(self, name)}: it must be {limit} or more")
        if self.batch_tokens < self.max_tokens:
            raise UserError(
                f"data.batch_tokens ({self.batch_tokens}) must hold a row of data.max_tokens ({self.max_tokens}): "
                "raise the one or lower the other"
            )
        if self.tokenizer_spec == "bpe":
            raise UserError("data.tokenizer is the Thinker's: name its .ckpt or its .model file, or `bytes`")
        if self.streaming and (self.replay or any(weight != 1 for weight in self.entries["train"].values())):
            raise UserError("data.streaming reads each row once: leave replay and weights out, or prepare the data")
        for name, entries in {**self.entries, "replay": self.replay}.items():
            if name in ("train", "val") and not entries:
                raise UserError(f"data.{name} is empty: name a .jsonl file or hub:OWNER/NAME")
            if wrong := next((entry for entry, weight in entries.items() if not weight > 0), None):
                raise UserError(f"data.{name}: the weight of {wrong} is {entries[wrong]}: it must be over 0")
        if twice := self.entries["train"].keys() & self.entries["val"].keys():
            raise UserError(f"{min(twice)} is in data.train and in data.val: leave it out of one")
