"""`omni eval omni`: accuracy on conversations by task, and with images or audio blanked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni.batch import TRANSCRIPTION
from omni.checkpoints.checkpoint import Checkpoint
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.speech import TranscriptionPrompt
from omni.decoding.talker import SpeechSampling
from omni.errors import UserError
from omni.evaluation.accuracy import Question, accuracies, ask, evenly
from omni.evaluation.word_errors import Row, bootstrap, count_errors, interval
from omni.files import write_text
from omni.inference.assistant import Assistant
from omni.inference.recognizer import Recognizer, load_recognizer
from omni.inference.speech_streamer import SpeechStreamer
from omni.text.normalization import TextNormalization


def examine(
    checkpoint: str,
    data: list[str] | None = None,
    *,
    modality_ablation: bool = True,
    limit: int | None = None,
    voice: str | None = None,
    vocoder: str | None = None,
    speaker: int | str | None = None,
    recognizer: str | None = None,
    spoken: int = 100,
    max_tokens: int = 64,
    batch_size: int = 32,
    json_file: Path | None = None,
    device: str = "auto",
) -> None:
    """Ask a model of stage E the last question of conversations, and tell its figures by task.

    An answer is right if it equals the true one, both normalised: lower case, no punctuation, numbers spelled out.
    Beside the accuracy with its 95 % interval (Wilson) stand the blank controls: the accuracy of the same questions
    with every image grey, or all audio silent. Transcriptions are scored by word errors too. With a voice, answers are
    said, and a recogniser writes down what it hears.

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt.
        data: Conversations: .jsonl files or hub:OWNER/NAME[:CONFIG[:SPLIT]]; or speech with transcripts, which is asked
            for as in training.
        modality_ablation: Whether questions are asked again with images and audio blanked.
        limit: Most questions, evenly taken from all; all if not given.
        voice: The checkpoint of a Talker that says the answers; not needed where the model's holds one.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder.
        speaker: The number of a voice, or its name, for a Talker that has several.
        recognizer: A checkpoint of stage B that listens to them; if not given, the one that travels with the voice.
        spoken: Most answers that are said, evenly taken from all.
        max_tokens: Most tokens of an answer.
        batch_size: Questions that are answered at a time.
        json_file: Write all figures, and every answer, to this file.
        device: cpu, cuda, or auto.
    """
    for name, number, least in (("batch_size", batch_size, 1), ("spoken", spoken, 0), ("limit", limit or 1, 1)):
        if number < least:
            raise UserError(f"{name} is {number}: it must be {least} or more")
    if not data:
        raise UserError("there are no conversations: give --data, .jsonl files or hub:OWNER/NAME")
    opened = Checkpoint(checkpoint)
    dictation = TranscriptionPrompt.from_state(opened.content.get("dictation", TranscriptionPrompt().state()))
    rows = [row for one in open_conversations(data, dictation=dictation, hub_split="test") for row in one.rows()]
    rows = rows if limit is None else evenly(rows, limit)
    assistant = Assistant.from_pretrained(opened, voice=voice, vocoder=vocoder, device=device)
    listener = recognizer or voice
    measured = bool(assistant.voice and listener and spoken)
    hear = load_recognizer(str(listener), device=device) if measured else None
    questions = ask(assistant, rows, modality_ablation=modality_ablation, max_tokens=max_tokens, batch_size=batch_size)
    print(f"{', '.join(data)}\n  as {checkpoint} answers: {len(questions):,} questions\n")
    report: dict[str, Any] = {"checkpoint": checkpoint, "data": data, "questions": len(questions)}
    report |= accuracies(questions)
    report |= _transcriptions(questions)
    if assistant.voice is not None and hear is not None:
        texts = [one.said for one in evenly(questions, spoken)]
        report |= _round_trip(texts, SpeechStreamer(assistant.voice, speaker=speaker), hear, str(listener))
    elif spoken:
        print("spoken answers are not measured: give a voice, and a recogniser unless one travels with it")
    if json_file is not None:
        report["answers"] = [one._asdict() for one in questions]
        write_text(json_file, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _transcriptions(questions: Sequence[Question]) -> dict[str, Any]:
    normalize = TextNormalization()
    heard = [one for one in questions if one.task == TRANSCRIPTION]
    rows = [Row(one.where, None, normalize(one.truth), normalize(one.said)) for one in heard]
    return _word_errors("wer", "transcription", rows)


def _round_trip(texts: Sequence[str], aloud: SpeechStreamer, recognizer: Recognizer, listener: str) -> dict[str, Any]:
    """Says answers, and counts the words that a recogniser gets wrong."""
    normalize = recognizer.units.normalize
    speech_segments = {text: aloud.read(text) for text in dict.fromkeys(texts)}
    texts = [text for text in texts if speech_segments[text] and normalize(text)]
    speech = aloud.voice.speak(
        [speech_segments[text] for text in texts], speaker=aloud.speaker, sampling=SpeechSampling()
    )
    heard = recognizer.transcribe([one.audio for one in speech]) if texts else []
    rows = [
        Row(str(n), None, normalize(text), one.text) for n, (text, one) in enumerate(zip(texts, heard, strict=True))
    ]
    figures = _word_errors("round_trip_wer", f"spoken answers, as {listener} hears them", rows)
    if figures:
        print("  (the recogniser's own errors among them: see the Talker's val/recording_wer and val/codec_wer)")
    return figures | {"unspoken": sorted(set(aloud.unspoken))}


def _word_errors(key: str, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    rows = [row for row in rows if row.reference]
    if not rows:
        return {}
    errors, (low, high) = count_errors(rows), interval(bootstrap([rows])[:, 0])
    between = f"95 % interval {low:.1%} – {high:.1%}"
    print(f"{name}: WER {errors.wer:.1%} ({between}), {errors.words:,} words in {len(rows):,}")
    return {key: {"wer": errors.wer, "low": low, "high": high, "utterances": len(rows), "words": errors.words}}
