"""`omni serve`: serves models through the API of OpenAI."""

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
    from omni.serving.origins import cross_origin
    from omni.serving.protocol import create_server
    from omni.serving.served_models import ModelOptions, ServedModels
    from omni.serving.service import Service
except ModuleNotFoundError as error:
    raise UserError(f"omni serve needs the package {error.name}: {install_hint('serve')}") from error

_KEY = "OMNI_API_KEY"


def serve(
    *,
    models: ModelOptions = ModelOptions(),  # noqa: B008  immutable
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_urls: bool = False,
    allow_origins: list[str] | None = None,
    sampling: Sampling = Sampling(temperature=0.0, top_p=0.95),  # noqa: B008  immutable
    seed: int | None = None,
    limits: Limits = Limits(),  # noqa: B008  immutable
    threads: int | None = None,
    compile: bool = False,
    int8: bool = False,
) -> None:
    """Serve models over HTTP, to all clients of OpenAI's API.

    Any of --checkpoint, --voice and --recognizer will do. POST /v1/chat/completions answers questions about text,
    images and audio in text and speech, /v1/audio/speech speaks, /v1/audio/transcriptions transcribes; GET /v1/models
    lists the names. Requests that come together are computed together. Each request is logged on standard output as a
    line of JSON; GET /metrics has counters for Prometheus, /health and /ready the state. SIGTERM or Ctrl-C lets running
    requests end and refuses new ones.

    Example:
        omni serve --checkpoint lightning_logs/omni/best.ckpt --voice lightning_logs/talker/best.ckpt

    Args:
        models: The models.
        host: Address to listen at; 0.0.0.0 for all of this machine's.
        port: Port to listen at; 0 takes a free one.
        api_key: Key that clients must send; by default the environment variable OMNI_API_KEY, if set.
        allow_urls: Fetch images from public addresses; otherwise they must be data: URLs.
        allow_origins: Origins of pages whose scripts may call the API in a browser, such as https://chat.example.org,
            or * for all; by default only the page of this server.
        sampling: How tokens are chosen where a request does not say.
        seed: Seed of requests that have none; by default a different one for each.
        limits: Limits of requests.
        threads: Threads of the models on a CPU; by default PyTorch's own choice, one per core. One fewer bears more
            clients, and takes longer for a single one.
        compile: Compile the steps of Thinker and Talker at the start: up to a minute for each, the first time.
        int8: Multiply single tokens and frames by weights of 8 bits on a CPU: faster, and answers may differ a little.
    """
    if threads is not None:
        if threads < 1:
            raise UserError(f"threads must be 1 or more, not {threads}")
        torch.set_num_threads(threads)
    if models.checkpoint is not None and not answers_questions(Checkpoint(models.checkpoint)):
        raise UserError(f"{models.checkpoint} only continues texts (`omni generate`): give a checkpoint of stage E")
    key, outer = _key(api_key), cross_origin(allow_origins or [])
    options = {"limits": limits, "random_seeds": seed is None, "api_key": key}
    options |= {"allow_urls": allow_urls, "allow_origins": allow_origins or []}
    sampling = sampling if seed is None else replace(sampling, seed=seed)
    with _bound(host, port) as listener:
        if compile:
            print("omni serve: compiling, which takes up to a minute for each model the first time", file=sys.stderr)
        loaded = ServedModels.load(replace(models, compile=compile, int8=int8))
        service = Service(loaded, sampling=sampling, **options)
        _log_to_standard_output()
        _announce(loaded, listener, key)
        create_server(service, create_app(service, outer=outer), host=host, port=port).run(sockets=[listener])


def _key(given: str | None) -> str | None:
    """The key of the command line, or of the environment."""
    key = given if given is not None else os.environ.get(_KEY)
    if key is not None and (not key.isascii() or not key.strip()):
        raise UserError("the API key must be ASCII characters and not empty")
    return key


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
