"""Items of the user's audio, and items that a client writes."""

from typing import Any

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE
from omni.serving.chat_prompts import PromptMaker
from omni.serving.errors import ApiError
from omni.serving.media import image_of
from omni.serving.realtime.conversation import Item
from omni.serving.realtime.input_audio import recording_of
from omni.serving.realtime.schemas import ItemPart, NewItem
from omni.serving.realtime.turns import SpokenTurn
from omni.serving.service import Service

_MAX_TEXT = 1_000_000  # characters of an item


async def spoken_item(turn: SpokenTurn, service: Service, *, answered: bool) -> Item:
    """The item of a turn.

    Args:
        turn: The turn.
        service: The server's state.
        answered: Whether the model reads it.

    Raises:
        UserError: If the model has no audio encoder, or it is too long.
    """
    message = {"role": "user", "content": [{"type": "audio", "audio": turn.audio()}]}
    read = await service.prompts.load(message) if answered and service.prompts is not None else None
    return Item("user", [{"type": "input_audio", "transcript": None}], read, turn.id)


async def new_item(given: NewItem, service: Service) -> Item:
    """The item that a client adds.

    Args:
        given: What it sends.
        service: The server's state.

    Raises:
        ApiError: If a part is wrong, the model has no encoder for it, or there are too many.
    """
    prompts = service.prompts
    if prompts is None:
        raise ApiError(400, "This server has no model for chat: send audio to be transcribed.", param="item")
    num_media = sum(part.type in ("input_audio", "input_image") for part in given.content)
    if num_media > service.limits.max_media:
        message = f"The item has {num_media} images and recordings: {service.limits.max_media} are read at most."
        raise ApiError(400, message, param="item.content")
    if sum(len(part.content) for part in given.content if part.type in ("input_text", "output_text")) > _MAX_TEXT:
        raise ApiError(400, f"The item has more than {_MAX_TEXT:,} characters.", param="item.content")
    parts = [
        await service.fetch(_loaded, part, f"item.content[{number}]", prompts, service)
        for number, part in enumerate(given.content)
    ]
    if given.role == "user":
        content: Any = parts
    else:
        content = " ".join(part["text"] for part in parts)
    try:
        turn = await prompts.load({"role": given.role, "content": content})
    except UserError as error:
        raise ApiError(400, f"{error}.", param="item.content") from error
    item = Item(given.role, [_shown(part) for part in given.content], turn)
    item.id = given.id or item.id
    return item


def _loaded(part: ItemPart, place: str, prompts: PromptMaker, service: Service) -> dict[str, Any]:
    """A part as `omni.text.chat_template.encode_chat` takes it."""
    if part.type == "input_audio":
        param = f"{place}.audio"
        audio = recording_of(part.content, param=param)
        if (seconds := len(audio) / SAMPLE_RATE) > service.limits.max_turn:
            message = f"The audio lasts {seconds:,.1f} s: {service.limits.max_turn:g} s are read at most."
            raise ApiError(400, message, param=param, code="invalid_audio")
        return {"type": "audio", "audio": audio}
    if part.type == "input_image":
        limits, param = service.limits, f"{place}.image_url"
        content = image_of(part.content, param=param, limits=limits, allow_urls=prompts.allow_urls)
        return {"type": "image", "image": content}
    return {"type": "text", "text": part.content}


def _shown(part: ItemPart) -> dict[str, Any]:
    """A part as clients see it: without audio."""
    return part.model_dump(exclude_none=True, exclude={"audio"})
