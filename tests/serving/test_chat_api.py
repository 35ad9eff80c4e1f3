"""Chat completions, asked for by OpenAI's own client."""

import base64
import time
from typing import ClassVar

import openai
import pytest
import torch
from conftest import tones
from server_fixtures import openai_client, toy_server  # noqa: F401  fixtures
from toy_server import CHAT, RunningServer, data_url, events, png, recording, samples_of, toy_models, wav

from omni.decoding.sampling import Sampling
from omni.inference.speech_streamer import SpeechStreamer
from omni.media.audio import read_audio
from omni.media.resampling import resample
from omni.serving.limits import Limits
from omni.serving.urgency import SPEECH_CHUNK

HELLO = [{"role": "user", "content": "hello"}]
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}


@pytest.fixture
def ask(client):
    """Asks and returns the completion, or the list of its chunks."""

    def call(messages=HELLO, **options):
        answer = client.chat.completions.create(model=CHAT, messages=messages, **{"max_tokens": 24, **options})
        return list(answer) if options.get("stream") else answer

    return call


def expected(server, messages=HELLO, *, max_tokens=24, sampling=None):
    """The answer of the model alone, without a server."""
    assistant = server.service.models.assistant
    prompt = assistant.prompt(messages, max_tokens=max_tokens)
    return "".join(assistant.responder.stream(prompt, max_tokens=max_tokens, sampling=sampling))


def text_of(chunks, choice=0):
    deltas = [entry.delta for chunk in chunks for entry in chunk.choices if entry.index == choice]
    return "".join(delta.content or "" for delta in deltas)


class TestText:
    def test_the_answer_is_that_of_the_model(self, server, ask):
        answer = ask()
        assert answer.object == "chat.completion"
        assert answer.id.startswith("chatcmpl-")
        assert abs(answer.created - time.time()) < 60
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content == expected(server)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 24
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24

    def test_history_changes_it(self, server, ask):
        messages = [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
        as_omni = [{**messages[0], "role": "system"}, *messages[1:]]
        assert ask(messages).choices[0].message.content == expected(server, as_omni) != expected(server)

    def test_options_are_those_of_sampling(self, server, ask):
        sampling = Sampling(temperature=1.5, top_p=0.8, seed=5)
        answer = ask(temperature=1.5, top_p=0.8, seed=5)
        assert answer.choices[0].message.content == expected(server, sampling=sampling) != expected(server)

    def test_seeds_differ_where_none_is_given(self, ask):
        assert len({ask(temperature=2.0).choices[0].message.content for _ in range(4)}) > 1

    def test_several_choices(self, server, ask):
        answer = ask(n=3, temperature=1.0, top_p=1.0, seed=7)
        wanted = [expected(server, sampling=Sampling(temperature=1.0, seed=seed)) for seed in (7, 8, 9)]
        assert [choice.message.content for choice in answer.choices] == wanted
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.completion_tokens == 72

    def test_max_completion_tokens_replaces_max_tokens(self, ask):
        assert ask(max_completion_tokens=3).usage.completion_tokens == 3

    def test_a_limit_beyond_the_context_is_the_context(self, ask):
        answer = ask(max_tokens=100_000)
        assert answer.usage.total_tokens <= 160
        assert ask(max_tokens=None).choices[0].message.content == answer.choices[0].message.content

    @pytest.mark.parametrize("several", [False, True])
    def test_stop_strings_end_the_answer(self, server, ask, several):
        whole = expected(server)
        stop = whole[6:9]
        answer = ask(stop=["zzz", stop] if several else stop)
        assert answer.choices[0].message.content == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        streamed = ask(stop=stop, stream=True)
        assert text_of(streamed) == whole[: whole.index(stop)]
        server.idle()

    def test_the_start_of_a_stop_string_at_the_end_is_text(self, server, ask):
        whole = expected(server)
        assert ask(stop=f"{whole[-2:]}#").choices[0].message.content == whole
        assert text_of(ask(stop=f"{whole[-2:]}#", stream=True)) == whole

    def test_unknown_fields_are_ignored_and_null_ones_left_out(self, server, ask):
        nulls = dict.fromkeys(("stream", "temperature", "stop", "n", "seed", "audio", "stream_options", "modalities"))
        answer = ask(user="someone", metadata={"a": "b"}, extra_body={"options": {"num_ctx": 1}, **nulls})
        assert answer.choices[0].message.content == expected(server)


class TestStream:
    def test_the_stream_is_the_answer(self, server, ask):
        chunks = ask(stream=True, stream_options={"include_usage": True})
        assert text_of(chunks) == expected(server)
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        reasons = [entry.finish_reason for chunk in chunks for entry in chunk.choices]
        assert [reason for reason in reasons if reason] == ["length"]
        assert reasons[-1] == "length"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 24
        assert all(chunk.usage is None for chunk in chunks[:-1])

    def test_every_choice_has_a_role_and_an_end(self, ask):
        chunks = ask(stream=True, n=2, temperature=1.0, seed=1)
        whole = ask(n=2, temperature=1.0, seed=1)
        for choice in (0, 1):
            deltas = [entry for chunk in chunks for entry in chunk.choices if entry.index == choice]
            assert deltas[0].delta.role == "assistant"
            assert [entry.finish_reason for entry in deltas].count("length") == 1
            assert text_of(chunks, choice) == whole.choices[choice].message.content
        assert all(chunk.usage is None for chunk in chunks)

    def test_the_bytes_are_server_sent_events(self, server):
        with server.http() as http:
            body = {"model": CHAT, "messages": HELLO, "stream": True, "max_tokens": 3}
            response = http.post("/v1/chat/completions", json=body)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.endswith("data: [DONE]\n\n")
        assert all("usage" not in event for event in events(response.text)[:-1])


class TestMedia:
    def test_an_image_is_seen(self, server, ask):
        def about(color):
            parts = [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": data_url(png(color=color)), "detail": "low"}},
            ]
            return ask([{"role": "user", "content": parts}]).choices[0].message.content

        direct = [{"type": "text", "text": "what?"}, {"type": "image", "image": png(color="red")}]
        assert about("red") == expected(server, [{"role": "user", "content": direct}])

    @pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
    def test_a_recording_is_heard(self, server, ask, kind):
        content = wav(tones("abcabc"), format=kind.upper())
        part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": kind}}
        answer = ask([{"role": "user", "content": [part]}]).choices[0].message.content
        assert answer == expected(server, [{"role": "user", "content": [{"type": "audio", "audio": content}]}])

    def test_media_of_earlier_turns_count(self, server, ask):
        image = {"type": "image_url", "image_url": {"url": data_url(png())}}
        messages = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "red"}, *HELLO]
        with_image = ask(messages)
        assert (
            with_image.usage.prompt_tokens > ask([{**messages[0], "content": "x"}, *messages[1:]]).usage.prompt_tokens
        )


class TestSpeech:
    def spoken(self, server, text):
        """The speech of a text by the first voice, at 16 kHz."""
        return SpeechStreamer(server.service.models.synthesizer).synthesize(text).audio

    def test_an_answer_is_spoken(self, server, ask):
        answer = ask(**{**SPOKEN, "audio": {"voice": "x", "format": "wav"}})
        message = answer.choices[0].message
        assert message.content is None
        assert message.audio.transcript == expected(server)
        assert message.audio.expires_at > time.time()
        heard = read_audio(base64.b64decode(message.audio.data))
        assert torch.allclose(heard, self.spoken(server, expected(server)), atol=1e-3)

    @pytest.mark.parametrize(("kind", "start"), [("mp3", b"\xff"), ("flac", b"fLaC"), ("opus", b"OggS")])
    def test_formats(self, ask, kind, start):
        audio = ask(**{**SPOKEN, "audio": {"voice": {"id": "y"}, "format": kind}}).choices[0].message.audio
        content = base64.b64decode(audio.data)
        assert content.startswith((start, b"ID3"))
        assert len(read_audio(content)) > 1000

    def test_speech_streams_while_text_does(self, server, ask):
        chunks = ask(**SPOKEN, stream=True)
        audios = [chunk.choices[0].delta.audio for chunk in chunks if getattr(chunk.choices[0].delta, "audio", None)]
        assert "".join(audio.transcript or "" for audio in audios) == expected(server)
        data = b"".join(base64.b64decode(audio.data or "") for audio in audios)
        wanted = resample(self.spoken(server, expected(server)), 16_000, 24_000)
        heard = samples_of(data).float() / 32767
        assert torch.allclose(heard, wanted.clamp(-1, 1), atol=1e-3)
        kinds = ["data" if audio.data else "text" if audio.transcript else "end" for audio in audios]
        assert kinds.index("data") < len(kinds) - 1 - kinds[::-1].index("text")  # sound before the last text
        assert kinds[-1] == "end"
        assert len({audio.id for audio in audios}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks].count("length") == 1

    def test_sound_comes_in_pieces_as_small_as_those_of_speech(self, server, ask):
        chunks = ask(**SPOKEN, stream=True, max_tokens=90)
        audios = [chunk.choices[0].delta.audio for chunk in chunks if getattr(chunk.choices[0].delta, "audio", None)]
        pieces = [samples_of(base64.b64decode(audio.data)) for audio in audios if audio.data]
        text = expected(server, max_tokens=90)
        first = next(server.service.models.synthesizer.stream(text, chunk=SPEECH_CHUNK))
        assert len(pieces[0]) <= 1.5 * len(first)  # 24 kHz and 16 kHz
        longest = max(len(piece) for piece in pieces if piece.count_nonzero() > len(piece) / 2)  # pauses are whole
        assert longest == 24_000 * SPEECH_CHUNK

    def test_voices_differ(self, ask):
        answers = [ask(**{**SPOKEN, "audio": {"voice": voice, "format": "pcm16"}}) for voice in ("x", "y")]
        assert answers[0].choices[0].message.audio.data != answers[1].choices[0].message.audio.data

    def test_a_spoken_answer_may_be_named_later(self, server, ask):
        audio = ask(**SPOKEN).choices[0].message.audio
        messages = [*HELLO, {"role": "assistant", "audio": {"id": audio.id}}, *HELLO]
        written = [*HELLO, {"role": "assistant", "content": audio.transcript}, *HELLO]
        assert ask(messages).choices[0].message.content == expected(server, written)
        with pytest.raises(openai.BadRequestError, match="no spoken answer") as error:
            ask([*HELLO, {"role": "assistant", "audio": {"id": "audio_0"}}, *HELLO])
        assert error.value.param == "messages[1].audio.id"


def test_a_server_without_a_voice_says_so(server):
    with RunningServer(toy_models(synthesizer=None)) as mute:
        client = openai.OpenAI(base_url=f"{mute.url}/v1", api_key="unused", max_retries=0)
        with client, pytest.raises(openai.BadRequestError, match="has no voice"):
            client.chat.completions.create(model=CHAT, messages=HELLO, **SPOKEN)


def test_recordings_are_read_as_transcriptions_do(server, client):
    assert client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording("cab"))).text == "cab"


class TestErrors:
    """What the client raises."""

    def test_wrong_values_name_their_field(self, ask):
        with pytest.raises(openai.BadRequestError, match="less than or equal to 2") as error:
            ask(temperature=3)
        assert error.value.param == "temperature"
        assert error.value.type == "invalid_request_error"

    def test_unknown_models(self, client):
        with pytest.raises(openai.NotFoundError, match="use omni") as error:
            client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert error.value.code == "model_not_found"

    def test_keys_and_full_queues(self):
        limits = Limits(max_running=1, max_queue=0)
        with RunningServer(api_key="right", limits=limits) as server:
            url = f"{server.url}/v1"
            wrong = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
            with wrong, pytest.raises(openai.AuthenticationError):
                wrong.models.list()
            with openai.OpenAI(base_url=url, api_key="right", max_retries=0) as right:
                assert right.models.list().data
                server.service.engine.max_queue = -1
                with pytest.raises(openai.RateLimitError):
                    right.chat.completions.create(model=CHAT, messages=HELLO)
                server.service.engine.max_queue = 0


class TestOpenWebUI:
    """Requests as Open WebUI sends them: with fields of its own, and a key even where none is set."""

    headers: ClassVar = {"Authorization": "Bearer none", "Content-Type": "application/json"}

    def test_a_conversation(self, server):
        body = {
            "stream": True,
            "model": CHAT,
            "messages": [*HELLO, {"role": "assistant", "content": "a"}, *HELLO],
            "stream_options": {"include_usage": True},
            "params": {},
            "features": {"web_search": False},
            "session_id": "x",
            "chat_id": "y",
            "background_tasks": {"title_generation": True},
        }
        with server.http() as http:
            response = http.post("/v1/chat/completions", json=body, headers=self.headers)
        assert response.status_code == 200
        found = events(response.text)
        assert found[-1] == "[DONE]"
        assert found[-2]["usage"]["total_tokens"] > 0

    def test_a_title(self, server):
        body = {
            "model": CHAT,
            "messages": HELLO,
            "stream": False,
            "max_completion_tokens": 1000,
            "metadata": {"task": "title_generation"},
        }
        with server.http() as http:
            assert http.get("/v1/models", headers=self.headers).json()["data"][0]["id"] == CHAT
            answer = http.post("/v1/chat/completions", json=body, headers=self.headers).json()
        assert answer["choices"][0]["message"]["content"]
