"""Hypotheses for utterances: from a checkpoint, from a model of transformers, or from a file."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from omni.checkpoints.checkpoint import Checkpoint
from omni.data.conversations.speech import TranscriptionPrompt
from omni.data.speech.manifests import Utterance, Utterances
from omni.decoding.fusion_options import FusionOptions
from omni.devices import resolve
from omni.errors import UserError, install_hint
from omni.inference.assistant import CONTEXT, MAX_TOKENS, Assistant
from omni.inference.recognizer import Recognizer, load_recognizer
from omni.media.audio import SAMPLE_RATE, read_audio
from omni.media.container import AUDIO_SUFFIXES
from omni.text.normalization import TextNormalization

_BATCH = 16  # utterances
_WHISPER_WINDOW = 30.0  # seconds; longer audio needs timestamps


class References(NamedTuple):
    """The utterances that systems are scored on.

    Attributes:
        source: Their source.
        utterances: By their number in the source.
        malformed: The errors of the other rows, by number.
    """

    source: Utterances
    utterances: Mapping[int, Utterance]
    malformed: Mapping[int, UserError]

    @staticmethod
    def of(source: Utterances) -> "References":
        """All rows of a source."""
        utterances, malformed = {}, {}
        for number, row in enumerate(source.rows_or_errors()):
            if isinstance(row, UserError):
                malformed[number] = row
            else:
                utterances[number] = row
        return References(source, utterances, malformed)


class Hypotheses(NamedTuple):
    """A system's texts for utterances.

    Attributes:
        texts: By the number of the utterance; those that cannot be read have none.
        normalize: The normalization that the system was trained with.
        unreadable: Why an utterance has no text, by its number.
    """

    texts: Mapping[int, str]
    normalize: TextNormalization = TextNormalization()
    unreadable: Mapping[int, UserError] = {}


def read_hypotheses(
    spec: str, references: References, *, device: str, beam: int, fusion: FusionOptions | None = None
) -> Hypotheses:
    """A system's hypotheses for utterances.

    Args:
        spec: A checkpoint of stage B or E; `hf:` and a model's name on the Hub, or its folder; a `.jsonl` file with
            `text` and `audio` or `id`; or a `.txt` file with a line for each row of the source.
        references: The utterances.
        device: The device of a model.
        beam: The beam size of a recogniser (see `Recognizer`).
        fusion: A language model and hotwords of a recogniser of stage B.

    Raises:
        UserError: If there is no such system, its file does not match the utterances, or `fusion` is of another system.
    """
    path = Path(spec).expanduser()
    fused = fusion is not None and fusion.used
    if fused and (spec.startswith("hf:") or (path.is_file() and path.suffix != ".ckpt")):
        raise UserError(f"{spec}: a language model and hotwords are for checkpoints of stage B: leave them out")
    if spec.startswith("hf:"):
        return _transcribed(load_transformers_recognizer(spec.removeprefix("hf:"), device), references)
    if path.suffix == ".ckpt" or path.is_dir():
        checkpoint = Checkpoint(path)
        if "thinker" in checkpoint and "audio_projector" in checkpoint and not fused:
            return _answered(checkpoint, references, device)
        return _recognized(load_recognizer(checkpoint, device=device, beam=beam, fusion=fusion), references)
    if not path.is_file():
        raise UserError(f"{spec} does not exist: give a .ckpt checkpoint, hf:MODEL, or hypotheses as .jsonl or .txt")
    lines = _lines(path)
    if path.suffix == ".jsonl":
        return Hypotheses(_matched(path, lines, references))
    count = len(references.utterances) + len(references.malformed)
    if len(lines) != count:
        raise UserError(f"{spec} has {len(lines)} lines, and the reference {count} rows: give a line for each")
    return Hypotheses(dict(enumerate(lines)))


def _transcribed(recognize: Callable[[Any], str], references: References) -> Hypotheses:
    rows, texts, unreadable = references.utterances.items(), {}, {}
    for number, row in tqdm(rows, desc="transcribing", leave=False, disable=None):
        try:
            texts[number] = recognize(read_audio(references.source.audio(number, row)).numpy())
        except UserError as error:
            unreadable[number] = error
    return Hypotheses(texts, unreadable=unreadable)


def _recognized(recognizer: Recognizer, references: References) -> Hypotheses:
    audio, texts, unreadable = {}, {}, {}
    for number, row in references.utterances.items():
        try:
            audio[number] = references.source.audio(number, row)
        except UserError as error:
            unreadable[number] = error
    numbers, stream = list(audio), recognizer.stream(list(audio.values()))
    for index, transcript in tqdm(stream, total=len(audio), desc="transcribing", leave=False, disable=None):
        if isinstance(transcript, UserError):
            unreadable[numbers[index]] = transcript
        else:
            texts[numbers[index]] = transcript.text
    return Hypotheses(texts, recognizer.units.normalize, unreadable)


def _answered(checkpoint: Checkpoint, references: References, device: str) -> Hypotheses:
    """Answers of a model of stage E to the transcription prompts of its training, each row with its own instruction."""
    content, (source, utterances, _) = checkpoint.content, references
    prompt = TranscriptionPrompt.from_state(content.get("dictation", TranscriptionPrompt().state()))
    max_tokens = content.get("answer_tokens", MAX_TOKENS)
    # As in validation, the answer does not count towards the context.
    context = content.get("context", CONTEXT) + max_tokens
    assistant = Assistant.from_pretrained(checkpoint, context=context, device=device)
    order = sorted(utterances, key=lambda number: utterances[number].duration or 0.0)  # little padding
    texts: dict[int, str] = {}
    unreadable: dict[int, UserError] = {}
    with tqdm(total=len(order), desc="transcribing", leave=False, disable=None) as bar:
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            prompts = {}
            for number in batch:
                question, _ = prompt.messages(number, "")
                try:
                    question["content"][0]["audio"] = source.audio(number, utterances[number])
                    prompts[number] = assistant.prompt([question], max_tokens=max_tokens)
                except UserError as error:
                    unreadable[number] = UserError(f"{utterances[number].where}: {error}")
            answers = assistant.answer(list(prompts.values()), max_tokens=max_tokens) if prompts else []
            texts |= zip(prompts, answers, strict=True)
            bar.update(len(batch))
    return Hypotheses(texts, prompt.labels or TextNormalization(), unreadable)


def load_transformers_recognizer(name: str, device: str) -> Callable[[Any], str]:
    """Loads a speech recogniser of `transformers`; it transcribes one recording at a time, without padding.

    Args:
        name: The model's name on the Hub, or its folder.
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Returns:
        A function from audio, an array (samples,) at 16 kHz, to its text.

    Raises:
        UserError: If `transformers` is missing, or the model cannot be loaded or is not a speech recogniser.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"hf:{name} needs the package transformers: {install_hint('hf')}") from error
    import torch

    transformers.logging.set_verbosity_error()
    folder = Path(name).expanduser()
    try:
        pipeline: Any = transformers.pipeline(
            "automatic-speech-recognition",
            model=str(folder) if folder.is_dir() else name,
            device=resolve(device),
            trust_remote_code=False,  # not even asked for, at the terminal
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"hf:{name} cannot be loaded as a speech recogniser ({reason}): check its name and the network, or "
            "download it and give hf:FOLDER"
        ) from error
    whisper = pipeline.type == "seq2seq_whisper"

    def recognize(audio: Any) -> str:
        long = {"return_timestamps": True} if whisper and len(audio) > _WHISPER_WINDOW * SAMPLE_RATE else {}
        with torch.inference_mode():
            return pipeline({"raw": audio, "sampling_rate": SAMPLE_RATE}, **long)["text"]

    return recognize


def _lines(path: Path) -> list[str]:
    """Lines of a file. Only a line feed ends one: Python's other line ends may be recognised text."""
    lines = path.read_bytes().decode(errors="replace").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _matched(path: Path, lines: Sequence[str], references: References) -> dict[int, str]:
    """The text for each utterance, found by its file's name and as many of its folders as make names unique."""
    files = {number: _name_parts(row.audio) for number, row in references.utterances.items()}
    distinct = set(files.values())
    if len(distinct) < len(files) and any(row.start is not None for row in references.utterances.values()):
        raise UserError(
            f"{path}: rows of the reference are parts of the same recording, which `audio` does not distinguish: give "
            "the hypotheses as .txt, with a line for each row"
        )
    depths = range(1, max(map(len, distinct), default=1) + 1)
    depth = next(n for n in depths if len({file[-n:] for file in distinct}) == len(distinct))
    texts: dict[tuple[str, ...], str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, text = row.get("audio") or row["id"], row["text"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} row {number} is not a JSON object with `text` and `audio` or `id`") from None
        if not isinstance(text, str):
            raise UserError(f'{path} row {number}: `text` is {text!r}, not a string: write "" for an empty hypothesis')
        if texts.setdefault(_name_parts(str(key))[-depth:], text) != text:
            raise UserError(f"{path} row {number}: {key} has two different texts: keep one of them")
    for number, file in files.items():
        if file[-depth:] not in texts:
            row = references.utterances[number]
            folders = f" (compared by the last {depth} parts of its path)" if depth > 1 else ""
            raise UserError(f"{path} has no row for {row.audio} ({row.where}){folders}")
    return {number: texts[file[-depth:]] for number, file in files.items()}


def _name_parts(file: str) -> tuple[str, ...]:
    """A file's folders and its name, without an audio suffix."""
    path = Path(file)
    return (path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path).parts
