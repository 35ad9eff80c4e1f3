"""`POST /v1/audio/transcriptions`."""

import math
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from omni.errors import UserError
from omni.inference.recognizer import Recognizer
from omni.inference.subtitles import captions, subtitles
from omni.serving.bodies import read_form
from omni.serving.engine import Job, Steps, Work
from omni.serving.errors import ApiError, json_response
from omni.serving.media import check_audio
from omni.serving.schemas import TranscriptionRequest
from omni.serving.service import Service
from omni.serving.streams import event_stream, watched
from omni.serving.urgency import Turn
from omni.text.transcript import Transcript, Word

_LANGUAGE = "english"  # of the vocabularies that the recogniser is trained with
_WINDOW, _OVERLAP = 10.0, 2.0  # seconds: a step of the engine is half as long as with the 20 s of `omni transcribe`
_LIKELY = 1e-6  # least probability of a word, for its logarithm


async def create_transcription(http: Request) -> Response:
    """Transcribes a recording."""
    service: Service = http.app.state.service
    async with service.uploads.body(http) as body:
        request, content = await read_form(http, body, TranscriptionRequest, lists=("timestamp_granularities",))
        service.models.check(request.model, "transcription")
        recognizer = service.models.recognizer
        assert recognizer is not None
        service.note(http, model=request.model, stream=request.stream, format=request.response_format)
        await service.prepare(lambda: check_audio(content, param="file", limits=service.limits))
        timed = request.response_format in ("srt", "vtt", "verbose_json")
        turn = Turn()
        job = service.engine.submit(Work(_steps(recognizer, content, timed, turn), turn.urgency))
        if request.stream:
            return event_stream(job, _events(service, http, job))
        async with watched(http, job):
            transcript = [part async for part in job][-1]
    _count(service, http, transcript)
    return _response(transcript, request, recognizer)


def _steps(recognizer: Recognizer, content: bytes, timed: bool, turn: Turn) -> Steps:
    """Yields transcripts of the recording up to each chunk, then of all."""
    try:
        timestamps = "word" if timed else None
        for transcript in recognizer.partial_transcripts(
            content, timestamps=timestamps, window=_WINDOW, overlap=_OVERLAP
        ):
            turn.taken()
            yield transcript
    except UserError as error:
        raise ApiError(400, f"{error}.", param="file", code="invalid_audio") from error


async def _events(service: Service, http: Request, job: Job) -> AsyncIterator[Mapping[str, Any]]:
    transcript, sent = Transcript("", (), 0.0), ""
    async for transcript in job:
        if delta := transcript.text[len(sent) :]:
            service.first(http, "token")
            yield {"type": "transcript.text.delta", "delta": delta}
            sent = transcript.text
    _count(service, http, transcript)
    yield {"type": "transcript.text.done", "text": sent, "usage": _usage(transcript)}


def _count(service: Service, http: Request, transcript: Transcript) -> None:
    service.metrics.audio.labels("transcribed").inc(transcript.duration)
    service.note(http, audio_seconds=round(transcript.duration, 3))


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _response(transcript: Transcript, request: TranscriptionRequest, recognizer: Recognizer) -> Response:
    match request.response_format:
        case "json":
            return json_response({"text": transcript.text, "usage": _usage(transcript)})
        case "text":
            return _plain(transcript.text, "text/plain")
        case "srt":
            return _plain(subtitles(transcript.words, "srt"), "text/plain")
        case "vtt":
            return _plain(subtitles(transcript.words, "vtt"), "text/vtt")
        case "verbose_json":
            return json_response(_verbose(transcript, request, recognizer))


def _plain(text: str, kind: str) -> Response:
    return Response(f"{text}\n".encode(), media_type=f"{kind}; charset=utf-8")


def _verbose(transcript: Transcript, request: TranscriptionRequest, recognizer: Recognizer) -> dict[str, Any]:
    wanted = request.timestamp_granularities or ["segment"]
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": _LANGUAGE,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    if "word" in wanted:
        body["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in transcript.words
        ]
    if "segment" in wanted:
        groups = enumerate(captions(transcript.words))
        body["segments"] = [_segment(number, words, recognizer) for number, words in groups]
    return body | {"usage": _usage(transcript)}


def _segment(number: int, words: Sequence[Word], recognizer: Recognizer) -> dict[str, Any]:
    """A segment with the fields of Whisper's."""
    text = " ".join(word.text for word in words)
    content = text.encode()
    scores = [max(word.score, _LIKELY) for word in words]
    return {
        "id": number,
        "seek": 0,
        "start": round(words[0].start, 3),
        "end": round(words[-1].end, 3),
        "text": text,
        "tokens": recognizer.units.encode(text),
        "temperature": 0.0,
        "avg_logprob": sum(map(math.log, scores)) / len(scores),
        "compression_ratio": len(content) / len(zlib.compress(content)),
        "no_speech_prob": math.prod(1 - score for score in scores),
    }
