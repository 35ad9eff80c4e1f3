"""`omni serve` as a user runs it."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import ClassVar
from urllib.error import HTTPError

import httpx
import pytest
import yaml
from toy_assistant import save_omni
from toy_server import RunningServer
from toy_speech import ToneEncoder, save
from toy_voice import save_talker

from omni.cli import main
from omni.serving.limits import Limits
from omni.text.ctc_vocabulary import CharacterVocabulary

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoints(workplace):
    """Options of all checkpoints."""
    for folder in ("answers", "voice", "hearing"):
        (workplace / folder).mkdir()
    units = CharacterVocabulary(" abc")
    return [
        *("--checkpoint", save_omni(workplace / "answers" / "best.ckpt")),
        *("--voice", save_talker(workplace / "voice" / "best.ckpt", num_speakers=3)),
        *("--recognizer", save(workplace / "hearing" / "best.ckpt", "audio_encoder", ToneEncoder(), units)),
        *("--device", "cpu"),
    ]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(options, visit):
    """Runs the command, calls `visit` with a client when it is ready, and stops it with SIGTERM."""
    port, found = free_port(), []

    def visitor():
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as http:
                for _ in range(400):
                    with contextlib.suppress(httpx.ConnectError):
                        if http.get("/ready").status_code == 200:
                            break
                    time.sleep(0.05)
                found.append(visit(http))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=visitor)
    thread.start()
    try:
        main(["serve", *options, "--port", str(port)])
    finally:
        thread.join()
    return found[0]


def test_all_models_are_served_until_a_signal(checkpoints, capfd):
    def visit(http):
        names = [model["id"] for model in http.get("/v1/models").json()["data"]]
        body = {"model": "answers", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
        return names, http.post("/v1/chat/completions", json=body).status_code

    assert serve([*checkpoints, "--threads", "1"], visit) == (["answers", "voice", "hearing"], 200)
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines[-2:]] == ["/v1/models", "/v1/chat/completions"]
    assert "answers (chat), voice (speech), hearing (transcription)" in err
    assert len(err.splitlines()) == 1


def test_any_checkpoint_will_do_and_the_environment_has_the_key(checkpoints, monkeypatch):
    def visit(http):
        body = {"model": "voice", "input": "abc", "response_format": "wav"}
        return [http.post("/v1/audio/speech", json=body, headers=headers).status_code for headers in ({}, key)]

    key = {"Authorization": "Bearer secret"}
    monkeypatch.setenv("OMNI_API_KEY", "secret")
    assert serve([*checkpoints[2:4], "--device", "cpu"], visit) == [401, 200]


def test_a_seed_makes_answers_repeatable(checkpoints):
    def visit(http):
        body = {"model": "answers", "messages": [{"role": "user", "content": "a"}], "max_tokens": 20}
        answers = [http.post("/v1/chat/completions", json=body).json() for _ in range(2)]
        return [answer["choices"][0]["message"]["content"] for answer in answers]

    first, second = serve([*checkpoints[:2], "--temperature", "1.5", "--seed", "3", "--device", "cpu"], visit)
    assert first == second
    first, second = serve([*checkpoints[:2], "--temperature", "1.5", "--device", "cpu"], visit)
    assert first != second


def test_steps_are_accelerated_at_the_start(checkpoints, monkeypatch):
    asked = []

    def accelerate(models, **options):
        asked.append(([type(model).__name__ for model in models], options))

    monkeypatch.setattr("omni.serving.served_models.accelerate", accelerate)
    options = [*checkpoints, "--int8", "--compile"]
    assert serve(options, lambda http: http.get("/ready").status_code) == 200
    assert asked == [(["Thinker", "Talker"], {"compile": True, "int8": True})]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "there is nothing to serve"),
        (["--vocoder", "griffin-lim", "--recognizer", "hearing/best.ckpt"], "--vocoder needs a Talker"),
        (["--checkpoint", "nothing.ckpt"], "nothing.ckpt does not exist"),
        (["--checkpoint", "hearing/best.ckpt"], "only continues texts"),
        (["--recognizer", "voice/best.ckpt"], "audio_encoder"),
        (["--voice", "hearing/best.ckpt"], "talker"),
        (["--recognizer", "hearing/best.ckpt", "--port", "99999"], "port must be"),
        (["--recognizer", "hearing/best.ckpt", "--host", "256.1.1.1"], "cannot listen at 256.1.1.1"),
        (["--recognizer", "hearing/best.ckpt", "--api_key", ""], "API key"),
        (["--recognizer", "hearing/best.ckpt", "--max_queue", "-1"], "max_queue must be"),
        (["--recognizer", "hearing/best.ckpt", "--max_upload", "0"], "max_upload must be"),
        (["--recognizer", "hearing/best.ckpt", "--stall_seconds", "nan"], "stall_seconds"),
        (["--recognizer", "hearing/best.ckpt", "--temperature", "-1"], "temperature must be"),
        (
            ["--recognizer", "hearing/best.ckpt", "--allow_origins", "https://a.b", "a.b"],
            "allow_origins: 'a.b' is not an origin",
        ),
        (["--recognizer", "hearing/best.ckpt", "--threads", "0"], "threads must be"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_mistakes_end_in_a_line(checkpoints, fails, options, part):
    assert part in fails(main, ["serve", *options])


def test_a_port_in_use_is_reported(checkpoints, fails):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in fails(main, ["serve", *checkpoints, "--port", str(port)])


class TestComposeFile:
    """`compose.yaml`, as far as it can be checked without Docker."""

    COMPOSE: ClassVar = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))

    @pytest.fixture
    def service(self):
        (found,) = self.COMPOSE["services"].values()
        return found

    def test_its_keys_are_those_of_compose(self, service):
        assert self.COMPOSE.keys() == {"services"}
        kinds = {
            **dict.fromkeys(("build", "stop_grace_period"), str),
            **dict.fromkeys(("init", "read_only"), bool),
            **dict.fromkeys(("command", "ports", "volumes", "tmpfs"), list),
            **dict.fromkeys(("environment", "healthcheck"), dict),
        }
        assert {name: type(value) for name, value in service.items()} == {name: kinds[name] for name in service}
        assert service["healthcheck"].keys() <= {"test", "interval", "timeout", "retries", "start_period"}
        seconds = [service["stop_grace_period"], service["healthcheck"]["interval"]]
        assert all(re.fullmatch(r"\d+s", value) for value in seconds)
        assert (ROOT / service["build"] / "Dockerfile").is_file()

    def test_the_command_is_accepted(self, service, monkeypatch):
        """With the arguments of the file, `omni serve` gets as far as its address."""

        class Reached(Exception):
            pass

        def bound(host, port):
            raise Reached(host, port)

        monkeypatch.setattr("omni.commands.serve.answers_questions", lambda checkpoint: True)
        monkeypatch.setattr("omni.commands.serve.Checkpoint", lambda path: path)
        monkeypatch.setattr("omni.commands.serve._bound", bound)
        with pytest.raises(Reached) as reached:
            main(service["command"])
        host, port = reached.value.args
        (published,) = service["ports"]
        assert re.fullmatch(rf"(\d+\.\d+\.\d+\.\d+:)?\d+:{port}", published)
        assert host == "0.0.0.0"

    def test_what_it_reads_is_mounted(self, service):
        work = re.search(r"^WORKDIR (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[1]
        (mounted,) = service["volumes"]
        here, there, mode = mounted.split(":")
        paths = [value for option in service["command"] if (value := option.partition("=")[2]).endswith(".ckpt")]
        assert len(paths) == 3
        assert all(f"{work}/{path}".startswith(f"{there}/") for path in paths)
        assert (here, mode) == ("./lightning_logs", "ro")

    def test_the_health_check_asks_the_server(self, service):
        kind, python, flag, code = service["healthcheck"]["test"]
        assert (kind, python, flag) == ("CMD", "python", "-c")
        (port,) = service["ports"]
        address = f"http://127.0.0.1:{port.rpartition(':')[2]}/health"
        assert code.count(address) == 1
        with RunningServer() as server:
            check = code.replace(address, f"{server.url}/health")
            exec(check, {})
            server.service.engine.stop()
            with pytest.raises(HTTPError, match="503"):
                exec(check, {})

    def test_the_key_is_required_and_answers_may_end(self, service):
        assert service["environment"]["OMNI_API_KEY"].startswith("${OMNI_API_KEY:?")
        assert float(service["stop_grace_period"].removesuffix("s")) > Limits().drain_seconds
