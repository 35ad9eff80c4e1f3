"""Streamed speech: every row once per pass, split over ranks, resumed at the next batch."""

import json
import warnings
from typing import Any

import pytest
import torch

from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.speech.augmentation import SpeechAugmentation
from omni.data.speech.data import SpeechData
from omni.data.speech.dataset import FeatureExtractor
from omni.data.speech.manifests import SpeechManifest
from omni.data.speech.stream import SpeechStream
from omni.errors import UserError
from omni.media.audio import LogMel
from omni.text.ctc_vocabulary import CharacterVocabulary


def stream(folder: Any, *, crop: float = 0.0, audio: bool = False, **options: Any) -> SpeechStream:
    given = {
        "extract": FeatureExtractor(16, augmentation=SpeechAugmentation(silence=0.1), crop=crop, audio=audio),
        "capacity": 4.0,
        "max_rows": 8,
        "min_duration": 0.1,
        "max_duration": 4.0,
        "buffer": 10,
        "errors": RowErrors("train", BadRowPolicy()),
    }
    return SpeechStream([SpeechManifest(folder / "train.jsonl")], CharacterVocabulary(" abc"), **given | options)


def test_a_pass_has_every_row_once_and_ranks_are_disjoint(speech):
    assert sorted(row for batch in stream(speech) for row in batch.rows.tolist()) == list(range(24))
    shares = [[row for b in stream(speech, rank=r, world_size=2) for row in b.rows.tolist()] for r in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(24))
    assert abs(len(shares[0]) - len(shares[1])) <= 1


def test_crops_have_at_most_the_configured_length(speech):
    batches = list(stream(speech, crop=0.2))
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(24))
    assert max(batch.mels.shape[1] for batch in batches) == 20


def test_waveforms_come_with_their_spectrograms(speech):
    for batch in stream(speech, crop=0.2, audio=True):
        heard = LogMel(16)(batch.audio)
        for row, length in enumerate(batch.mel_lengths.tolist()):
            inner = slice(2, length - 2)
            torch.testing.assert_close(heard[row, inner], batch.mels[row, inner], atol=1e-4, rtol=1e-4)
    assert next(iter(stream(speech))).audio is None


def test_passes_differ_and_are_deterministic(speech):
    def batches(epoch: int) -> list[tuple[list[int], float]]:
        one = stream(speech)
        one.epoch = epoch
        return [(batch.rows.tolist(), float(batch.mels.sum())) for batch in one]

    assert batches(0) == batches(0)
    assert batches(0) != batches(1)


def test_unusable_rows_are_counted(speech):
    rows = [json.loads(line) for line in (speech / "train.jsonl").read_text().splitlines()]
    rows[1]["text"], rows[2]["audio"], rows[3]["text"] = "xyz", "nowhere.wav", "abc" * 99
    (speech / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = stream(speech, errors=RowErrors("train", BadRowPolicy(skip=True), at_once=True))
    one.subframes = lambda frames: frames
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = [row for batch in one for row in batch.rows.tolist()]
    assert sorted(seen) == [0, *range(4, 24)]
    lines = [str(warning.message) for warning in said]
    assert "train: left out: " in lines[0]
    assert "nowhere.wav" in lines[0]
    assert "rows left out of pass 0" in lines[1]
    assert "CTC-infeasible" in lines[1]
    assert "1 that cannot be read" in lines[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_run_resumes_at_the_next_batch(fit_audio, workers, monkeypatch):
    seen: list[tuple[list[int], float]] = []
    monkeypatch.setattr(
        "omni.training.callbacks.Throughput.on_train_batch_start",
        lambda self, trainer, module, batch, index: seen.append(
            (batch.rows.tolist(), float(batch.mels.double().sum()))
        ),
    )
    monkeypatch.setattr("omni.training.callbacks.Throughput.on_train_batch_end", lambda *args: None)

    def run(*extra: str, steps: int) -> list[tuple[list[int], float]]:
        seen.clear()
        fit_audio(
            "fit",
            *extra,
            trainer__max_steps=steps,
            trainer__val_check_interval=4,
            model__init_args__schedule="constant",
            data__init_args__streaming="true",
            data__init_args__shuffle_buffer=10,
            data__init_args__num_workers=workers,
        )
        return list(seen)

    whole, first = run(steps=8), run(steps=4)
    assert first + run("--ckpt_path", "lightning_logs/audio/last.ckpt", steps=8) == whole
    assert len(whole) == 8


def test_a_stream_needs_validation_data_and_has_no_feature_cache(speech):
    train = str(speech / "train.jsonl")
    with pytest.raises(UserError, match=r"give data\.val"):
        SpeechData(train, streaming=True)
    with pytest.raises(UserError, match="cache_features"):
        SpeechData(train, train, streaming=True, cache_features=True)
