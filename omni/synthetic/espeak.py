"""Speech synthesis by eSpeak NG through ctypes; the same arguments always give the same samples.

The engine is a C library with global state that none of its functions resets: the phase of a voice's flutter, the
noise of its breath, voice settings. The library is therefore loaded and unloaded for each utterance, which takes 0.7 ms
of the 5 ms of a sentence. (It stays loaded, with its state, while other code of the process holds it.)
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from omni.errors import UserError, install_hint

RATES = range(80, 451)  # words per minute; the engine would clamp others
PITCHES = range(100)

VOLUME = 65  # the loudest voices clip at 100; at 65 the loudest of 4,300 utterances peaks at 0.98

# From eSpeak NG's speak_lib.h:
_SYNCHRONOUS = 2  # samples come from espeak_Synth itself, without a thread of the engine
_DONT_EXIT = 0x8000  # return an error if the data is missing instead of ending the process
_RATE, _VOLUME, _PITCH = 1, 2, 3
_CHARACTERS, _UTF8 = 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_lock = Lock()


def synthesize(text: str, voice: str, rate: int = 175, pitch: int = 50) -> tuple[np.ndarray, int]:
    """Synthesizes a text.

    Args:
        text: Plain text of one or a few sentences.
        voice: A language of eSpeak NG, optionally with `+` and a variant of the voice: `en-us`, `en-gb-scotland+f3`.
        rate: Words per minute, 80 to 450.
        pitch: 0 to 99; 50 is the voice's own.

    Returns:
        The samples, (samples,) of int16, and the sample rate.

    Raises:
        UserError: If espeakng-loader is not installed, its library does not load, or it has no such voice.
        ValueError: If the rate or the pitch is out of range, or the text has no letters or digits.
    """
    if rate not in RATES or pitch not in PITCHES:
        raise ValueError(f"rate must be 80 to 450 and pitch 0 to 99, not {rate} and {pitch}")
    if "\0" in text or not any(character.isalnum() for character in text):
        raise ValueError(f"nothing to say in {text!r}: no letter or digit, or a null character")
    library, data = _installed()
    _, plus, variant = voice.partition("+")
    # The engine itself silently replaces an unknown variant by the plain voice.
    if plus and not (variant and (data / "voices" / "!v" / variant).is_file()):
        raise UserError(f"eSpeak NG has no voice variant {variant!r} (asked for as {voice!r})")
    with _lock, _fresh(library) as engine:
        return _say(engine, data, text, voice, rate, pitch)


def version() -> str:
    """The engine's version, such as "1.52.0"; samples differ between versions."""
    with _lock, _fresh(_installed()[0]) as engine:
        engine.espeak_Info.restype = ctypes.c_char_p
        return engine.espeak_Info(None).decode()


def languages() -> list[str]:
    """The languages that `synthesize` takes as voices, such as "de" or "pt-br", but for those without a dictionary.

    Raises:
        UserError: If espeakng-loader is not installed.
    """
    data = _installed()[1]
    files = [file for file in (data / "lang").rglob("*") if file.is_file()]
    return sorted(file.name.lower() for file in files if (data / f"{_dictionary(file)}_dict").is_file())


def _dictionary(file: Path) -> str:
    """The dictionary of a voice file: the one that it names, or that of its language without the variety."""
    lines = (line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    named = (words[1] for words in lines if words[:1] == ["dictionary"] and len(words) > 1)
    return next(named, file.name.partition("-")[0].lower())


def _installed() -> tuple[Path, Path]:
    """The engine's library and its data folder."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            f"speech needs the package espeakng-loader: {install_hint('world')}, or ask for no utterances"
        ) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


@contextmanager
def _fresh(library: Path) -> Iterator[ctypes.CDLL]:
    """The library in its initial state."""
    import _ctypes  # has the only function that unloads a library

    try:
        engine = ctypes.CDLL(str(library))
    except OSError as error:
        raise UserError(f"eSpeak NG does not load: {error}; reinstall espeakng-loader") from error
    try:
        yield engine
    finally:
        (_ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose)(engine._handle)


def _say(engine: ctypes.CDLL, data: Path, text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int]:
    chunks: list[bytes] = []
    failures: list[BaseException] = []

    @_CALLBACK
    def keep(samples, number, events):  # exceptions that leave it, even Ctrl-C, are printed and lost
        try:
            if samples and number > 0:
                chunks.append(ctypes.string_at(samples, 2 * number))
        except BaseException as error:
            failures.append(error)
            return 1
        return 0

    sample_rate = engine.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
    if sample_rate <= 0:
        raise UserError(f"eSpeak NG cannot read its data in {data}; a path of over 150 characters is too long for it")
    try:
        engine.espeak_SetSynthCallback(keep)
        # The noise of breath is otherwise seeded with the time; that of Klatt voices is the C library's.
        engine.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if os.name != "nt":
            ctypes.CDLL(None).srand(1)
        if engine.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice {voice!r}")
        encoded = text.encode() + b"\0"
        for status in (
            engine.espeak_SetParameter(_RATE, rate, 0),
            engine.espeak_SetParameter(_PITCH, pitch, 0),
            engine.espeak_SetParameter(_VOLUME, VOLUME, 0),
            engine.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, _CHARACTERS, 0, _UTF8, None, None),
            engine.espeak_Synchronize(),
        ):
            if status != 0 and not failures:
                raise RuntimeError(f"eSpeak NG failed with status {status} on {text!r} by {voice!r}")
    finally:
        engine.espeak_Terminate()
    if failures:
        raise failures[0]
    return np.frombuffer(b"".join(chunks), dtype=np.int16), sample_rate
