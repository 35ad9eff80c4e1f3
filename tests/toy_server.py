"""A real server of toy models in a thread, and what its tests send."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import soundfile
import torch
from conftest import tones
from PIL import Image
from toy_assistant import assistant_of
from toy_speech import ToneEncoder
from toy_voice import synthesizer

from omni.inference.recognizer import Recognizer
from omni.serving.app import create_app
from omni.serving.limits import Limits
from omni.serving.origins import cross_origin
from omni.serving.protocol import create_server
from omni.serving.served_models import ModelName, ServedModels
from omni.serving.service import Service
from omni.text.ctc_vocabulary import CharacterVocabulary

CHAT, SPEECH, TRANSCRIPTION = "omni", "talker", "audio"


def toy_models(**changes):
    """An assistant, a Talker of three voices and a recognizer of tones."""
    voice = synthesizer(num_speakers=3)
    assistant = assistant_of()
    assistant.voice = voice
    models = {
        "assistant": assistant,
        "synthesizer": voice,
        "recognizer": Recognizer(ToneEncoder().eval(), CharacterVocabulary(" abc"), beam=1),
        "names": [
            ModelName(CHAT, 1, ("chat",)),
            ModelName(SPEECH, 2, ("speech",)),
            ModelName(TRANSCRIPTION, 3, ("transcription",)),
        ],
    }
    return ServedModels(**{**models, **changes})


class RunningServer:
    """A server in a thread.

    Attributes:
        url: Its address.
        service: Its state.
    """

    def __init__(self, models=None, *, limits=None, allow_origins=(), **options):
        self.service = Service(
            models or toy_models(), limits=limits or Limits(), allow_origins=allow_origins, **options
        )
        app = create_app(self.service, outer=cross_origin(allow_origins))
        self.server = create_server(self.service, app, host="127.0.0.1", port=0)
        self._thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        while not (self.server.started and self.service.engine.ready):
            assert self._thread.is_alive()
            time.sleep(0.005)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def idle(self, seconds=5.0):
        """Waits until no request is answered and nothing is computed."""
        deadline = time.monotonic() + seconds
        while self.service.in_flight or self.service.engine.num_running or self.service.engine.num_waiting:
            assert time.monotonic() < deadline, "requests are still running"
            time.sleep(0.005)

    @contextmanager
    def http(self):
        """A plain HTTP client."""
        with httpx.Client(base_url=self.url, timeout=20, trust_env=False) as client:
            yield client


def wav(samples, rate=16_000, **options):
    """A file's content."""
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples), rate, format=options.pop("format", "WAV"), **options)
    return file.getvalue()


def recording(text="abc"):
    """A WAV file that the toy recognizer reads as `text`."""
    return wav(tones(text))


def png(size=(16, 16), color="red"):
    """A picture."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def data_url(content, kind="image/png"):
    """A `data:` URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def events(text):
    """The JSON of server-sent events, `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def samples_of(pcm):
    """16-bit samples."""
    return torch.from_numpy(np.frombuffer(pcm, "<i2").copy())
