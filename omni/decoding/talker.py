"""Talker decoding: codes frame by frame, for a batch of texts."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from omni.decoding.sampling import choose_tokens
from omni.decoding.sampling_graph import filters, options_of
from omni.decoding.sampling_options import SpeechSampling
from omni.errors import UserError
from omni.layers.cache import KVCache
from omni.models.talker import MAX_ADVANCE, Talker, gather
from omni.text.ctc_vocabulary import BLANK

ROOM = 256  # initial capacity of the cache in frames; doubled when it is full


class Frame(NamedTuple):
    """One frame of each row.

    Attributes:
        codes: (batch, codebooks), int64; undefined in rows that have ended.
        alive: Whether each row has not ended yet.
        positions: (batch,), int64: the character that each row reads; 0 is the start symbol, 1 the first character.
    """

    codes: Tensor
    alive: list[bool]
    positions: Tensor


class Utterance(NamedTuple):
    """The frames of a text, complete.

    Attributes:
        codes: (frames, codebooks), int64.
        positions: (frames,), int64; see `Frame`.
    """

    codes: Tensor
    positions: Tensor


@torch.inference_mode()
def speak(
    talker: Talker,
    texts: Sequence[Sequence[int]],
    *,
    speakers: Sequence[int] | None = None,
    hidden: Tensor | None = None,
    sampling: SpeechSampling | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Frame]:
    """Generates speech for texts of any lengths together, frame by frame.

    Args:
        talker: The model, in eval mode.
        texts: Characters of each, from `spell`; not empty.
        speakers: Voice of each text, for a Talker with several; 0 if not given.
        hidden: (batch, characters, thinker_dim), see `Talker.encode_text`.
        sampling: Sampling of codes and pace; the defaults of `SpeechSampling` if not given.
        numbers: Index of each text's random stream; 0, 1, 2, ... if not given.

    Yields:
        A frame of each row, until all rows have ended. No row is longer than `max_dwell` times the number of its
        characters plus two.

    Raises:
        UserError: If there is no text, one is empty, or characters or speakers are unknown to the Talker.
    """
    sampling = sampling or SpeechSampling()
    check_texts(talker, texts, speakers)
    device = talker.start.device
    lengths = torch.tensor([len(text) for text in texts], device=device)
    padded = torch.full((len(texts), max(map(len, texts))), BLANK)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = torch.tensor(text)
    voices = torch.tensor(speakers or [0] * len(texts), device=device) if talker.num_speakers else None
    encoded = talker.encode_text(padded.to(device), lengths, speakers=voices, hidden=hidden)

    streams = [Random(f"{sampling.first.seed}/{number}") for number in numbers or range(len(texts))]
    max_frames = max(1, int(sampling.max_dwell * talker.frame_rate))
    position, dwelt = torch.zeros_like(lengths), torch.zeros_like(lengths)
    cache, codes, alive = talker.new_cache(len(texts), ROOM), None, [True] * len(texts)
    while any(alive):
        make_room(cache)
        state = talker.frame(codes, gather(encoded, position[:, None])[:, 0], cache)
        codes, steps = choose_frame(talker, state, sampling, streams)
        yield Frame(codes, alive, position)
        dwelt += 1
        steps = torch.where(dwelt >= max_frames, steps.clamp(min=1), steps)
        dwelt = torch.where(steps > 0, 0, dwelt)
        position = position + steps
        alive = (position < lengths + 2).tolist()


def utterances(talker: Talker, texts: Sequence[Sequence[int]], **options: object) -> list[Utterance]:
    """The frames of each text; arguments as of `speak`."""
    frames = list(speak(talker, texts, **options))  # pyright: ignore[reportArgumentType]
    codes = torch.stack([frame.codes for frame in frames], dim=1)
    positions = torch.stack([frame.positions for frame in frames], dim=1)
    lengths = torch.tensor([frame.alive for frame in frames]).sum(0).tolist()
    return [Utterance(*(part[:length] for part in row)) for *row, length in zip(codes, positions, lengths, strict=True)]


def speak_codes(talker: Talker, texts: Sequence[Sequence[int]], **options: object) -> list[Tensor]:
    """The codes of each text, (frames, codebooks); arguments as of `speak`."""
    return [utterance.codes for utterance in utterances(talker, texts, **options)]


def choose_frame(
    talker: Talker, state: Tensor, sampling: SpeechSampling, streams: Sequence[Random]
) -> tuple[Tensor, Tensor]:
    """Samples the codes and the advance of a frame.

    Args:
        talker: The model.
        state: (batch, dim), from `Talker.frame`.
        sampling: Sampling of codes and pace.
        streams: Random numbers of each row.

    Returns:
        Codes (batch, codebooks), and the number of characters to advance, (batch,).
    """
    count = talker.num_codebooks + 1
    draws = torch.tensor([[stream.random() for _ in range(count)] for stream in streams])
    draws, unseen = draws.to(state.device), torch.zeros((), dtype=torch.bool)
    if talker.frame_choice is not None:
        return talker.frame_choice(talker, state, draws, options_of(sampling).to(state.device), filters(sampling))

    def choose(index: int, logits: Tensor) -> Tensor:
        return choose_tokens(sampling.rest if index else sampling.first, logits, unseen, draws[:, index])

    codes = talker.depth.generate(state, choose)
    return codes, choose_tokens(sampling.pace, talker.advance(state), unseen, draws[:, -1]).clamp(max=MAX_ADVANCE)


def make_room(cache: KVCache) -> None:
    """Grows a cache that has no room for a frame."""
    if max(cache.lengths) == cache.max_length:
        cache.grow(2 * cache.max_length)


def check_texts(talker: Talker, texts: Sequence[Sequence[int]], speakers: Sequence[int] | None) -> None:
    if not texts:
        raise UserError("there is no text to speak")
    for row, text in enumerate(texts):
        if not text:
            raise UserError(f"text {row} is empty: there is nothing to speak")
        if not BLANK < min(text) <= max(text) < talker.vocab_size:
            raise UserError(f"text {row} holds a character that is not one of the Talker's {talker.vocab_size - 1}")
    if speakers is None:
        return
    if len(speakers) != len(texts):
        raise UserError(f"{len(speakers)} speakers are given for {len(texts)} texts")
    if not talker.num_speakers:
        raise UserError("the Talker has a single voice: give no speaker")
    if not 0 <= min(speakers) <= max(speakers) < talker.num_speakers:
        wrong = next(speaker for speaker in speakers if not 0 <= speaker < talker.num_speakers)
        raise UserError(f"there is no speaker {wrong}: the Talker has 0 to {talker.num_speakers - 1}")
