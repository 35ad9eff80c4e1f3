"""Speech as conversations: a recording is given, and what is said in it is the answer; or noise, and nothing is."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from omni.batch import SILENCE_TASK, TRANSCRIPTION
from omni.data.conversations.sources import MESSAGES, Conversation, Conversations
from omni.data.speech.manifests import AUDIO_KEYS, Utterance, Utterances
from omni.errors import UserError
from omni.media.attachments import Medium
from omni.media.audio import SAMPLE_RATE
from omni.media.container import AudioSource
from omni.text.normalization import TextNormalization

_NOISE_SECONDS = (0.5, 6.0)
_NOISE_DECIBELS = (-80.0, -20.0)  # of full scale
_DIGITAL_SILENCE = 0.2  # share of noises in which there is nothing at all


@dataclass(frozen=True, kw_only=True)
class TranscriptionPrompt:
    """How speech is turned into conversations.

    Args:
        instructions: What stands behind a recording; a row has one of them, by its number. None: nothing does.
        labels: How what is said is written; None leaves it as its source has it.
        text_column: Where it stands in manifests and on the Hub.
    """

    instructions: Sequence[str] = ()
    labels: TextNormalization | None = None
    text_column: str = "text"

    def state(self) -> dict[str, Any]:
        """Plain data; `from_state` gives back how speech is asked for and written."""
        labels = None if self.labels is None else self.labels.state()
        return {"instructions": list(self.instructions), "labels": labels}

    @staticmethod
    def from_state(state: Mapping[str, Any], **options: Any) -> "TranscriptionPrompt":
        """What `state` came from; with a `text_column` of its own, if one is given."""
        labels = state["labels"]
        labels = None if labels is None else TextNormalization(**labels)
        return TranscriptionPrompt(instructions=tuple(state["instructions"]), labels=labels, **options)

    def messages(self, number: int, text: str) -> list[Any]:
        """The conversation about the recording of that number, in which `text` is said."""
        asked = (
            [{"type": "text", "text": self.instructions[number % len(self.instructions)]}] if self.instructions else []
        )
        return [
            {"role": "user", "content": [{"type": "audio"}, *asked]},
            {"role": "assistant", "content": text},
        ]


@final
class TranscribedSpeech(Conversations):
    """Utterances, each as a conversation that asks for what is said.

    Args:
        utterances: The speech.
        dictation: How it is asked for and written.
    """

    def __init__(self, utterances: Utterances, dictation: TranscriptionPrompt):
        self.utterances, self.dictation, self.name = utterances, dictation, utterances.name

    def examine(self) -> Iterator[Conversation | UserError]:
        for number, found in enumerate(self.utterances.examine()):
            if isinstance(found, UserError):
                yield found
                continue
            name = self.utterances.identity(found) if found.audio.startswith("hub:") else found.audio
            yield self._conversation(number, found, name, partial(self.utterances.audio, number, found))

    def stream(self, share: int, shares: int, seed: int) -> Iterator[Conversation | UserError]:
        for number, (found, audio) in enumerate(self.utterances.stream(share, shares, seed)):
            yield self._conversation(share + number * shares, found, found.audio, partial(_given, audio))

    def _conversation(
        self, number: int, found: Utterance, name: str, opened: Callable[[], AudioSource]
    ) -> Conversation | UserError:
        labels = self.dictation.labels
        try:
            text = " ".join(found.text.split()) if labels is None else labels(found.text)
        except UserError as error:
            return UserError(f"{found.where}: {error}")
        if not text:
            return UserError(f"{found.where}: has no text: nothing is said, or nothing of it is left by data.labels")
        medium = Medium("audio", (name,), duration=found.duration, source=opened)
        return Conversation(self.dictation.messages(number, text), (medium,), TRANSCRIPTION, found.where)


def _given(audio: AudioSource) -> AudioSource:
    return audio


def is_speech(entry: str) -> bool:
    """Whether a path names speech with transcripts, a manifest or a folder, rather than conversations.

    A `.jsonl` file is what its first row is: conversations have `messages`.
    """
    path = Path(entry).expanduser()
    if path.is_dir() or path.suffix == ".csv":
        return True
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        row = json.loads(first.decode("utf-8-sig"))
    except ValueError:  # told by whoever reads it, with its row
        return False
    return isinstance(row, dict) and MESSAGES not in row and any(key in row for key in AUDIO_KEYS)


def one_noise(index: int, dictation: TranscriptionPrompt, seed: int) -> Conversation:
    """A conversation about noise, from silence to loud, in which nothing is said and nothing is answered."""
    seconds = float(np.random.default_rng([seed, index]).uniform(*_NOISE_SECONDS))
    medium = Medium("audio", (f"noise {seed} {index}",), duration=seconds, noise=(seed, index))
    return Conversation(dictation.messages(index, ""), (medium,), SILENCE_TASK, f"noise {index}")


def noise(seed: int, index: int, seconds: float) -> Tensor:
    """Gaussian noise of a random loudness and spectral slope; sometimes nothing at all.

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
