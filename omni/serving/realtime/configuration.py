"""The configuration of a session: its defaults, updates of some fields, and what clients see of it."""

from collections.abc import Mapping
from typing import Any

from omni.media.turn_detector import TurnDetector
from omni.serving.errors import ApiError
from omni.serving.realtime.schemas import ServerVAD, SessionConfig, SessionUpdate
from omni.serving.served_models import ServedModels

_CLEARED_BY_NULL = ("turn_detection", "transcription")  # null counts as left out for the others
_MARGIN = 16.0  # dB of `TurnDetector.margin` per unit of `threshold`: the defaults of both are equal
_LEAST_MARGIN = 1.0  # dB


def first_config(models: ServedModels, *, model: str | None, intent: str | None) -> SessionConfig:
    """The configuration of a new session.

    Args:
        models: The models of the server.
        model: The model that the client asks for; by default the first one that fits.
        intent: `transcription` for a session without answers, as it is without a chat model in any case.

    Raises:
        ApiError: If there is no such model.
    """
    if intent not in (None, "realtime", "transcription"):
        raise ApiError(400, "The intent must be realtime or transcription.", param="intent")
    names = {use: name.id for name in reversed(models.names) for use in name.uses}
    use = "transcription" if intent == "transcription" or "chat" not in names else "chat"
    if model is not None or use not in names:
        models.check(model or use, use)
    transcription = {"model": model or names["transcription"]} if use == "transcription" else None
    return SessionConfig.model_validate(
        {
            "type": "realtime" if use == "chat" else "transcription",
            "model": model or names[use],
            "output_modalities": ["text" if models.synthesizer is None else "audio"],
            "audio": {"input": {"transcription": transcription}, "output": {"voice": next(iter(models.voices), None)}},
        }
    )


def updated_config(config: SessionConfig, event: Mapping[str, Any], models: ServedModels) -> SessionConfig:
    """The configuration after `session.update`.

    Args:
        config: The configuration before; fields that the event does not have keep their values.
        event: The event.
        models: The models of the server.

    Raises:
        ValidationError: If a field is wrong.
        ApiError: If there is no such model or voice.
    """
    if isinstance(given := event.get("session"), dict):
        if "type" not in given:
            raise ApiError(400, "session.type is missing.", param="session.type", code="missing_required_parameter")
        event = {**event, "session": _merged(config.model_dump(), given) | {"type": given["type"]}}
    new = SessionUpdate.model_validate(event).session
    if new.model != config.model and new.type == config.type:
        raise ApiError(400, "The model of a session cannot be changed: open another one.", param="session.model")
    if new.type == "realtime":
        _check(models, config.model, "chat", "session.type")
        check_modality(new.output_modalities[0], models, "session.output_modalities")
        speaker_of(new.audio.output.voice, models, "session.audio.output.voice")
    if (transcription := new.audio.input.transcription) is not None:
        _check(models, transcription.model, "transcription", "session.audio.input.transcription.model")
    return new


def check_modality(modality: str, models: ServedModels, param: str) -> None:
    """Checks that the server can speak, if it is to.

    Raises:
        ApiError: If it cannot.
    """
    if modality == "audio" and models.synthesizer is None:
        raise ApiError(400, 'This server has no voice: use ["text"].', param=param)


def speaker_of(voice: Any, models: ServedModels, param: str) -> int | str | None:
    """The speaker of a voice; see `ServedModels.speaker`."""
    return models.speaker(voice if isinstance(voice, str | None) else voice.id, param=param)


def detector_of(detection: ServerVAD) -> TurnDetector:
    """The detector of a configuration; `threshold` is 16 dB per unit, so that 0.5 is the default margin of 8 dB."""
    margin = max(_LEAST_MARGIN, _MARGIN * detection.threshold)
    return TurnDetector(silence=detection.silence_duration_ms / 1000, margin=margin)


def shown_config(config: SessionConfig, session_id: str) -> dict[str, Any]:
    """The configuration as clients see it."""
    body = config.model_dump()
    if config.type == "transcription":
        body = {"type": config.type, "audio": {"input": body["audio"]["input"]}}
    else:
        body |= {"tools": [], "tool_choice": "none"}
    return {
        "id": session_id,
        "object": f"realtime.{'' if config.type == 'realtime' else 'transcription_'}session",
    } | body


def _check(models: ServedModels, name: str | None, use: str, param: str) -> None:
    try:
        fitting = [model.id for model in models.names if use in model.uses]
        models.check(name if name is not None or not fitting else fitting[0], use)  # pyright: ignore[reportArgumentType]
    except ApiError as error:
        raise ApiError(400, error.message, param=param, code=error.code) from error


def _merged(before: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    after = dict(before)
    for name, value in changes.items():
        if value is None and name not in _CLEARED_BY_NULL:
            continue
        old = after.get(name)
        after[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return after
