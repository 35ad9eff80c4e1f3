"""Lists of models and voices, and the state of the server."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from omni.serving.errors import json_response, overloaded
from omni.serving.service import Service


async def list_models(http: Request) -> Response:
    """`GET /v1/models`."""
    service: Service = http.app.state.service
    return json_response({"object": "list", "data": [model.body for model in service.models.names]})


async def get_model(http: Request) -> Response:
    """`GET /v1/models/{id}`."""
    service: Service = http.app.state.service
    return json_response(service.models.named(http.path_params["id"]).body)


async def list_audio_models(http: Request) -> Response:
    """`GET /v1/audio/models`: the models that speak, as Open WebUI asks for them."""
    service: Service = http.app.state.service
    return json_response({"models": [{"id": model.id} for model in service.models.names if "speech" in model.uses]})


async def list_voices(http: Request) -> Response:
    """`GET /v1/audio/voices`, as Open WebUI asks for them."""
    service: Service = http.app.state.service
    return json_response({"voices": [{"id": name, "name": name} for name in service.models.voices]})


async def health(http: Request) -> Response:
    """`GET /health`: whether the models can be used."""
    service: Service = http.app.state.service
    if not service.engine.alive:
        raise overloaded("The thread of the models has ended: restart the server.", status=503, code="unhealthy")
    return json_response({"status": "ok"})


async def ready(http: Request) -> Response:
    """`GET /ready`: whether requests are taken and answered at once."""
    service: Service = http.app.state.service
    if service.draining or not service.engine.alive:
        raise overloaded("The server is shutting down.", status=503, code="shutting_down")
    if not service.engine.ready:
        raise overloaded("The server is starting.", status=503, code="starting")
    return json_response(
        {"status": "ready", "running": service.engine.num_running, "waiting": service.engine.num_waiting}
    )


async def metrics(http: Request) -> Response:
    """`GET /metrics`: counters for Prometheus."""
    service: Service = http.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
