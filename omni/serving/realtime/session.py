"""A session: the events of a client in, those of the server out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE
from omni.media.encoding import PCM_RATE
from omni.media.turn_splitter import TurnPart
from omni.serving.errors import ApiError, from_validation, internal_error, overloaded
from omni.serving.realtime import schemas
from omni.serving.realtime.configuration import check_modality, shown_config, speaker_of, updated_config
from omni.serving.realtime.conversation import Conversation, new_id
from omni.serving.realtime.input_audio import AudioInput, samples_of
from omni.serving.realtime.items import new_item, spoken_item
from omni.serving.realtime.outbox import Outbox
from omni.serving.realtime.responses import Cancelled, Response, ResponseOptions
from omni.serving.realtime.turns import SpokenTurn
from omni.serving.service import Service
from omni.serving.streams import as_api_error

_log = logging.getLogger(__name__)
_LARGE = 200_000  # characters of an event that is parsed, or samples that are cut into turns, in a thread
_LEAST = 0.1  # seconds of audio that can be committed
_GOING_AWAY, _FAILED = 1001, 1011  # codes of RFC 6455

Handler = Callable[[Any], Awaitable[None]]


class Session:
    """A conversation with a client.

    Args:
        service: The server's state.
        socket: The connection, accepted.
        config: The first configuration.
        end: Set when the server stops: the session ends after its answer.
    """

    def __init__(self, service: Service, socket: WebSocket, config: schemas.SessionConfig, end: asyncio.Event) -> None:
        self.id, self.config, self.num_responses = new_id("sess"), config, 0
        self.service, self.outbox = service, Outbox(socket)
        self.conversation = Conversation(service.uploads, service.limits.upload_bytes)
        self.input = AudioInput(config.audio.input.turn_detection)
        self._socket, self._end = socket, end
        self._turn: SpokenTurn | None = None
        self._response: Response | None = None
        self._answering: asyncio.Task[None] | None = None  # runs the response
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, tuple[type[BaseModel] | None, Handler]] = {
            "session.update": (None, self._update),
            "input_audio_buffer.append": (schemas.Append, self._append),
            "input_audio_buffer.commit": (schemas.Commit, self._commit),
            "input_audio_buffer.clear": (schemas.Clear, self._clear),
            "conversation.item.create": (schemas.CreateItem, self._create_item),
            "conversation.item.delete": (schemas.DeleteItem, self._delete_item),
            "conversation.item.retrieve": (schemas.RetrieveItem, self._retrieve_item),
            "conversation.item.truncate": (schemas.TruncateItem, self._truncate_item),
            "response.create": (schemas.CreateResponse, self._create_response),
            "response.cancel": (schemas.CancelResponse, self._cancel_response),
        }

    async def run(self) -> None:
        """Answers events until the client leaves or the server stops."""
        listening = asyncio.create_task(self._listen())
        ending = asyncio.create_task(self._end.wait())
        try:
            await self.outbox.send("session.created", session=shown_config(self.config, self.id))
            await asyncio.wait((listening, ending), return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                await self._wait_for_response()
                await self._socket.close(_GOING_AWAY, "The server is shutting down.")
            else:
                await listening
        except WebSocketDisconnect:
            pass
        except Exception:
            _log.exception("A session failed.")
            await self._socket.close(_FAILED, "The server failed.")
        finally:
            tasks: list[asyncio.Task[Any]] = [*self._tasks, listening, ending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._drop_turn()
            self.conversation.clear()

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._handle(message.get("text"))

    async def _handle(self, text: str | None) -> None:
        """Answers an event; a wrong one with an error."""
        event_id = None
        try:
            event = await self._parsed(text)
            given = event.get("event_id")
            event_id = given if isinstance(given, str) else None
            schema, handler = self._handler(event.get("type"))
            await handler(event if schema is None else schema.model_validate(event))
        except ValidationError as error:
            await self.outbox.error(from_validation(error), event_id)
        except (ApiError, UserError) as error:
            await self.outbox.error(as_api_error(error), event_id)
        except WebSocketDisconnect:
            raise
        except Exception:
            _log.exception("An event failed.")
            await self.outbox.error(internal_error(), event_id)

    async def _parsed(self, text: str | None) -> dict[str, Any]:
        if text is None:
            raise ApiError(400, "Events are JSON in text messages, not binary ones.", code="invalid_json")
        try:
            event = from_json(text) if len(text) < _LARGE else await asyncio.to_thread(from_json, text)
        except ValueError as error:
            raise ApiError(400, f"The event is not valid JSON: {error}.", code="invalid_json") from error
        if not isinstance(event, dict):
            raise ApiError(400, "An event is a JSON object.", code="invalid_json")
        return event

    def _handler(self, kind: Any) -> tuple[type[BaseModel] | None, Handler]:
        if kind is None:
            raise ApiError(400, "type is missing.", param="type", code="missing_required_parameter")
        if not isinstance(kind, str) or kind not in self._handlers:
            message = f"There is no event {str(kind)[:100]!r}: use {', '.join(self._handlers)}."
            raise ApiError(400, message, param="type", code="unknown_event")
        return self._handlers[kind]

    # ------------------------------------------------------------------ configuration

    async def _update(self, event: dict[str, Any]) -> None:
        before = self.config
        self.config = updated_config(before, event, self.service.models)
        old, new = before.audio.input.turn_detection, self.config.audio.input.turn_detection
        self.input.detection = new
        if old != new:
            if old is None or new is not None:
                self._drop_turn()
            self.input.restart()
        await self.outbox.send("session.updated", session=shown_config(self.config, self.id))

    # ------------------------------------------------------------------ audio

    async def _append(self, event: schemas.Append) -> None:
        samples = samples_of(event.audio, param="audio")
        turn = self._turn
        if self.input.detection is None:
            held = 0.0 if turn is None else turn.seconds
            if held + len(samples) / PCM_RATE > self.service.limits.max_turn:
                message = f"The buffer holds {self.service.limits.max_turn:g} s of audio at most: commit or clear it."
                raise ApiError(400, message, param="audio", code="input_audio_buffer_full")
        if len(samples) < _LARGE:
            parts = self.input.push(samples)
        else:
            parts = await self.service.prepare(self.input.push, samples)
        for part in parts:
            await self._hear(part)

    async def _hear(self, part: TurnPart) -> None:
        if part.kind == "end":
            await self._end_turn(part.seconds)
        elif part.kind == "audio":
            turn = self._turn or await self._start_turn(part.seconds - len(part.samples) / SAMPLE_RATE)
            turn.push(part.samples)
            if turn.seconds >= self.service.limits.max_turn and self.input.detection is not None:
                await self._end_turn(part.seconds)

    async def _start_turn(self, seconds: float) -> SpokenTurn:
        turn = self._turn = SpokenTurn(self.service, self.outbox)
        if self.config.audio.input.transcription is not None:
            turn.transcribe(self._start)
        if (detection := self.input.detection) is not None:
            await self.outbox.send(
                "input_audio_buffer.speech_started", audio_start_ms=round(max(0.0, seconds) * 1000), item_id=turn.id
            )
            if detection.interrupt_response:
                self._interrupt("turn_detected")
        return turn

    async def _end_turn(self, seconds: float) -> None:
        if (turn := self._turn) is None:
            return
        await self.outbox.send("input_audio_buffer.speech_stopped", audio_end_ms=round(seconds * 1000), item_id=turn.id)
        await self._commit_turn(turn)
        detection = self.input.detection
        if self.config.type == "realtime" and detection is not None and detection.create_response:
            await self._respond(self._options(None), self.config.instructions)

    async def _commit(self, event: schemas.Commit) -> None:
        turn = self._turn
        if turn is None or turn.seconds < _LEAST:
            held = 0 if turn is None else round(turn.seconds * 1000)
            message = f"The buffer has {held} ms of audio: {round(_LEAST * 1000)} ms can be committed at least."
            raise ApiError(400, message, code="input_audio_buffer_commit_empty")
        await self._commit_turn(turn)
        self.input.restart()

    async def _commit_turn(self, turn: SpokenTurn) -> None:
        self._turn = None
        try:
            item = await spoken_item(turn, self.service, answered=self.config.type == "realtime")
            before = self.conversation.add(item)
        except BaseException:
            turn.drop()
            raise
        turn.finish()
        await self.outbox.send("input_audio_buffer.committed", previous_item_id=before, item_id=item.id)
        await self.outbox.send("conversation.item.added", previous_item_id=before, item=item.body)
        await self.outbox.send("conversation.item.done", previous_item_id=before, item=item.body)

    async def _clear(self, event: schemas.Clear) -> None:
        self._drop_turn()
        self.input.restart()
        await self.outbox.send("input_audio_buffer.cleared")

    def _drop_turn(self) -> None:
        if self._turn is not None:
            self._turn.drop()
            self._turn = None

    # ------------------------------------------------------------------ the conversation

    async def _create_item(self, event: schemas.CreateItem) -> None:
        item = await new_item(event.item, self.service)
        before = self.conversation.add(item, after=event.previous_item_id)
        await self.outbox.send("conversation.item.added", previous_item_id=before, item=item.body)
        await self.outbox.send("conversation.item.done", previous_item_id=before, item=item.body)

    async def _delete_item(self, event: schemas.DeleteItem) -> None:
        self.conversation.remove(event.item_id)
        await self.outbox.send("conversation.item.deleted", item_id=event.item_id)

    async def _retrieve_item(self, event: schemas.RetrieveItem) -> None:
        await self.outbox.send("conversation.item.retrieved", item=self.conversation.item(event.item_id).body)

    async def _truncate_item(self, event: schemas.TruncateItem) -> None:
        item = self.conversation.item(event.item_id)
        size = item.size
        item.truncate(event.audio_end_ms / 1000)
        self.conversation.resized(item, size)
        place = {"item_id": item.id, "content_index": event.content_index, "audio_end_ms": event.audio_end_ms}
        await self.outbox.send("conversation.item.truncated", **place)

    # ------------------------------------------------------------------ responses

    async def _create_response(self, event: schemas.CreateResponse) -> None:
        if self.config.type != "realtime":
            raise ApiError(400, "A transcription session has no responses.", code="no_responses")
        params = event.response or schemas.ResponseParams()
        instructions = self.config.instructions if params.instructions is None else params.instructions
        await self._respond(self._options(params), instructions)

    def _options(self, params: schemas.ResponseParams | None) -> ResponseOptions:
        config, models = self.config, self.service.models
        params = params or schemas.ResponseParams()
        modality = (params.output_modalities or config.output_modalities)[0]
        check_modality(modality, models, "response.output_modalities")
        output = None if params.audio is None else params.audio.output
        voice = config.audio.output.voice if output is None or output.voice is None else output.voice
        limit = params.max_output_tokens or config.max_output_tokens
        return ResponseOptions(
            spoken=modality == "audio",
            voice=voice if isinstance(voice, str | None) else voice.id,
            speaker=speaker_of(voice, models, "response.audio.output.voice") if modality == "audio" else None,
            speed=config.audio.output.speed,
            max_tokens=None if limit == "inf" else limit,
            metadata=params.metadata,
        )

    async def _respond(self, options: ResponseOptions, instructions: str) -> None:
        if self._end.is_set():
            raise overloaded("The server is shutting down.", status=503, code="shutting_down")
        if self._response is not None and not self._response.ended:
            message = f"The response {self._response.id} is in progress: cancel it, or wait for its end."
            raise ApiError(400, message, code="conversation_already_has_active_response")
        turns = self.conversation.turns(instructions)
        self._response = Response(self.service, self.outbox, self.conversation, options)
        self.num_responses += 1
        self._answering = self._start(self._response.run(turns))

    async def _cancel_response(self, event: schemas.CancelResponse) -> None:
        active = self._response
        if active is None or active.ended or event.response_id not in (None, active.id):
            message = "There is no such response in progress." if event.response_id else "No response is in progress."
            param = "response_id" if event.response_id else None
            raise ApiError(400, message, param=param, code="response_cancel_not_active")
        active.cancel("client_cancelled")

    def _interrupt(self, reason: Cancelled) -> None:
        if self._response is not None:
            self._response.cancel(reason)

    async def _wait_for_response(self) -> None:
        if self._answering is not None:
            await asyncio.wait((self._answering,))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside the events of the client, until the session ends."""

        async def guarded() -> None:
            try:
                await work
            except WebSocketDisconnect:
                pass
            except Exception:
                _log.exception("A session failed.")
                await self.outbox.error(internal_error())

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
