"""What each stage of a chain makes of something that it was not trained on, to be read, seen and heard."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.sources import Conversation
from omni.data.conversations.speech import TranscriptionPrompt
from omni.data.images.opening import open_images
from omni.data.images.rows import ImageRow, RowErrors
from omni.data.images.sources import Location
from omni.data.speech.manifests import open_utterances
from omni.decoding.sampling import Sampling
from omni.errors import UserError
from omni.inference.assistant import Assistant
from omni.inference.classifier import VisionModel
from omni.inference.codec_files import decode, encode
from omni.inference.recognizer import load_recognizer
from omni.inference.synthesizer import GRIFFIN_LIM, load_synthesizer, load_vocoder
from omni.inference.text import load
from omni.media.attachments import Medium
from omni.media.audio import LogMel, read_audio, write_audio
from omni.media.images import read_image
from omni.models.codec import Codec
from omni.training.configuration import Configuration, muted_logs

_TOKENS = 64
_LABELS = 8  # captions that a picture is compared with


class Sample(NamedTuple):
    """What a stage makes of something.

    Attributes:
        lines: Texts by what they are.
        files: Pictures and sounds.
    """

    lines: dict[str, str]
    files: list[Path]


def sample(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    """What the model of a checkpoint makes of the first thing in the validation data of its configuration.

    Args:
        configuration: Of the stage.
        checkpoint: What it has trained.
        out: Where pictures and sounds are written, with its suffixes: `samples/audio`.

    Raises:
        UserError: If there is nothing to make something of, or nothing comes of it.
    """
    stage = Checkpoint(checkpoint).lineage["stage"]
    if stage not in _KINDS:
        raise UserError(f"of stage {stage} no samples are known")
    out.parent.mkdir(parents=True, exist_ok=True)
    with muted_logs():
        return _KINDS[stage](configuration, checkpoint, out)


def _text(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    prompts = configuration.config["model"]["init_args"].get("sample_prompts") or [""]
    prompt = prompts[-1]
    [written] = load(checkpoint).generate(prompt, max_tokens=_TOKENS, sampling=Sampling(seed=0))
    return Sample({"writes": prompt + written}, [])


def _transcript(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    said, audio = _utterance(configuration)
    [heard] = load_recognizer(checkpoint).transcribe([audio])
    return Sample({"is said": said, "hears": heard.text}, [_wav(out, audio)])


def _seen(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    rows = _pictures(configuration)
    model, pixels = VisionModel(checkpoint), rows[0].read()
    captions = list(dict.fromkeys(caption for row in rows for caption in row.captions[:1]))
    labels = captions if model.classifier is None else None
    [answer] = model.classify([pixels.expand(3, -1, -1)], labels=labels)
    several = {attribute.name for attribute in model.attributes if attribute.several} if labels is None else set()
    words = []
    for name, shares in answer.items():
        likely = [value for value, share in shares.items() if share > 0.5]
        words.append(f"{name}: {', '.join(likely) or 'none' if name in several else next(iter(shares))}")
    is_there = rows[0].captions[0] if rows[0].captions else ", ".join(map(str, rows[0].labels.values()))
    return Sample({"is there": is_there, "sees": "; ".join(words)}, [_png(out, pixels)])


@torch.no_grad()
def _rebuilt(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    said, audio = _utterance(configuration)
    codec = Checkpoint(checkpoint).part("codec", Codec)
    codes = encode(codec, LogMel(codec.num_mels)(audio))
    sound = load_vocoder(GRIFFIN_LIM, codec.num_mels)(decode(codec, codes)[None])[0]
    rate = codec.frame_rate * codec.num_codebooks * math.log2(codec.codebook_size)
    return Sample({"is said": said, "rebuilds it from": f"{rate:,.0f} bits a second"}, [_wav(out, sound[: len(audio)])])


def _spoken(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    text, _ = _utterance(configuration)
    [speech] = load_synthesizer(checkpoint).speak(text)
    if not len(speech.audio):
        raise UserError("the Talker is silent")
    [heard] = load_recognizer(checkpoint).transcribe([speech.audio])
    return Sample({"is to say": text, "is heard to say": heard.text}, [_wav(out, speech.audio)])


@torch.no_grad()
def _sounded(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    said, audio = _utterance(configuration)
    num_mels = int(Checkpoint(checkpoint).content["parts"]["vocoder"]["init_args"]["num_mels"])
    sound: Tensor = load_vocoder(checkpoint, num_mels)(LogMel(num_mels)(audio)[None])[0]
    return Sample({"is said": said, "makes sound of": "its spectrogram"}, [_wav(out, sound[: len(audio)])])


def _answered(configuration: Configuration, checkpoint: Path, out: Path) -> Sample:
    """A question about a picture, written if there is one, else spoken."""
    entries, held = configuration.config["data"]["init_args"]["val"], Checkpoint(checkpoint).content
    transcription_prompt = TranscriptionPrompt.from_state(held["dictation"])
    sources = open_conversations(
        [entries] if isinstance(entries, str) else list(entries), transcription_prompt=transcription_prompt
    )
    found = [row for source in sources for row in islice(source.rows(), 200)]
    if not found:
        raise UserError("data.init_args.val has no conversations")

    def liking(row: Conversation) -> tuple[bool, int]:
        kinds = [medium.kind for medium in row.media]
        return kinds == ["image"], kinds.count("image")

    chosen = max(found, key=liking)
    messages, right = _question(chosen)
    [said] = Assistant.from_pretrained(checkpoint).answer([messages], max_tokens=held["answer_tokens"])
    asked = " ".join(part["text"] for part in messages[-1]["content"] if part["type"] == "text")
    files = []
    for medium in chosen.media:
        source: Any = medium.sound
        files.append(_wav(out, read_audio(source)) if medium.kind == "audio" else _png(out, read_image(source)))
    return Sample({"is asked": asked or "(aloud)", "should answer": right, "answers": said}, files)


def _question(conversation: Conversation) -> tuple[list[dict[str, Any]], str]:
    """The messages up to the last answer, with the files of their media; and that answer."""
    media, messages = iter(conversation.media), []
    for message in conversation.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        messages.append({"role": message["role"], "content": [_with_file(part, media) for part in parts]})
    last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:last], " ".join(part["text"] for part in messages[last]["content"])


def _with_file(part: dict[str, Any], media: Iterator[Medium]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    medium = next(media)
    if medium.kind == "video":
        return {"type": "video", "frames": list(medium.files), "times": list(medium.times)}
    return {"type": medium.kind, medium.kind: medium.sound}


# ---------------------------------------------------------------------- what is held out


def _data(configuration: Configuration) -> dict[str, Any]:
    return configuration.config["data"]["init_args"].as_dict()


def _entries(data: dict[str, Any]) -> list[str]:
    entries = data.get("val") or data["train"]  # rows held out of training are not named anywhere
    return [entries] if isinstance(entries, str) else list(entries)


def _utterance(configuration: Configuration) -> tuple[str, Tensor]:
    """What is said in a recording, and its samples."""
    data = _data(configuration)
    options = {"text_column": data["text_column"], "cache_dir": Path(data["cache_dir"]), "split": "val"}
    for source in open_utterances(_entries(data), **options):
        for number, row in enumerate(source.rows()):
            return row.text, read_audio(source.audio(number, row))
    raise UserError("the data has no recording")


def _pictures(configuration: Configuration) -> list[ImageRow]:
    """The first few pictures."""
    data = _data(configuration)
    folder = data["image_folder"]
    location = Location(
        root=Path(data["root"]),
        image_folder=None if folder is None else Path(folder),
        cache_dir=Path(data["cache_dir"]),
    )
    source = open_images(_entries(data)[0], "val", location)
    rows = list(islice(source.rows(RowErrors(skip=True)), _LABELS))
    if not rows:
        raise UserError("the data has no picture")
    return rows


# ---------------------------------------------------------------------- what is written


def _wav(out: Path, audio: Tensor) -> Path:
    path = out.with_suffix(".wav")
    write_audio(path, audio.clamp(-1, 1))
    return path


def _png(out: Path, pixels: Tensor) -> Path:
    path = out.with_suffix(".png")
    Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()).save(path)
    return path


_KINDS: dict[str, Callable[[Configuration, Path, Path], Sample]] = {
    "ThinkerPretraining": _text,
    "SpeechRecognition": _transcript,
    "VisionPretraining": _seen,
    "CodecTraining": _rebuilt,
    "TalkerTraining": _spoken,
    "VocoderTraining": _sounded,
    "OmniTuning": _answered,
}
