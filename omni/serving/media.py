"""Images and recordings in requests: decoded from base64 or fetched, and checked before they are read."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from omni.errors import UserError
from omni.media.audio import audio_info
from omni.media.image_file import image_info
from omni.serving.errors import ApiError
from omni.serving.limits import Limits
from omni.serving.urls import fetch

# Beyond these a small compressed file holds more samples per second than memory does.
_MAX_CHANNELS, _MIN_RATE, _MAX_RATE = 8, 1_000, 192_000


def image_of(url: str, *, param: str, limits: Limits, allow_urls: bool) -> bytes:
    """The content of an image.

    Args:
        url: A `data:` URL, or one to fetch.
        param: Its field, for errors.
        limits: Limits of its size.
        allow_urls: Whether `http:` and `https:` URLs are fetched.

    Raises:
        ApiError: If it cannot be had, is not an image, or is too large.
    """
    scheme = url[:10].partition(":")[0].lower()
    if scheme == "data":
        content = _data_of(url, param)
    elif scheme in ("http", "https"):
        if not allow_urls:
            raise ApiError(
                400, "Images are not fetched here: send a data: URL (or start with --allow_urls).", param=param
            )
        content = fetch(url, param=param, max_bytes=limits.upload_bytes)
    else:
        raise ApiError(400, "The URL of an image must start with data:, http: or https:.", param=param)
    try:
        info = image_info(content)
    except UserError as error:
        raise ApiError(400, f"{error}.", param=param, code="invalid_image") from error
    if info.width * info.height > limits.max_pixels * 1e6:
        message = f"The image has {info.width} × {info.height} pixels: {limits.max_pixels:g} million are read at most."
        raise ApiError(400, message, param=param, code="image_too_large")
    return content


def audio_of(data: str, *, param: str, limits: Limits) -> bytes:
    """The content of a recording in base64; see `check_audio`."""
    content = decoded(data.encode("ascii", "replace"), param)
    check_audio(content, param=param, limits=limits)
    return content


def check_audio(content: bytes, *, param: str, limits: Limits) -> None:
    """Checks the header of a recording.

    Raises:
        ApiError: If it is not audio, or too long.
    """
    try:
        info = audio_info(content)
    except UserError as error:
        raise ApiError(400, f"{error}.", param=param, code="invalid_audio") from error
    if info.duration > limits.max_audio:
        message = f"The recording lasts {info.duration:,.0f} s: {limits.max_audio:,.0f} s are read at most."
        raise ApiError(400, message, param=param, code="audio_too_long")
    if info.channels > _MAX_CHANNELS or not _MIN_RATE <= info.sample_rate <= _MAX_RATE:
        message = (
            f"The recording has {info.channels} channels at {info.sample_rate:,} Hz: at most {_MAX_CHANNELS} channels "
            f"at {_MIN_RATE:,} to {_MAX_RATE:,} Hz are read."
        )
        raise ApiError(400, message, param=param, code="invalid_audio")


def _data_of(url: str, param: str) -> bytes:
    head, comma, content = url.partition(",")
    if not comma:
        raise ApiError(400, "The data: URL has no comma before its content.", param=param)
    if head.lower().endswith(";base64"):
        return decoded(content.encode("ascii", "replace"), param)
    return unquote_to_bytes(content)


def decoded(content: bytes, param: str) -> bytes:
    """The bytes of base64.

    Raises:
        ApiError: If it is not base64.
    """
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ApiError(400, f"The content is not base64 ({error}).", param=param, code="invalid_base64") from error
