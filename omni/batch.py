"""What data modules hand to stages. Both sides import this file and never each other."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TRANSCRIPTION = "transcription"  # the task of transcribing speech, scored by word errors
SILENCE_TASK = "silence"  # the task of answering nothing to audio without speech
EXCLUDED_FROM_ACCURACY = (TRANSCRIPTION, "composition")  # tasks with metrics of their own

IGNORE = -100  # a target that is not scored; the default `ignore_index` of PyTorch's cross-entropy


class TextBatch(NamedTuple):
    """Packed rows of text for next-token prediction.

    Attributes:
        tokens: (batch, time), int64. Input of the model.
        targets: (batch, time), int64. The token that follows each position, or `IGNORE`.
        rows: (batch,), int64. Row indices in the data set, so that a bad batch can be named.
    """

    tokens: Tensor
    targets: Tensor
    rows: Tensor

    @property
    def work(self) -> tuple[float, str]:
        """Amount of training data in the batch, and its unit."""
        return self.tokens.numel(), "tokens"


class SpeechBatch(NamedTuple):
    """Utterances and their transcripts.

    Attributes:
        mels: (batch, mel frames, num_mels), float32, from `omni.media.audio.LogMel`; silence after each row's end.
        mel_lengths: (batch,), int64: mel frames of each row.
        targets: (batch, units), int64: the units of the text, `omni.text.ctc_vocabulary.BLANK` after each row's end.
        target_lengths: (batch,), int64: units of each row.
        rows: (batch,), int64. Row indices in the data set.
        seconds: Seconds of audio in the batch, padding left out.
        audio: (batch, samples), float32, 10 ms for each mel frame: the waveforms of `mels` at 16 kHz, or at the rate of
            a vocoder; zeros after each row's end; None if not requested.
        other_mels: `mels` with other masks of SpecAugment, the same shape; None if not requested.
    """

    mels: Tensor
    mel_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    rows: Tensor
    seconds: float
    audio: Tensor | None = None
    other_mels: Tensor | None = None

    @property
    def work(self) -> tuple[float, str]:
        """Amount of training data in the batch, and its unit; utterances that are masked twice count twice."""
        return self.seconds * (1 if self.other_mels is None else 2), "audio_seconds"

    def both_views(self) -> "SpeechBatch":
        """The utterances with `mels`, followed by the same ones with `other_mels`; without these, the batch."""
        if self.other_mels is None:
            return self
        names = ("mel_lengths", "targets", "target_lengths", "rows")
        twice = {name: torch.cat((part := getattr(self, name), part)) for name in names}
        audio = None if self.audio is None else torch.cat((self.audio, self.audio))
        mels = torch.cat((self.mels, self.other_mels))
        return self._replace(mels=mels, seconds=2 * self.seconds, audio=audio, other_mels=None, **twice)


class Attribute(NamedTuple):
    """An attribute that images are classified by.

    Attributes:
        name: Name of the attribute, such as `label` or `colour`.
        values: Names of the classes.
        several: Whether an image may have any number of the values (multi-label) instead of exactly one.
    """

    name: str
    values: tuple[str, ...]
    several: bool = False


class ImageBatch(NamedTuple):
    """Images with their labels and captions.

    Attributes:
        images: (batch, 3, height, width), fp32, pixels from 0 to 1.
        labels: (batch, classes), fp32: the share of each value, with all attributes concatenated; -1 for all values of
            an unknown attribute. (batch, 0) without attributes.
        rows: (batch,), int64. Row indices in the data set.
        captions: (batch, captions, time), int64: tokens, `PAD` after their end. None without captions.
        caption_ids: (batch, captions), int64: equal for equal texts, -1 for missing captions.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    captions: Tensor | None = None
    caption_ids: Tensor | None = None

    @property
    def work(self) -> tuple[float, str]:
        """Amount of training data in the batch, and its unit."""
        return len(self.images), "images"


class CodesBatch(NamedTuple):
    """Texts and the codec frames of their speech.

    Attributes:
        text: (batch, characters), int64: units of the text, `omni.text.ctc_vocabulary.BLANK` after each row's end.
        text_lengths: (batch,), int64: characters of each row.
        codes: (batch, frames, codebooks), int64; `IGNORE` after each row's end.
        advances: (batch, frames), int64: number of characters by which the position in the text advances after each
            frame, from a start symbol before the text to after an end symbol. `IGNORE` after each row's end.
        speakers: (batch,), int64: index of each row's voice.
        rows: (batch,), int64. Row indices in the data set.
        seconds: Seconds of speech in the batch, padding left out.
        hidden: (batch, characters, thinker_dim): hidden states of a Thinker, if computed already.
        spelled: Units of each row, (characters,), on the host: the text for a Thinker.
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
        """Amount of training data in the batch, and its unit."""
        return self.seconds, "audio_seconds"


class HeldOut(NamedTuple):
    """A held-out sentence with its recording, to compare synthesised speech with.

    Attributes:
        text: Normalised text.
        units: (characters,), int64: the text in units.
        speaker: Index of the voice.
        mel: (mel frames, num_mels): the recording.
        codes: (frames, codebooks), int64: the recording, encoded by the codec.
    """

    text: str
    units: Tensor
    speaker: int
    mel: Tensor
    codes: Tensor


class ConversationBatch(NamedTuple):
    """Conversations with the images and the audio in them.

    Attributes:
        tokens: (batch, time), int64: with a placeholder for each feature of a medium; `PAD` after each row's end.
        targets: (batch, time), int64: the token that follows each position if it is the assistant's, else `IGNORE`.
        positions: (3, batch, time), fp32: in time, height and width (see `omni.text.media_positions`).
        rows: (batch,), int64. Row indices in the data set.
        num_tokens: Number of tokens of all rows, padding left out.
        scored: (targets,), int64: where the flattened `targets` are not `IGNORE`. Only there are logits computed; None
            for all positions.
        images: (images, 3, height, width), fp32, pixels from 0 to 1, in the order of their placeholders, with video
            frames. None without any.
        image_rows: Row of the batch of each image.
        mels: (audios, mel frames, num_mels), fp32, in the order of their placeholders; or waveforms, (audios, frames,
            160), 10 ms of samples in each frame, for encoders with a front end of their own. None without any.
        mel_lengths: (audios,), int64: mel frames of each. None with `mels`.
        audio_rows: Row of the batch of each audio.
        audio_keys: A key for each audio that identifies its content.
        prompts: Number of tokens of each row before its last answer.
        answers: The text of each row's last answer.
        tasks: The task of each row.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    rows: Tensor
    num_tokens: int
    scored: Tensor | None = None
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
        """Amount of training data in the batch, and its unit."""
        return self.num_tokens, "tokens"
