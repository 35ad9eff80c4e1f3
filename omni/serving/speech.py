"""`POST /v1/audio/speech`."""

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from omni.errors import UserError
from omni.inference.synthesizer import Synthesizer
from omni.media.encoding import FormatEncoder
from omni.serving.bodies import read_json
from omni.serving.engine import Job, Steps, Work
from omni.serving.errors import ApiError
from omni.serving.schemas import SpeechRequest
from omni.serving.service import Service
from omni.serving.streams import event_stream, first_of
from omni.serving.urgency import SPEECH_CHUNK, Playback
from omni.text.spelling import SpeechSegment
from omni.text.transcript import Word

_MAX_SILENCE = 600.0  # seconds of pauses in a text


class Part(NamedTuple):
    """A piece of encoded speech.

    Attributes:
        data: May be empty.
        words: The words that end in it.
    """

    data: bytes
    words: tuple[Word, ...]


async def create_speech(http: Request) -> Response:
    """Speaks a text: as audio while it is made, or as server-sent events."""
    service: Service = http.app.state.service
    async with service.uploads.body(http) as body:
        request = await read_json(http, body, SpeechRequest)
    service.models.check(request.model, "speech")
    synthesizer = service.models.synthesizer
    assert synthesizer is not None
    service.note(http, model=request.model, stream=request.stream_format == "sse", format=request.response_format)
    voice = request.voice if request.voice is None or isinstance(request.voice, str) else request.voice.id
    speaker = service.models.speaker(voice, param="voice")
    try:
        segments = await service.prepare(synthesizer.read, request.input)
    except UserError as error:
        raise ApiError(400, f"{error}.", param="input") from error
    if (silence := sum(segment.pause for segment in segments)) > _MAX_SILENCE:
        raise ApiError(400, f"The input has {silence:,.0f} s of pauses: at most {_MAX_SILENCE:g} s.", param="input")
    rate = synthesizer.sample_rate
    encoder, playback = FormatEncoder(request.response_format, sample_rate=rate), Playback(rate)
    steps = _steps(synthesizer, segments, speaker, request.speed, encoder, playback)
    job = service.engine.submit(Work(steps, playback.urgency))
    parts = _parts(service, http, job, playback)
    if request.stream_format == "sse":
        return event_stream(job, _events(parts, len(request.input), playback))
    data = _data(parts)
    first = await first_of(http, job, data)  # errors come before the head of the response
    kind = encoder.content_type
    if request.response_format == "pcm":
        kind = f"audio/pcm;rate={encoder.sample_rate}"
    return StreamingResponse(_after(first, data, job), media_type=kind)


def _steps(
    synthesizer: Synthesizer,
    segments: list[SpeechSegment],
    speaker: int | str | None,
    speed: float,
    encoder: FormatEncoder,
    playback: Playback,
) -> Steps:
    """Yields encoded audio, possibly empty, with the words that end in it."""
    for samples, words in synthesizer.stream_chunks(segments, speaker=speaker, speed=speed, chunk=SPEECH_CHUNK):
        playback.add(len(samples))
        yield Part(encoder.push(samples), words)
    yield Part(encoder.finish(), ())


async def _data(parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    async for part in parts:
        if part.data:
            yield part.data


async def _parts(service: Service, http: Request, job: Job, playback: Playback) -> AsyncIterator[Part]:
    part: Part
    async for part in job:
        if part.data:
            service.first(http, "sound")
        yield part
    service.metrics.audio.labels("spoken").inc(playback.seconds)
    service.note(http, audio_seconds=round(playback.seconds, 3))


async def _after(first: bytes, data: AsyncIterator[bytes], job: Job) -> AsyncIterator[bytes]:
    try:
        yield first
        async for more in data:
            yield more
    finally:
        job.cancel()


async def _events(parts: AsyncIterator[Part], characters: int, playback: Playback) -> AsyncIterator[Mapping[str, Any]]:
    """Audio and, beyond OpenAI's events, the times of its words."""
    async for part in parts:
        if part.data:
            yield {"type": "speech.audio.delta", "audio": base64.b64encode(part.data).decode()}
        if part.words:
            words = [{"word": one.text, "start": round(one.start, 3), "end": round(one.end, 3)} for one in part.words]
            yield {"type": "speech.audio.words", "words": words}
    made = round(playback.seconds * playback.sample_rate)
    usage = {"input_tokens": characters, "output_tokens": made, "total_tokens": characters + made}
    yield {"type": "speech.audio.done", "usage": usage}
