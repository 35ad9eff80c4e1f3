"""Conversations by number, a whole batch at a time: media read, everything laid out and padded."""

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from omni.batch import IGNORE, ConversationBatch
from omni.data.conversations.rows import Row, laid_out
from omni.data.conversations.speech import noise
from omni.errors import UserError
from omni.media.attachments import Medium, hash_of
from omni.media.audio import SILENCE, read_audio
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.media.speech_preprocessing import speech_preprocessing
from omni.text.media_positions import MediaLayout, PositionedTokens
from omni.text.tokenizer import PAD, Tokenizer


class Ready(NamedTuple):
    """A row whose media have been read.

    Attributes:
        number: Of the row.
        row: The row.
        laid: With a token for each feature.
        images: (3, size, size) of uint8 each.
        mels: (mel frames, num_mels) each; or waveforms, (frames, 160).
        keys: A name for each of these, which changes when it does.
    """

    number: int
    row: Row
    laid: PositionedTokens
    images: list[Tensor]
    mels: list[Tensor]
    keys: list[str]


@final
class Reader:
    """Reads the media of rows.

    Args:
        layout: How the model takes media in.
        preprocessing: Brings images to one size.
        num_mels: Mel filters; 0 for waveforms.

    Attributes:
        silence: What stands for it among what is heard.
    """

    def __init__(self, layout: MediaLayout, preprocessing: Preprocessing, num_mels: int):
        self.layout, self.preprocessing = layout, preprocessing
        self.hear, self.silence = speech_preprocessing(num_mels)

    def read(self, number: int, row: Row) -> Ready:
        """A row with its media.

        Raises:
            UserError: If a medium cannot be read.
        """
        images, mels, keys = [], [], []
        for medium in row.media:
            if medium.kind == "audio":
                mels.append(self.hear(self._audio(medium)))
                keys.append(hash_of(medium.identity().encode(errors="surrogatepass")))
            else:
                images += [self.preprocessing(read_image(file)) for file in medium.files]
        return Ready(number, row, laid_out(row, self.layout, [len(mel) for mel in mels]), images, mels, keys)

    @staticmethod
    def _audio(medium: Medium) -> Tensor:
        if medium.noise is not None:
            return noise(*medium.noise, medium.duration or 1.0)
        return read_audio(medium.sound)


@final
class ConversationRows(Dataset[ConversationBatch]):
    """The conversations of a split.

    Entries are groups of rows of which an epoch takes one. Numbers beyond the last entry mean the same entries in later
    epochs, in which other rows are drawn.

    Args:
        rows: The conversations.
        entries: Numbers of the rows of each group.
        reader: Reads their media.
        tokenizer: Decodes answers.
        skip: Leave rows out whose media cannot be read, rather than fail.
        seed: Of what is drawn.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        entries: Sequence[np.ndarray],
        *,
        reader: Reader,
        tokenizer: Tokenizer,
        skip: bool = False,
        seed: int = 0,
    ):
        self.rows, self.entries, self.reader, self.tokenizer = rows, entries, reader, tokenizer
        self.skip, self.seed = skip, seed

    def __len__(self) -> int:
        return len(self.entries)

    def __getitems__(self, numbers: list[int]) -> ConversationBatch:
        ready = []
        for number in numbers:
            row = self._drawn(number)
            try:
                ready.append(self.reader.read(row, self.rows[row]))
            except UserError as error:
                if not self.skip:
                    raise UserError(f"{self.rows[row].where}: {error}") from error
                rank_zero_warn(f"left out: {self.rows[row].where}: {error}")
        if not ready:
            raise UserError("no row of a batch can be read: look at the data with `omni data check`")
        return make_batch(ready, self.tokenizer, silence=self.reader.silence)

    def _drawn(self, number: int) -> int:
        epoch, entry = divmod(number, len(self.entries))
        group = self.entries[entry]
        if len(group) == 1:
            return int(group[0])
        return int(np.random.default_rng([self.seed, epoch, entry]).choice(group))


def make_batch(ready: Sequence[Ready], tokenizer: Tokenizer, *, silence: float = SILENCE) -> ConversationBatch:
    """Puts conversations together; `silence` stands behind each recording's end."""
    laid = [one.laid for one in ready]
    images = [image for one in ready for image in one.images]
    mels = [mel for one in ready for mel in one.mels]
    positions = pad_sequence([one.positions.T for one in laid], batch_first=True)
    answers, prompts = [], []
    for one in ready:
        begin, end = one.row.answer
        answers.append(tokenizer.decode(one.row.chat.tokens[begin:end]))
        behind = len(one.row.chat.tokens) - begin  # answers are text: as long in both
        prompts.append(len(one.laid.tokens) - behind)
    return ConversationBatch(
        tokens=pad_sequence([one.tokens for one in laid], batch_first=True, padding_value=PAD),
        targets=pad_sequence([targets_of(one) for one in laid], batch_first=True, padding_value=IGNORE),
        positions=positions.permute(2, 0, 1).contiguous(),
        rows=torch.tensor([one.number for one in ready]),
        num_tokens=sum(len(one.tokens) for one in laid),
        images=to_pixels(torch.stack(images)) if images else None,
        image_rows=tuple(index for index, one in enumerate(ready) for _ in one.images),
        mels=pad_sequence(mels, batch_first=True, padding_value=silence) if mels else None,
        mel_lengths=torch.tensor([len(mel) for mel in mels]) if mels else None,
        audio_rows=tuple(index for index, one in enumerate(ready) for _ in one.mels),
        audio_keys=tuple(key for one in ready for key in one.keys),
        prompts=tuple(prompts),
        answers=tuple(answers),
        tasks=tuple(one.row.task for one in ready),
    )


def targets_of(laid: PositionedTokens) -> Tensor:
    """The token that follows each position, where it is the assistant's: (time,), else `IGNORE`."""
    following = torch.full_like(laid.tokens, IGNORE)
    following[:-1] = torch.where(laid.scored[1:], laid.tokens[1:], IGNORE)
    return following
