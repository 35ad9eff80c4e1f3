"""Whether one reader or two are heard, on real recordings: OMNI_DATA names a folder with LibriSpeech and LJSpeech."""

import os
from collections import defaultdict
from itertools import islice
from pathlib import Path

import pytest

from omni.media.audio import read_audio
from omni.media.speech_spans import utterance_spans
from omni.pipeline.voice.utterances import sounds_of_two

PACK = os.environ.get("OMNI_DATA")
FEW = 0.1  # share of the utterances from which on `omni adapt voice` warns

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACK is None, reason="real speech: set OMNI_DATA to a folder with speech/LibriSpeech-5h"),
]


@pytest.fixture(scope="module")
def readers():
    """Up to 25 utterances of each of 25 readers, cut as those of a voice are."""
    speech = Path(PACK or "") / "speech"
    files = defaultdict(list)
    for file in sorted(speech.glob("LibriSpeech-5h/*/*/*/*.opus")):
        files[file.parts[-3]].append(file)
    files["LJ"] = sorted(speech.glob("LJSpeech-40min/wavs/*"))
    return {name: [_first(read_audio(file)) for file in islice(some, 25)] for name, some in sorted(files.items())}


def _first(audio):
    return utterance_spans(audio, 12.0)[0].cut(audio)


def test_most_readers_alone_cause_no_warning(readers):
    shares = {name: sum(map(sounds_of_two, some)) / len(some) for name, some in readers.items()}
    print({name: round(share, 2) for name, share in shares.items()})
    assert len(shares) == 25
    assert sum(share > FEW for share in shares.values()) <= 2


@pytest.mark.parametrize(("softer", "warned"), [(0, 25), (10, 21)])
def test_mixtures_with_another_reader_cause_one(readers, softer, warned):
    names = [*readers]
    shares = []
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        mixed = [_mixed(*pair, softer) for pair in zip(readers[name], readers[other], strict=False)]
        shares.append(sum(map(sounds_of_two, mixed)) / len(mixed))
    print(softer, "dB softer:", [round(share, 2) for share in shares])
    assert sum(share > FEW for share in shares) >= warned


def _mixed(one, other, softer):
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    return one / one.square().mean().sqrt() + 10 ** (-softer / 20) * other / other.square().mean().sqrt()
