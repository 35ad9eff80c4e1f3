"""The base of the errors of media that cannot be read."""

from typing import Any, Generic, TypeVar

from omni.errors import UserError

Fault = TypeVar("Fault", bound=str)


class MediaError(UserError, Generic[Fault]):
    """A medium that cannot be read.

    Args:
        fault: Kind of the error.
        message: The line for the user.
    """

    def __init__(self, fault: Fault, message: str):
        super().__init__(message)
        self.fault: Fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fault, str(self))
