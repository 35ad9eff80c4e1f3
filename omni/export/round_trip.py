"""int8 of the parts that speak, chosen by what a recogniser understands of their speech."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from omni.export.int8 import choose
from omni.export.parts.codec import CodecDecoderPart
from omni.export.parts.part import OnnxPart, Quality, Spoken
from omni.export.parts.recognizer import RecognizerPart
from omni.export.parts.talker import TalkerStepPart, TalkerTextPart
from omni.export.parts.vocoder import VocoderPart
from omni.export.whole import Member
from omni.media.mel_scale import SAMPLE_RATE
from omni.media.resampling import resample
from omni.runtime.engine import Run, open_session, run_of

_SENTENCES = 200
_UNDERSTOOD = 0.5  # WER in fp32, above which the recogniser or the voice says too little about int8
_JUDGED = (CodecDecoderPart, TalkerTextPart, TalkerStepPart)  # in the order in which they are chosen
_SPEAKS = (TalkerTextPart, TalkerStepPart, CodecDecoderPart, VocoderPart)


class Speakers(NamedTuple):
    """The parts that speak, in PyTorch.

    Attributes:
        talker: The Talker.
        codec: Its codec.
        vocoder: The vocoder.
    """

    talker: TalkerStepPart
    codec: CodecDecoderPart
    vocoder: VocoderPart


@final
class RoundTrip:
    """Speaks sentences by graphs, and transcribes them by PyTorch.

    Args:
        speakers: The parts that speak.
        listener: The recogniser.
        sentences: Units of the Talker for each.
    """

    def __init__(self, speakers: Speakers, listener: RecognizerPart, sentences: Sequence[Sequence[int]]) -> None:
        self._speakers, self._listener, self._sentences = speakers, listener, sentences

    def quality(self, runs: Mapping[str, Run]) -> Quality | None:
        """The word error rate of the transcripts; None if the recogniser has no characters of the sentences.

        Args:
            runs: By part its graph.
        """
        units = self._speakers.talker.units
        rate = self._speakers.vocoder.vocoder.sample_rate
        spoken = [
            Spoken(resample(torch.from_numpy(self._speak(text, runs)), rate, SAMPLE_RATE), units.decode(text))
            for text in self._sentences
        ]
        found = self._listener.quality(self._listener.module_run(), spoken)
        return None if found is None else found._replace(metric="round_trip_wer")

    def _speak(self, text: Sequence[int], runs: Mapping[str, Run]) -> NDArray[np.float32]:
        talker, codec, vocoder = self._speakers
        trace = talker.spoken(text, runs[TalkerTextPart.name], runs[TalkerStepPart.name])
        mels = runs[codec.name]({"codes": trace.codes[None], "past": codec.start()})[0]
        return vocoder.audio(runs[vocoder.name], mels)


def choose_by_round_trip(
    members: Sequence[Member],
    entries: MutableMapping[str, Any],
    folder: Path,
    texts: Sequence[Spoken],
    *,
    smaller: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> None:
    """Chooses between fp32 and int8 of the Talker and the codec's decoder, by the word error rate of their speech.

    Without a recogniser or a vocoder, or without texts, they stay fp32, and their reason says so.

    Args:
        members: The checkpoints.
        entries: The manifest's entry `parts`, with int8 variants; completed in place.
        folder: It holds the graphs.
        texts: Held-out texts; may be empty.
        smaller: As in `omni.export.int8.choose`.
        progress: Called with what is done next.
    """
    holders = {part: member.checkpoint for member in members for part in member.parts}
    judged = [part for part in _JUDGED if part.name in entries]
    if not judged or not texts:
        return
    if missing := [part.name for part in (*_SPEAKS, RecognizerPart) if part not in holders]:
        for part in judged:
            entries[part.name]["reason"] = (
                f"the quality of int8 is not known: speech is judged by a recogniser, and {', '.join(missing)} is not "
                "given (--voice, --vocoder, --recognizer)"
            )
        return
    talker = TalkerStepPart(holders[TalkerStepPart])
    codec, vocoder = CodecDecoderPart(holders[CodecDecoderPart]), VocoderPart(holders[VocoderPart])
    listener = RecognizerPart(holders[RecognizerPart])
    trip = RoundTrip(Speakers(talker, codec, vocoder), listener, talker.texts(texts, most=_SENTENCES))

    @cache
    def run(name: str, variant: str) -> Run:
        return run_of(open_session(folder / entries[name]["variants"][variant]["file"]))

    def quality(chosen: Mapping[str, str]) -> dict[str, Any] | None:
        found = trip.quality({name: run(name, variant) for name, variant in chosen.items()})
        return None if found is None else found._asdict()

    spoken = {part.name: entries[part.name] for part in _SPEAKS}
    choose_in_turn(judged, spoken, quality, smaller=smaller, progress=progress)


def choose_in_turn(
    judged: Sequence[type[OnnxPart]],
    entries: Mapping[str, MutableMapping[str, Any]],
    quality: Callable[[Mapping[str, str]], dict[str, Any] | None],
    *,
    smaller: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> None:
    """Chooses between fp32 and int8 of one part after the other, beside the variants that are chosen already.

    Args:
        judged: The parts.
        entries: Manifest entries of all parts that speak; completed in place.
        quality: The quality of a variant of each.
        smaller: As in `omni.export.int8.choose`.
        progress: Called with what is done next.
    """
    chosen = {name: entry["chosen"] for name, entry in entries.items()}
    progress("speech: round trip of fp32")
    full = quality(chosen)
    if full is None or not full["value"] <= _UNDERSTOOD:
        heard = (
            "no sentence" if full is None else f"them with a WER of {full['value']:.2f} in fp32, above {_UNDERSTOOD:g}"
        )
        for part in judged:
            entries[part.name]["reason"] = f"the quality of int8 is not known: the recogniser transcribes {heard}"
        return
    for part in judged:
        progress(f"{part.name}: round trip of int8")
        entry = entries[part.name]
        entry["variants"]["fp32"]["quality"] = full
        entry["variants"]["int8"]["quality"] = quality({**chosen, part.name: "int8"})
        entry["chosen"], entry["reason"] = choose(part.quality_loss, entry["variants"], smaller=smaller)
        chosen[part.name] = entry["chosen"]
