"""Transcriptions, speech and lists, asked for by OpenAI's own client and as Open WebUI does."""

import base64
import re

import numpy as np
import openai
import pytest
import torch
from conftest import tones
from server_fixtures import openai_client, toy_server  # noqa: F401  fixtures
from toy_server import CHAT, SPEECH, TRANSCRIPTION, RunningServer, events, recording, samples_of, toy_models, wav
from toy_voice import NUM_MELS, synthesizer

from omni.inference.recognizer import Recognizer
from omni.media.audio import read_audio
from omni.media.resampling import resample
from omni.models.vocoder import Vocos

TEXT = "abc dab. cab bad, dad! "
HEADERS = {"Authorization": "Bearer x"}


@pytest.fixture
def transcribe(client):
    def call(content, name="a.wav", **options):
        return client.audio.transcriptions.create(model=TRANSCRIPTION, file=(name, content), **options)

    return call


class TestTranscription:
    def test_json(self, transcribe):
        answer = transcribe(recording("abc"))
        assert answer.text == "abc"
        assert answer.usage.type == "duration"
        assert answer.usage.seconds == 1

    @pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
    def test_any_format_by_its_content(self, transcribe, kind):
        assert transcribe(wav(tones("abcab"), format=kind), name="../../etc/passwd").text == "abcab"

    def test_a_stream_of_unknown_length_that_claims_4_gb(self, transcribe):
        content = bytearray(recording("abc"))
        content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
        assert transcribe(bytes(content)).text == "abc"

    def test_text(self, transcribe):
        assert transcribe(recording("cab"), response_format="text") == "cab\n"

    def test_subtitles(self, server, transcribe):
        content = recording("ab" + " " * 8 + "ca")
        (transcript,) = server.service.models.recognizer.transcribe(content, timestamps="word")
        srt, vtt = (transcribe(content, response_format=kind) for kind in ("srt", "vtt"))
        assert srt.startswith("1\n00:00:00,000 --> ")
        assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> ")
        assert transcript.text in srt
        with server.http() as http:
            form = {"model": TRANSCRIPTION, "response_format": "vtt"}
            response = http.post("/v1/audio/transcriptions", data=form, files={"file": content})
        assert response.headers["content-type"] == "text/vtt; charset=utf-8"

    def test_words_and_segments(self, server, transcribe):
        content = recording("ab" + " " * 8 + "ca")
        (transcript,) = server.service.models.recognizer.transcribe(content, timestamps="word")
        both = transcribe(content, response_format="verbose_json", timestamp_granularities=["word", "segment"])
        assert both.task == "transcribe"
        assert both.duration == pytest.approx(transcript.duration, abs=1e-3)
        assert [word.word for word in both.words] == [word.text for word in transcript.words]
        assert [word.end for word in both.words] == pytest.approx([word.end for word in transcript.words], abs=1e-3)
        assert " ".join(segment.text for segment in both.segments) == both.text == transcript.text
        first = both.segments[0]
        assert first.avg_logprob < 0 < first.compression_ratio
        assert 0 <= first.no_speech_prob < 0.1
        assert len(first.tokens) == len(first.text)
        only = transcribe(content, response_format="verbose_json")
        assert only.words is None
        assert only.segments == both.segments
        words = transcribe(content, response_format="verbose_json", timestamp_granularities=["word"])
        assert words.segments is None
        assert words.words == both.words

    def test_a_stream_only_adds_text(self, monkeypatch, transcribe):
        chunked = Recognizer.partial_transcripts

        def short(self, source, **options):
            return chunked(self, source, **{**options, "window": 1.6, "overlap": 0.4})

        monkeypatch.setattr(Recognizer, "partial_transcripts", short)
        content = recording("abc" + " " * 6 + "cab" + " " * 6 + "bab" + " " * 6 + "cc")
        found = list(transcribe(content, stream=True))
        assert [event.type for event in found[:-1]] == ["transcript.text.delta"] * (len(found) - 1)
        assert len(found) > 3
        assert found[-1].type == "transcript.text.done"
        assert found[-1].text == "".join(event.delta for event in found[:-1]) == transcribe(content).text
        assert found[-1].usage.seconds == 5

    def test_open_webui(self, server):
        with server.http() as http:
            files = {"file": ("audio.mp3", wav(tones("bbb"), format="MP3"), "audio/mpeg")}
            response = http.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files, headers=HEADERS)
        assert response.json()["text"] == "bbb"


def test_partial_transcripts_end_with_the_transcript(server):
    recognizer = server.service.models.recognizer
    content = recording("abc cab  bb a  cc")
    options = {"timestamps": "word", "window": 1.2, "overlap": 0.4}
    *partial, last = recognizer.partial_transcripts(content, **options)
    assert [last] == recognizer.transcribe(content, **options)
    assert len(partial) > 1
    assert all(later.text.startswith(sooner.text) for sooner, later in zip(partial, [*partial[1:], last], strict=True))


class TestSpeech:
    def alone(self, server, speaker=0, **options):
        """The speech of the Talker without a server, at 16 kHz."""
        return torch.cat([*server.service.models.synthesizer.stream(TEXT, speaker=speaker, chunk=0.32, **options)])

    def test_mp3_is_the_default(self, server, client):
        answer = client.audio.speech.create(model=SPEECH, voice="alloy", input=TEXT)
        assert answer.response.headers["content-type"] == "audio/mpeg"
        assert len(read_audio(answer.content)) == pytest.approx(len(self.alone(server)), abs=3000)

    @pytest.mark.parametrize(
        ("kind", "content_type"),
        [("wav", "audio/wav"), ("flac", "audio/flac"), ("opus", "audio/ogg"), ("pcm", "audio/pcm;rate=24000")],
    )
    def test_formats(self, server, client, kind, content_type):
        answer = client.audio.speech.create(model="tts-1", voice="x", input=TEXT, response_format=kind)
        assert answer.response.headers["content-type"] == content_type
        wanted = self.alone(server)
        if kind == "pcm":
            heard, wanted = samples_of(answer.content).float() / 32767, resample(wanted, 16_000, 24_000)
        else:
            heard = read_audio(answer.content)
        assert len(heard) == pytest.approx(len(wanted), abs=400)
        if kind != "opus":
            assert torch.allclose(heard, wanted.clamp(-1, 1), atol=1e-3)

    def test_a_vocoder_of_24_khz(self):
        """`pcm` is its output as it is, and the header of a WAV file has its rate."""
        torch.manual_seed(0)
        voice = synthesizer(Vocos(num_mels=NUM_MELS, dim=16, num_layers=1, sample_rate=24_000).eval(), num_speakers=3)
        body = {"model": SPEECH, "voice": "x", "input": TEXT}
        with RunningServer(toy_models(assistant=None, synthesizer=voice)) as server, server.http() as http:
            wav, pcm = (
                http.post("/v1/audio/speech", json={**body, "response_format": kind}) for kind in ("wav", "pcm")
            )
        wanted = torch.cat([*voice.stream(TEXT, speaker=0, chunk=0.32)])
        assert int.from_bytes(wav.content[24:28], "little") == 24_000
        assert pcm.headers["content-type"] == "audio/pcm;rate=24000"
        assert wav.content[44:] == pcm.content
        assert torch.allclose(samples_of(pcm.content).float() / 32767, wanted.clamp(-1, 1), atol=1e-3)

    def test_the_client_reads_it_while_it_is_made(self, client):
        options = {"model": "tts-1", "voice": "x", "input": TEXT, "response_format": "wav"}
        with client.audio.speech.with_streaming_response.create(**options) as response:
            parts = list(response.iter_bytes())
        assert len(parts) > 3
        assert b"".join(parts) == client.audio.speech.create(**options).content

    def test_the_body_comes_in_parts(self, server):
        with server.http() as http:
            body = {"model": SPEECH, "input": TEXT, "response_format": "pcm"}
            with http.stream("POST", "/v1/audio/speech", json=body) as response:
                assert "content-length" not in response.headers
                assert len(list(response.iter_raw())) > 3

    def test_voices(self, server, client):
        def spoken(voice):
            return client.audio.speech.create(model=SPEECH, voice=voice, input="abc", response_format="pcm").content

        assert spoken("x") == spoken("0") == spoken("alloy") != spoken("y")
        assert spoken("ash") == spoken("y") == spoken("1")

    def test_speed(self, server, client):
        sizes = {}
        for speed in (0.5, 1.0, 2.0):
            answer = client.audio.speech.create(model=SPEECH, voice="x", input=TEXT, response_format="pcm", speed=speed)
            sizes[speed] = len(answer.content)
        assert sizes[0.5] / sizes[1.0] == pytest.approx(2, rel=0.1)
        assert sizes[2.0] / sizes[1.0] == pytest.approx(0.5, rel=0.1)

    def test_marks_of_pauses_are_silent(self, server, client):
        def samples(text):
            answer = client.audio.speech.create(model=SPEECH, voice="x", input=text, response_format="pcm")
            return samples_of(answer.content)

        assert len(samples("abc [pause 2] abc")) - len(samples("abc [pause 0] abc")) == pytest.approx(48_000, abs=10)

    def test_events_carry_audio_words_and_usage(self, server):
        body = {"model": SPEECH, "voice": "x", "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
        with server.http() as http:
            found = events(http.post("/v1/audio/speech", json=body).text)
            whole = http.post("/v1/audio/speech", json={**body, "stream_format": "audio"}).content
        assert found[-1] == "[DONE]"
        assert found[-2]["type"] == "speech.audio.done"
        usage = found[-2]["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        deltas = [base64.b64decode(one["audio"]) for one in found[:-2] if one["type"] == "speech.audio.delta"]
        assert len(deltas) > 3
        assert b"".join(deltas) == whole
        words = [word for one in found[:-2] if one["type"] == "speech.audio.words" for word in one["words"]]
        assert [word["word"] for word in words] == re.findall(r"\w+", TEXT)
        times = [time for word in words for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[-1] <= len(whole) / 48_000 + 0.01

    def test_open_webui(self, server):
        with server.http() as http:
            body = {"model": "tts-1", "input": "abc", "voice": "alloy"}
            response = http.post("/v1/audio/speech", json=body, headers=HEADERS)
        assert response.status_code == 200
        assert len(read_audio(response.content)) > 1000


class TestLists:
    def test_models(self, client):
        assert [model.id for model in client.models.list()] == [CHAT, SPEECH, TRANSCRIPTION]
        model = client.models.retrieve(SPEECH)
        assert (model.id, model.object, model.created, model.owned_by) == (SPEECH, "model", 2, "omni")
        with pytest.raises(openai.NotFoundError, match="no model 'x/y'") as error:
            client.models.retrieve("x/y")
        assert error.value.code == "model_not_found"

    def test_those_of_open_webui(self, server):
        with server.http() as http:
            assert http.get("/v1/audio/models", headers=HEADERS).json() == {"models": [{"id": SPEECH}]}
            voices = http.get("/v1/audio/voices", headers=HEADERS).json()
        assert voices == {"voices": [{"id": name, "name": name} for name in "xyz"]}

    def test_state_and_metrics(self, server, client):
        client.audio.speech.create(model=SPEECH, voice="x", input="abc")
        server.idle()
        with server.http() as http:
            assert http.get("/health").json() == {"status": "ok"}
            assert http.get("/ready").json() == {"status": "ready", "running": 0, "waiting": 0}
            http.get("/v1/nothing")
            text = http.get("/metrics").text
        spoken = re.search(r'omni_audio_seconds_total\{kind="spoken"\} ([\d.]+)', text)
        assert float(spoken[1]) > 0.1
        assert re.search(r'omni_requests_total\{path="/v1/audio/speech",status="200"\} \d', text)
        assert re.search(r'omni_first_seconds_count\{what="sound"\} \d', text)
        assert 'omni_requests_total{path="other",status="404"}' in text
        assert "omni_jobs_waiting 0.0" in text


@pytest.mark.parametrize(
    ("missing", "path", "body"),
    [
        ("assistant", "chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": "a"}]}),
        ("synthesizer", "audio/speech", {"model": SPEECH, "input": "a"}),
    ],
)
def test_a_server_without_a_model_says_so(missing, path, body):
    models = toy_models()
    kept = [model for model in models.names if model.id != body["model"]]
    with RunningServer(toy_models(**{missing: None, "names": kept})) as partial, partial.http() as http:
        response = http.post(f"/v1/{path}", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_long_recordings_are_read_in_chunks(server, client):
    content = wav(np.concatenate([tones("abc")] * 100))
    assert client.audio.transcriptions.create(model=TRANSCRIPTION, file=("a.wav", content)).text == "abc" * 100
