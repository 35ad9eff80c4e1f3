"""Batches of conversations: media read, tokens and positions laid out, padded."""

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import IGNORE, ConversationBatch
from omni.data.conversations.rows import ConversationRow, laid_out
from omni.data.loading.bad_rows import BatchReader, RowErrors
from omni.errors import UserError
from omni.media.attachments import Medium, hash_of
from omni.media.audio import read_audio
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.media.mel_scale import SILENCE
from omni.media.speech_preprocessing import speech_preprocessing
from omni.text.media_positions import MediaLayout, PositionedTokens
from omni.text.tokenizer import PAD, Tokenizer


class LoadedConversation(NamedTuple):
    """A row with its media.

    Attributes:
        number: Of the row.
        row: The row.
        laid: Its tokens and positions, with a token for each feature of the media.
        images: (3, size, size) of uint8 each.
        mels: (mel frames, num_mels) each; or waveforms, (frames, 160).
        keys: A hash of the source of each of these.
    """

    number: int
    row: ConversationRow
    laid: PositionedTokens
    images: list[Tensor]
    mels: list[Tensor]
    keys: list[str]


@final
class MediaReader:
    """Reads the media of rows.

    Args:
        layout: Number of tokens of each medium.
        preprocessing: Of images.
        num_mels: Mel filters; 0 for waveforms.

    Attributes:
        silence: Value of silence in spectrograms or waveforms.
    """

    def __init__(self, layout: MediaLayout, preprocessing: Preprocessing, num_mels: int):
        self.layout, self.preprocessing = layout, preprocessing
        self.extract_features, self.silence = speech_preprocessing(num_mels)

    def read(self, number: int, row: ConversationRow) -> LoadedConversation:
        """A row with its media.

        Raises:
            UserError: If a medium cannot be read; the message names the row.
        """
        try:
            return self._read(number, row)
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from error

    def _read(self, number: int, row: ConversationRow) -> LoadedConversation:
        images, mels, keys = [], [], []
        for medium in row.media:
            if medium.kind == "audio":
                mels.append(self.extract_features(samples_of(medium)))
                keys.append(hash_of(medium.identity().encode(errors="surrogatepass")))
            else:
                files = medium.files if medium.source is None else (medium.sound,)
                images += [self.preprocessing(read_image(file)) for file in files]
        laid = laid_out(row, self.layout, [len(mel) for mel in mels])
        return LoadedConversation(number, row, laid, images, mels, keys)


def samples_of(medium: Medium) -> Tensor:
    """The samples of an audio medium: (samples,), 16 kHz.

    Raises:
        UserError: If they cannot be read.
    """
    sound = medium.sound
    return sound if isinstance(sound, Tensor) else read_audio(sound)


@final
class ConversationDataset(Dataset[ConversationBatch]):
    """The conversations of a split, a whole batch at a time.

    An item is a group of rows, of which an epoch reads one. Numbers beyond the last group are the same groups in later
    epochs, which draw other rows.

    Args:
        rows: The conversations.
        groups: Numbers of the rows of each group.
        lengths: (groups,) largest number of tokens of a row of each.
        reader: Reads their media.
        tokenizer: Decodes answers.
        errors: Of rows that cannot be used.
        seed: Of the draws.
    """

    def __init__(
        self,
        rows: Sequence[ConversationRow],
        groups: Sequence[np.ndarray],
        lengths: np.ndarray,
        *,
        reader: MediaReader,
        tokenizer: Tokenizer,
        errors: RowErrors,
        seed: int = 0,
    ):
        self.rows, self.groups, self.lengths = rows, groups, lengths
        self.reader, self.tokenizer = reader, tokenizer
        self.seed = seed
        self._batch_reader = BatchReader(errors, len(groups), num_rows=len(rows), row_of=self._drawn)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitems__(self, numbers: list[int]) -> ConversationBatch:
        loaded = self._batch_reader.read(numbers, self._read)
        return make_batch(loaded, self.tokenizer, silence=self.reader.silence)

    def _read(self, number: int) -> LoadedConversation:
        row = self._drawn(number)
        return self.reader.read(row, self.rows[row])

    def _drawn(self, number: int) -> int:
        epoch, index = divmod(number, len(self.groups))
        group = self.groups[index]
        if len(group) == 1:
            return int(group[0])
        return int(np.random.default_rng([self.seed, epoch, index]).choice(group))


def make_batch(
    rows: Sequence[LoadedConversation], tokenizer: Tokenizer, *, silence: float = SILENCE
) -> ConversationBatch:
    """Pads conversations, and their recordings with `silence`."""
    laid = [one.laid for one in rows]
    images = [image for one in rows for image in one.images]
    mels = [mel for one in rows for mel in one.mels]
    positions = pad_sequence([one.positions.T for one in laid], batch_first=True)
    targets = pad_sequence([targets_of(one) for one in laid], batch_first=True, padding_value=IGNORE)
    answers, prompts = [], []
    for one in rows:
        start, end = one.row.answer
        answers.append(tokenizer.decode(one.row.chat.tokens[start:end]))
        remaining = len(one.row.chat.tokens) - start  # without media, so the same number in both
        prompts.append(len(one.laid.tokens) - remaining)
    return ConversationBatch(
        tokens=pad_sequence([one.tokens for one in laid], batch_first=True, padding_value=PAD),
        targets=targets,
        positions=positions.permute(2, 0, 1).contiguous(),
        rows=torch.tensor([one.number for one in rows]),
        num_tokens=sum(len(one.tokens) for one in laid),
        scored=(targets.flatten() != IGNORE).nonzero()[:, 0],
        images=to_pixels(torch.stack(images)) if images else None,
        image_rows=tuple(index for index, one in enumerate(rows) for _ in one.images),
        mels=pad_sequence(mels, batch_first=True, padding_value=silence) if mels else None,
        mel_lengths=torch.tensor([len(mel) for mel in mels]) if mels else None,
        audio_rows=tuple(index for index, one in enumerate(rows) for _ in one.mels),
        audio_keys=tuple(key for one in rows for key in one.keys),
        prompts=tuple(prompts),
        answers=tuple(answers),
        tasks=tuple(one.row.task for one in rows),
    )


def targets_of(laid: PositionedTokens) -> Tensor:
    """(time,) the token that follows each position if it is the assistant's, else `IGNORE`."""
    following = torch.full_like(laid.tokens, IGNORE)
    following[:-1] = torch.where(laid.scored[1:], laid.tokens[1:], IGNORE)
    return following
