"""Sessions at /v1/realtime, opened by OpenAI's own client."""

import base64
import time
from contextlib import contextmanager

import numpy as np
import openai
import pytest
import torch
from conftest import tones
from toy_server import CHAT, TRANSCRIPTION, RunningServer, data_url, png, toy_models

from omni.media.resampling import resample
from omni.serving.limits import Limits

RATE = 24_000
SILENCE = np.zeros(RATE, dtype=np.float32)
MANUAL = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
TEXT = {"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 24}


def speech(text="abcabc"):
    """(samples,) at 24 kHz that the toy recognizer reads as `text`."""
    return resample(torch.from_numpy(np.asarray(tones(text))), 16_000, RATE).numpy()


def pcm(samples):
    """As clients send it."""
    return base64.b64encode((np.asarray(samples).clip(-1, 1) * 32767).astype("<i2").tobytes()).decode()


def say(connection, *parts, piece=2400):
    """Sends audio as a microphone does, in pieces."""
    samples = np.concatenate(parts)
    for start in range(0, len(samples), piece):
        connection.input_audio_buffer.append(audio=pcm(samples[start : start + piece]))


def text_item(text="hello", **more):
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], **more}


def until(connection, *kinds, timeout=60):
    """The events up to the first of a kind."""
    found = []
    deadline = time.monotonic() + timeout
    while not found or found[-1].type not in kinds:
        assert time.monotonic() < deadline, [event.type for event in found]
        found.append(connection.parse_event(connection._connection.recv(timeout=timeout)))
    return found


def kinds(events):
    """Types of events, repetitions once."""
    types = [event.type for event in events]
    return [kind for place, kind in enumerate(types) if place == 0 or types[place - 1] != kind]


def is_freed(server):
    """Waits until no answer has a row."""
    deadline = time.monotonic() + 30
    while server.service.engine.batched.num_running:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def server():
    with RunningServer() as running:
        yield running


@contextmanager
def session(server, update=None, *, key="unused", **options):
    """A connection after its first event, and after an update of the configuration."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        settings = {"websocket_connection_options": {"proxy": None}, **options}
        with client.realtime.connect(**({"model": CHAT} | settings)) as connection:
            (created,) = until(connection, "session.created")
            assert created.session.type in ("realtime", "transcription")
            if update is not None:
                connection.session.update(session=update)
                assert until(connection, "session.updated", "error")[-1].type == "session.updated"
            yield connection
    server.idle()


class TestText:
    def test_a_written_question_is_answered_as_in_a_chat_completion(self, server):
        with session(server, TEXT) as connection:
            connection.conversation.item.create(item=text_item(id="question"))
            added, done = until(connection, "conversation.item.done")
            assert added.item.id == done.item.id == "question"
            connection.response.create()
            events = until(connection, "response.done")
        assert kinds(events) == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assistant = server.service.models.assistant
        prompt = assistant.prompt([{"role": "user", "content": "hello"}], max_tokens=24)
        assert text == "".join(assistant.responder.stream(prompt, max_tokens=24))
        response = events[-1].response
        assert (response.status, response.status_details.reason) == ("incomplete", "max_output_tokens")
        assert response.output[0].content[0].text == text
        assert (response.usage.input_tokens, response.usage.output_tokens) == (len(prompt.tokens), 24)
        assert all(event.event_id for event in events)
        assert len({event.response_id for event in events if hasattr(event, "response_id")} | {response.id}) == 1

    def test_history_images_and_instructions_are_read(self, server):
        picture = {"type": "input_image", "image_url": data_url(png())}
        items = [
            text_item("first"),
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "abc"}]},
            {**text_item(), "content": [picture, {"type": "input_text", "text": "what"}]},
        ]
        with session(server, TEXT | {"instructions": "be brief"}) as connection:
            for item in items:
                connection.conversation.item.create(item=item)
                until(connection, "conversation.item.done")
            connection.response.create()
            text = until(connection, "response.output_text.done")[-1].text
        messages = [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "first"}]},
            {"role": "assistant", "content": "abc"},
            {"role": "user", "content": [{"type": "image", "image": png()}, {"type": "text", "text": "what"}]},
        ]
        assistant = server.service.models.assistant
        prompt = assistant.prompt(messages, max_tokens=24)
        assert text == "".join(assistant.responder.stream(prompt, max_tokens=24))

    def test_answers_are_part_of_the_conversation(self, server):
        with session(server, TEXT) as connection:
            for question in ("one", "two"):
                connection.conversation.item.create(item=text_item(question))
                connection.response.create()
                last = until(connection, "response.done")[-1].response
        first = {"role": "user", "content": "one"}
        assistant = server.service.models.assistant
        prompt = assistant.prompt([first], max_tokens=24)
        answer = "".join(assistant.responder.stream(prompt, max_tokens=24))
        history = [first, {"role": "assistant", "content": answer}, {"role": "user", "content": "two"}]
        assert last.usage.input_tokens == len(assistant.prompt(history, max_tokens=24).tokens)

    def test_a_place_may_be_named_and_items_deleted(self, server):
        with session(server, TEXT) as connection:
            for name, before in (("b", None), ("a", "root"), ("c", "a")):
                more = {} if before is None else {"previous_item_id": before}
                connection.conversation.item.create(item=text_item(name, id=name), **more)
                added = until(connection, "conversation.item.done")[0]
                assert added.previous_item_id == (None if before == "root" else before)
            connection.conversation.item.delete(item_id="a")
            assert until(connection, "conversation.item.deleted", "error")[-1].item_id == "a"
            connection.conversation.item.delete(item_id="a")
            assert until(connection, "error")[-1].error.code == "item_not_found"

    def test_an_answer_is_cancelled(self, server):
        with session(server, TEXT | {"max_output_tokens": "inf"}) as connection:
            connection.conversation.item.create(item=text_item())
            connection.response.create()
            created = until(connection, "response.output_text.delta")
            connection.response.cancel(response_id=next(e for e in created if e.type == "response.created").response.id)
            response = until(connection, "response.done")[-1].response
            assert (response.status, response.status_details.reason) == ("cancelled", "client_cancelled")
            assert response.output[0].status == "incomplete"
            assert response.usage.output_tokens > 0
            assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
            connection.response.cancel()
            assert until(connection, "error")[-1].error.code == "response_cancel_not_active"
            is_freed(server)


class TestSpeech:
    def test_spoken_turns_are_found_transcribed_and_answered_aloud(self, server):
        update = {
            "type": "realtime",
            "max_output_tokens": 24,
            "audio": {"input": {"transcription": {"model": "whisper-1"}}},
        }
        with session(server, update) as connection:
            say(connection, SILENCE, speech(), SILENCE)
            events = until(connection, "response.done")
            if all(not event.type.endswith("transcription.completed") for event in events):
                events += until(connection, "conversation.item.input_audio_transcription.completed")
        by_kind = {event.type: event for event in events}
        started, stopped = by_kind["input_audio_buffer.speech_started"], by_kind["input_audio_buffer.speech_stopped"]
        committed = by_kind["input_audio_buffer.committed"]
        assert started.item_id == stopped.item_id == committed.item_id
        assert started.audio_start_ms == pytest.approx(1000 - 300, abs=50)  # with the padding
        assert stopped.audio_end_ms == pytest.approx(1000 + 6 * 160 + 500, abs=100)
        deltas = [event for event in events if event.type.endswith("input_audio_transcription.delta")]
        completed = by_kind["conversation.item.input_audio_transcription.completed"]
        assert "".join(event.delta for event in deltas) == completed.transcript == "abcabc"
        assert completed.usage.seconds == pytest.approx(0.3 + 6 * 0.16 - 0.04 + 0.5, abs=0.08)
        order = [event.type for event in events]
        assert order.index("input_audio_buffer.committed") < order.index("response.created")
        transcript = by_kind["response.output_audio_transcript.done"].transcript
        said = [event.delta for event in events if event.type == "response.output_audio_transcript.delta"]
        assert "".join(said) == transcript
        sound = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
        assert len(sound) > RATE // 10
        assert by_kind["response.done"].response.output[0].content[0].transcript == transcript
        assert by_kind["response.done"].response.usage.input_token_details.audio_tokens > 0

    def test_the_text_of_a_turn_comes_while_it_is_spoken(self, server):
        detection = {"type": "server_vad", "silence_duration_ms": 1500}
        update = {"type": "transcription", "audio": {"input": {"transcription": {}, "turn_detection": detection}}}
        with session(server, update) as connection:
            say(connection, SILENCE, speech("abc"), SILENCE, speech("cab"))
            events = until(connection, "conversation.item.input_audio_transcription.delta")
            assert "input_audio_buffer.speech_stopped" not in kinds(events)
            assert events[-1].delta == "abc"
            say(connection, SILENCE, SILENCE)
            events += until(connection, "conversation.item.input_audio_transcription.completed")
        text = "".join(event.delta for event in events if event.type.endswith("transcription.delta"))
        assert text == events[-1].transcript
        assert "response.created" not in kinds(events)

    def test_speech_during_an_answer_ends_it(self, server):
        update = {"type": "realtime", "output_modalities": ["audio"], "max_output_tokens": "inf"}
        with session(server, update) as connection:
            connection.conversation.item.create(item=text_item())
            connection.response.create()
            until(connection, "response.output_audio.delta")
            say(connection, SILENCE[: RATE // 2], speech())
            events = until(connection, "response.done")
            after = events[[event.type for event in events].index("input_audio_buffer.speech_started") :]
            response = events[-1].response
            assert (response.status, response.status_details.reason) == ("cancelled", "turn_detected")
            # Nothing of the answer follows but its end.
            assert not [event for event in after if event.type.endswith(".delta")]
            is_freed(server)
            say(connection, SILENCE)  # the end of the turn: another answer
            answered = until(connection, "response.output_audio.delta")
            assert next(event for event in answered if event.type == "response.created").response.id != response.id

    def test_an_interrupted_answer_is_cut_to_what_was_heard(self, server):
        update = {"type": "realtime", "audio": {"input": {"turn_detection": None}}, "max_output_tokens": 60}
        with session(server, update) as connection:
            connection.conversation.item.create(item=text_item(id="question"))
            connection.response.create()
            events = until(connection, "response.done")
            sound = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
            seconds, item = len(sound) / 2 / RATE, events[-1].response.output[0]
            connection.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=int(400 * seconds))
            truncated = until(connection, "conversation.item.truncated", "error")[-1]
            assert (truncated.item_id, truncated.audio_end_ms) == (item.id, int(400 * seconds))
            connection.conversation.item.retrieve(item_id=item.id)
            kept = until(connection, "conversation.item.retrieved")[-1].item
            words = item.content[0].transcript.split()
            assert kept.content[0].transcript.split() == words[: round(len(words) * 0.4)]
            assert 1 < len(kept.content[0].transcript.split()) < len(words)
            for name, end, param in (
                ("question", 0, "item_id"),
                (item.id, 99_999, "audio_end_ms"),
                ("no", 0, "item_id"),
            ):
                connection.conversation.item.truncate(item_id=name, content_index=0, audio_end_ms=end)
                assert until(connection, "error")[-1].error.param == param
            connection.conversation.item.create(item=text_item("and"))
            connection.response.create()
            tokens = until(connection, "response.done")[-1].response.usage.input_tokens
        history = [
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
            {"role": "assistant", "content": kept.content[0].transcript},
            {"role": "user", "content": [{"type": "text", "text": "and"}]},
        ]
        assert tokens == len(server.service.models.assistant.prompt(history, max_tokens=60).tokens)

    def test_an_answer_goes_on_without_interrupt_response(self, server):
        detection = {"type": "server_vad", "interrupt_response": False, "create_response": False}
        update = TEXT | {"audio": {"input": {"turn_detection": detection}}, "max_output_tokens": 60}
        with session(server, update) as connection:
            connection.conversation.item.create(item=text_item())
            connection.response.create()
            say(connection, SILENCE, speech(), SILENCE)
            events = until(connection, "input_audio_buffer.committed")
            if "response.done" not in kinds(events):
                events += until(connection, "response.done")
        assert [event.response.status for event in events if event.type == "response.done"] == ["incomplete"]
        assert kinds(events).count("response.created") == 1

    def test_without_turn_detection_the_client_commits(self, server):
        update = {**MANUAL, "output_modalities": ["text"], "max_output_tokens": 8}
        with session(server, update) as connection:
            say(connection, speech(), SILENCE, speech())
            connection.input_audio_buffer.commit()
            committed, added, done = until(connection, "conversation.item.done")
            assert committed.type == "input_audio_buffer.committed"
            assert added.item.id == committed.item_id == done.item.id
            assert added.item.content[0].type == "input_audio"
            connection.response.create()
            usage = until(connection, "response.done")[-1].response.usage
            assert usage.input_token_details.audio_tokens > 0

    def test_the_buffer_can_be_cleared(self, server):
        with session(server, MANUAL) as connection:
            say(connection, speech())
            connection.input_audio_buffer.clear()
            until(connection, "input_audio_buffer.cleared")
            connection.input_audio_buffer.commit()
            assert until(connection, "error")[-1].error.code == "input_audio_buffer_commit_empty"
        assert server.service.uploads.held == 0

    def test_audio_is_the_same_in_pieces_and_as_an_item(self, server):
        update = {**MANUAL, "output_modalities": ["text"], "max_output_tokens": 24}
        texts = []
        for whole in (True, False):
            with session(server, update) as connection:
                if whole:
                    part = {"type": "input_audio", "audio": pcm(speech())}
                    connection.conversation.item.create(item={**text_item(), "content": [part]})
                else:
                    say(connection, speech(), np.zeros(30))
                    connection.input_audio_buffer.commit()
                connection.response.create()
                texts.append(until(connection, "response.output_text.done")[-1].text)
        assert texts[0] == texts[1]


class TestSessions:
    def test_a_transcription_session_needs_no_chat_model(self):
        names = [name for name in toy_models().names if name.id == TRANSCRIPTION]
        models = toy_models(assistant=None, synthesizer=None, names=names)
        with RunningServer(models) as server, session(server, model=TRANSCRIPTION) as connection:
            say(connection, SILENCE, speech(), SILENCE)
            events = until(connection, "conversation.item.input_audio_transcription.completed")
            assert events[-1].transcript == "abcabc"
            connection.response.create()
            assert until(connection, "error")[-1].error.code == "no_responses"
            connection.conversation.item.create(item=text_item())
            assert until(connection, "error")[-1].error.param == "item"

    def test_a_client_that_leaves_during_its_answer_frees_the_row(self, monkeypatch):
        with RunningServer() as server:
            batched = server.service.engine.batched
            step = batched.step
            monkeypatch.setattr(batched, "step", lambda: (time.sleep(0.1), step())[1])  # the answer takes 10 s
            with session(server, TEXT | {"max_output_tokens": "inf"}) as connection:
                connection.conversation.item.create(item=text_item())
                connection.response.create()
                until(connection, "response.output_text.delta")
                connection._connection.socket.close()
            is_freed(server)
            assert server.service.uploads.held == len(server.service.sessions) == 0

    def test_a_stopping_server_ends_sessions_after_their_answers(self):
        heard = {"audio": {"input": {"turn_detection": None, "transcription": {}}}}
        with RunningServer() as server, session(server, TEXT | heard) as connection, session(server) as idle:
            say(connection, speech("a"))  # a turn that never ends
            connection.conversation.item.create(item=text_item())
            connection.response.create()
            until(connection, "response.created")
            server.server.drain()
            assert until(connection, "response.done")[-1].response.status == "incomplete"
            for one in (connection, idle):
                with pytest.raises(Exception, match="1001"):
                    until(one, "never")

    def test_a_silent_speaker_takes_no_place_in_the_engine(self, server):
        with session(
            server, {**MANUAL, "audio": {"input": {"turn_detection": None, "transcription": {}}}}
        ) as connection:
            say(connection, speech(), SILENCE, SILENCE)  # a word is sent some steps of audio after its end
            until(connection, "conversation.item.input_audio_transcription.delta")
            deadline = time.monotonic() + 30
            while server.service.engine.num_running:
                assert time.monotonic() < deadline

    def test_long_speech_is_several_turns(self):
        limits = Limits(max_turn=1.0)
        update = {"type": "transcription", "audio": {"input": {"transcription": {}}}}
        with RunningServer(limits=limits) as server, session(server, update) as connection:
            say(connection, SILENCE, speech("abc" * 4), SILENCE)
            events = []
            while sum(event.type.endswith("transcription.completed") for event in events) < 3:
                events += until(connection, "conversation.item.input_audio_transcription.completed")
        started = [event.item_id for event in events if event.type == "input_audio_buffer.speech_started"]
        ended = {event.item_id: event for event in events if event.type.endswith("transcription.completed")}
        seconds = [ended[name].usage.seconds for name in started]
        assert seconds[:2] == pytest.approx([1.0, 1.0], abs=0.03)
        assert sum(seconds) == pytest.approx(0.3 + 12 * 0.16 + 0.5, abs=0.1)
        assert ended[started[0]].transcript.startswith("abca")
