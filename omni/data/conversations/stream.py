"""Streams of conversations."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, final

from omni.batch import ConversationBatch
from omni.data.conversations.dataset import LoadedConversation, MediaReader, make_batch
from omni.data.conversations.rows import encode_conversation, fitted
from omni.data.conversations.sources import Conversation, Conversations
from omni.data.conversations.speech import TranscriptionPrompt, noise_conversation
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.streaming import BucketedStream
from omni.errors import UserError
from omni.text.chat_template import Template
from omni.text.tokenizer import Tokenizer


@final
class ConversationStream(BucketedStream[Conversation | UserError, LoadedConversation, ConversationBatch]):
    """One pass over conversations in batches of similar length.

    Args:
        sources: The conversations.
        reader: Reads their media.
        tokenizer: Of the Thinker.
        template: See `omni.text.chat_template.encode_chat`.
        transcription_prompt: Of the conversations about noise.
        noise_share: Number of conversations about noise for each row.
        max_tokens: Longer conversations lose their last exchanges, or are left out.
        errors: Of rows that cannot be read.
        **options: Of `BucketedStream`; `capacity` in tokens.
    """

    def __init__(
        self,
        sources: Sequence[Conversations],
        *,
        reader: MediaReader,
        tokenizer: Tokenizer,
        template: Template,
        transcription_prompt: TranscriptionPrompt,
        noise_share: float,
        max_tokens: int,
        errors: RowErrors,
        **options: Any,
    ):
        super().__init__(sources, **options)
        self.reader, self.tokenizer = reader, tokenizer
        self.template: Template = template
        self.transcription_prompt, self.noise_share = transcription_prompt, noise_share
        self.max_tokens, self.errors = max_tokens, errors

    def rows(self, share: int, shares: int) -> Iterator[Conversation | UserError]:
        """The conversations of a share, and those about noise among them."""
        made = 0
        for number, row in enumerate(super().rows(share, shares), start=1):
            yield row
            while made < int(number * self.noise_share):
                yield noise_conversation(share + made * shares, self.transcription_prompt, self.pass_seed)
                made += 1

    def load(self, number: int, row: Conversation | UserError, skipped: Counter[str]) -> LoadedConversation | None:
        try:
            if isinstance(row, UserError):
                raise row
            encoded = encode_conversation(row, self.tokenizer, self.template)
            fitting = fitted(encoded, self.reader.layout, self.max_tokens)
            if fitting is not None:
                return self.reader.read(number, fitting[0])
        except UserError as error:
            self.errors.add(error)
            skipped["that cannot be used"] += 1
            return None
        skipped[f"whose first exchange takes more than data.max_tokens, {self.max_tokens}"] += 1
        return None

    def size(self, item: LoadedConversation) -> float:
        return len(item.laid.tokens)

    def collate(self, items: list[LoadedConversation]) -> ConversationBatch:
        return make_batch(items, self.tokenizer, silence=self.reader.silence)
