"""Work of many steps in a process of its own, samples of its memory, and how much they grow."""

import ctypes
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from killed_runs import STAGES
from lightning import Callback
from processes import start
from toy_commands import command
from toy_runs import callback

_SAMPLES = 100
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
_LEAK = 1 << 15  # numbers that `Leak` keeps of each step: 128 KiB


def own_memory() -> int:
    """Bytes of this process that no file backs, in memory or swapped out. Pages of libraries come and go.

    What glibc's allocator keeps of freed memory is given back first: batches of many lengths make it vary by 7 %.
    """
    if _TRIM is not None:
        _TRIM(0)
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return sum(1024 * int(words[1]) for words in lines if words[0] in ("RssAnon:", "VmSwap:"))


def growth(samples: Sequence[int]) -> float:
    """Relative growth from the second tenth of the samples to the last: of medians, which ignore single peaks.

    Args:
        samples: Ten or more, at equal distances.
    """
    tenth = len(samples) // 10
    return median(samples[-tenth:]) / median(samples[tenth : 2 * tenth]) - 1


class MemorySamples:
    """About a hundred samples of the memory of this process over a number of steps.

    Args:
        steps: The number of steps: ten or more.
    """

    def __init__(self, steps: int) -> None:
        self.samples: list[int] = []
        self._every, self._step = max(1, steps // _SAMPLES), 0

    def step(self) -> None:
        """Counts a step, and takes a sample if it is time for one."""
        self._step += 1
        if self._step % self._every == 0:
            self.samples.append(own_memory())

    def write(self) -> None:
        """Writes the samples for `sampled`."""
        Path("memory.json").write_text(json.dumps(self.samples), encoding="utf-8")


class MemoryOfRun(Callback):
    """Samples the memory of a run; see `MemorySamples`."""

    def __init__(self, steps: int) -> None:
        self.memory = MemorySamples(steps)

    def on_train_batch_end(self, *args: Any) -> None:
        self.memory.step()

    def on_fit_end(self, *args: Any) -> None:
        self.memory.write()


class Leak(Callback):
    """Keeps a tensor of each step."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.kept.append(torch.ones(_LEAK))


def train(stage: str, steps: int, *extra: str) -> None:
    """Trains a toy stage, with twenty validations and checkpoints."""
    from omni.cli import main

    toy, _ = STAGES[stage]
    limits = {"trainer__max_steps": steps, "trainer__val_check_interval": max(1, steps // 20)}
    main(command(stage, toy, "fit", callback("flat_memory.MemoryOfRun", steps=steps), *extra, **limits))


def transcribe(steps: int) -> None:
    """Transcribes recordings of different lengths, with times of words."""
    from toy_stages import HEARING, UNITS

    from omni.inference.recognizer import Recognizer
    from omni.models.audio_encoder import AudioEncoder

    recognizer = Recognizer(AudioEncoder(**HEARING).eval(), UNITS)
    files = sorted(Path().glob("*.wav"))
    _repeat(steps, lambda step: recognizer.transcribe(files[step % len(files)], timestamps="word"))


def answer(steps: int) -> None:
    """Answers conversations about a picture and a recording, with questions of different lengths."""
    from toy_assistant import assistant_of

    assistant = assistant_of()

    def ask(step: int) -> None:
        media = [{"type": "image", "image": f"train{4 * (step % 9)}.png"}, {"type": "audio", "audio": "train0.wav"}]
        text = [{"type": "text", "text": "?" * (1 + step % 7)}]
        assistant.answer([[{"role": "user", "content": media + text}]], max_tokens=8)

    _repeat(steps, ask)


def speak(steps: int) -> None:
    """Speaks texts of different lengths, as a whole and as a stream."""
    from toy_voice import synthesizer

    voice = synthesizer()

    def say(step: int) -> None:
        text = "ab " * (1 + step % 5)
        if step % 2:
            voice.speak(text)
        else:
            list(voice.stream(text))

    _repeat(steps, say)


def _repeat(steps: int, work: Callable[[int], Any]) -> None:
    memory = MemorySamples(steps)
    for step in range(steps):
        work(step)
        memory.step()
    memory.write()


def sampled(function: Callable[[], Any], folder: Path) -> list[int]:
    """The samples that one of these functions takes in a process of its own.

    Args:
        function: As `processes.start` takes it.
        folder: The current folder.

    Raises:
        AssertionError: If the function fails; the message ends with its output.
    """
    log = folder / "log.txt"
    process = start(function, output=log)
    process.join()
    assert process.exitcode == 0, log.read_text(encoding="utf-8", errors="replace")[-3000:]
    return json.loads((folder / "memory.json").read_text(encoding="utf-8"))
