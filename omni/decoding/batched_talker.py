"""Speech of several texts, generated together; each starts and ends between two frames of the others."""

from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, final

import torch
from torch import Tensor

from omni.decoding.sampling_options import SpeechSampling, random_stream
from omni.decoding.talker import ROOM, Frame, check_texts, choose_frame, make_room, speak
from omni.layers.cache import KVCache
from omni.models.talker import Talker

AHEAD = 1.0  # seconds that an utterance is generated before they are read


@final
class _Utterance:
    """A text that is spoken.

    Args:
        encoded: (characters + 2, dim), from `Talker.encode_text`.
        sampling: Sampling of codes and pace.
        stream: Its random numbers.
        max_frames: Most frames at one character.
    """

    def __init__(self, encoded: Tensor, sampling: SpeechSampling, stream: Random, max_frames: int) -> None:
        self.encoded, self.sampling, self.stream, self.max_frames = encoded, sampling, stream, max_frames
        self.frames: deque[Frame] = deque()  # not read yet
        self.codes: Tensor | None = None  # (codebooks,) of the last frame
        self.position = self._dwelt = 0
        self.closed = False

    @property
    def ended(self) -> bool:
        return self.position >= len(self.encoded)

    def push(self, codes: Tensor, steps: int) -> None:
        """Adds a frame, which advances by a number of characters."""
        self.frames.append(Frame(codes[None], [True], torch.tensor([self.position])))
        self.codes, self._dwelt = codes, self._dwelt + 1
        if self._dwelt >= self.max_frames:
            steps = max(1, steps)
        if steps:
            self._dwelt = 0
        self.position += steps


@final
class BatchedTalker:
    """Generates speech for several texts together.

    Each text is an iterator over its frames. Whenever one of them has no frame left to give, a frame is generated for
    it and, in the same step of the model, for all others that are read more slowly, up to a second ahead. So readers
    take turns as if each had a Talker of its own, at little more than the cost of one.

    Frames equal those of `omni.decoding.talker.speak` for the text alone, as answers of
    `omni.inference.batched_responder.BatchedResponder` do. It has no threads; one thread reads all iterators.

    Args:
        talker: The model, in eval mode.
        rows: Largest number of texts that are generated together; further ones are generated alone.
    """

    def __init__(self, talker: Talker, *, rows: int) -> None:
        if rows < 1:
            raise ValueError(f"rows must be 1 or more, not {rows}")
        self.talker, self.rows = talker, rows
        self._running: list[_Utterance] = []  # by row of the cache
        self._pool: KVCache | None = None  # while any run
        self._ahead = max(1, round(AHEAD * talker.frame_rate))

    @property
    def num_running(self) -> int:
        """Number of texts that are generated together."""
        return sum(not one.closed for one in self._running)

    def speak(
        self,
        texts: Sequence[Sequence[int]],
        *,
        speakers: Sequence[int] | None = None,
        hidden: Tensor | None = None,
        sampling: SpeechSampling | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[Frame]:
        """Generates speech, frame by frame; it leaves the others at its end, or when the iterator is closed.

        Args:
            texts: One text; several are generated as `omni.decoding.talker.speak` does, whose arguments these are.
            speakers: Its voice.
            hidden: Its hidden states.
            sampling: Sampling of codes and pace.
            numbers: Index of its random stream.

        Yields:
            Frames.

        Raises:
            UserError: If the text is empty, or characters or the speaker are unknown to the Talker.
        """
        sampling, numbers = sampling or SpeechSampling(), numbers or range(len(texts))
        if len(texts) != 1 or self.num_running == self.rows:
            options: dict[str, Any] = {"speakers": speakers, "hidden": hidden, "sampling": sampling, "numbers": numbers}
            yield from speak(self.talker, texts, **options)
            return
        check_texts(self.talker, texts, speakers)
        utterance = self._join(texts[0], speakers[0] if speakers else 0, hidden, sampling, numbers[0])
        try:
            while True:
                if not utterance.frames:
                    if utterance.ended:
                        return
                    self._step()
                yield utterance.frames.popleft()
        finally:
            utterance.closed = True  # computes nothing: the interpreter may be about to exit
            if not self.num_running:
                self._running, self._pool = [], None  # it may have grown

    @torch.inference_mode()
    def _join(
        self, text: Sequence[int], speaker: int, hidden: Tensor | None, sampling: SpeechSampling, number: int
    ) -> _Utterance:
        talker, device = self.talker, self.talker.start.device
        voice = torch.tensor([speaker], device=device) if talker.num_speakers else None
        length = torch.tensor([len(text)], device=device)
        encoded = talker.encode_text(torch.tensor([text], device=device), length, speakers=voice, hidden=hidden)[0]
        max_frames = max(1, int(sampling.max_dwell * talker.frame_rate))
        utterance = _Utterance(encoded, sampling, random_stream(sampling.first.seed, number), max_frames)
        if self._pool is None:
            self._pool = talker.new_cache(self.rows, ROOM)
        self._drop_closed()
        self._running.append(utterance)
        return utterance

    def _drop_closed(self) -> None:
        for row in reversed(range(len(self._running))):
            if self._pool is not None and self._running[row].closed:
                last = len(self._running) - 1
                self._pool.copy(last, row, self._pool.lengths[last])
                self._pool.view(last, last + 1).keep(0)
                self._running[row] = self._running[last]
                self._running.pop()

    @torch.inference_mode()
    def _step(self) -> None:
        """Generates a frame of each utterance that has room for one."""
        assert self._pool is not None
        self._drop_closed()
        chosen = [one for one in self._running if not one.ended and len(one.frames) < self._ahead]
        self._move_first(chosen)
        make_room(self._pool)
        state = self.talker.encode_frame(self._inputs(chosen), self._pool.view(0, len(chosen)))
        groups: dict[tuple[tuple[float, ...], ...], list[int]] = {}
        for row, one in enumerate(chosen):
            options = one.sampling
            key = (options.first.distribution, options.rest.distribution, options.pace.distribution)
            groups.setdefault(key, []).append(row)
        for rows in groups.values():
            some = state if len(groups) == 1 else state[torch.tensor(rows, device=state.device)]
            streams = [chosen[row].stream for row in rows]
            codes, steps = choose_frame(self.talker, some, chosen[rows[0]].sampling, streams)
            for row, frame, step in zip(rows, codes, steps.tolist(), strict=True):
                chosen[row].push(frame, step)

    def _move_first(self, chosen: list[_Utterance]) -> None:
        """Moves utterances to the first rows of the cache, and sorts them by row."""
        assert self._pool is not None
        wanted = set(map(id, chosen))
        late = [row for row, one in enumerate(self._running) if row >= len(chosen) and id(one) in wanted]
        early = [row for row, one in enumerate(self._running[: len(chosen)]) if id(one) not in wanted]
        for row, other in zip(late, early, strict=True):
            self._pool.swap(row, other)
            self._running[row], self._running[other] = self._running[other], self._running[row]
        chosen[:] = self._running[: len(chosen)]

    def _inputs(self, chosen: list[_Utterance]) -> Tensor:
        """Input of the Transformer for each, (rows, dim): its previous frame, or the start, and its character."""
        talker = self.talker
        characters = torch.stack([one.encoded[one.position] for one in chosen])
        before = [one.codes for one in chosen]
        first = torch.tensor([codes is None for codes in before], device=characters.device)
        none = torch.zeros(talker.num_codebooks, dtype=torch.long, device=characters.device)
        last = talker.depth.embed(torch.stack([none if codes is None else codes for codes in before]))
        return torch.where(first[:, None], talker.start, last) + characters
