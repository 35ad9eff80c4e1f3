"""`POST /v1/chat/completions`."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import Response

from omni.decoding.sampling import Sampling
from omni.inference.speech_streamer import SpeechStreamer
from omni.media.encoding import FormatEncoder
from omni.serving.answers import AnswerAudio, AnswerEnd, AnswerSpeech, AnswerText, Question, choices
from omni.serving.bodies import read_json
from omni.serving.chat_prompts import Spoken
from omni.serving.completion import Completion, usage_of
from omni.serving.engine import Job
from omni.serving.errors import ApiError, json_response
from omni.serving.schemas import ChatRequest
from omni.serving.service import SEEDS, Service
from omni.serving.streams import event_stream, watched
from omni.serving.urgency import SPEECH_CHUNK

_LEAST = 1e-9  # of top_p: the most likely token alone


@dataclass(frozen=True)
class Reply:
    """An answer that is being generated.

    Attributes:
        request: The request.
        completion: The head of its response.
        job: Its work.
        prompt_tokens: Tokens of the prompt.
        streamer: Speaks it; None for a text answer.
    """

    request: ChatRequest
    completion: Completion
    job: Job
    prompt_tokens: int
    streamer: SpeechStreamer | None


async def complete_chat(http: Request) -> Response:
    """Answers a conversation."""
    service: Service = http.app.state.service
    async with service.uploads.body(http) as body:
        request = await read_json(http, body, ChatRequest)
        service.models.check(request.model, "chat")
        service.note(http, model=request.model, stream=request.stream)
        reply = await _reply(service, request)
    if request.stream:
        chunks = _counted(service, http, reply)
        roles = [reply.completion.role(number) for number in range(request.n or 1)]
        return event_stream(reply.job, chunks, before=roles)
    async with watched(http, reply.job):
        return json_response(await _whole(service, http, reply))


async def _reply(service: Service, request: ChatRequest) -> Reply:
    """Starts an answer."""
    assert service.prompts is not None
    spoken = {
        number: service.spoken.transcript(one.audio.id, param=f"messages[{number}].audio.id", now=time.time())
        for number, one in enumerate(request.messages)
        if one.content is None and one.audio is not None
    }
    streamer = _streamer(service, request)
    prompt, limit = await service.prompts.prompt(request, spoken)
    question = Question(prompt, limit, _sampling(service.sampling, request), tuple(request.stops))
    first = service.first_seed() if request.seed is None else request.seed
    seeds = [(first + number) % SEEDS for number in range(request.n or 1)]
    speech = None if streamer is None else AnswerSpeech(streamer)
    job = service.engine.submit(*choices(service.engine, question, seeds, speech))
    options = request.stream_options
    completion = Completion(request.model, include_usage=options is not None and options.include_usage)
    return Reply(request, completion, job, len(prompt.tokens), streamer)


def _streamer(service: Service, request: ChatRequest) -> SpeechStreamer | None:
    if not request.speaks:
        return None
    if service.models.synthesizer is None:
        raise ApiError(400, "This server has no voice: leave out the modality audio.", param="modalities")
    assert request.audio is not None
    voice = request.audio.voice if isinstance(request.audio.voice, str) else request.audio.voice.id
    speaker = service.models.speaker(voice, param="audio.voice")
    return SpeechStreamer(service.models.synthesizer, speaker=speaker, chunk=SPEECH_CHUNK)


def _sampling(default: Sampling, request: ChatRequest) -> Sampling:
    given: dict[str, Any] = {}
    if request.temperature is not None:
        given["temperature"] = request.temperature
    if request.top_p is not None:
        given["top_p"] = max(request.top_p, _LEAST)
    return replace(default, **given)


async def _counted(service: Service, http: Request, reply: Reply) -> AsyncIterator[Mapping[str, Any]]:
    """The chunks of a stream after the first ones."""
    completion, reasons, tokens, transcript = reply.completion, dict[int, str](), 0, ""
    encoder = None if reply.streamer is None else FormatEncoder("pcm", sample_rate=reply.streamer.sample_rate)
    async for event in reply.job:
        if isinstance(event, AnswerText):
            service.first(http, "token")
            transcript += event.text if encoder is not None else ""
            yield completion.text(event.choice, event.text, spoken=encoder is not None)
        elif isinstance(event, AnswerAudio) and encoder is not None:
            if data := encoder.push(event.samples):
                service.first(http, "sound")
                yield completion.audio(data)
        elif isinstance(event, AnswerEnd):
            reasons[event.choice], tokens = event.reason, tokens + event.num_tokens
            if encoder is None:
                yield completion.end(event.choice, event.reason)
    if encoder is not None:
        if data := encoder.finish():
            yield completion.audio(data)
        service.spoken.add(completion.audio_id, Spoken(transcript, completion.expires_at))
        yield completion.audio_end()
        yield completion.end(0, reasons.get(0, "stop"))
    _note_end(service, http, reply, tokens)
    if completion.include_usage:
        yield completion.usage_chunk(usage_of(reply.prompt_tokens, tokens))


async def _whole(service: Service, http: Request, reply: Reply) -> dict[str, Any]:
    count = reply.request.n or 1
    texts, reasons, tokens, audio = [""] * count, [""] * count, 0, [torch.zeros(0)]
    async for event in reply.job:
        if isinstance(event, AnswerText):
            service.first(http, "token")
            texts[event.choice] += event.text
        elif isinstance(event, AnswerAudio):
            service.first(http, "sound")
            audio.append(event.samples)
        elif isinstance(event, AnswerEnd):
            reasons[event.choice], tokens = event.reason, tokens + event.num_tokens
    speech = None
    if reply.request.audio is not None and reply.streamer is not None:
        speech = await service.encode(torch.cat(audio), reply.request.audio.format, reply.streamer.sample_rate)
        service.spoken.add(reply.completion.audio_id, Spoken(texts[0], reply.completion.expires_at))
    _note_end(service, http, reply, tokens)
    return reply.completion.whole(texts, reasons, usage_of(reply.prompt_tokens, tokens), speech)


def _note_end(service: Service, http: Request, reply: Reply, tokens: int) -> None:
    unspoken = [] if reply.streamer is None else reply.streamer.unspoken
    service.metrics.tokens.labels("prompt").inc(reply.prompt_tokens)
    service.metrics.tokens.labels("completion").inc(tokens)
    service.note(http, prompt_tokens=reply.prompt_tokens, completion_tokens=tokens, unspoken=unspoken[:5] or None)
