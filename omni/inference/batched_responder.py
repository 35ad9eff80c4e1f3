"""Answers that are generated together; each starts and ends between two tokens of the others."""

from collections import deque
from collections.abc import Hashable
from typing import Literal

import torch
from torch import Tensor

from omni.decoding.sampling import Sampling, choose_tokens
from omni.decoding.sampling_options import random_stream
from omni.errors import UserError
from omni.inference.prompt import Prompt
from omni.inference.responder import GREEDY, Responder
from omni.inference.running_rows import running_rows
from omni.text.stream_decoder import StreamDecoder

PREFILL_TOKENS = 256  # of the prompts that start in one step, unless a single one is longer

FinishReason = Literal["stop", "length", "cancelled"]


class Answer:
    """An answer of `BatchedResponder`.

    Attributes:
        prompt: The prompt.
        pieces: Generated text that has not been taken yet, of complete characters.
        finish_reason: `stop` after the model's stop token, `length` after `max_tokens`, `cancelled`; None before the
            end.
        error: What prevented it from starting; it is then `cancelled`.
    """

    def __init__(self, prompt: Prompt, decoder: StreamDecoder, *, max_tokens: int, sampling: Sampling) -> None:
        self.prompt, self.max_tokens, self.sampling = prompt, max_tokens, sampling
        self.pieces: deque[str] = deque()
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.tokens: list[int] = []
        self._decoder = decoder
        self._draws = random_stream(sampling.seed, 0)
        self._position = float(prompt.encoded.positions[:, -1].max())  # of the last token
        self._seen: Tensor | None = None  # (1, vocab), bool, for a repetition penalty

    @property
    def num_tokens(self) -> int:
        """Number of generated tokens, the stop token included."""
        return len(self.tokens)

    @property
    def position(self) -> float:
        """Position of the last token in time, height and width."""
        return self._position + len(self.tokens)

    def cancel(self) -> None:
        """Ends the answer; its row is free before the next step."""
        self.finish_reason = self.finish_reason or "cancelled"

    def draw(self) -> float:
        """The next uniform number of its random stream."""
        return self._draws.random()

    def seen(self, vocab_size: int, device: torch.device) -> Tensor:
        """Tokens of the prompt and the answer so far: (1, vocab), bool."""
        if self._seen is None:
            self._seen = torch.zeros(1, vocab_size, dtype=torch.bool)
            self._seen[0, torch.tensor(self.prompt.tokens)] = True
            self._seen = self._seen.to(device)
        if self.tokens:
            self._seen[0, self.tokens[-1]] = True
        return self._seen

    def push(self, token: int, stop: int) -> None:
        """Adds a generated token."""
        self.tokens.append(token)
        text = "" if token == stop else self._decoder.push(token)
        if token == stop or len(self.tokens) == self.max_tokens:
            self.finish_reason = "stop" if token == stop else "length"
            text += self._decoder.finish()
        if text:
            self.pieces.append(text)


class BatchedResponder:
    """Generates several answers together (continuous batching: Orca, OSDI 2022).

    Answers join and leave between tokens. Each equals, token by token, the one of `Responder.stream` alone with the
    same sampling, whatever else runs: in fp32 up to rounding in products of other sizes, which could only change the
    choice between two tokens of equal probability. In bf16 such ties do occur.

    It has no threads, and its methods are to be called by one thread. `Answer.cancel` may be called by any.

    Args:
        responder: Its model, tokenizer, context and stop token are used, not its cache.
        rows: Largest number of answers that run together; further ones wait.
    """

    def __init__(self, responder: Responder, *, rows: int) -> None:
        if rows < 1:
            raise ValueError(f"rows must be 1 or more, not {rows}")
        self.responder, self.rows = responder, rows
        self._thinker = responder.omni.thinker
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []  # by row
        with torch.inference_mode():
            self._caches = running_rows(self._thinker, rows, responder.context)

    @property
    def busy(self) -> bool:
        """Whether an answer runs or waits."""
        return any(one.finish_reason is None for one in (*self._running, *self._waiting))

    @property
    def num_running(self) -> int:
        """Number of running answers."""
        return sum(one.finish_reason is None for one in self._running)

    @property
    def num_waiting(self) -> int:
        """Number of answers that wait for a row."""
        return sum(one.finish_reason is None for one in self._waiting)

    def submit(self, prompt: Prompt, *, max_tokens: int, sampling: Sampling | None = None) -> Answer:
        """Adds an answer, which starts in the next step with a free row.

        Args:
            prompt: See `omni.inference.assistant.Assistant.prompt`.
            max_tokens: Most tokens of the answer.
            sampling: Sampling options; greedy by default.

        Raises:
            UserError: If `max_tokens` < 1, or the prompt and the answer do not fit into the context.
        """
        length, context = len(prompt.encoded.tokens), self.responder.context
        if max_tokens < 1:
            raise UserError(f"max_tokens must be 1 or more, not {max_tokens}")
        if not length or length + max_tokens - 1 > context:
            raise UserError(f"a prompt of {length:,} tokens and {max_tokens:,} new ones: the context is {context:,}")
        decoder = StreamDecoder(self.responder.tokenizer, turn=True)
        answer = Answer(prompt, decoder, max_tokens=max_tokens, sampling=sampling or GREEDY)
        self._waiting.append(answer)
        return answer

    @torch.inference_mode()
    def step(self) -> None:
        """Computes one token of each running answer, and the first one of those that start.

        Raises:
            Exception: If the media of a prompt cannot be encoded: its answer's `error`. The others are not affected.
        """
        self._free()
        last = [self._advance()] if self._running else []
        starting, error = self._admit()
        last += starting
        if last:
            chosen = self._choose(self._thinker.logits(torch.cat(last))[:, : self.responder.tokenizer.vocab_size])
            for answer, token in zip(self._running, chosen.tolist(), strict=True):
                if answer.finish_reason is None:  # it may have been cancelled meanwhile
                    answer.push(token, self.responder.stop)
        self._free()
        if error is not None:
            raise error

    def _free(self) -> None:
        """Frees the rows of answers that have ended."""
        for row in reversed(range(len(self._running))):
            answer = self._running[row]
            if answer.finish_reason is not None:
                self._caches.leave(row, answer.tokens)
                self._running[row] = self._running[-1]
                self._running.pop()

    def _advance(self) -> Tensor:
        """Hidden states that predict the next token of each running answer: (rows, dim)."""
        cache, device = self._caches.cache, self.responder.device
        tokens = torch.tensor([[one.tokens[-1]] for one in self._running], device=device)
        positions = None
        if self._thinker.rope_axes == 3:
            positions = torch.tensor([[one.position] for one in self._running], device=device)
        hidden = self._thinker.encode(tokens, positions=positions, cache=cache).hidden
        cache.advance(1)
        return hidden[:, 0]

    def _admit(self) -> tuple[list[Tensor], Exception | None]:
        """Starts waiting answers, up to the first that fails.

        Returns:
            What predicts the first token of each, (1, dim), and the error of the one that failed.
        """
        last, computed = [], 0
        while self._waiting and len(self._running) < self.rows:
            answer = self._waiting[0]
            if answer.finish_reason is None:
                computed += len(answer.prompt.encoded.tokens)
                if last and computed > PREFILL_TOKENS:
                    break
                try:
                    last.append(self._prefill(answer))
                except Exception as error:  # of any kind: it belongs to this answer only
                    self._waiting.popleft()
                    answer.error = error
                    answer.cancel()
                    return last, error
            self._waiting.popleft()
        return last, None

    def _prefill(self, answer: Answer) -> Tensor:
        prompt = answer.prompt
        keys: list[Hashable] = prompt.keys()
        cache, known = self._caches.open(keys, len(keys) + answer.max_tokens - 1)
        rest = prompt.suffix(known)
        positions = self.responder.omni.rotary_positions(rest.encoded.positions[:, None].to(self.responder.device))
        embeddings = self.responder.embed([rest])
        hidden = self._thinker.encode(embeddings=embeddings, positions=positions, cache=cache).hidden
        cache.advance(len(keys) - known)
        self._caches.join()
        self._running.append(answer)
        return hidden[:, -1]

    def _choose(self, logits: Tensor) -> Tensor:
        """Chooses the next token of each running answer; those with equal options together."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for row, answer in enumerate(self._running):
            groups.setdefault(answer.sampling.distribution, []).append(row)
        chosen = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        for rows in groups.values():
            answers = [self._running[row] for row in rows]
            index = torch.tensor(rows, device=logits.device)
            chosen[index] = self._choose_alike(answers, logits if len(groups) == 1 else logits[index])
        return chosen

    def _choose_alike(self, answers: list[Answer], logits: Tensor) -> Tensor:
        sampling = answers[0].sampling
        seen = logits
        if sampling.repetition_penalty != 1:
            seen = torch.cat([one.seen(logits.shape[1], logits.device) for one in answers])
        draws = torch.tensor([one.draw() for one in answers], device=logits.device)
        return choose_tokens(sampling, logits, seen, draws)
