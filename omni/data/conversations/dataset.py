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
from omni.errors import UserError
from omni.layout import LaidOut, MediaLayout
from omni.media.audio import SILENCE, LogMel, read_audio
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.tokenizer import PAD, Tokenizer


class Ready(NamedTuple):
    """A row whose media have been read.

    Attributes:
        number: Of the row.
        row: The row.
        laid: With a token for each feature.
        images: (3, size, size) of uint8 each.
        mels: (mel frames, num_mels) each.
    """

    number: int
    row: Row
    laid: LaidOut
    images: list[Tensor]
    mels: list[Tensor]


@final
class ConversationRows(Dataset[ConversationBatch]):
    """The conversations of a split.

    Entries are groups of rows of which an epoch takes one. Numbers beyond the last entry mean the same entries in later
    epochs, in which other rows are drawn.

    Args:
        rows: The conversations.
        entries: Numbers of the rows of each group.
        layout: How the model takes media in.
        tokenizer: Decodes answers.
        preprocessing: Brings images to one size.
        num_mels: Mel filters.
        skip: Leave rows out whose media cannot be read, rather than fail.
        seed: Of what is drawn.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        entries: Sequence[np.ndarray],
        *,
        layout: MediaLayout,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        num_mels: int,
        skip: bool = False,
        seed: int = 0,
    ):
        self.rows, self.entries, self.layout, self.tokenizer = rows, entries, layout, tokenizer
        self.preprocessing, self.log_mel = preprocessing, LogMel(num_mels)
        self.skip, self.seed = skip, seed

    def __len__(self) -> int:
        return len(self.entries)

    def __getitems__(self, numbers: list[int]) -> ConversationBatch:
        ready = []
        for number in numbers:
            row = self._drawn(number)
            try:
                ready.append(self.read(row))
            except UserError as error:
                if not self.skip:
                    raise UserError(f"{self.rows[row].where}: {error}") from error
                rank_zero_warn(f"left out: {self.rows[row].where}: {error}")
        if not ready:
            raise UserError("no row of a batch can be read: look at the data with `omni data check`")
        return make_batch(ready, self.tokenizer)

    def _drawn(self, number: int) -> int:
        epoch, entry = divmod(number, len(self.entries))
        group = self.entries[entry]
        if len(group) == 1:
            return int(group[0])
        return int(np.random.default_rng([self.seed, epoch, entry]).choice(group))

    def read(self, number: int) -> Ready:
        """A row with its media.

        Raises:
            UserError: If a medium cannot be read.
        """
        row = self.rows[number]
        images, mels = [], []
        for medium in row.media:
            if medium.kind == "audio":
                mels.append(self.log_mel(read_audio(medium.files[0])))
            else:
                images += [self.preprocessing(read_image(file)) for file in medium.files]
        return Ready(number, row, laid_out(row, self.layout, [len(mel) for mel in mels]), images, mels)


def make_batch(ready: Sequence[Ready], tokenizer: Tokenizer) -> ConversationBatch:
    """Puts conversations together."""
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
        mels=pad_sequence(mels, batch_first=True, padding_value=SILENCE) if mels else None,
        mel_lengths=torch.tensor([len(mel) for mel in mels]) if mels else None,
        audio_rows=tuple(index for index, one in enumerate(ready) for _ in one.mels),
        prompts=tuple(prompts),
        answers=tuple(answers),
        tasks=tuple(one.row.task for one in ready),
    )


def targets_of(laid: LaidOut) -> Tensor:
    """The token that follows each position, where it is the assistant's: (time,), else `IGNORE`."""
    following = torch.full_like(laid.tokens, IGNORE)
    following[:-1] = torch.where(laid.scored[1:], laid.tokens[1:], IGNORE)
    return following
