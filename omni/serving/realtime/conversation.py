"""The conversation of a session: items, their media loaded for the model, within a bound of memory."""

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from omni.inference.prompt import LoadedMedium, Turn
from omni.serving.bodies import Uploads
from omni.serving.errors import ApiError

Status = Literal["completed", "incomplete", "in_progress"]
_MAX_ITEMS = 1000


def new_id(kind: str) -> str:
    """An id such as `item_…`."""
    return f"{kind}_{secrets.token_hex(12)}"


@dataclass(eq=False)
class Item:
    """A message of the conversation.

    Attributes:
        role: Of its author.
        content: As clients see it, without audio.
        turn: As the model reads it; None while there is nothing to read.
        id: Its name.
        status: Whether it is complete.
        seconds: Length of its speech, of a spoken answer.
    """

    role: Literal["system", "user", "assistant"]
    content: list[dict[str, Any]]
    turn: Turn | None = None
    id: str = field(default_factory=lambda: new_id("item"))
    status: Status = "completed"
    seconds: float = 0.0

    def truncate(self, seconds: float) -> None:
        """Shortens a spoken answer to what was heard; its text by the same share of its words, about.

        Raises:
            ApiError: If it is not a spoken answer, not complete, or not that long.
        """
        if self.role != "assistant" or not self.seconds:
            raise ApiError(400, "Only spoken answers can be truncated.", param="item_id")
        if self.status == "in_progress":
            raise ApiError(400, "The answer is in progress: cancel it before.", param="item_id")
        if seconds > self.seconds:
            message = f"The answer lasts {1000 * self.seconds:,.0f} ms: it cannot be cut after them."
            raise ApiError(400, message, param="audio_end_ms")
        words = self.content[0]["transcript"].split()
        text = " ".join(words[: round(len(words) * seconds / self.seconds)])
        self.content = [{"type": "output_audio", "transcript": text}]
        self.turn = Turn({"role": "assistant", "content": text}) if text else None
        self.seconds, self.status = seconds, "incomplete"

    @property
    def body(self) -> dict[str, Any]:
        """As clients see it."""
        fields = {"id": self.id, "object": "realtime.item", "type": "message", "status": self.status}
        return fields | {"role": self.role, "content": self.content}

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        texts = sum(len(part.get(name) or "") for part in self.content for name in ("text", "transcript", "image_url"))
        return texts + (0 if self.turn is None else sum(map(_size, self.turn.media)))


def _size(medium: LoadedMedium) -> int:
    tensors = [*medium.images, *(() if medium.mel is None else (medium.mel,))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Conversation:
    """The items of a session, in order. The oldest are dropped beyond a size, as from prompts beyond the context.

    Args:
        uploads: Counts memory over all sessions and requests.
        max_bytes: Most bytes of the items.
    """

    def __init__(self, uploads: Uploads, max_bytes: int) -> None:
        self.id = new_id("conv")
        self.items: list[Item] = []
        self._uploads, self._max_bytes, self._held = uploads, max_bytes, 0

    def add(self, item: Item, *, after: str | None = None) -> str | None:
        """Adds an item.

        Args:
            item: The item.
            after: Id of the one before it; `root` for the start; by default it is the last one.

        Returns:
            Id of the one before it, if there is one.

        Raises:
            ApiError: If its id is used, there is no item `after`, or no memory is left.
        """
        if any(one.id == item.id for one in self.items):
            raise ApiError(400, f"There is an item {item.id!r} already.", param="item.id", code="item_exists")
        place = len(self.items)
        if after is not None:
            place = 0 if after == "root" else self._place(after, "previous_item_id") + 1
        size = item.size
        self._uploads.hold(size)
        self._held += size
        self.items.insert(place, item)
        before = self.items[place - 1].id if place else None
        while len(self.items) > 1 and (self._held > self._max_bytes or len(self.items) > _MAX_ITEMS):
            oldest = next(one for one in self.items if one is not item)
            self.remove(oldest.id)
        return before

    def remove(self, name: str, *, param: str = "item_id") -> None:
        """Removes an item.

        Raises:
            ApiError: If there is none of this id.
        """
        item = self.items.pop(self._place(name, param))
        self._release(item.size)

    def item(self, name: str) -> Item:
        """The item of an id; raises as `remove`."""
        return self.items[self._place(name, "item_id")]

    def resized(self, item: Item, before: int) -> None:
        """Counts an item whose content has changed since it had `before` bytes."""
        if item in self.items:
            self._uploads.hold(item.size - before, forced=True)
            self._held += item.size - before

    def clear(self) -> None:
        """Removes all items."""
        self.items.clear()
        self._release(self._held)

    def turns(self, instructions: str) -> list[Turn]:
        """The conversation as the model reads it, after the instructions, if there are any.

        Raises:
            ApiError: If its last item is not of the user.
        """
        turns = [one.turn for one in self.items if one.turn is not None]
        if not turns or turns[-1].message["role"] != "user":
            message = "There is nothing to answer: the last item of the conversation must be of the user."
            raise ApiError(400, message, code="nothing_to_answer")
        return [Turn({"role": "system", "content": instructions}), *turns] if instructions else turns

    def _place(self, name: str, param: str) -> int:
        for place, one in enumerate(self.items):
            if one.id == name:
                return place
        raise ApiError(400, f"There is no item {name!r} in the conversation.", param=param, code="item_not_found")

    def _release(self, size: int) -> None:
        self._held -= size
        self._uploads.release(size)
