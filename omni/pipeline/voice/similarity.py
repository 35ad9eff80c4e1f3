"""Speaker similarity in the report of a voice: the voice itself, its upper bound, and other speakers."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.errors import UserError
from omni.evaluation.speaker_similarity import SHORTEST, SpeakerSimilarity, embed, speaker_similarity
from omni.inference.synthesizer import load_synthesizer
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.models.pretrained.speaker_encoder import USUAL
from omni.pipeline.voice.recordings import Recording

REFERENCES = 30  # recordings of the mean embedding
_OTHERS, _LONGEST = 30, 20  # most recordings of other speakers, and seconds of one
_NOT_MEASURED = (
    f"Speaker similarity was not measured: the same command with `--speaker_encoder {USUAL}` (extra `hf`), or with the "
    "folder of another x-vector model, measures it without training again."
)


class SpeakerComparison(NamedTuple):
    """What measures speaker similarity, and the other speakers that a voice is compared with.

    Attributes:
        encode: The encoder: (samples,) at 16 kHz to (dim,).
        name: Its name, for the report.
        talker: The Talker before training, if there is one.
        vocoder: The vocoder before training; None: Griffin–Lim.
        others: Recordings of other speakers.
    """

    encode: Callable[[Tensor], Tensor]
    name: str
    talker: Checkpoint | None = None
    vocoder: Checkpoint | None = None
    others: Sequence[Recording] = ()


def similarity_lines(
    comparison: SpeakerComparison | None,
    references: Sequence[Tensor],
    texts: Sequence[str],
    sounds: Mapping[str, Sequence[Tensor]],
) -> list[str]:
    """The lines of the report: a table in Markdown, or why there is none.

    Args:
        comparison: What measures; None: nothing does.
        references: Recordings of the speaker, (samples,) at 16 kHz, with other sentences than `texts`.
        texts: The test sentences, which the Talker before training speaks as well.
        sounds: The sounds of the test sentences by their meaning, (samples,) at 16 kHz.
    """
    if comparison is None:
        return [_NOT_MEASURED]
    known = embed(references, comparison.encode)
    if not len(known):
        return [f"Speaker similarity was not measured: no validation recording is {SHORTEST:g} s or longer."]
    others = _other_speakers(comparison, texts)
    lines = [
        f"Speaker similarity by the encoder {comparison.name}, which is not trained on this voice: cosine of each "
        f"sound's embedding and the mean embedding of {len(known)} validation recordings of the speaker, which are "
        "held out from training and have other sentences. Recordings are the upper bound, other speakers the lower.",
        "",
        "| sound | speaker similarity | standard deviation | sounds |",
        "|---|---|---|---|",
    ]
    for meaning, several in {**sounds, **others}.items():
        found = speaker_similarity(several, known, comparison.encode)
        lines.append(f"| {meaning} | {_cells(found)} | {found.sounds} of {len(several)} |")
    lines += ["", f"Sounds shorter than {SHORTEST:g} s or unreadable are left out."]
    if not others:
        lines += ["", "Without --talker or a manifest of several speakers there is no lower bound."]
    return lines


def _cells(found: SpeakerSimilarity) -> str:
    return f"{found.mean:.3f} | {found.deviation:.3f}" if found.sounds else "– | –"


def _other_speakers(comparison: SpeakerComparison, texts: Sequence[str]) -> dict[str, list[Tensor]]:
    """Sounds of other speakers, by their meaning."""
    found = {}
    if comparison.talker is not None:
        found |= _before_training(comparison.talker, comparison.vocoder, texts)
    if comparison.others:
        step = -(-len(comparison.others) // _OTHERS)
        found["recordings of other speakers"] = [_read(one) for one in comparison.others[::step]]
    return found


def _before_training(talker: Checkpoint, vocoder: Checkpoint | None, texts: Sequence[str]) -> dict[str, list[Tensor]]:
    """The test sentences, spoken by the voices of the first Talker in turn."""
    synthesizer = load_synthesizer(talker, vocoder=GRIFFIN_LIM if vocoder is None else vocoder, device="cpu")
    count, sounds = synthesizer.talker.num_speakers, []
    for number in range(min(max(1, count), len(texts))):
        speeches = synthesizer.speak(texts[number :: max(1, count)], speaker=number if count else None)
        sounds += [speech.resampled() for speech in speeches]
    voices = f", its {count} voices in turn" if count > 1 else ""
    return {f"the Talker before training, {talker}{voices}": sounds}


def _read(one: Recording) -> Tensor:
    """The start of a recording; empty if it cannot be read."""
    try:
        return read_audio(one.source.audio(one.number, one.row))[: _LONGEST * SAMPLE_RATE]
    except UserError:
        return torch.zeros(0)
