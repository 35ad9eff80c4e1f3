"""Wrong requests: every field of every endpoint is refused with its name, and nothing fails."""

import base64
import logging

import numpy as np
import pytest
from toy_server import CHAT, SPEECH, TRANSCRIPTION, RunningServer, data_url, png, recording, wav

from omni.serving import chat_prompts
from omni.serving.limits import Limits

CHAT_BODY = {"model": CHAT, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
SPEECH_BODY = {"model": SPEECH, "input": "abc", "voice": "x"}
LONG = "a" * 300


@pytest.fixture(scope="module")
def server():
    with RunningServer(limits=Limits(max_upload=1.0, max_audio=5.0, max_pixels=1.0, max_media=2)) as running:
        yield running


@pytest.fixture
def refused(server, caplog):
    """Posts a request that must be refused; returns the error, which is of OpenAI's shape."""

    def call(path, status=400, **options):
        with server.http() as http, caplog.at_level(logging.WARNING):
            response = http.post(path, **options)
        assert response.status_code == status, response.text
        assert not [record for record in caplog.records if record.exc_info]
        (error,) = response.json().values()
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
        assert response.headers["x-request-id"].startswith("req_")
        return error

    return call


def content(*parts):
    return [{"role": "user", "content": list(parts)}]


def image(url):
    return content({"type": "image_url", "image_url": {"url": url}})


def audio(data, kind="wav"):
    return content({"type": "input_audio", "input_audio": {"data": data, "format": kind}})


def encoded(data):
    return base64.b64encode(data).decode()


AUDIO = {"voice": "x", "format": "wav"}
SPOKEN = {"modalities": ["text", "audio"], "audio": AUDIO}

CHAT_CASES = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"model": ""}, "model"),
    ({"model": LONG}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [3]}, "messages[0]"),
    ({"messages": [{"content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
    ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
    ({"messages": content({"type": "video"})}, "messages[0].content[0]"),
    ({"messages": content({"text": "a"})}, "messages[0].content[0]"),
    ({"messages": content("a")}, "messages[0].content[0]"),
    ({"messages": content({"type": "text"})}, "messages[0].content[0].text"),
    ({"messages": content({"type": "text", "text": 3})}, "messages[0].content[0].text"),
    ({"messages": content({"type": "image_url"})}, "messages[0].content[0].image_url"),
    ({"messages": content({"type": "image_url", "image_url": "x"})}, "messages[0].content[0].image_url"),
    ({"messages": content({"type": "image_url", "image_url": {}})}, "messages[0].content[0].image_url.url"),
    ({"messages": content({"type": "input_audio"})}, "messages[0].content[0].input_audio"),
    ({"messages": audio(3)}, "messages[0].content[0].input_audio.data"),
    ({"messages": audio("", "aac")}, "messages[0].content[0].input_audio.format"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": True}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "a"}}, "stream_options.include_usage"),
    ({"modalities": "audio"}, "modalities"),
    ({"modalities": []}, "modalities"),
    ({"modalities": ["text", "smell"]}, "modalities[1]"),
    ({"modalities": ["text", "audio"]}, "audio"),
    ({**SPOKEN, "audio": "x"}, "audio"),
    ({**SPOKEN, "audio": {"format": "wav"}}, "audio.voice"),
    ({**SPOKEN, "audio": {"voice": "x"}}, "audio.format"),
    ({**SPOKEN, "audio": {"voice": "x", "format": "aac"}}, "audio.format"),
    ({**SPOKEN, "audio": {"voice": "nobody", "format": "wav"}}, "audio.voice"),
    ({**SPOKEN, "audio": {"voice": "", "format": "wav"}}, "audio.voice"),
    ({**SPOKEN, "audio": {"voice": {}, "format": "wav"}}, "audio.voice.id"),
    ({**SPOKEN, "stream": True}, "audio.format"),
    ({**SPOKEN, "n": 2}, "n"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"seed": 0.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "a"}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": "2"}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
]


@pytest.mark.parametrize(("change", "param"), CHAT_CASES, ids=lambda case: str(case)[:60])
def test_chat(refused, change, param):
    body = {name: value for name, value in {**CHAT_BODY, **change}.items() if name != "model" or value is not None}
    if change == {"messages": None}:
        del body["messages"]
    error = refused("/v1/chat/completions", json=body)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


URL = "messages[0].content[0].image_url.url"
DATA = "messages[0].content[0].input_audio.data"
MEDIA_CASES = [
    (image("https://example.org/a.png"), URL, "--allow_urls"),
    (image("file:///etc/passwd"), URL, "must start with data:"),
    (image("/etc/passwd"), URL, "must start with data:"),
    (image(""), URL, "must start with data:"),
    (image("data:image/png;base64"), URL, "no comma"),
    (image("data:image/png;base64,!!!"), URL, "not base64"),
    (image("data:image/png;base64,é"), URL, "not base64"),
    (image("data:image/png;base64,"), URL, "empty"),
    (image("data:text/plain,hello"), URL, "no image"),
    (image(data_url(png()[:40])), URL, "damaged"),
    (image(data_url(b"<svg xmlns='a'/>")), URL, "SVG"),
    (image(data_url(png((2000, 2000)))), URL, "2000 × 2000 pixels"),
    (content(*[{"type": "image_url", "image_url": {"url": data_url(png())}}] * 3), "messages", "2 are read at most"),
    (audio("???"), DATA, "not base64"),
    (audio(""), DATA, "empty"),
    (audio(encoded(b"hello" * 100)), DATA, "no audio"),
    (audio(encoded(recording()[:600])), DATA, "cut off"),
    (audio(encoded(wav(np.zeros(60_000), 10_000))), DATA, "lasts 6 s"),
    (audio(encoded(wav(np.zeros((100, 9))))), DATA, "9 channels"),
    (audio(encoded(wav(np.zeros(100), 900))), DATA, "900 Hz"),
]


@pytest.mark.parametrize(("messages", "param", "part"), MEDIA_CASES, ids=lambda case: str(case)[:40])
def test_media(refused, messages, param, part):
    error = refused("/v1/chat/completions", json={**CHAT_BODY, "messages": messages})
    assert error["param"] == param
    assert part in error["message"]


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([{"role": "user", "content": "a" * 1000}], "the context is 160"),
        (audio(encoded(wav(np.full(70_000, np.nan, np.float32), subtype="FLOAT"))), "no finite numbers"),
        ([{"role": "assistant", "content": image("")[0]["content"]}, *CHAT_BODY["messages"]], "must start with data:"),
        ([{"role": "assistant", "content": image(data_url(png()))[0]["content"]}, *CHAT_BODY["messages"]], "assistant"),
    ],
    ids=["too long", "not finite", "assistant's bad image", "assistant's image"],
)
def test_conversations_that_the_model_cannot_read(refused, messages, part):
    assert part in refused("/v1/chat/completions", json={**CHAT_BODY, "messages": messages})["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": 3}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"input": "..."}, "input"),
        ({"input": "xyz"}, "input"),
        ({"input": "abc [pause 11] abc"}, "input"),
        ({"input": "abc [pause 10]" * 61 + "abc"}, "input"),
        ({"input": "\u0000"}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"voice": "3"}, "voice"),
        ({"voice": "-1"}, "voice"),
        ({"voice": "²"}, "voice"),
        ({"voice": 1}, "voice"),
        ({"voice": {"name": "x"}}, "voice"),
        ({"response_format": "aac"}, "response_format"),
        ({"response_format": 3}, "response_format"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"speed": "1"}, "speed"),
        ({"stream_format": "ws"}, "stream_format"),
        ({"model": 1}, "model"),
    ],
    ids=str,
)
def test_speech(refused, change, param):
    error = refused("/v1/audio/speech", json={**SPEECH_BODY, **change})
    assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "page", "response_format": "verbose_json"}, "timestamp_granularities[0]"),
        ({"language": "../x"}, "language"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
    ],
    ids=str,
)
def test_transcription(refused, form, param):
    data = {"model": TRANSCRIPTION, **form}
    error = refused("/v1/audio/transcriptions", data=data, files={"file": recording()})
    assert error["param"] == param


def huge_wav():
    """A header that claims 4 GB."""
    content = bytearray(recording())
    content[4:8] = content[40:44] = (0xFFFF_FFF0).to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty"),
        (b"RIFF", "no audio"),
        (b"hello" * 1000, "no audio"),
        (recording()[:1000], "cut off"),
        (huge_wav()[:44], "no samples"),
        (wav(np.zeros(60_000), 10_000), "lasts 6 s"),
        (wav(np.zeros(1_000_000, np.int16), 16_000, format="FLAC"), "lasts 62 s"),
        (wav(np.zeros((100, 9))), "9 channels"),
        (wav(np.full(16_000, np.inf, np.float32), subtype="FLOAT"), "no finite numbers"),
        (png(), "no audio"),
    ],
    ids=["empty", "stub", "text", "cut", "claims 4 GB", "long", "bomb", "channels", "infinite", "image"],
)
def test_recordings(refused, content, part):
    form = {"data": {"model": TRANSCRIPTION}, "files": {"file": content}}
    error = refused("/v1/audio/transcriptions", **form)
    assert part in error["message"]
    assert (error["param"], error["code"]) in (("file", "invalid_audio"), ("file", "audio_too_long"))


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [
        ("chat/completions", {"content": b""}, 400, "invalid_json"),
        ("chat/completions", {"content": b"{"}, 400, "invalid_json"),
        ("chat/completions", {"content": b"\xff\xfe"}, 400, "invalid_json"),
        ("chat/completions", {"content": b"[" * 10_000 + b"]" * 10_000}, 400, "invalid_json"),
        ("chat/completions", {"content": b'{"a":' * 10_000}, 400, "invalid_json"),
        ("chat/completions", {"content": b'{"temperature": NaN}'}, 400, "missing_required_parameter"),
        ("chat/completions", {"content": b'{"model": "\\ud800"}'}, 400, "invalid_json"),
        ("chat/completions", {"json": []}, 400, "invalid_value"),
        ("chat/completions", {"json": "a"}, 400, "invalid_value"),
        ("chat/completions", {"data": {"model": CHAT}}, 415, "unsupported_media_type"),
        ("chat/completions", {"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, 415, "unsupported"),
        ("chat/completions", {"json": {**CHAT_BODY, "model": "gpt-4o"}}, 404, "model_not_found"),
        ("chat/completions", {"json": {**CHAT_BODY, "model": SPEECH}}, 404, "model_not_found"),
        ("audio/speech", {"json": {**SPEECH_BODY, "model": CHAT}}, 404, "model_not_found"),
        ("audio/transcriptions", {"json": {"model": TRANSCRIPTION}}, 415, "unsupported_media_type"),
        ("audio/transcriptions", {"data": {"model": "x"}, "files": {"file": b"a"}}, 404, "model_not_found"),
        ("audio/transcriptions", {"data": {"file": "text"}, "files": {"x": b"a"}}, 400, "missing_required_parameter"),
        ("audio/transcriptions", {"files": {"file": recording()}}, 400, "missing_required_parameter"),
        ("audio/transcriptions", {"files": [("file", b"a"), ("file", b"b")]}, 400, "invalid_form"),
        (
            "audio/transcriptions",
            {"data": {str(n): "a" for n in range(99)}, "files": {"file": b"a"}},
            400,
            "invalid_form",
        ),
        ("audio/translations", {"files": {"file": b"a"}}, 404, "not_found"),
        ("models", {"json": {}}, 405, "method_not_allowed"),
    ],
    ids=lambda case: str(case)[:50],
)
def test_bodies(refused, path, options, status, code):
    assert refused(f"/v1/{path}", status, **options)["code"] == code


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize(
    "body", [b"", b"x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"]
)
def test_broken_forms(refused, kind, body):
    refused("/v1/audio/transcriptions", content=body, headers={"Content-Type": kind})


def test_a_message_quotes_no_more_than_a_line(refused):
    error = refused("/v1/audio/speech", json={**SPEECH_BODY, "voice": "v" * 199, "model": SPEECH})
    assert len(error["message"]) < 600


def test_text_that_would_take_long_to_encode(refused, monkeypatch):
    monkeypatch.setattr(chat_prompts, "_MAX_TEXT", 20)
    messages = [{"role": "user", "content": [{"type": "text", "text": "a" * 6}] * 2}] * 2
    error = refused("/v1/chat/completions", json={**CHAT_BODY, "messages": messages})
    assert error["param"] == "messages"
    assert "24 characters" in error["message"]
