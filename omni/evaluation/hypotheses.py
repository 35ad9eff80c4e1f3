"""What systems understood of utterances: a checkpoint or a model of `transformers` listens, or a file tells."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.conversations.speech import TranscriptionPrompt
from omni.data.speech.manifests import Utterance, Utterances
from omni.errors import UserError
from omni.inference.assistant import CONTEXT, MAX_TOKENS, Assistant
from omni.inference.recognizer import load_recognizer
from omni.media.audio import AUDIO_SUFFIXES, SAMPLE_RATE, read_audio
from omni.text.normalization import TextNormalization

_TOGETHER = 16  # utterances that a model is asked about at a time
_WHOLE = 30.0  # seconds that Whisper hears at once; of more it must write the times to find its way


def understood(
    spec: str, source: Utterances, said: Sequence[Utterance], *, device: str, beam: int
) -> tuple[TextNormalization, list[str]]:
    """What a system understood of each utterance, and how a text of its kind is normalised.

    Args:
        spec: A checkpoint, of a recogniser or of a model that is asked what is said; `hf:` and the name of a model on
            the Hub, or its folder; a `.jsonl` file with `text` and `audio` or `id`; or a `.txt` file with a line for
            each utterance.
        source: Where the utterances come from.
        said: All of them.
        device: Where a model runs.
        beam: Of a recogniser's checkpoint: see `Recognizer`.

    Raises:
        UserError: If there is no such system, or its file does not fit the utterances.
    """
    path = Path(spec).expanduser()
    if spec.startswith("hf:"):
        return TextNormalization(), _peer(spec.removeprefix("hf:"), source, said, device)
    if path.suffix == ".ckpt" or path.is_dir():
        return _recognized(path, source, said, device, beam)
    if not path.is_file():
        raise UserError(f"{spec}: is no file: give a .ckpt checkpoint, hf:MODEL, or hypotheses as .jsonl or .txt")
    lines = _lines(path)
    if path.suffix == ".jsonl":
        return TextNormalization(), _matched(path, lines, said)
    if len(lines) != len(said):
        raise UserError(f"{spec}: has {len(lines)} lines, and the reference {len(said)} rows: give a line for each")
    return TextNormalization(), lines


def _recognized(
    path: Path, source: Utterances, said: Sequence[Utterance], device: str, beam: int
) -> tuple[TextNormalization, list[str]]:
    checkpoint = Checkpoint(path)
    if "thinker" in checkpoint and "audio_projector" in checkpoint:
        return _asked(checkpoint, source, said, device)
    recognizer = load_recognizer(checkpoint, device=device, beam=beam)
    audio = [source.audio(number, row) for number, row in enumerate(said)]
    found = [""] * len(said)
    for number, transcript in tqdm(
        recognizer.stream(audio), total=len(said), desc="transcribing", leave=False, disable=None
    ):
        if isinstance(transcript, UserError):
            raise transcript
        found[number] = transcript.text
    return recognizer.units.normalize, found


def _asked(
    checkpoint: Checkpoint, source: Utterances, said: Sequence[Utterance], device: str
) -> tuple[TextNormalization, list[str]]:
    """What a model of stage E says when it is asked as in training, the row's instruction behind each recording."""
    held = checkpoint.content
    dictation = TranscriptionPrompt.from_state(held.get("dictation", TranscriptionPrompt().state()))
    most = held.get("answer_tokens", MAX_TOKENS)
    # As in validation, an answer may go on behind the context.
    assistant = Assistant.from_pretrained(checkpoint, context=held.get("context", CONTEXT) + most, device=device)
    order = sorted(range(len(said)), key=lambda number: said[number].duration or 0.0)  # little padding
    found = [""] * len(said)
    with tqdm(total=len(said), desc="transcribing", leave=False, disable=None) as bar:
        for first in range(0, len(order), _TOGETHER):
            some = order[first : first + _TOGETHER]
            prompts = []
            for number in some:
                asked, _ = dictation.messages(number, "")
                asked["content"][0]["audio"] = source.audio(number, said[number])
                try:
                    prompts.append(assistant.prompt([asked], max_tokens=most))
                except UserError as error:
                    raise UserError(f"{said[number].where}: {error}") from error
            for number, text in zip(some, assistant.answer(prompts, max_tokens=most), strict=True):
                found[number] = text
            bar.update(len(some))
    return dictation.labels or TextNormalization(), found


def _peer(name: str, source: Utterances, said: Sequence[Utterance], device: str) -> list[str]:
    """What a speech recogniser of `transformers` understands, one utterance at a time: no padding changes it."""
    hear = load_peer(name, device)
    rows = tqdm(enumerate(said), total=len(said), desc="transcribing", leave=False, disable=None)
    return [hear(read_audio(source.audio(number, row)).numpy()) for number, row in rows]


def load_peer(name: str, device: str) -> Callable[[Any], str]:
    """Loads a pipeline of `transformers` for speech recognition.

    Args:
        name: The model's name on the Hub, or its folder.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Returns:
        What makes text of audio, an array (samples,) at 16 kHz.

    Raises:
        UserError: If `transformers` is missing, or the model cannot be had or does not recognise speech.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"hf:{name} needs Hugging Face's transformers: pip install 'omni[hf]'") from error
    import torch

    transformers.logging.set_verbosity_error()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(name).expanduser()
    try:
        asr: Any = transformers.pipeline(
            "automatic-speech-recognition", model=str(folder) if folder.is_dir() else name, device=device
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"hf:{name}: is no speech recogniser that can be loaded ({reason}): check its name and the network, or "
            "download it and give hf:FOLDER"
        ) from error
    whisper = asr.type == "seq2seq_whisper"

    def hear(audio: Any) -> str:
        timed = {"return_timestamps": True} if whisper and len(audio) > _WHOLE * SAMPLE_RATE else {}
        with torch.inference_mode():
            return asr({"raw": audio, "sampling_rate": SAMPLE_RATE}, **timed)["text"]

    return hear


def _lines(path: Path) -> list[str]:
    """Lines of a file. Only a line feed ends one: what else Python counts as a line end may be recognised text."""
    lines = path.read_bytes().decode(errors="replace").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _matched(path: Path, lines: Sequence[str], said: Sequence[Utterance]) -> list[str]:
    """The text for each row, found by its file's name, with as many of its folders as tell all files apart."""
    longest = max(len(_trail(row.audio)) for row in said)
    files = {_trail(row.audio) for row in said}
    parts = next(n for n in range(1, longest + 1) if len({file[-n:] for file in files}) == len(files))
    texts: dict[tuple[str, ...], str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, text = row.get("audio") or row["id"], row["text"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} row {number}: is no JSON object with `text` and `audio` or `id`") from None
        if not isinstance(text, str):
            raise UserError(f'{path} row {number}: `text` is {text!r}, no text: write "" where nothing was understood')
        name = _trail(str(key))[-parts:]
        if texts.setdefault(name, text) != text:
            raise UserError(f"{path} row {number}: {key} has two different texts: keep one of them")
    missing = next((row for row in said if _trail(row.audio)[-parts:] not in texts), None)
    if missing is not None:
        folders = f", told apart by the last {parts} parts of its path" if parts > 1 else ""
        raise UserError(f"{path}: has no row for {missing.audio} ({missing.where}){folders}")
    return [texts[_trail(row.audio)[-parts:]] for row in said]


def _trail(file: str) -> tuple[str, ...]:
    """A file's folders and its name, without the ending of audio."""
    path = Path(file)
    return (path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path).parts
