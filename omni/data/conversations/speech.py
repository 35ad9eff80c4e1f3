"""Speech as conversations whose answers are transcripts, and noise as conversations whose answers are empty."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from omni.batch import SILENCE_TASK, TRANSCRIPTION
from omni.data.conversations.shapes import holds_conversations
from omni.data.conversations.sources import Conversation, Conversations
from omni.data.loading.jsonl import jsonl_rows
from omni.data.speech.manifests import AUDIO_KEYS, Utterance, Utterances
from omni.errors import UserError
from omni.media.attachments import Medium
from omni.media.audio import SAMPLE_RATE
from omni.media.container import AudioSource
from omni.text.normalization import TextNormalization

_NOISE_SECONDS = (0.5, 6.0)
_NOISE_DECIBELS = (-80.0, -20.0)  # of full scale
_DIGITAL_SILENCE = 0.2  # share of noises that are all zeros


@dataclass(frozen=True, kw_only=True)
class TranscriptionPrompt:
    """Turns speech into conversations.

    Args:
        instructions: Texts after a recording, of which a row has one by its number; empty for none.
        labels: Normalisation of the transcripts; None leaves them as they are.
        text_column: Column of the transcripts in manifests and on the Hub.
    """

    instructions: Sequence[str] = ()
    labels: TextNormalization | None = None
    text_column: str = "text"

    def state(self) -> dict[str, Any]:
        """Plain data, from which `from_state` makes the same prompt."""
        labels = None if self.labels is None else self.labels.state()
        return {"instructions": list(self.instructions), "labels": labels}

    @staticmethod
    def from_state(state: Mapping[str, Any], **options: Any) -> "TranscriptionPrompt":
        """The prompt with this `state`, and with the `text_column` among the options, if it is given."""
        labels = state["labels"]
        labels = None if labels is None else TextNormalization(**labels)
        return TranscriptionPrompt(instructions=tuple(state["instructions"]), labels=labels, **options)

    def messages(self, number: int, text: str) -> list[Any]:
        """The conversation about recording `number`, whose transcript is `text`."""
        asked = (
            [{"type": "text", "text": self.instructions[number % len(self.instructions)]}] if self.instructions else []
        )
        return [
            {"role": "user", "content": [{"type": "audio"}, *asked]},
            {"role": "assistant", "content": text},
        ]


@final
class TranscribedSpeech(Conversations):
    """Utterances, each as a conversation that asks for its transcript.

    Args:
        utterances: The speech.
        prompt: Makes the conversations.
    """

    def __init__(self, utterances: Utterances, prompt: TranscriptionPrompt):
        self.utterances, self.prompt, self.name = utterances, prompt, utterances.name

    def rows_or_errors(self) -> Iterator[Conversation | UserError]:
        for number, found in enumerate(self.utterances.rows_or_errors()):
            if isinstance(found, UserError):
                yield found
            elif found.start is not None or not self.utterances.whole_files:
                name = self.utterances.audio_version(found)
                yield self._conversation(number, found, name, partial(self.utterances.audio, number, found))
            else:
                yield self._conversation(number, found, found.audio)

    def stream(self, share: int, shares: int, seed: int) -> Iterator[Conversation | UserError]:
        for number, row in enumerate(self.utterances.stream(share, shares, seed)):
            if isinstance(row, UserError):
                yield row
            else:
                found, audio = row
                yield self._conversation(share + number * shares, found, found.audio, partial(_opened, audio))

    def _conversation(
        self, number: int, found: Utterance, name: str, source: Callable[[], AudioSource] | None = None
    ) -> Conversation | UserError:
        labels = self.prompt.labels
        try:
            text = " ".join(found.text.split()) if labels is None else labels(found.text)
        except UserError as error:
            return UserError(f"{found.where}: {error}")
        if not text:
            return UserError(f"{found.where}: has no text, or data.labels leaves nothing of it")
        medium = Medium("audio", (name,), duration=found.duration, source=source)
        return Conversation(self.prompt.messages(number, text), (medium,), TRANSCRIPTION, found.where)


def _opened(audio: AudioSource) -> AudioSource:
    return audio


def is_speech(entry: str) -> bool:
    """Whether a path names a manifest or a folder of speech instead of conversations.

    For a `.jsonl` file the first row decides: conversations have `messages` or `conversations`.
    """
    path = Path(entry).expanduser()
    if path.is_dir() or path.suffix in (".csv", ".tsv", ".tar"):
        return True
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    _, row = next(jsonl_rows(path), ("", {}))
    if not isinstance(row, dict) or holds_conversations(row):
        return False
    return not row.keys().isdisjoint(AUDIO_KEYS)


def noise_conversation(index: int, prompt: TranscriptionPrompt, seed: int) -> Conversation:
    """A conversation about generated noise, with an empty answer."""
    seconds = float(np.random.default_rng([seed, index]).uniform(*_NOISE_SECONDS))
    source = partial(generate_noise, seed, index, seconds)
    medium = Medium("audio", (f"noise {seed} {index}",), duration=seconds, source=source)
    return Conversation(prompt.messages(index, ""), (medium,), SILENCE_TASK, f"noise {index}")


def generate_noise(seed: int, index: int, seconds: float) -> Tensor:
    """Gaussian noise of random level and spectral slope; sometimes all zeros.

    Returns:
        (samples,), float32, 16 kHz.
    """
    rng = np.random.default_rng([seed, index, 1])
    samples = max(1, round(seconds * SAMPLE_RATE))
    if rng.random() < _DIGITAL_SILENCE:
        return torch.zeros(samples)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    slope = np.arange(len(spectrum)).clip(1) ** rng.uniform(-1, 0.5)
    sound = np.fft.irfft(spectrum * slope, samples)
    level = 10 ** (rng.uniform(*_NOISE_DECIBELS) / 20)
    return torch.from_numpy(sound * (level / max(1e-12, np.sqrt(np.mean(sound**2))))).float().clamp(-1, 1)
