"""Speech: the sentences of the world that are spoken, their speakers, and their sound."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from omni.synthetic import espeak
from omni.synthetic.captions import caption, dense_caption
from omni.synthetic.documents import REQUESTS, sentences
from omni.synthetic.knowledge import sample_question
from omni.synthetic.questions import questions
from omni.synthetic.reasoning import REASONING
from omni.synthetic.scene import Scene, pick, row_id, sample_scene
from omni.synthetic.statements import STATEMENTS
from omni.synthetic.stories import change, consequence

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

SAMPLE_RATE = 16_000

# A speaker is an accent of eSpeak NG and a variant of its voice, without variants that whisper, echo or clip, that a
# recogniser of single words takes for noise, and near copies of others.
_ACCENTS = (
    *("en-us", "en-us-nyc", "en-029"),  # General American, New York City, Caribbean
    *("en", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-scotland"),  # Great Britain, Received
    # Pronunciation, Lancaster, West Midlands, Scotland; the engine does not find the first as en-gb
)
TRAIN_VARIANTS = (
    *("f1", "f2", "f4", "f5", "anika", "steph"),
    *("m1", "m2", "m3", "m5", "m6", "m8", "adam", "Andy", "boris", "Mario", "max", "quincy", "victor"),
)
SPEAKERS = {
    "train": (*_ACCENTS, *(f"{accent}+{variant}" for accent in _ACCENTS for variant in TRAIN_VARIANTS)),
    # Variants that do not occur in training.
    "val": ("en-us+f3", "en-us+m4", "en+Annie", "en+rob", "en-gb-scotland+belinda", "en-gb-x-rp+m7"),
    # The voice that a Talker learns. Recognisers that evaluate it know neither the voice nor the sentences.
    "narrator": ("en-us+paul",),
    "narrator_val": ("en-us+paul",),
}
RATES = range(110, 171)  # words per minute: about 15 characters per second, as people speak
PITCHES = range(25, 76)
NARRATION = (140, 50)  # rate and pitch of the narrator
WORDS = range(3, 15)  # in a sentence: most take 1 to 4 seconds
# Words of few sentences, which training may lack: validation does not use them.
RARE = frozenset(("an", "difference", "none", "they"))


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence and its voice.

    Attributes:
        id: The id of its row, such as `world-train-000000`.
        text: The sentence, with capitals and punctuation.
        speaker: A voice of eSpeak NG: in English one of `SPEAKERS`.
        rate: Words per minute.
        pitch: 0 to 99; 50 is the speaker's own.
        spoken: What eSpeak NG reads; None: the text.
    """

    id: str
    text: str
    speaker: str
    rate: int
    pitch: int
    spoken: str | None = None


def normalised(text: str) -> str:
    """The words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def sentence_split(text: str) -> str:
    """`train` or `val`, by a hash of the words: a tenth of all sentences, whoever speaks them, is for validation."""
    words = normalised(text)
    if not RARE.isdisjoint(words.split()):
        return "train"
    return "val" if hashlib.sha256(f"sentence: {words}".encode()).digest()[0] < 26 else "train"  # 26 of 256


def utterance_at(seed: int, split: str, index: int) -> Utterance:
    """One utterance of the world, independent of the others.

    Args:
        seed: Seed of the world.
        split: `train`, `val`, `narrator` or `narrator_val`; the narrator uses the sentences of the first two.
        index: Number of the row in its split.
    """
    rng = Random(f"{seed}/{split}/{index}/speech")
    half = "val" if split.endswith("val") else "train"
    while True:
        scene = sample_scene(rng)
        text = _sample_sentence(scene, rng) if scene.split() == half else None
        if text is not None and is_speakable(text, half):
            return assign_voice(row_id(split, index), text, split, rng)


def is_speakable(text: str, split: str) -> bool:
    """Whether a sentence is of a length to be spoken at once, and belongs to this split."""
    return len(text.split()) in WORDS and sentence_split(text) == split


def assign_voice(id: str, text: str, split: str, rng: Random, speakers: Sequence[str] | None = None) -> Utterance:
    """A sentence in a random voice of the split, or one of `speakers`."""
    speaker, rate, pitch = pick(rng, speakers or SPEAKERS[split]), pick(rng, RATES), pick(rng, PITCHES)
    if split.startswith("narrator"):
        rate, pitch = NARRATION
    return Utterance(id, text, speaker, rate, pitch)


def _sample_sentence(scene: Scene, rng: Random) -> str | None:
    """A short sentence about a scene, or a question of general knowledge; None if the scene allows none."""
    kind = rng.random()
    if kind < 0.32:
        question = pick(rng, questions(scene, rng, 3))
        return question.text if kind < 0.24 else question.reply
    if kind < 0.38:
        return sample_question(rng)[0] if kind < 0.37 else pick(rng, REQUESTS)
    if kind < 0.45:
        text, after, item = change(scene, rng)
        return text if rng.random() < 0.6 else consequence(after, rng, item)
    if kind < 0.53:
        return pick(rng, (caption(scene, rng), *dense_caption(scene, rng)))
    maker = pick(rng, STATEMENTS if kind < 0.85 else REASONING)
    text = maker(scene, rng)
    return text and pick(rng, sentences(text))


def wav(utterance: Utterance) -> bytes:
    """An utterance as the content of a 16-bit WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform(utterance), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def waveform(utterance: Utterance) -> np.ndarray:
    """Synthesizes an utterance.

    Returns:
        (samples,) of int16 at `SAMPLE_RATE`.

    Raises:
        UserError: If eSpeak NG is missing or lacks the voice.
    """
    import torch  # here, so that text alone needs no PyTorch

    text = utterance.text if utterance.spoken is None else utterance.spoken
    wave, sample_rate = espeak.synthesize(text, utterance.speaker, utterance.rate, utterance.pitch)
    wave = _resampler(sample_rate)(torch.from_numpy(wave.astype(np.float64)))
    return wave.round().clamp(-(2**15), 2**15 - 1).to(torch.int16).numpy()


@cache
def _resampler(sample_rate: int) -> "Resample":
    """A resampler in float64, whose rounding errors do not reach the 16 bits that are kept."""
    import torch
    from torchaudio.transforms import Resample

    return Resample(sample_rate, SAMPLE_RATE, dtype=torch.float64)
