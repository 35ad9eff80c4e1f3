"""Sample outputs of a stage on held-out data, for the report."""

import math
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.speech import TranscriptionPrompt
from omni.data.images.opening import open_images
from omni.data.images.rows import ImageRow
from omni.data.images.sources import Location
from omni.data.loading.bad_rows import BadRowPolicy, RowErrors
from omni.data.speech.opening import open_utterances
from omni.decoding.sampling import Sampling
from omni.decoding.speech_options import GRIFFIN_LIM
from omni.errors import UserError
from omni.evaluation.accuracy import answer_questions
from omni.inference.assistant import Assistant
from omni.inference.classifier import VisionModel
from omni.inference.codec_files import decode, encode
from omni.inference.recognizer import load_recognizer
from omni.inference.synthesizer import load_synthesizer, load_vocoder
from omni.inference.text import load
from omni.media.audio import SAMPLE_RATE, LogMel, read_audio, write_audio
from omni.media.images import read_image
from omni.media.mel_scale import samples_of
from omni.models.codec import Codec
from omni.models.speech_vocoder import sample_rate_of
from omni.training.configuration import Configuration, muted_logs

Sample = dict[str, str | Path]  # texts, and files of images and audio, by name

_TOKENS = 64  # of a text
_LABELS = 8  # captions that an image is compared with
_CONVERSATIONS = 200  # among which one with an image is searched


def sample(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    """Applies a trained stage to the first row of its validation data.

    Args:
        configuration: The configuration of the stage.
        checkpoint: Its checkpoint.
        out: Path of image and audio files, without suffix.

    Raises:
        UserError: If the stage is unknown, its data is missing, or its output is empty.
    """
    stage = Checkpoint(checkpoint).lineage["stage"]
    if stage not in _SAMPLERS:
        raise UserError(f"there are no samples of {stage}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with muted_logs(), torch.no_grad():
        return _SAMPLERS[stage](configuration, checkpoint, out)


def _text(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    prompt = (configuration.config["model"]["init_args"].get("sample_prompts") or [""])[-1]
    [continuation] = load(checkpoint).generate(prompt, max_tokens=_TOKENS, sampling=Sampling(seed=0))
    return {"text": prompt + continuation}


def _transcript(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    reference, audio = _utterance(configuration)
    [transcript] = load_recognizer(checkpoint).transcribe([audio])
    return {"reference": reference, "transcript": transcript.text, "recording": _wav(out, audio)}


def _labels(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    rows = _images(configuration)
    model, pixels = VisionModel(checkpoint), rows[0].read()
    captions = list(dict.fromkeys(caption for row in rows for caption in row.captions[:1]))
    [answer] = model.classify([pixels.expand(3, -1, -1)], labels=captions if model.classifier is None else None)
    reference = rows[0].captions[0] if rows[0].captions else ", ".join(map(str, rows[0].labels.values()))
    labels = [f"{name}: {', '.join(_likely(shares))}" for name, shares in answer.items()]
    return {"reference": reference, "labels": "; ".join(labels), "image": _png(out, pixels)}


def _likely(shares: Mapping[str, float]) -> list[str]:
    """The most likely label, and others that are more likely than not."""
    best = max(shares.values())
    return [f"{label} ({share:.0%})" for label, share in shares.items() if share == best or share > 0.5]


def _reconstruction(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    reference, audio = _utterance(configuration)
    codec = Checkpoint(checkpoint).part("codec", Codec)
    mels = decode(codec, encode(codec, LogMel(codec.num_mels)(audio)))
    sound = load_vocoder(GRIFFIN_LIM, codec.num_mels)(mels[None])[0]
    bitrate = codec.frame_rate * codec.num_codebooks * math.log2(codec.codebook_size)
    return {
        "reference": reference,
        "bitrate": f"{bitrate:,.0f} bit/s",
        "reconstruction": _wav(out, sound[: len(audio)]),
    }


def _speech(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    text, _ = _utterance(configuration)
    [speech] = load_synthesizer(checkpoint).speak(text)
    if not len(speech.audio):
        raise UserError("the Talker's output is empty")
    [transcript] = load_recognizer(checkpoint).transcribe([speech.resampled()])
    return {
        "text": text,
        "transcript of the speech": transcript.text,
        "speech": _wav(out, speech.audio, speech.sample_rate),
    }


def _resynthesis(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    reference, audio = _utterance(configuration)
    num_mels = int(Checkpoint(checkpoint).content["parts"]["vocoder"]["init_args"]["num_mels"])
    vocoder = load_vocoder(checkpoint, num_mels)
    sound, rate = vocoder(LogMel(num_mels)(audio)[None])[0], sample_rate_of(vocoder)
    return {"reference": reference, "resynthesis": _wav(out, sound[: samples_of(len(audio), rate)], rate)}


def _answer(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    """The answer to the first question about one image, or to the first question."""
    opened = Checkpoint(checkpoint)
    prompt = TranscriptionPrompt.from_state(opened.content["dictation"])
    data = _data(configuration)
    hub = {"cache_dir": Path(data["cache_dir"]), "columns": data["columns"], "split": "val"}
    sources = open_conversations(_entries(configuration), transcription_prompt=prompt, **hub)
    rows = [row for source in sources for row in islice(source.rows(), _CONVERSATIONS)]
    if not rows:
        raise UserError("data.init_args.val has no conversations")
    row = max(rows, key=lambda row: [medium.kind for medium in row.media] == ["image"])
    [answered] = answer_questions(
        Assistant.from_pretrained(opened),
        [row],
        modality_ablation=False,
        max_tokens=opened.content["answer_tokens"],
        batch_size=1,
    )
    content = next(message["content"] for message in reversed(row.messages) if message["role"] == "user")
    question = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content).strip()
    found: Sample = {
        "question": question or "(spoken)",
        "reference": answered.reference,
        "answer": answered.answer,
    }
    for medium in row.media:
        source: Any = medium.sound
        found[medium.kind] = _wav(out, read_audio(source)) if medium.kind == "audio" else _png(out, read_image(source))
    return found


# ---------------------------------------------------------------------- held-out data


def _data(configuration: Configuration) -> dict[str, Any]:
    return configuration.config["data"]["init_args"].as_dict()


def _entries(configuration: Configuration) -> list[str]:
    data = _data(configuration)
    entries = data.get("val") or data["train"]  # without `val`, rows of `train` are held out
    return [entries] if isinstance(entries, str) else list(entries)


def _utterance(configuration: Configuration) -> tuple[str, Tensor]:
    """The text and the samples of a recording."""
    data = _data(configuration)
    options = {"text_column": data["text_column"], "cache_dir": Path(data["cache_dir"]), "split": "val"}
    options |= {"columns": data["columns"]}
    for source in open_utterances(_entries(configuration), **options):
        for number, row in enumerate(source.rows()):
            return row.text, read_audio(source.audio(number, row))
    raise UserError("the data has no recording")


def _images(configuration: Configuration) -> list[ImageRow]:
    """The first few images."""
    data = _data(configuration)
    folder = None if data["image_folder"] is None else Path(data["image_folder"])
    location = Location(Path(data["root"]), folder, cache_dir=Path(data["cache_dir"]), columns=data["columns"])
    source = open_images(_entries(configuration)[0], "val", location)
    rows = list(islice(source.rows(RowErrors("val", BadRowPolicy(skip=True))), _LABELS))
    if not rows:
        raise UserError("the data has no image")
    return rows


def _wav(out: Path, audio: Tensor, sample_rate: int = SAMPLE_RATE) -> Path:
    path = out.with_suffix(".wav")
    write_audio(path, audio.clamp(-1, 1), sample_rate=sample_rate)
    return path


def _png(out: Path, pixels: Tensor) -> Path:
    path = out.with_suffix(".png")
    Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()).save(path)
    return path


_SAMPLERS: dict[str, Callable[[Configuration, Path, Path], Sample]] = {
    "ThinkerPretraining": _text,
    "SpeechRecognition": _transcript,
    "VisionPretraining": _labels,
    "CodecTraining": _reconstruction,
    "TalkerTraining": _speech,
    "VocoderTraining": _resynthesis,
    "OmniTuning": _answer,
}
