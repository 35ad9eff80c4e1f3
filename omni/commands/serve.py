"""`omni serve`: the models behind OpenAI's API."""

import logging
import os
import socket
import sys
from dataclasses import replace

import torch

from omni.checkpoints.checkpoint import Checkpoint
from omni.commands.generate import answers_questions
from omni.decoding.sampling import Sampling
from omni.errors import UserError, install_hint

try:
    from omni.serving.app import ACCESS_LOG, create_app
    from omni.serving.limits import Limits
    from omni.serving.protocol import DrainingServer, create_server
    from omni.serving.served_models import ServedModels
    from omni.serving.service import Service
except ModuleNotFoundError as error:
    raise UserError(f"omni serve needs the package {error.name}: {install_hint('serve')}") from error

_KEY = "OMNI_API_KEY"


def serve(
    *,
    checkpoint: str | None = None,
    voice: str | None = None,
    vocoder: str | None = None,
    recognizer: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_urls: bool = False,
    system: str | None = None,
    context: int | None = None,
    sampling: Sampling = Sampling(temperature=0.0, top_p=0.95),  # noqa: B008  immutable
    seed: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  immutable
    threads: int | None = None,
    device: str = "auto",
) -> None:
    """Serve models over HTTP, to all clients of OpenAI's API.

    Any of --checkpoint, --voice and --recognizer will do. POST /v1/chat/completions answers questions about text,
    images and audio in text and speech, /v1/audio/speech speaks, /v1/audio/transcriptions transcribes; GET /v1/models
    lists the names. Requests that come together are computed together. Each request is logged on standard output as a
    line of JSON; GET /metrics has counters for Prometheus, /health and /ready the state. SIGTERM or Ctrl-C lets running
    requests end and refuses new ones.

    Args:
        checkpoint: A checkpoint of stage E, such as lightning_logs/omni/best.ckpt.
        voice: A Talker's checkpoint; not needed if `checkpoint` holds a Talker.
        vocoder: griffin-lim, or a checkpoint that holds a vocoder; by default that of the voice, else griffin-lim.
        recognizer: A checkpoint of stage B, for transcriptions.
        host: Address to listen at; 0.0.0.0 for all of this machine's.
        port: Port to listen at; 0 takes a free one.
        api_key: Key that clients must send; by default the environment variable OMNI_API_KEY, if set.
        allow_urls: Fetch images from public addresses; otherwise they must be data: URLs.
        system: System message of conversations that have none.
        context: Most tokens of a conversation; by default as in training.
        sampling: How tokens are chosen where a request does not say.
        seed: Seed of requests that have none; by default a different one for each.
        limits: Limits of requests.
        threads: Threads of the models on a CPU; by default PyTorch's own choice, one per core. One fewer bears more
            clients, and takes longer for a single one.
        device: cpu, cuda, or auto.
    """
    if threads is not None:
        if threads < 1:
            raise UserError(f"threads must be 1 or more, not {threads}")
        torch.set_num_threads(threads)
    key = api_key if api_key is not None else os.environ.get(_KEY)
    if key is not None and (not key.isascii() or not key.strip()):
        raise UserError("the API key must be ASCII characters and not empty")
    if checkpoint is not None and not answers_questions(opened := Checkpoint(checkpoint)):
        raise UserError(f"{opened} only continues texts (`omni generate`): give a checkpoint of stage E")
    if seed is not None:
        sampling = replace(sampling, seed=seed)
    with _bound(host, port) as listener:
        models = ServedModels.load(
            checkpoint=checkpoint,
            voice=voice,
            vocoder=vocoder,
            recognizer=recognizer,
            system=system,
            context=context,
            device=device,
        )
        service = Service(
            models, limits=limits, sampling=sampling, random_seeds=seed is None, api_key=key, allow_urls=allow_urls
        )
        _log_to_standard_output()
        _announce(models, listener, key)
        _run(create_server(service, create_app(service), host=host, port=port), listener)


def _run(server: DrainingServer, listener: socket.socket) -> None:
    server.run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address; it does not listen yet."""
    if not 0 <= port < 65_536:
        raise UserError(f"port must be 0 to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port} ({error.strerror or error}): choose --host and --port"
        ) from error
    return bound


def _announce(models: ServedModels, listener: socket.socket, key: str | None) -> None:
    host, port = listener.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    names = ", ".join(f"{model.id} ({', '.join(model.uses)})" for model in models.names)
    print(f"omni serve: http://{where}:{port}/v1  {names}", file=sys.stderr)
    if key is None and host not in ("127.0.0.1", "::1"):
        print("omni serve: others can reach this address, and there is no --api_key", file=sys.stderr)


def _log_to_standard_output() -> None:
    """The access log on standard output; errors and warnings of the server on standard error."""
    access = logging.StreamHandler(sys.stdout)
    access.setFormatter(logging.Formatter("%(message)s"))
    ACCESS_LOG.handlers, ACCESS_LOG.propagate = [access], False
    ACCESS_LOG.setLevel(logging.INFO)
    errors = logging.StreamHandler(sys.stderr)
    errors.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("omni.serving", "uvicorn"):
        logging.getLogger(name).handlers = [errors]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
