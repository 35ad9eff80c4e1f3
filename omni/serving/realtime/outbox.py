"""Events to a client."""

from typing import Any

from starlette.websockets import WebSocket

from omni.serving.errors import ApiError, json_bytes
from omni.serving.realtime.conversation import new_id


class Outbox:
    """Sends events to a client.

    Args:
        socket: Its connection.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send(self, kind: str, **fields: Any) -> None:
        """Sends an event.

        Raises:
            WebSocketDisconnect: If the client has left.
        """
        content = {"type": kind, "event_id": new_id("event"), **fields}
        await self._socket.send_text(json_bytes(content).decode())

    async def error(self, error: ApiError, event_id: str | None = None) -> None:
        """Sends an error; the session goes on.

        Args:
            error: The error.
            event_id: The id of the client's event, if it has one.
        """
        await self.send("error", error={**error.body["error"], "event_id": event_id})
