"""Requests as OpenAI's API has them. Unknown fields are ignored; wrong values are refused with the field's name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator
from pydantic_core import PydanticCustomError

MAX_SPEECH = 4096  # characters, as OpenAI's

Text = Annotated[str, StringConstraints(max_length=10_000_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def refused(param: str, message: str) -> PydanticCustomError:
    """An error of several fields, at one of them."""
    return PydanticCustomError("refused", "{message}", {"message": message, "param": param})


class Schema(BaseModel):
    """Values of exactly their types: `"1"` is not a number."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


class Body(Schema):
    """The body of a request. Fields that are null count as left out: some clients send them."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class TextPart(Schema):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class ImageURL(Schema):
    """Where an image is: a `data:` URL, or one to fetch."""

    url: str


class ImagePart(Schema):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageURL


class InputAudio(Schema):
    """A recording in base64. The format is found in the content; its name is only checked."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class AudioPart(Schema):
    """A recording of a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


def _kind_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return f"~{kind}"


def _kind_of_content(content: Any) -> str:
    return "~text" if isinstance(content, str) else "~parts"


Part = Annotated[
    Annotated[TextPart, Tag("~text")]
    | Annotated[ImagePart, Tag("~image_url")]
    | Annotated[AudioPart, Tag("~input_audio")],
    Discriminator(
        _kind_of_part,
        custom_error_type="part_type",
        custom_error_message="the type of a part must be text, image_url or input_audio",
    ),
]
Parts = Annotated[list[Part], Field(min_length=1)]
Content = Annotated[Annotated[Text, Tag("~text")] | Annotated[Parts, Tag("~parts")], Discriminator(_kind_of_content)]


class EarlierAudio(Schema):
    """A spoken answer of before."""

    id: Name


class Message(Schema):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    audio: EarlierAudio | None = None

    @model_validator(mode="after")
    def _has_content(self) -> "Message":
        if self.content is None and (self.role != "assistant" or self.audio is None):
            raise refused("content", "is missing: give a string or a list of parts")
        return self


class VoiceName(Schema):
    """A voice as an object."""

    id: Name


Voice = Annotated[
    Annotated[Name, Tag("~name")] | Annotated[VoiceName, Tag("~object")],
    Discriminator(lambda value: "~object" if isinstance(value, dict | VoiceName) else "~name"),
]


class AudioOptions(Schema):
    """How an answer is spoken."""

    voice: Voice
    format: Literal["wav", "mp3", "flac", "opus", "pcm16"]


class StreamOptions(Schema):
    """What a stream has besides the answer."""

    include_usage: bool = False


class ResponseFormat(Schema):
    """The form of the answer's text."""

    type: Literal["text"]


class ChatRequest(Body):
    """`POST /v1/chat/completions`."""

    model: Name
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1)] | None = None
    audio: AudioOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: (
        Annotated[
            Annotated[Stop, Tag("~text")] | Annotated[list[Stop], Field(max_length=4), Tag("~list")],
            Discriminator(lambda value: "~text" if isinstance(value, str) else "~list"),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        if (role := self.messages[-1].role) != "user":
            raise refused("messages", f"the last message is of role {role}: it must be of role user")
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "is only allowed with stream: true")
        if self.speaks:
            if self.audio is None:
                raise refused("audio", 'is missing: with modalities ["text", "audio"] give {voice, format}')
            if self.stream and self.audio.format != "pcm16":
                raise refused("audio.format", f"{self.audio.format} is not possible with stream: true: use pcm16")
            if (self.n or 1) > 1:
                raise refused("n", "must be 1 for a spoken answer")
        return self

    @property
    def speaks(self) -> bool:
        """Whether the answer is to be spoken."""
        return "audio" in (self.modalities or ())

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer, if given."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class SpeechRequest(Body):
    """`POST /v1/audio/speech`."""

    model: Name
    input: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SPEECH)]
    voice: Voice | None = None
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


class TranscriptionRequest(BaseModel):
    """`POST /v1/audio/transcriptions`, without its file; form fields are text."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)

    model: Name
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    timestamp_granularities: list[Literal["word", "segment"]] = []
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = None
    prompt: Text | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    stream: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "TranscriptionRequest":
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise refused("timestamp_granularities", "needs response_format verbose_json")
        if self.stream and self.response_format not in ("json", "text"):
            raise refused("stream", f"is not possible with response_format {self.response_format}: use json")
        return self
