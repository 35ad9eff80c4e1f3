"""`/v1/realtime`: a WebSocket."""

from starlette.websockets import WebSocket

from omni.serving.errors import ApiError
from omni.serving.realtime.configuration import first_config
from omni.serving.realtime.session import Session
from omni.serving.service import Service

_PROTOCOL = "realtime"  # of browsers, which send the key as another one


async def realtime(socket: WebSocket) -> None:
    """Opens a session, and runs it."""
    service: Service = socket.app.state.service
    query = socket.query_params
    try:
        config = first_config(service.models, model=query.get("model"), intent=query.get("intent"))
        with service.sessions.enter() as end:
            await socket.accept(subprotocol=_PROTOCOL if _PROTOCOL in socket.scope["subprotocols"] else None)
            session = Session(service, socket, config, end)
            service.note(socket, model=config.model)
            await session.run()
            service.note(socket, responses=session.num_responses, audio_seconds=round(session.input.seconds, 3))
    except ApiError as error:
        service.note(socket, error=error.code)
        await socket.send_denial_response(error.response())
