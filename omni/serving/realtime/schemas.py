"""Events of clients as OpenAI's realtime API has them. Unknown fields are ignored, wrong values are refused."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from omni.serving.schemas import Name, Schema, Text, Voice, refused

Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]
MaxTokens = Annotated[
    Annotated[int, Field(ge=1, le=1_000_000), Tag("~number")] | Annotated[Literal["inf"], Tag("~inf")],
    Discriminator(lambda value: "~inf" if isinstance(value, str) else "~number"),
]


class PCM(Schema):
    """The only format of audio: 16-bit samples at 24 kHz, mono, little-endian."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class ServerVAD(Schema):
    """How turns are found; see `omni.media.turn_detector`."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5_000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=20, le=10_000)] = 500
    create_response: bool = True
    interrupt_response: bool = True


class Transcription(Schema):
    """How the audio of the user is transcribed."""

    model: Name | None = None
    language: Name | None = None


class InputAudio(Schema):
    """What is done with the audio of the user."""

    format: PCM = PCM()
    turn_detection: ServerVAD | None = ServerVAD()
    transcription: Transcription | None = None


class OutputAudio(Schema):
    """How answers are spoken."""

    format: PCM = PCM()
    voice: Voice | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)] = 1.0


class Audio(Schema):
    """Audio in and out."""

    input: InputAudio = InputAudio()
    output: OutputAudio = OutputAudio()


class SessionConfig(Schema):
    """The configuration of a session."""

    type: Literal["realtime", "transcription"]
    model: Name | None = None
    instructions: Text = ""
    output_modalities: Modalities
    max_output_tokens: MaxTokens = "inf"
    audio: Audio = Audio()


class Event(Schema):
    """An event of a client."""

    event_id: Name | None = None


class SessionUpdate(Event):
    """`session.update`, merged into the configuration."""

    session: SessionConfig


class Append(Event):
    """`input_audio_buffer.append`."""

    audio: str


class Commit(Event):
    """`input_audio_buffer.commit`."""


class Clear(Event):
    """`input_audio_buffer.clear`."""


_PARTS = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text", "output_audio"),
}
_FIELDS = {
    "input_text": "text",
    "input_audio": "audio",
    "input_image": "image_url",
    "output_text": "text",
    "output_audio": "transcript",
}


class ItemPart(Schema):
    """A part of a message."""

    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio"]
    text: Text | None = None
    audio: str | None = None
    image_url: str | None = None
    transcript: Text | None = None

    @property
    def content(self) -> str:
        """The field that its type names."""
        return getattr(self, _FIELDS[self.type])

    @model_validator(mode="after")
    def _has_content(self) -> "ItemPart":
        if getattr(self, _FIELDS[self.type]) is None:
            raise refused(_FIELDS[self.type], f"is missing: a part of type {self.type} needs it")
        return self


class NewItem(Schema):
    """A message that a client adds."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    id: Name | None = None
    content: Annotated[list[ItemPart], Field(min_length=1, max_length=1_000)]

    @model_validator(mode="after")
    def _fits_together(self) -> "NewItem":
        for number, part in enumerate(self.content):
            if part.type not in _PARTS[self.role]:
                raise refused(f"content[{number}].type", f"{part.type} is not possible with the role {self.role}")
        return self


class CreateItem(Event):
    """`conversation.item.create`."""

    item: NewItem
    previous_item_id: Name | None = None


class DeleteItem(Event):
    """`conversation.item.delete`."""

    item_id: Name


class RetrieveItem(Event):
    """`conversation.item.retrieve`."""

    item_id: Name


class TruncateItem(Event):
    """`conversation.item.truncate`, of an answer that was interrupted."""

    item_id: Name
    content_index: Literal[0] = 0
    audio_end_ms: Annotated[int, Field(ge=0)]


class ResponseVoice(Schema):
    """How a response is spoken."""

    format: PCM = PCM()
    voice: Voice | None = None


class ResponseAudio(Schema):
    """The audio of a response."""

    output: ResponseVoice | None = None


class ResponseParams(Schema):
    """What is different from the session for one response."""

    instructions: Text | None = None
    max_output_tokens: MaxTokens | None = None
    output_modalities: Modalities | None = None
    audio: ResponseAudio | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    conversation: Literal["auto"] | None = None
    input: Any = None

    @model_validator(mode="after")
    def _is_of_the_conversation(self) -> "ResponseParams":
        if self.input is not None:
            raise refused("input", "is not possible here: add items with conversation.item.create")
        return self


class CreateResponse(Event):
    """`response.create`."""

    response: ResponseParams | None = None


class CancelResponse(Event):
    """`response.cancel`."""

    response_id: Name | None = None
