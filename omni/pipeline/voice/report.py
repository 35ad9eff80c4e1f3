"""The report of a voice: how well it is understood and how near it is to the recordings, with sounds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.speech.held_out import utterances_of
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.evaluation.word_errors import Row, count_errors
from omni.files import atomic_write, write_text
from omni.inference.codec_files import decode, encode
from omni.inference.recognizer import load_recognizer
from omni.inference.synthesizer import load_synthesizer, load_vocoder
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, LogMel, write_audio
from omni.media.pitch import pitch
from omni.media.resampling import resample
from omni.models.codec import Codec
from omni.models.speech_vocoder import sample_rate_of
from omni.pipeline.definition import Pipeline
from omni.pipeline.voice.preparation import VoiceSplits
from omni.pipeline.voice.similarity import REFERENCES, SpeakerComparison, similarity_lines
from omni.training.callbacks.converged import late_gain
from omni.training.history import read_validations

_SHOWN = 4  # sentences with sounds and spectrograms
_MEANING = {
    "recording": "recordings",
    "vocoder": "recordings, played by the vocoder",
    "codec": "recordings, encoded by the codec and played by the vocoder",
    "codec_griffin_lim": "the same, played by Griffin–Lim",
    "voice": "**the voice**",
    "voice_griffin_lim": "the voice, played by Griffin–Lim",
}


class _Sound(NamedTuple):
    """A sound: (samples,), and its rate in Hz."""

    samples: Tensor
    sample_rate: int = SAMPLE_RATE

    @property
    def measured(self) -> Tensor:
        """At 16 kHz, as recognisers and spectrograms need it: (samples,)."""
        return resample(self.samples, self.sample_rate, SAMPLE_RATE)


class _Sentence(NamedTuple):
    """A held-out sentence.

    Attributes:
        text: Its text.
        sounds: Its recording, and what is made of it, by name.
    """

    text: str
    sounds: dict[str, _Sound]


@torch.no_grad()
def write_voice_report(
    pipeline: Pipeline,
    out: Path,
    splits: VoiceSplits,
    *,
    recognizer: str,
    sentences: int,
    comparison: SpeakerComparison | None = None,
) -> Path:
    """Speaks the test sentences of a trained voice, and writes `voice.md` with sounds and pictures in `voice/`.

    Args:
        pipeline: Its chain, whose stages are done.
        out: Folder of its data set.
        splits: The data set.
        recognizer: Checkpoint that transcribes.
        sentences: Most test sentences.
        comparison: Measures speaker similarity; None: it is not measured.

    Returns:
        The Markdown file.
    """
    spoken = _sentences(pipeline, out, sentences)
    transcripts = _transcripts(spoken, recognizer)
    units = Checkpoint(recognizer).ctc_vocabulary
    rates = {
        name: count_errors(
            Row(str(number), None, units.normalize(one.text), text)
            for number, (one, text) in enumerate(zip(spoken, texts, strict=True))
        ).wer
        for name, texts in transcripts.items()
    }
    lines = [
        f"# {pipeline.name}",
        "",
        *_data_lines(splits),
        "",
        f"Word errors of the recogniser {recognizer} on {len(spoken)} held-out sentences:",
        "",
        "| sound | word error rate |",
        "|---|---|",
        *(f"| {_MEANING[name]} | {rate:.1%} |" for name, rate in rates.items()),
        "",
        f"By another recogniser: `omni eval wer {pipeline.folder}/voice/voice.jsonl CHECKPOINT`, and so on.",
        "",
        *_pitch_lines(spoken),
        "",
        *_similarity_lines(spoken, out, comparison),
        "",
        *_stage_lines(pipeline),
        "",
    ]
    _write_sounds(spoken, pipeline.folder / "voice")
    for number, one in enumerate(spoken[:_SHOWN]):
        said = {name: texts[number] for name, texts in transcripts.items()}
        lines += _shown(one, said, pipeline.folder / "voice" / f"{number}")
    path = pipeline.folder / "voice.md"
    write_text(path, "\n".join(lines))
    return path


def _sentences(pipeline: Pipeline, out: Path, count: int) -> list[_Sentence]:
    runs = {name: pipeline.stages[name].folder / "best.ckpt" for name in ("codec", "talker", "vocoder")}
    codec = Checkpoint(runs["codec"]).part("codec", Codec)
    vocoder, griffin_lim = (load_vocoder(each, codec.num_mels) for each in (runs["vocoder"], GRIFFIN_LIM))
    log_mel, rate = LogMel(codec.num_mels), sample_rate_of(vocoder)
    held_out = utterances_of([str(out / "test.jsonl")], count, sample_rate=rate)
    talkers = {
        "voice": load_synthesizer(runs["talker"], vocoder=runs["vocoder"], device="cpu"),
        "voice_griffin_lim": load_synthesizer(runs["talker"], device="cpu"),
    }
    stage: Any = pipeline.stages["talker"].configuration.make("model")
    sampling = stage.round_trip.sampling  # that of the validations, which chose the checkpoint
    said = {name: each.speak([text for _, text in held_out], sampling=sampling) for name, each in talkers.items()}
    found = []
    for number, (audio, text) in enumerate(held_out):
        recording = _Sound(audio, rate)
        mel = log_mel(recording.measured)
        rebuilt = decode(codec, encode(codec, mel))
        sounds = {
            "recording": recording,
            "vocoder": _Sound(vocoder(mel[None])[0], rate),
            "codec": _Sound(vocoder(rebuilt[None])[0], rate),
            "codec_griffin_lim": _Sound(griffin_lim(rebuilt[None])[0]),
            **{name: _Sound(speeches[number].audio, speeches[number].sample_rate) for name, speeches in said.items()},
        }
        found.append(_Sentence(text, sounds))
    return found


def _transcripts(spoken: Sequence[_Sentence], recognizer: str) -> dict[str, list[str]]:
    """The transcripts of all sentences, by the name of the sound; empty for a sound without samples."""
    model = load_recognizer(recognizer, device="cpu")
    found: dict[str, list[str]] = {}
    for name in _MEANING:
        sounds = [one.sounds[name].measured for one in spoken]
        texts = iter(model.transcribe([sound for sound in sounds if len(sound)]))
        found[name] = [next(texts).text if len(sound) else "" for sound in sounds]
    return found


def _write_sounds(spoken: Sequence[_Sentence], folder: Path) -> None:
    """Writes all sounds, and a manifest of each kind, which any recogniser may be measured on."""
    for name in _MEANING:
        rows = []
        for number, one in enumerate(spoken):
            samples, rate = one.sounds[name]
            if len(samples):
                write_audio(folder / f"{number}-{name}.wav", samples, sample_rate=rate)
                rows.append(json.dumps({"audio": f"{number}-{name}.wav", "text": one.text}, ensure_ascii=False) + "\n")
        write_text(folder / f"{name}.jsonl", "".join(rows))


def _data_lines(splits: VoiceSplits) -> list[str]:
    counts = ", ".join(
        f"{name} {count} ({splits.seconds[name] / 60:.1f} minutes)" for name, count in splits.utterances.items()
    )
    left_out = "; ".join(f"{reason}: {count}" for reason, count in splits.left_out.items()) or "nothing"
    return [f"Utterances: {counts}; {splits.transcribed} transcribed by the recogniser. Left out: {left_out}."]


def _similarity_lines(spoken: Sequence[_Sentence], out: Path, comparison: SpeakerComparison | None) -> list[str]:
    references = [] if comparison is None else utterances_of([str(out / "val.jsonl")], REFERENCES)
    sounds = {meaning: [one.sounds[name].measured for one in spoken] for name, meaning in _MEANING.items()}
    return similarity_lines(comparison, [audio for audio, _ in references], [one.text for one in spoken], sounds)


def _pitch_lines(spoken: Sequence[_Sentence]) -> list[str]:
    lines = ["| pitch of voiced frames | 5 % below | median | 95 % below |", "|---|---|---|---|"]
    for name in ("recording", "voice"):
        found = torch.cat([pitch(one.sounds[name].measured) for one in spoken])
        if len(found):
            cells = torch.quantile(found, torch.tensor([0.05, 0.5, 0.95])).tolist()
            lines.append(f"| {_MEANING[name]} | {' | '.join(f'{hertz:.0f} Hz' for hertz in cells)} |")
    return lines


def _stage_lines(pipeline: Pipeline) -> list[str]:
    """Whether each stage has converged."""
    lines = ["| stage | best value | steps | gained in the last third |", "|---|---|---|---|"]
    for name, stage in pipeline.stages.items():
        metric = stage.target.metric
        records = read_validations(stage.folder)
        values = {one["step"]: one["metrics"][metric] for one in records if metric in one["metrics"]}
        if not values:
            continue
        gained = late_gain(values, "min")  # all of the chain's metrics are errors
        cell = "one validation" if gained is None else f"{gained:.4f}"
        lines.append(f"| {name} | `{metric}` {min(values.values()):.4g} | {max(values):,} | {cell} |")
    return lines


def _shown(one: _Sentence, transcripts: Mapping[str, str], stem: Path) -> list[str]:
    """The sounds of a sentence, and its spectrograms, which are written."""
    lines = [f"## {one.text}", ""]
    for name, sound in one.sounds.items():
        if len(sound.samples):
            lines.append(f"- [{_MEANING[name]}](voice/{stem.name}-{name}.wav): {transcripts[name]}")
    picture = stem.with_suffix(".png")
    with atomic_write(picture) as file:
        _figure(one).savefig(file, format="png")
    return [*lines, "", f"![recording and voice](voice/{picture.name})", ""]


def _figure(one: _Sentence) -> Figure:
    """The spectrograms of recording and voice, on the same axes."""
    log_mel, sounds = LogMel(80), {name: one.sounds[name].measured for name in ("recording", "voice")}
    shown = {name: sound for name, sound in sounds.items() if len(sound)}
    mels = {name: log_mel(sound) for name, sound in shown.items()}
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(len(mels), 1, sharex=True, squeeze=False).flatten().tolist()
    low, high = (float(getattr(mels["recording"], edge)()) for edge in ("min", "max"))
    options: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": low}
    for axis, (name, mel) in zip(axes, mels.items(), strict=True):
        extent = (0, len(mel) * HOP_LENGTH / SAMPLE_RATE, 0, mel.shape[1])
        axis.imshow(mel.T.numpy(), extent=extent, vmax=max(high, low + 1), **options)
        axis.set_ylabel(f"{name}: mel filter")
    axes[-1].set_xlim(0, max(map(len, mels.values())) * HOP_LENGTH / SAMPLE_RATE)
    axes[-1].set_xlabel("seconds")
    return figure
