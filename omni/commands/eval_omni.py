"""`omni eval omni`: accuracy on conversations by task, and with images or audio blanked."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni.batch import TRANSCRIPTION
from omni.checkpoints.checkpoint import Checkpoint
from omni.commands.talker_options import TalkerOptions
from omni.data.conversations.opening import open_conversations
from omni.data.conversations.sources import Conversation
from omni.data.conversations.speech import TranscriptionPrompt
from omni.decoding.acceleration import INT8_ROWS, accelerate
from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.evaluation.accuracy import MEDIA, AnsweredQuestion, accuracy_report, answer_questions, take_evenly
from omni.evaluation.word_errors import Row, bootstrap, count_errors, interval
from omni.files import write_text
from omni.inference.assistant import Assistant
from omni.inference.recognizer import Recognizer, load_recognizer
from omni.inference.speech_streamer import SpeechStreamer
from omni.inference.synthesizer import Synthesizer
from omni.text.normalization import TextNormalization


def evaluate_accuracy(
    checkpoint: str,
    data: list[str] | None = None,
    *,
    modality_ablation: bool = True,
    limit: int | None = None,
    talker: TalkerOptions = TalkerOptions(),  # noqa: B008  immutable
    recognizer: str | None = None,
    spoken: int = 100,
    max_tokens: int = 64,
    batch_size: int = 32,
    json_file: Path | None = None,
    device: str = "auto",
    int8: bool = False,
) -> None:
    """Measure a model of stage E on the last question of conversations: accuracy by task, and word errors.

    An answer is right if it equals the reference, both normalised: lower case, no punctuation, numbers spelled out.
    Accuracies have 95 % intervals (Wilson). With images grey or audio silent, the same questions show how much the
    model depends on them. Transcriptions are also scored by word errors. With a voice, answers are spoken, and scored
    by the word errors of a recogniser. A conversation that cannot be answered, such as one with a broken recording, is
    named, the others are answered, and the exit code is 2.

    Example:
        omni eval omni --checkpoint lightning_logs/omni/best.ckpt --data val.jsonl

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt.
        data: Conversations: .jsonl files or hub:OWNER/NAME[:CONFIG[:SPLIT]]; or speech with transcripts, with the
            transcription prompt of training.
        modality_ablation: Whether to answer again with images and audio blanked.
        limit: Most questions, evenly spaced; by default all.
        talker: The voice that speaks the answers.
        recognizer: A checkpoint of stage B that transcribes the spoken answers; by default the one in `voice`.
        spoken: Most answers to speak, evenly spaced.
        max_tokens: Most tokens of an answer.
        batch_size: Questions per batch.
        json_file: Write all figures, and every answer, to this file.
        device: cpu, cuda, or auto.
        int8: Multiply single tokens and frames by weights of 8 bits, as `omni serve --int8` does: give batch_size 8 or
            less, as larger batches use the weights themselves.
    """
    for name, number, least in (
        ("batch_size", batch_size, 1),
        ("spoken", spoken, 0),
        ("limit", 1 if limit is None else limit, 1),
    ):
        if number < least:
            raise UserError(f"{name} is {number}: it must be {least} or more")
    opened = Checkpoint(checkpoint)
    rows = _conversations(opened, data, limit)
    assistant = Assistant.from_pretrained(opened, voice=talker.voice, vocoder=talker.vocoder, device=device)
    if int8 and batch_size > INT8_ROWS:
        raise UserError(
            f"--int8 is for batches of at most {INT8_ROWS} questions, not {batch_size}: give --batch_size 8"
        )
    accelerate([assistant.responder.omni.thinker, assistant.voice and assistant.voice.talker], int8=int8)
    listener = recognizer or talker.voice
    asr = load_recognizer(listener, device=device) if assistant.voice and listener and spoken else None
    options = {"modality_ablation": modality_ablation, "max_tokens": max_tokens, "batch_size": batch_size}
    errors: list[UserError] = []
    answered = answer_questions(assistant, rows, **options, errors=errors)
    report = {"checkpoint": checkpoint, "data": data, "questions": len(answered), **accuracy_report(answered)}
    _print_accuracies(report, sum(one.truncated for one in answered))
    report |= _transcription_errors(answered)
    if assistant.voice is not None and asr is not None:
        texts = [one.answer for one in take_evenly(answered, spoken)]
        report |= _round_trip(texts, assistant.voice, talker.speaker, asr, str(listener))
    elif spoken:
        print("spoken answers are not measured: give a voice, and a recogniser unless the voice's checkpoint holds one")
    if json_file is not None:
        report["answers"] = [one._asdict() for one in answered]
        report |= {"unanswered": [str(error) for error in errors]} if errors else {}
        write_text(json_file, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if errors:
        for error in errors:
            print(f"omni: {error}", file=sys.stderr)
        raise SystemExit(2)


def _conversations(checkpoint: Checkpoint, data: list[str] | None, limit: int | None) -> list[Conversation]:
    if not data:
        raise UserError("there are no conversations: give --data, .jsonl files or hub:OWNER/NAME")
    prompt = TranscriptionPrompt.from_state(checkpoint.content.get("dictation", TranscriptionPrompt().state()))
    rows = [row for one in open_conversations(data, transcription_prompt=prompt, split="test") for row in one.rows()]
    return take_evenly(rows, limit or len(rows))


def _print_accuracies(report: dict[str, Any], truncated: int) -> None:
    print(f"{', '.join(report['data'])}\n  answered by {report['checkpoint']}: {report['questions']:,} questions\n")
    if truncated:
        print(f"{truncated} conversations exceed the context: their first exchanges were left out\n")
    excluded = f" but {', '.join(report['excluded'])}" if report["excluded"] else ""
    rows = {**report["tasks"], f"all{excluded}": report["all"]}
    rows |= {f"of these, with {kind}": report[f"with_{kind}"] for kind in MEDIA if f"with_{kind}" in report}
    width = max(16, *map(len, rows))
    print(f"{'':{width}}{'asked':>7}{'right':>8}{'95 % interval':>17}{'images grey':>14}{'audio silent':>14}")
    for name, figures in rows.items():
        between = f"{figures['low']:.1%} – {figures['high']:.1%}"
        blank = (figures.get(f"blank_{kind}") for kind in MEDIA)
        cells = "".join(f"{'–':>14}" if share is None else f"{share:14.1%}" for share in blank)
        print(f"{name:{width}}{figures['asked']:7,}{figures['accuracy']:8.1%}{between:>17}{cells}")
    print()


def _transcription_errors(answered: Sequence[AnsweredQuestion]) -> dict[str, Any]:
    normalize = TextNormalization()
    transcribed = [one for one in answered if one.task == TRANSCRIPTION]
    rows = [Row(one.where, None, normalize(one.reference), normalize(one.answer)) for one in transcribed]
    return _word_errors("wer", "transcription", rows)


def _round_trip(
    texts: Sequence[str], voice: Synthesizer, speaker: int | str | None, recognizer: Recognizer, name: str
) -> dict[str, Any]:
    """Speaks answers as `omni generate` does, and counts the word errors of a recogniser."""
    normalize, speech = recognizer.units.normalize, SpeechStreamer(voice, speaker=speaker)
    segments = {text: speech.read(text) for text in dict.fromkeys(texts)}
    texts = [text for text in texts if segments[text] and normalize(text)]
    spoken = voice.speak([segments[text] for text in texts], speaker=speaker, sampling=SpeechSampling())
    transcripts = recognizer.transcribe([one.resampled() for one in spoken]) if texts else []
    rows = [
        Row(str(number), None, normalize(text), transcript.text)
        for number, (text, transcript) in enumerate(zip(texts, transcripts, strict=True))
    ]
    figures = _word_errors("round_trip_wer", f"spoken answers, as {name} transcribes them", rows)
    if figures:
        print("  (includes the recogniser's own errors: see the Talker's val/recording_wer and val/codec_wer)")
    return figures | {"unspoken": sorted(set(speech.unspoken))}


def _word_errors(key: str, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    rows = [row for row in rows if row.reference]
    if not rows:
        return {}
    errors, (low, high) = count_errors(rows), interval(bootstrap([rows])[:, 0])
    between = f"95 % interval {low:.1%} – {high:.1%}"
    print(f"{name}: WER {errors.wer:.1%} ({between}), {errors.words:,} words in {len(rows):,} utterances")
    return {key: {"wer": errors.wer, "low": low, "high": high, "utterances": len(rows), "words": errors.words}}
