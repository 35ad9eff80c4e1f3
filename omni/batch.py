"""What data modules hand to stages. Both sides import this file and never each other."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TRANSCRIPTION = "transcription"  # the task of writing down what is said, which is scored by its word errors
SILENCE_TASK = "silence"  # of writing nothing, where nothing is said
EXCLUDED_FROM_ACCURACY = (
    TRANSCRIPTION,
    "composition",
)  # tasks that the accuracy over all leaves out: they have a figure of their own

IGNORE = -100  # a target that is not scored; the value that PyTorch's cross-entropy ignores by default


class TextBatch(NamedTuple):
    """Packed rows of text for next-token prediction.

    Attributes:
        tokens: (batch, time), int64. What the model reads.
        targets: (batch, time), int64. The token that follows each position, or `IGNORE`.
        rows: (batch,), int64. Numbers of the rows in their data set, so that a bad batch can be named.
    """

    tokens: Tensor
    targets: Tensor
    rows: Tensor

    @property
    def work(self) -> tuple[float, str]:
        """What the batch holds to be learned from: an amount and its unit."""
        return self.tokens.numel(), "tokens"


class SpeechBatch(NamedTuple):
    """Spoken utterances and what is said in them.

    Attributes:
        mels: (batch, mel frames, num_mels), float32, from `omni.media.audio.LogMel`; silence behind each row's end.
        mel_lengths: (batch,), int64: mel frames of each row.
        targets: (batch, units), int64: the units of the text, `omni.text.ctc_vocabulary.BLANK` behind each row's end.
        target_lengths: (batch,), int64: units of each row.
        rows: (batch,), int64. Numbers of the rows in their data set.
        seconds: Of audio in the batch, padding left out.
        audio: (batch, mel frames × 160), float32, 16 kHz: the sound that `mels` are of, zeros behind each row's end;
            None where it was not asked for.
    """

    mels: Tensor
    mel_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    rows: Tensor
    seconds: float
    audio: Tensor | None = None

    @property
    def work(self) -> tuple[float, str]:
        """What the batch holds to be learned from: an amount and its unit."""
        return self.seconds, "audio_seconds"


class Attribute(NamedTuple):
    """Something that images are classified by.

    Attributes:
        name: What it is, such as `label` or `colour`.
        values: Names of the classes.
        several: Whether an image may have several of the values, or none, instead of exactly one.
    """

    name: str
    values: tuple[str, ...]
    several: bool = False


class ImageBatch(NamedTuple):
    """Images, and what is known of them.

    Attributes:
        images: (batch, 3, height, width), fp32, pixels from 0 to 1.
        labels: (batch, classes), fp32: the share of each value, those of all attributes side by side; -1 throughout an
            attribute that is not known. (batch, 0) without attributes.
        rows: (batch,), int64. Numbers of the images in their data set.
        captions: (batch, captions, time), int64: tokens, `PAD` behind their end. None without captions.
        caption_ids: (batch, captions), int64: equal for equal texts, -1 where an image has fewer captions.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    captions: Tensor | None = None
    caption_ids: Tensor | None = None

    @property
    def work(self) -> tuple[float, str]:
        """What the batch holds to be learned from: an amount and its unit."""
        return len(self.images), "images"


class CodesBatch(NamedTuple):
    """Texts and the codec frames in which they are spoken.

    Attributes:
        text: (batch, characters), int64: units of what is said, `omni.text.ctc_vocabulary.BLANK` behind each row's end.
        text_lengths: (batch,), int64: characters of each row.
        codes: (batch, frames, codebooks), int64; `IGNORE` behind each row's end.
        advances: (batch, frames), int64: by how many characters the place in the text moves on behind each frame: from
            a start symbol before the text, over it and an end symbol, to behind that. `IGNORE` behind each row's end.
        speakers: (batch,), int64: the number of each row's voice.
        rows: (batch,), int64. Numbers of the rows in their data set.
        seconds: Of speech in the batch, padding left out.
        hidden: (batch, characters, thinker_dim), a Thinker's, where it has been read by one already.
        spelled: The units of each row, (characters,), on the host: what a Thinker is to read.
    """

    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    advances: Tensor
    speakers: Tensor
    rows: Tensor
    seconds: float
    hidden: Tensor | None = None
    spelled: tuple[NDArray[np.int64], ...] = ()

    @property
    def work(self) -> tuple[float, str]:
        """What the batch holds to be learned from: an amount and its unit."""
        return self.seconds, "audio_seconds"


class HeldOut(NamedTuple):
    """A held-out sentence with its recording, to compare what is spoken with.

    Attributes:
        text: What is said, normalised.
        units: (characters,), int64: the same in units.
        speaker: The number of its voice.
        mel: (mel frames, num_mels): the recording.
        codes: (frames, codebooks), int64: the codec's copy of it.
    """

    text: str
    units: Tensor
    speaker: int
    mel: Tensor
    codes: Tensor


class ConversationBatch(NamedTuple):
    """Conversations with the images and the audio in them.

    Attributes:
        tokens: (batch, time), int64: with a placeholder for each feature of a medium; `PAD` behind each row's end.
        targets: (batch, time), int64: the token that follows each position where it is the assistant's, else `IGNORE`.
        positions: (3, batch, time), fp32: in time, height and width (see `omni.text.media_positions`).
        rows: (batch,), int64. Numbers of the rows in their data set.
        num_tokens: Of all rows, padding left out.
        images: (images, 3, height, width), fp32, pixels from 0 to 1, in the order of their placeholders; video frames
            among them. None where no row has any.
        image_rows: The row of the batch that each image is in.
        mels: (audios, mel frames, num_mels), fp32, in the order of their placeholders; or waveforms, (audios, frames,
            160), 10 ms of samples in each frame, for encoders with a front end of their own. None where no row has any.
        mel_lengths: (audios,), int64: mel frames of each. None with `mels`.
        audio_rows: The row of the batch that each audio is in.
        audio_keys: A name for each audio that changes when it does.
        prompts: Tokens of each row before its last answer.
        answers: The text of each row's last answer.
        tasks: The task of each row.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    rows: Tensor
    num_tokens: int
    images: Tensor | None = None
    image_rows: tuple[int, ...] = ()
    mels: Tensor | None = None
    mel_lengths: Tensor | None = None
    audio_rows: tuple[int, ...] = ()
    audio_keys: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def work(self) -> tuple[float, str]:
        """What the batch holds to be learned from: an amount and its unit."""
        return self.num_tokens, "tokens"
