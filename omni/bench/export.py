"""Exported parts in every runtime of this machine: time at batch 1, size, memory, and difference from PyTorch."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from omni.bench.export_memory import Kind, peak_of
from omni.bench.export_runtimes import Engine, LlamaCpp, Omni, Runtime, Transformers, runtimes
from omni.bench.export_streams import FRAMES, STREAMS, stream
from omni.bench.race import Race, aligned, alternate, read_size
from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError
from omni.export.graphs import Graph, classifier_graph, recognizer_graph, thinker_graph
from omni.models.audio_encoder import AudioEncoder
from omni.models.classifier import Classifier
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.training.memory import format_size

PARTS = ("recognizer", "classifier", "thinker", *STREAMS)
_CLASSES = 10
_PROMPT_TOKENS = 16


@dataclass(frozen=True)
class RuntimeResult:
    """A part in a runtime.

    Attributes:
        part: Name of the part.
        runtime: Name of the runtime.
        milliseconds: Median time of an utterance, an image, a decoded token, or a step of a stream.
        speedups: How many times faster than PyTorch eager it is, in each round.
        size: Bytes on disk; None for one without a file.
        memory: Peak resident bytes of a fresh process that only loads the part in the runtime and runs it three times:
            interpreter, libraries, weights and activations. None if it was not measured.
        difference: Largest difference of a float from PyTorch.
        preparation: Seconds of export and compilation.
    """

    part: str
    runtime: str
    milliseconds: float
    speedups: list[float]
    size: int | None
    memory: int | None
    difference: float
    preparation: float


@dataclass(frozen=True)
class ExportReport:
    """All parts in all runtimes.

    Attributes:
        conditions: What was run, and on what.
        results: By part and runtime.
    """

    conditions: dict[str, str]
    results: list[RuntimeResult]

    def table(self) -> str:
        """The report as text."""
        head = ("part", "runtime", "ms", "× PyTorch", "in rounds", "size", "memory", "max |Δ|", "prepared in", "")
        return "\n".join([*aligned([*self.conditions.items()]), "", *aligned([head, *map(_row, self.results)])])


@dataclass(frozen=True, kw_only=True)
class ExportRace(Race):
    """Exported parts in every runtime.

    Attributes:
        parts: recognizer, classifier, thinker, codec_encoder, codec_decoder, vocoder, talker; several separated by
            commas.
        size: tiny, laptop, ...: the parts' size, untrained, which does not change their speed.
        hf: A folder of `omni export --to hf`: its Thinker is measured, in `transformers` too.
        gguf: The same folder as a file of llama.cpp, made as in docs/export.md, which is measured too.
        compiled: Whether to measure torch.compile and AOTInductor, which take minutes and need a C++ compiler.
        seconds: Length of an utterance.
        calls: Utterances, images and steps of streams in a round.
        decode_tokens: Tokens decoded after a prompt of 16.
    """

    positive = ("repeats", "calls", "decode_tokens")

    parts: str = ",".join(PARTS)
    size: str = "laptop"
    hf: Path | None = None
    gguf: Path | None = None
    compiled: bool = True
    seconds: float = 3.0
    calls: int = 10
    decode_tokens: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self._names) - set(PARTS):
            raise UserError(f"parts: {sorted(unknown)[0]!r} is none of {', '.join(PARTS)}")
        if not 0.1 <= self.seconds <= 60:
            raise UserError(f"seconds is {self.seconds}: give 0.1 to 60")
        if self.gguf is not None and self.hf is None:
            raise UserError("gguf needs hf: the exported folder that it was converted from")

    @property
    def _names(self) -> list[str]:
        return [name.strip() for name in self.parts.split(",")]

    @torch.no_grad()
    def run(self) -> ExportReport:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Runs the race.

        Raises:
            UserError: If there is no such size or folder, or a package is missing.
        """
        torch.manual_seed(0)
        parts = {"recognizer": self._recognizer, "classifier": self._classifier, "thinker": self._thinker}
        parts |= {name: partial(self._stream, name) for name in STREAMS}
        results = [result for name in self._names for result in parts[name]()]
        source = f"Thinker of {self.hf}" if self.hf else "all untrained"
        packages = (
            "onnxruntime",
            *(("transformers",) if self.hf else ()),
            *(("llama-cpp-python",) if self.gguf else ()),
        )
        run = self.conditions(
            *packages,
            parts=f"{self.size}, {source}, fp32",
            work=f"an utterance of {self.seconds:g} s, an image, a token of {self.decode_tokens} after "
            f"{_PROMPT_TOKENS}, {FRAMES} frames of codec and vocoder, a frame of the Talker; one row at a time",
        )
        return ExportReport(run, results)

    def _recognizer(self) -> list[RuntimeResult]:
        encoder = AudioEncoder(**read_size(self.size, "audio_encoder")).eval()
        time = round(100 * self.seconds)
        inputs = {"mels": torch.randn(1, time, encoder.num_mels), "lengths": torch.tensor([time])}
        return self._forward("recognizer", recognizer_graph(encoder), inputs)

    def _classifier(self) -> list[RuntimeResult]:
        encoder = VisionEncoder(**read_size(self.size, "vision_encoder")).eval()
        graph = classifier_graph(encoder, Classifier(dim=encoder.dim, num_classes=_CLASSES))
        return self._forward("classifier", graph, {"images": torch.rand(1, 3, encoder.image_size, encoder.image_size)})

    def _thinker(self) -> list[RuntimeResult]:
        thinker = Thinker(**read_size(self.size, "thinker")).eval()
        if self.hf is not None:
            thinker = Checkpoint(f"hf:{self.hf}").part("thinker", Thinker).float()
        graph = thinker_graph(thinker)
        prompt = torch.randint(thinker.vocab_size, (1, _PROMPT_TOKENS))
        inputs = {"tokens": prompt, "past": graph.example["past"][:, :, :1, :, :0]}

        def decode(runtime: Runtime) -> None:
            step = inputs
            for _ in range(self.decode_tokens):
                logits, past = runtime.run(**step)
                step = {"tokens": logits[:, -1:].argmax(-1), "past": past}

        tokens, expected = prompt[0].tolist(), graph.module(**inputs)[0][0, -1]
        engines = []
        for name, build in self._engines(thinker).items():  # first: what is missing ends the race before the minutes
            start = perf_counter()
            engine = build()
            worst = float((engine.logits(tokens) - expected).abs().max())
            spent = perf_counter() - start
            run = partial(engine.decode, tokens, self.decode_tokens)
            memory = self._engine_memory(name, thinker, prompt)
            engines.append(_Prepared(name, run, engine.size, memory, worst, spent))
        prepared = self._graphs("thinker", graph, inputs, decode) + engines
        return self._timed("thinker", prepared, work=self.decode_tokens)

    def _stream(self, name: str) -> list[RuntimeResult]:
        graph, inputs = stream(name, self.size)
        return self._forward(name, graph, inputs)

    def _engine_memory(self, name: str, thinker: Thinker, prompt: Tensor) -> int:
        with tempfile.TemporaryDirectory() as folder:
            paths = {"transformers": self.hf, "llama.cpp": self.gguf}
            kind: Kind = name  # pyright: ignore[reportAssignmentType]
            path = paths.get(name) or Path(folder) / "thinker.pt"
            if name == "omni":
                torch.save(thinker, path)
            inputs = {"tokens": prompt[0].numpy()}
            return peak_of(kind, path, inputs, threads=torch.get_num_threads(), new_tokens=self.decode_tokens)

    def _engines(self, thinker: Thinker) -> dict[str, Callable[[], Engine]]:
        found: dict[str, Callable[[], Engine]] = {"omni": partial(Omni, thinker)}
        if self.hf is not None:
            found["transformers"] = partial(Transformers, self.hf)
        if self.gguf is not None:
            found["llama.cpp"] = partial(LlamaCpp, self.gguf, torch.get_num_threads())
        return found

    def _forward(self, part: str, graph: Graph, inputs: dict[str, Tensor]) -> list[RuntimeResult]:
        def work(runtime: Runtime) -> None:
            for _ in range(self.calls):
                runtime.run(**inputs)

        return self._timed(part, self._graphs(part, graph, inputs, work), work=self.calls)

    def _graphs(
        self, part: str, graph: Graph, inputs: dict[str, Tensor], work: Callable[[Runtime], Any]
    ) -> list["_Prepared"]:
        """Exports a graph for every runtime and compares it with PyTorch."""
        prepared = []
        with tempfile.TemporaryDirectory() as folder:
            found = runtimes(graph, Path(folder), threads=torch.get_num_threads(), compiled=self.compiled)
            for name, prepare in tqdm(found.items(), f"{part}: export", leave=False, disable=None):
                start = perf_counter()
                runtime = prepare()
                outputs = runtime.run(**inputs)
                spent = perf_counter() - start
                outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
                worst = _difference(graph, outputs, inputs)
                memory = _memory(runtime, inputs)
                prepared.append(_Prepared(name, partial(work, runtime), runtime.size, memory, worst, spent))
        return prepared

    def _timed(self, part: str, prepared: list["_Prepared"], *, work: int) -> list[RuntimeResult]:
        rounds = alternate(part, [one.block for one in prepared], repeats=self.repeats)
        results = []
        for number, one in enumerate(prepared):
            times = [times[number] / work for times in rounds]
            speedups = [times[0] / times[number] for times in rounds]
            milliseconds = 1000 * statistics.median(times)
            figures = (one.size, one.memory, one.difference, one.preparation)
            results.append(RuntimeResult(part, one.name, milliseconds, speedups, *figures))
        return results


@dataclass(frozen=True)
class _Prepared:
    name: str
    block: Callable[[], Any]
    size: int | None
    memory: int | None
    difference: float
    preparation: float


def _difference(graph: Graph, found: Sequence[Tensor], inputs: dict[str, Tensor]) -> float:
    """Largest difference of a float; codes are chosen, so that one differs by any number or by none."""
    wanted = graph.module(**inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    pairs = [(one, other) for one, other in zip(wanted, found, strict=True) if one.is_floating_point()]
    return max(float((one - other).abs().max()) for one, other in pairs)


def _memory(runtime: Runtime, inputs: dict[str, Tensor]) -> int | None:
    if runtime.process is None:
        return None
    kind, path = runtime.process
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return peak_of(kind, path, arrays, threads=torch.get_num_threads())


def _row(one: RuntimeResult) -> tuple[str, ...]:
    spread = f"{min(one.speedups):.2f}–{max(one.speedups):.2f}"
    sizes = ("" if size is None else format_size(size) for size in (one.size, one.memory))
    cells = (f"{one.milliseconds:.2f}", f"{statistics.median(one.speedups):.2f}", spread, *sizes)
    return one.part, one.runtime, *cells, f"{one.difference:.1e}", f"{one.preparation:.0f} s", ""
