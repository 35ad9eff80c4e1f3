"""Conversations about text, images and sound."""

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from omni.data.conversations.dataset import ConversationDataset, MediaReader
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.rows import (
    ConversationRow,
    UnreadableMedium,
    conversation_rows,
    encode_conversation,
    fitted,
    replay_rows,
)
from omni.data.conversations.sources import Conversations
from omni.data.conversations.speech import TranscriptionPrompt, noise_conversation
from omni.data.conversations.stream import ConversationStream
from omni.data.loading.batched_data import BucketedData
from omni.data.loading.skipped import SkippedRow, report_skipped
from omni.data.loading.statistics import DataStatistics
from omni.data.loading.weights import check_weights, groups, weighted
from omni.data.speech.manifests import sha256_of
from omni.data.text.corpus import open_corpus
from omni.data.text.documents import ReadableDocuments
from omni.data.text.tokenizer_training import find_tokenizer
from omni.errors import UserError
from omni.media.images import Fit, Preprocessing
from omni.text.chat_template import Template, stop_token
from omni.text.media_positions import MediaLayout
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import Tokenizer

Entries = str | list[str] | dict[str, float]


class _Source(NamedTuple):
    """Rows with a common weight."""

    rows: list[ConversationRow]
    weight: float


class _Plan(NamedTuple):
    """The rows of each split before media are laid out, and what encodes them."""

    sources: dict[str, list[_Source]]
    tokenizer: Tokenizer


@final
class ConversationData(BucketedData[_Plan]):
    """Conversations about text, images and sound, in batches of similar length; see `omni.batch.ConversationBatch`.

    A row is `{"messages": [...], "task": "..."}`, with messages as the chat APIs have them: `role` (system, user,
    assistant) and `content`, a string or a list of parts `{"type": "text", "text": "..."}`, `{"type": "image", "image":
    FILE}`, `{"type": "audio", "audio": FILE}` or `{"type": "video", "frames": [FILES], "times": [SECONDS]}`. Rows of
    OpenAI's API, LLaVA, ShareGPT and ms-swift are read too, see `omni.data.conversations.shapes`. The loss
    covers the turns of the assistant; validation generates the last of them. A row that is too long loses its last
    exchanges; if its first exchange alone is too long, it is left out and counted. Audio in a turn of the assistant is
    used by `CodesData` for speech synthesis and ignored here.

    Speech with transcripts, as `SpeechData` reads it, is turned into conversations: a recording, one of `instructions`,
    and the transcript as the answer.

    Args:
        train: `.jsonl` or `.json` files, manifests or folders of speech, or hub:OWNER/NAME[:CONFIG[:SPLIT]]; with
            weights, `{FILE: 0.5}`, the share of its rows that an epoch reads, different ones each time; 2 reads each
            row twice.
        val: The same, for validation; without weights.
        test: The same, for `omni test` and `omni predict`.
        replay: Plain text against forgetting, as in `TextData.train`; with weights as in `train`.
        tokenizer: Of the Thinker: its .ckpt file, a .model file, `bytes`, or `pretrained:` and the name or the folder
            of a pretrained model.
        image_size: Side of the square input of the image encoder, in pixels.
        fit: How an image that is not square is made so: `crop` (to its middle), `pad` (with black) or `stretch`.
        num_mels: Mel filters of the audio encoder; 0 for waveforms, the input of pretrained encoders.
        template: `chat`, with roles, or `plain`, for a Thinker trained on text alone: the question, the answer, an end
            of document.
        instructions: Texts after a recording of speech, of which a row has one by its number.
        labels: Normalisation of the transcripts of speech; by default none.
        text_column: Column of the transcripts in manifests and on the Hub.
        noise_share: Number of conversations about noise, with empty answers, for each training row.
        max_tokens: Largest number of tokens of a row, those of media counted.
        batch_tokens: Largest number of tokens of a batch on each device, padding counted.
        max_batch_rows: Largest number of conversations of a batch.
        shuffle_buffer: Conversations that are shuffled and sorted into batches together when streaming.
        kwargs: See `SplitData`.

    Attributes:
        tokenizer: After `setup`.

    Raises:
        UserError: If an argument is out of range.
    """

    row_name = "conversations"

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
        shuffle_buffer: int = 512,
        **kwargs: Any,
    ):
        self.weights = {"train": weighted(train), "val": weighted(val)}
        self.weights |= {} if test is None else {"test": weighted(test)}
        super().__init__(self.weights, **kwargs)
        self.replay = {} if replay is None else weighted(replay)
        self.tokenizer_spec = tokenizer
        self.preprocessing, self.num_mels = Preprocessing(image_size, fit), num_mels
        self.template: Template = template
        self.transcription_prompt = TranscriptionPrompt(
            instructions=tuple(instructions), labels=labels, text_column=text_column
        )
        self.noise_share, self.shuffle_buffer = noise_share, shuffle_buffer
        self.max_tokens, self.batch_tokens, self.max_batch_rows = max_tokens, batch_tokens, max_batch_rows
        self._check_arguments()
        self._layout = MediaLayout()

    @property
    def batch_capacity(self) -> float:
        return self.batch_tokens

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the validation and test rows, sorted."""
        sources = self.plan().sources
        return tuple(
            sorted({row.task for name in ("val", "test") for one in sources.get(name, ()) for row in one.rows})
        )

    @property
    def stop(self) -> int:
        """The token that ends an answer."""
        return stop_token(self.tokenizer, self.template)

    def find_fingerprint(self) -> str:
        texts = [self.tokenizer.fingerprint, str(self.preprocessing), str(self._layout)]
        texts += [str((self.num_mels, self.max_tokens, self.batch_tokens, self.max_batch_rows))]
        texts += [f"{self.template} {self.transcription_prompt} {self.noise_share}"]
        texts += [" ".join(self.entries["train"])] if self.streaming else []
        for split in ("train", "val"):
            for rows, weight in self.plan().sources.get(split, ()):
                texts += [str(weight), *(row.version() for row in rows)]
        return sha256_of(texts)

    def setup(self, stage: str | None = None) -> None:
        self.tokenizer = self.plan().tokenizer

    def make_plan(self, *, may_write: bool) -> _Plan:
        tokenizer = find_tokenizer(self.tokenizer_spec)
        sources: dict[str, list[_Source]] = {}
        for split, weights in self.weights.items():
            if not (self.streaming and split == "train"):
                sources[split] = [
                    _Source(self._read(split, entry, tokenizer), weight) for entry, weight in weights.items()
                ]
        for entry, weight in self.replay.items():
            opened = open_corpus([entry], cache_dir=self.cache_dir, columns=self.columns)
            documents = [ReadableDocuments(source, self.row_errors("replay")) for source in opened]
            rows = [*replay_rows(documents, tokenizer, max_tokens=self.max_tokens)]
            sources["train"].append(_Source(rows, weight))
        self.row_errors("replay").report()
        if self.noise_share and not self.streaming:
            number = round(self.noise_share * sum(len(source.rows) * source.weight for source in sources["train"]))
            noises = (noise_conversation(index, self.transcription_prompt, self.seed) for index in range(number))
            rows = [encode_conversation(noise, tokenizer, self.template) for noise in noises]
            sources["train"].append(_Source(rows, 1.0))
        return _Plan(sources, tokenizer)

    def set_layout(self, layout: MediaLayout) -> None:
        """Sets the number of tokens of each medium; called by a stage in `setup`.

        Raises:
            UserError: If the model does not accept a medium, or no row is short enough.
        """
        self.setup()
        self._layout, self._fingerprint = layout, None
        self.open_splits(self.plan())
        if "train" in self.datasets and self.dataset("train").rows:
            self.report_batches()

    def open_splits(self, plan: _Plan) -> None:
        for split, sources in plan.sources.items():
            self.datasets[split] = self._open(split, sources)

    def dataset(self, split: str) -> ConversationDataset:
        if self._plan is not None and not self.datasets:
            self.open_splits(self._plan)
        return super().dataset(split)

    def statistics(self) -> DataStatistics:
        self.plan()
        splits = [split for split in ("train", "val") if split != "train" or not self.streaming]
        sizes = {split: self.sizes(split) for split in splits}
        counts = {split: {"conversations": len(each), "tokens": int(each.sum())} for split, each in sizes.items()}
        limits = {"batch_argument": "batch_tokens", "smallest_batch": self.max_tokens}
        return self.statistics_of("conversations", counts, sizes, **limits)

    def sizes(self, split: str) -> np.ndarray:
        return self.dataset(split).lengths

    def stream(self) -> ConversationStream:
        return ConversationStream(
            self._sources("train", self.entries["train"]),
            reader=self._reader,
            tokenizer=self.tokenizer,
            template=self.template,
            transcription_prompt=self.transcription_prompt,
            noise_share=self.noise_share,
            max_tokens=self.max_tokens,
            errors=self.stream_errors(),
            **self.batch_limits,
            **self.stream_options,
        )

    @property
    def _reader(self) -> MediaReader:
        return MediaReader(self._layout, self.preprocessing, self.num_mels)

    def _sources(self, split: str, entries: Sequence[str]) -> list[Conversations]:
        return open_conversations(
            entries,
            transcription_prompt=self.transcription_prompt,
            cache_dir=self.cache_dir,
            split=split,
            columns=self.columns,
        )

    def _read(self, split: str, entry: str, tokenizer: Tokenizer) -> list[ConversationRow]:
        options: Any = {"template": self.template, "errors": self.row_errors(split)}
        found = [*conversation_rows(self._sources(split, [entry]), tokenizer, **options)]
        rows = [row for row in found if isinstance(row, ConversationRow)]
        report_skipped(split, [row for row in found if isinstance(row, SkippedRow)], len(rows))
        return rows

    def _open(self, split: str, sources: Sequence[_Source]) -> ConversationDataset:
        """The rows of a split that fit, in groups."""
        rows: list[ConversationRow] = []
        row_groups: list[np.ndarray] = []
        lengths: list[int] = []
        skipped: list[SkippedRow] = []
        shortened = 0
        for source in sources:
            first = len(rows)
            for row in source.rows:
                try:
                    fitting = fitted(row, self._layout, self.max_tokens)
                except UnreadableMedium as error:
                    self.row_errors(split).add(error)
                    skipped.append(SkippedRow.of(error, row.where))
                    continue
                if fitting is None:
                    reason = f"its first exchange takes more than data.max_tokens, {self.max_tokens}"
                    skipped.append(SkippedRow(row.where, reason))
                    continue
                shortened += len(fitting[0].chat.tokens) < len(row.chat.tokens)
                rows.append(fitting[0])
                lengths.append(fitting[1])
            if len(rows) > first:
                row_groups += [group + first for group in groups(lengths[first:], source.weight)]
        report_skipped(split, skipped, len(rows))
        if shortened:
            rank_zero_warn(f"{split}: {shortened} of {len(rows)} rows lost their last exchanges (data.max_tokens)")
        rank_zero_info(f"{split}: {len(rows):,} conversations, {sum(lengths):,} tokens, {len(row_groups):,} an epoch")
        return ConversationDataset(
            rows,
            row_groups,
            np.array([max(lengths[row] for row in group) for group in row_groups]),
            reader=self._reader,
            tokenizer=self.tokenizer,
            errors=self.row_errors(split),
            seed=self.seed,
        )

    def _check_arguments(self) -> None:
        self.check_arguments(max_tokens=4, max_batch_rows=1, num_mels=0, noise_share=0)
        if self.batch_tokens < self.max_tokens:
            raise UserError(
                f"data.batch_tokens ({self.batch_tokens}) must hold a row of data.max_tokens ({self.max_tokens}): "
                "raise the one or lower the other"
            )
        if self.tokenizer_spec == "bpe":
            raise UserError("data.tokenizer must be that of the Thinker: name its .ckpt or its .model file, or `bytes`")
        if self.streaming and (self.replay or any(weight != 1 for weight in self.weights["train"].values())):
            raise UserError("data.streaming reads each row once: leave replay and weights out, or prepare the data")
        for name, weights in {**self.weights, "replay": self.replay}.items():
            check_weights(name, weights)
        if twice := self.weights["train"].keys() & self.weights["val"].keys():
            raise UserError(f"{min(twice)} is in data.train and in data.val: leave it out of one")
