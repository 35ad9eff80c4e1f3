"""Limits on what clients may send and how long they may take."""

from dataclasses import dataclass, fields

from omni.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server.

    Args:
        max_running: Requests computed at once; text answers of them share each step.
        max_queue: Requests that wait for one of them; more are refused with status 429.
        max_upload: Largest body of a request in MB.
        max_uploads: Bodies held in memory at once, in MB; more are refused with status 429.
        max_audio: Longest recording to transcribe, in seconds.
        max_turn: Longest turn of a realtime session, in seconds; longer speech is several turns.
        max_pixels: Largest image in millions of pixels.
        max_media: Most images and recordings of a request.
        max_connections: Most open connections; more are closed at once.
        head_seconds: Time for the head of a request to arrive.
        body_seconds: Time for its body to arrive.
        stall_seconds: Time for which a client may leave a response unread before it is cut off.
        drain_seconds: Time for running requests to end after a signal to stop.
    """

    max_running: int = 32
    max_queue: int = 64
    max_upload: float = 25.0
    max_uploads: float = 500.0
    max_audio: float = 3600.0
    max_turn: float = 120.0
    max_pixels: float = 50.0
    max_media: int = 16
    max_connections: int = 512
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    stall_seconds: float = 30.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "max_queue" else 1
            if field.type in (float, "float"):
                if not 0 < value < float("inf"):
                    raise UserError(f"{field.name} must be over 0, not {value:g}")
            elif value < least:
                raise UserError(f"{field.name} must be {least} or more, not {value}")

    @property
    def upload_bytes(self) -> int:
        """Largest body in bytes."""
        return int(self.max_upload * 1_000_000)
