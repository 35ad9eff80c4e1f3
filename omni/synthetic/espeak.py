"""eSpeak NG through ctypes: text to speech samples, the same for the same arguments whatever was said before.

The engine is a C library with global state that none of its own functions resets: the phase of a voice's flutter, the
noise of its breath, whole voice settings. So every utterance is said by a library freshly loaded and unloaded again,
which takes 0.7 ms where saying a sentence takes 5 ms. (It stays loaded, state and all, while other code of the same
process holds it too.)
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from omni.errors import UserError, install_hint

RATES = range(80, 451)  # words per minute that the engine knows; it would take others for the nearest of these
PITCHES = range(100)

VOLUME = 65  # of 100, where the loudest voices clip; at 65 the loudest of 4,300 utterances peaks at 0.98

# From eSpeak NG's speak_lib.h:
_SYNCHRONOUS = 2  # samples come from espeak_Synth itself, without a thread of the engine
_DONT_EXIT = 0x8000  # return an error where the data is missing, rather than end the process
_RATE, _VOLUME, _PITCH = 1, 2, 3
_CHARACTERS, _UTF8 = 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_one_at_a_time = Lock()


def synthesize(text: str, voice: str, rate: int = 175, pitch: int = 50) -> tuple[np.ndarray, int]:
    """Say a text.

    Args:
        text: plain text of one or a few sentences.
        voice: a language of eSpeak NG, with a `+` and a variant of the voice or without: `en-us`, `en-gb-scotland+f3`.
        rate: words per minute, 80 to 450.
        pitch: 0 to 99; 50 is the voice's own.

    Returns:
        The samples, (samples,) of int16, and how many there are in a second.

    Raises:
        UserError: espeakng-loader is not installed, its library does not load, or it has no such voice.
        ValueError: the rate or the pitch is out of range, or the text holds nothing to say.
    """
    if rate not in RATES or pitch not in PITCHES:
        raise ValueError(f"rate must be 80 to 450 and pitch 0 to 99, not {rate} and {pitch}")
    if "\0" in text or not any(character.isalnum() for character in text):
        raise ValueError(f"there is nothing to say in {text!r}, or a null character that would end it")
    library, data = _installed()
    _, plus, variant = voice.partition("+")
    # The engine itself takes an unknown variant for the plain voice, without a word.
    if plus and not (variant and (data / "voices" / "!v" / variant).is_file()):
        raise UserError(f"eSpeak NG has no voice variant {variant!r} (asked for as {voice!r})")
    with _one_at_a_time, _fresh(library) as engine:
        return _say(engine, data, text, voice, rate, pitch)


def version() -> str:
    """The engine's version, such as "1.52.0": another one may say the same with other samples."""
    with _one_at_a_time, _fresh(_installed()[0]) as engine:
        engine.espeak_Info.restype = ctypes.c_char_p
        return engine.espeak_Info(None).decode()


def _installed() -> tuple[Path, Path]:
    """The engine's library, and the folder of its data."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            f"speech needs the package espeakng-loader: {install_hint('world')}, or ask for no utterances"
        ) from error
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


@contextmanager
def _fresh(library: Path) -> Iterator[ctypes.CDLL]:
    """The library as it is when a process loads it for the first time."""
    import _ctypes  # the standard library loads by a public name, and unloads by this one alone

    try:
        engine = ctypes.CDLL(str(library))
    except OSError as error:
        raise UserError(f"eSpeak NG does not load: {error}; install espeakng-loader anew") from error
    try:
        yield engine
    finally:
        (_ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose)(engine._handle)


def _say(engine: ctypes.CDLL, data: Path, text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int]:
    chunks: list[bytes] = []
    failures: list[BaseException] = []

    @_CALLBACK
    def keep(samples, number, events):  # an exception that leaves it is printed and lost, a Ctrl-C too
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
