"""What /v1/realtime refuses: connections, events, and their fields. A session survives a wrong event."""

import base64
import json

import pytest
from test_realtime import MANUAL, SILENCE, TEXT, is_freed, pcm, say, session, speech, text_item, until
from toy_server import CHAT, SPEECH, TRANSCRIPTION, RunningServer, data_url, png, toy_models
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from omni.serving.limits import Limits


@pytest.fixture(scope="module")
def server():
    with RunningServer() as running:
        yield running


def opened(server, query="", **options):
    """A plain WebSocket."""
    return connect(f"ws://127.0.0.1:{server.port}/v1/realtime{query}", proxy=None, **options)


def refused(server, query="", **options):
    """Status and error of a connection that is refused."""
    with pytest.raises(InvalidStatus) as caught, opened(server, query, **options):
        pass
    response = caught.value.response
    return response.status_code, json.loads(response.body)["error"]


class TestConnections:
    def test_the_key_is_needed_in_the_header_or_as_a_subprotocol(self):
        with RunningServer(api_key="secret") as server:
            for headers in (None, {"Authorization": "Bearer wrong"}):
                status, error = refused(server, additional_headers=headers)
                assert (status, error["code"]) == (401, "invalid_api_key")
            assert refused(server, subprotocols=["realtime", "openai-insecure-api-key.wrong"])[0] == 401
            with session(server, key="secret"):
                pass
            with opened(server, subprotocols=["realtime", "openai-insecure-api-key.secret"]) as socket:
                assert socket.subprotocol == "realtime"
                assert json.loads(socket.recv(timeout=60))["type"] == "session.created"

    @pytest.mark.parametrize(
        ("query", "status", "param"),
        [("?model=other", 404, "model"), (f"?model={SPEECH}", 404, "model"), ("?intent=other", 400, "intent")],
    )
    def test_a_model_must_exist(self, server, query, status, param):
        found, error = refused(server, query)
        assert (found, error["param"]) == (status, param)

    def test_a_voice_alone_has_no_sessions(self):
        names = [name for name in toy_models().names if name.id == SPEECH]
        with RunningServer(toy_models(assistant=None, recognizer=None, names=names)) as server:
            assert refused(server)[0] == 404

    def test_sessions_are_bounded(self):
        with RunningServer(limits=Limits(max_running=1, max_queue=1)) as server:
            with opened(server) as one, opened(server) as other:
                for socket in (one, other):
                    socket.recv(timeout=60)
                status, error = refused(server)
                assert (status, error["code"]) == (429, "sessions_full")
            server.idle()
            with session(server):
                pass

    def test_pages_of_other_origins_may_not_open_sessions(self, server):
        assert refused(server, origin="https://other.example")[1]["code"] == "wrong_origin"
        with opened(server, origin=server.url):
            pass
        with RunningServer(allow_origins=["https://other.example"]) as other:
            with opened(other, origin="https://other.example"):
                pass
            assert refused(other, origin="https://third.example")[0] == 403

    def test_a_stopping_server_refuses_sessions(self):
        with RunningServer() as server, session(server):
            server.service.draining = True
            assert refused(server)[0] == 503

    def test_http_requests_are_refused(self, server):
        with server.http() as http:
            assert http.get("/v1/realtime").status_code in (400, 404, 426)

    def test_a_message_over_the_limit_ends_the_connection(self):
        with RunningServer(limits=Limits(max_upload=0.1)) as server:
            with opened(server) as socket:
                socket.recv(timeout=60)
                socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 200_000}))
                with pytest.raises(ConnectionClosed, match="1009"):
                    socket.recv(timeout=60)
            server.idle()
            with session(server):
                pass


def error_of(connection, event):
    """The error that an event is answered with; the session goes on."""
    connection.send({**event, "event_id": "mine"})
    error = until(connection, "error")[-1].error
    connection.session.update(session=MANUAL)
    until(connection, "session.updated")
    assert error.event_id == "mine"
    return error


ITEM = text_item()
VAD = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}


def item(part, role="user"):
    return {"type": "conversation.item.create", "item": {"type": "message", "role": role, "content": [part]}}


def changed(**fields):
    return {"type": "session.update", "session": {"type": "realtime", **fields}}


def heard(**fields):
    return changed(audio={"input": fields})


WRONG = {
    "unknown event": ({"type": "other"}, "type", "unknown_event"),
    "no type": ({}, "type", "missing_required_parameter"),
    "type of a number": ({"type": 3}, "type", "unknown_event"),
    "session missing": ({"type": "session.update"}, "session", "missing_required_parameter"),
    "session of a list": ({"type": "session.update", "session": []}, "session", None),
    "session without type": ({"type": "session.update", "session": {}}, "session.type", "missing_required_parameter"),
    "type of a session": (changed(type="other"), "session.type", None),
    "another model": (changed(model="other"), "session.model", None),
    "both modalities": (changed(output_modalities=["text", "audio"]), "session.output_modalities", None),
    "unknown modality": (changed(output_modalities=["video"]), "session.output_modalities[0]", None),
    "instructions": (changed(instructions=3), "session.instructions", None),
    "no tokens": (changed(max_output_tokens=0), "session.max_output_tokens", None),
    "infinite tokens": (changed(max_output_tokens="many"), "session.max_output_tokens", None),
    "format": (heard(format={"type": "audio/pcmu"}), "session.audio.input.format.type", None),
    "rate": (heard(format={"type": "audio/pcm", "rate": 16000}), "session.audio.input.format.rate", None),
    "detection": (heard(turn_detection={"type": "semantic_vad"}), "session.audio.input.turn_detection.type", None),
    "threshold": (heard(turn_detection={"threshold": 2.0}), "session.audio.input.turn_detection.threshold", None),
    "silence": (
        heard(turn_detection={"silence_duration_ms": 0}),
        "session.audio.input.turn_detection.silence_duration_ms",
        None,
    ),
    "padding": (
        heard(turn_detection={"prefix_padding_ms": -1}),
        "session.audio.input.turn_detection.prefix_padding_ms",
        None,
    ),
    "flag": (
        heard(turn_detection={"interrupt_response": "yes"}),
        "session.audio.input.turn_detection.interrupt_response",
        None,
    ),
    "transcriber": (
        heard(transcription={"model": "other"}),
        "session.audio.input.transcription.model",
        "model_not_found",
    ),
    "voice": (changed(audio={"output": {"voice": "nobody"}}), "session.audio.output.voice", None),
    "voice of a number": (changed(audio={"output": {"voice": 3}}), "session.audio.output.voice", None),
    "speed": (changed(audio={"output": {"speed": 9}}), "session.audio.output.speed", None),
    "no audio": ({"type": "input_audio_buffer.append"}, "audio", "missing_required_parameter"),
    "audio of a list": ({"type": "input_audio_buffer.append", "audio": []}, "audio", None),
    "not base64": ({"type": "input_audio_buffer.append", "audio": "?!"}, "audio", "invalid_base64"),
    "half a sample": (
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(b"abc").decode()},
        "audio",
        "invalid_audio",
    ),
    "empty commit": ({"type": "input_audio_buffer.commit"}, None, "input_audio_buffer_commit_empty"),
    "no item": ({"type": "conversation.item.create"}, "item", "missing_required_parameter"),
    "kind of item": (
        {"type": "conversation.item.create", "item": {**ITEM, "type": "function_call"}},
        "item.type",
        None,
    ),
    "role": ({"type": "conversation.item.create", "item": {**ITEM, "role": "tool"}}, "item.role", None),
    "no parts": ({"type": "conversation.item.create", "item": {**ITEM, "content": []}}, "item.content", None),
    "part": (item({"type": "text", "text": "a"}), "item.content[0].type", None),
    "part of another role": (item({"type": "input_text", "text": "a"}, "assistant"), "item.content[0].type", None),
    "part without text": (item({"type": "input_text"}), "item.content[0].text", None),
    "recording": (item({"type": "input_audio", "audio": "?"}), "item.content[0].audio", "invalid_base64"),
    "empty recording": (item({"type": "input_audio", "audio": ""}), "item.content[0].audio", "invalid_audio"),
    "odd recording": (item({"type": "input_audio", "audio": "YQ=="}), "item.content[0].audio", "invalid_audio"),
    "picture at a URL": (
        item({"type": "input_image", "image_url": "http://127.0.0.1/a.png"}),
        "item.content[0].image_url",
        None,
    ),
    "picture": (
        item({"type": "input_image", "image_url": data_url(b"no picture")}),
        "item.content[0].image_url",
        "invalid_image",
    ),
    "a kilometre of picture": (
        item({"type": "input_image", "image_url": data_url(png((8000, 8000)))}),
        "item.content[0].image_url",
        "image_too_large",
    ),
    "place": (
        {"type": "conversation.item.create", "item": ITEM, "previous_item_id": "none"},
        "previous_item_id",
        "item_not_found",
    ),
    "item to delete": ({"type": "conversation.item.delete", "item_id": "none"}, "item_id", "item_not_found"),
    "nothing to answer": ({"type": "response.create"}, None, "nothing_to_answer"),
    "response of a list": ({"type": "response.create", "response": []}, "response", None),
    "conversation": (
        {"type": "response.create", "response": {"conversation": "none"}},
        "response.conversation",
        None,
    ),
    "input": ({"type": "response.create", "response": {"input": []}}, "response.input", None),
    "metadata": ({"type": "response.create", "response": {"metadata": {"a": 1}}}, "response.metadata.a", None),
    "voice of a response": (
        {"type": "response.create", "response": {"audio": {"output": {"voice": "nobody"}}}},
        "response.audio.output.voice",
        None,
    ),
    "nothing to cancel": ({"type": "response.cancel"}, None, "response_cancel_not_active"),
    "unknown response": (
        {"type": "response.cancel", "response_id": "none"},
        "response_id",
        "response_cancel_not_active",
    ),
}


class TestEvents:
    @pytest.mark.parametrize("name", WRONG)
    def test_a_wrong_event_is_answered_with_an_error(self, server, name):
        event, param, code = WRONG[name]
        with session(server, MANUAL) as connection:
            error = error_of(connection, event)
        assert (error.type, error.param) == ("invalid_request_error", param)
        assert error.code == code or code is None
        assert error.message.endswith(".")

    @pytest.mark.parametrize("message", ["", "{", "[]", "3", "null", "[" * 100_000, b"{}", '{"type": "a"} x'])
    def test_what_is_no_event_is_answered_with_an_error(self, server, message):
        with opened(server) as socket:
            socket.recv(timeout=60)
            socket.send(message)
            event = json.loads(socket.recv(timeout=60))
            assert (event["type"], event["error"]["code"]) == ("error", "invalid_json")
            socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
            assert json.loads(socket.recv(timeout=60))["type"] == "input_audio_buffer.cleared"

    @pytest.mark.parametrize("wrong", [3, "", []])
    def test_the_id_of_an_event_is_a_text(self, server, wrong):
        with session(server) as connection:
            connection.send({"type": "input_audio_buffer.clear", "event_id": wrong})
            assert until(connection, "error")[-1].error.param == "event_id"

    def test_an_update_changes_only_its_fields(self, server):
        with session(server, TEXT | {"instructions": "be brief"}) as connection:
            detection = {"type": "server_vad", "silence_duration_ms": 900}
            connection.send(heard(turn_detection=detection))
            config = until(connection, "session.updated")[-1].session
            assert (config.instructions, config.output_modalities) == ("be brief", ["text"])
            assert config.audio.input.turn_detection.silence_duration_ms == 900
            assert config.audio.input.turn_detection.prefix_padding_ms == 300
            connection.send(heard(turn_detection=None))
            assert until(connection, "session.updated")[-1].session.audio.input.turn_detection is None

    def test_two_answers_at_a_time_are_refused(self, server):
        with session(server, TEXT | {"max_output_tokens": "inf"}) as connection:
            connection.conversation.item.create(item=ITEM)
            connection.response.create()
            until(connection, "response.output_text.delta")
            connection.response.create()
            assert until(connection, "error")[-1].error.code == "conversation_already_has_active_response"
            connection.response.cancel()
            until(connection, "response.done")
        is_freed(server)

    def test_an_item_has_an_id_of_its_own(self, server):
        with session(server) as connection:
            for _ in range(2):
                connection.conversation.item.create(item=text_item(id="same"))
            assert until(connection, "error")[-1].error.code == "item_exists"

    def test_a_question_that_does_not_fit_fails_the_response(self, server):
        with session(server, TEXT) as connection:
            connection.conversation.item.create(item=text_item("abc " * 200))
            connection.response.create()
            response = until(connection, "response.done")[-1].response
            assert (response.status, response.status_details.type) == ("failed", "failed")
            assert "tokens" in response.status_details.error.message

    def test_the_buffer_is_bounded(self):
        with RunningServer(limits=Limits(max_turn=1.0)) as server, session(server, MANUAL) as connection:
            say(connection, SILENCE, speech())
            assert until(connection, "error")[-1].error.code == "input_audio_buffer_full"
            connection.input_audio_buffer.commit()
            until(connection, "conversation.item.done")

    def test_a_conversation_is_bounded(self):
        limits = Limits(max_upload=0.01)
        with RunningServer(limits=limits) as server, session(server, TEXT) as connection:
            for number in range(30):
                connection.conversation.item.create(item=text_item("a" * 1000, id=str(number)))
                until(connection, "conversation.item.done")
                assert server.service.uploads.held <= 10_000
            connection.conversation.item.delete(item_id="0")
            assert until(connection, "error", "conversation.item.deleted")[-1].type == "error"
            connection.conversation.item.delete(item_id="29")
            until(connection, "conversation.item.deleted")
        assert server.service.uploads.held == 0

    def test_uploads_share_a_bound(self):
        limits = Limits(max_uploads=0.02)
        with RunningServer(limits=limits) as server, session(server, MANUAL) as connection:
            connection.input_audio_buffer.append(audio=pcm(SILENCE))
            error = until(connection, "error")[-1].error
            assert (error.type, error.code) == ("rate_limit_error", "uploads_full")

    def test_a_model_without_transcription_or_voice(self):
        names = [name for name in toy_models().names if name.id == CHAT]
        models = toy_models(recognizer=None, synthesizer=None, names=names)
        with RunningServer(models) as server, session(server, MANUAL) as connection:
            assert error_of(connection, heard(transcription={})).param == "session.audio.input.transcription.model"
            assert error_of(connection, changed(output_modalities=["audio"])).param == "session.output_modalities"
            wrong = {"type": "response.create", "response": {"output_modalities": ["audio"]}}
            assert error_of(connection, wrong).param == "response.output_modalities"

    def test_a_session_of_one_model_cannot_become_one_of_another(self):
        names = [name for name in toy_models().names if name.id == TRANSCRIPTION]
        models = toy_models(assistant=None, synthesizer=None, names=names)
        with RunningServer(models) as server, session(server, model=TRANSCRIPTION) as connection:
            connection.session.update(session={"type": "realtime"})
            assert until(connection, "error")[-1].error.param == "session.type"
