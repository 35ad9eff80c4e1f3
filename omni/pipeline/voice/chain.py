"""The chain of a voice: `configs/voice.yaml` with its paths and the sizes of the checkpoints that it starts from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omni.checkpoints.checkpoint import Checkpoint
from omni.checkpoints.weights import weights_fingerprint
from omni.errors import UserError
from omni.files import write_text
from omni.media.mel_scale import SAMPLE_RATE, VOCODER_RATES
from omni.models.audio_encoder import AudioEncoder
from omni.models.part import Part
from omni.models.talker import Talker
from omni.training.shipped import CONFIGS

_TEMPLATE = CONFIGS / "voice.yaml"
_CHECKSUM = "# Checksum, by which an edited file is known and kept: "
_VOCODER_BATCH = 12.0  # seconds, of configs/voice/vocoder.yaml; a batch holds the longest utterance at least
_CODEBOOK_WEIGHTS = (1.0, 0.5, 0.3, 0.2, 0.15, 0.1)  # of configs/world/talker.yaml; further ones have the last
_DROPOUT = 0.15  # of a Talker that is trained further: half an hour of speech is soon known by heart
_ADVERSARIAL_START = 500  # steps of a new vocoder before its new discriminators start


@dataclass(frozen=True, kw_only=True)
class VoiceParts:
    """The checkpoints that a voice starts from.

    Attributes:
        recognizer: With a recogniser, which is not trained.
        codec: With a codec; None: a new one is trained. The same for the next two.
        talker: With a Talker.
        vocoder: With a vocoder.
        sample_rate: Of the voice's vocoder in Hz.
    """

    recognizer: Checkpoint
    codec: Checkpoint | None
    talker: Checkpoint | None
    vocoder: Checkpoint | None
    sample_rate: int


def open_parts(
    *, recognizer: str | None, codec: str | None, talker: str | None, vocoder: str | None, sample_rate: int | None
) -> VoiceParts:
    """Opens checkpoints; the codec and the recogniser are those of the Talker's, unless given.

    Without `sample_rate`, the rate is that of the vocoder's checkpoint, or 16 kHz.

    Raises:
        UserError: If there is no recogniser, or a checkpoint lacks its part, or parts do not fit each other.
    """
    if sample_rate not in (None, *VOCODER_RATES):
        raise UserError(f"--sample_rate is {sample_rate}: give {' or '.join(map(str, VOCODER_RATES))}")
    talker_checkpoint = None if talker is None else Checkpoint(talker)
    if recognizer is None and talker_checkpoint is None:
        raise UserError(
            "a recogniser aligns the transcripts, and writes missing ones: give --recognizer, such as "
            "lightning_logs/audio/best.ckpt, or --talker with the checkpoint of a Talker, which holds one",
            page="voice.md",
        )
    own = talker_checkpoint if recognizer is None else Checkpoint.open(recognizer, opened=talker_checkpoint)
    assert own is not None
    started = None if vocoder is None else Checkpoint.open(vocoder, opened=talker_checkpoint)
    parts = VoiceParts(
        recognizer=own,
        codec=talker_checkpoint if codec is None else Checkpoint.open(codec, opened=talker_checkpoint),
        talker=talker_checkpoint,
        vocoder=started,
        sample_rate=sample_rate or (SAMPLE_RATE if started is None else _rate(started)),
    )
    _check(parts)
    return parts


def _rate(vocoder: Checkpoint) -> int:
    return _recipe(vocoder, "vocoder")["init_args"].get("sample_rate", SAMPLE_RATE)


def _check(parts: VoiceParts) -> None:
    encoder = parts.recognizer.part("audio_encoder", AudioEncoder)
    if parts.recognizer.ctc_vocabulary.state()["kind"] != "characters":
        raise UserError(
            f"the recogniser of {parts.recognizer} has word pieces for units: a Talker needs one with characters"
        )
    for name, checkpoint in (("codec", parts.codec), ("vocoder", parts.vocoder)):
        if checkpoint is None:
            continue
        _recipe(checkpoint, name)
        filters = checkpoint.content["parts"][name]["init_args"].get("num_mels", encoder.num_mels)
        if filters != encoder.num_mels:
            raise UserError(
                f"the {name} of {checkpoint} reads {filters} mel filters and the recogniser of {parts.recognizer} "
                f"{encoder.num_mels}: give one that was trained with num_mels {encoder.num_mels}"
            )
    if parts.vocoder is not None and (rate := _rate(parts.vocoder)) > parts.sample_rate:
        raise UserError(
            f"the vocoder of {parts.vocoder} outputs {rate:,} Hz, and --sample_rate is {parts.sample_rate}: give no "
            "lower rate than that, or leave --vocoder out to train a new one"
        )
    if parts.talker is not None and parts.codec is not None:
        _check_talker(parts.talker, parts.codec, parts.recognizer)


def _check_talker(checkpoint: Checkpoint, codec: Checkpoint, recognizer: Checkpoint) -> None:
    talker = checkpoint.part("talker", Talker)
    if talker.condition is not None:
        raise UserError(f"the Talker of {checkpoint} is conditioned on a Thinker: give one that was trained without")
    if weights_fingerprint(checkpoint.weights_of("codec")) != weights_fingerprint(codec.weights_of("codec")):
        raise UserError(
            f"the Talker of {checkpoint} was trained on the codes of another codec than that of {codec}: leave --codec "
            "out, and the codec in the Talker's checkpoint is taken"
        )
    if checkpoint.ctc_vocabulary.fingerprint != recognizer.ctc_vocabulary.fingerprint:
        raise UserError(
            f"the Talker of {checkpoint} and the recogniser of {recognizer} differ in characters or normalisation: "
            "leave --recognizer out, and the recogniser in the Talker's checkpoint is taken; or leave --talker out"
        )


def write_chain(out: Path, name: str, parts: VoiceParts, *, longest: float) -> Path:
    """Writes `chain.yaml` into the folder of a voice's data set.

    Args:
        out: The folder, with `train.jsonl` and `val.jsonl`.
        name: Of the chain, whose runs are in `lightning_logs/NAME`.
        parts: The checkpoints to start from.
        longest: Most seconds of an utterance.
    """
    content = yaml.safe_load(_TEMPLATE.read_text(encoding="utf-8"))
    content["name"] = name
    shared: dict[str, Any] = {
        "data.init_args.train": (out / "train.jsonl").as_posix(),
        "data.init_args.val": (out / "val.jsonl").as_posix(),
        "data.init_args.max_duration": float(longest),
    }
    for stage, own in (("codec", _codec), ("talker", _talker), ("vocoder", _vocoder)):
        if stage == "vocoder" and longest > _VOCODER_BATCH:
            shared["data.init_args.batch_seconds"] = float(longest)
        overrides = {"trainer.logger.init_args.name": f"{name}/{stage}", **own(name, parts), **shared}
        content["stages"][stage]["overrides"] = {**content["stages"][stage].get("overrides", {}), **overrides}
    path = out / "chain.yaml"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    header = f"# Written by `omni adapt voice`: omni train {path.as_posix()}\n{_CHECKSUM}{_checksum(text)}\n"
    write_text(path, header + text)
    return path


def edited_chain(out: Path) -> Path | None:
    """The `chain.yaml` in the folder of a voice, if there is one and it is not as `write_chain` has written it."""
    path = out / "chain.yaml"
    if not path.is_file():
        return None
    _, checksum, content = [*path.read_text(encoding="utf-8").split("\n", 2), "", ""][:3]
    return path if checksum != _CHECKSUM + _checksum(content) else None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _codec(name: str, parts: VoiceParts) -> dict[str, Any]:
    found = {"audio_encoder": parts.recognizer, **({} if parts.codec is None else {"codec": parts.codec})}
    values = {**_of_recognizer(parts, "codec"), **_started(found)}
    if parts.codec is not None and parts.talker is not None:
        values["model.init_args.decoder_only"] = True  # the Talker's codes
    return values


def _vocoder(name: str, parts: VoiceParts) -> dict[str, Any]:
    found = {"audio_encoder": parts.recognizer}
    values: dict[str, Any] = {"model.init_args.adversarial_start": _ADVERSARIAL_START}
    if parts.vocoder is not None:
        found["vocoder"] = parts.vocoder
        if "discriminators" in parts.vocoder and _rate(parts.vocoder) == parts.sample_rate:
            found["discriminators"], values = parts.vocoder, {}
    values |= {**_of_recognizer(parts, "codec", "vocoder"), **_started(found, codec=_run(name, "codec"))}
    if parts.sample_rate != SAMPLE_RATE:
        values |= _at_rate(parts)
    if parts.codec is not None:
        values["model.init_args.codec"] = _recipe(parts.codec, "codec")
    return values


def _at_rate(parts: VoiceParts) -> dict[str, Any]:
    """The sample rate of the vocoder, and a frame that lasts as long as that of the one to start from."""
    found: dict[str, Any] = {"sample_rate": parts.sample_rate}
    earlier = {} if parts.vocoder is None else _recipe(parts.vocoder, "vocoder")["init_args"]
    if (n_fft := earlier.get("n_fft")) is not None and parts.vocoder is not None:
        found["n_fft"] = n_fft * parts.sample_rate // _rate(parts.vocoder)
    return {f"model.init_args.vocoder.init_args.{key}": value for key, value in found.items()}


def _talker(name: str, parts: VoiceParts) -> dict[str, Any]:
    values: dict[str, Any] = {
        "data.init_args.codec": _run(name, "codec"),
        "data.init_args.recognizer": str(parts.recognizer),
    }
    codec: Any = None if parts.codec is None else parts.codec.part("codec", Part)
    if codec is not None and codec.num_codebooks != len(_CODEBOOK_WEIGHTS):
        further = (_CODEBOOK_WEIGHTS[-1],) * codec.num_codebooks
        values["model.init_args.codebook_weights"] = [*_CODEBOOK_WEIGHTS, *further][: codec.num_codebooks]
    if parts.talker is not None:
        values["model.init_args.talker.init_args.dropout"] = _DROPOUT
        return {**_started({"talker": parts.talker}), **values}
    values |= {"init_from": {}}
    values["model.init_args.talker.init_args.vocab_size"] = parts.recognizer.ctc_vocabulary.vocab_size
    if codec is not None:
        for size in ("num_codebooks", "codebook_size", "frame_rate"):
            values[f"model.init_args.talker.init_args.{size}"] = getattr(codec, size)
    return values


def _started(found: dict[str, Checkpoint], **runs: str) -> dict[str, Any]:
    """The sizes of parts, and the checkpoints that they start from."""
    sizes = {f"model.init_args.{name}": _recipe(checkpoint, name) for name, checkpoint in found.items()}
    return {"init_from": {**{name: str(checkpoint) for name, checkpoint in found.items()}, **runs}, **sizes}


def _of_recognizer(parts: VoiceParts, *trained: str) -> dict[str, Any]:
    """The characters and the mel filters of data and parts, which are the recogniser's."""
    filters = parts.recognizer.part("audio_encoder", AudioEncoder).num_mels
    sizes = {f"model.init_args.{part}.init_args.num_mels": filters for part in trained}
    return {"data.init_args.units": str(parts.recognizer), "data.init_args.num_mels": filters, **sizes}


def _recipe(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What rebuilds a part."""
    if name not in checkpoint:
        checkpoint.part(name)  # raises
    return checkpoint.content["parts"][name]


def _run(name: str, stage: str) -> str:
    return f"lightning_logs/{name}/{stage}/best.ckpt"
