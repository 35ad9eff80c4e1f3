"""Ways to run an exported part: PyTorch, its compiler, archives, ONNX, and engines of others for the Thinker."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from omni.bench.export_memory import Kind
from omni.decoding.sampling import Sampling, generate
from omni.devices import has_compiler
from omni.errors import UserError, install_hint
from omni.export.archives import compile_archive, load_archive, load_compiled, write_archive
from omni.export.graphs import Graph, write_graph
from omni.export.int8 import quantize
from omni.models.thinker import Thinker
from omni.runtime.engine import open_session, run_of

Step = Callable[..., Any]
"""Takes the inputs of a graph by name, returns its outputs as tensors."""


class Runtime(NamedTuple):
    """A way to run a graph.

    Attributes:
        run: Computes the outputs.
        size: Bytes on disk; None for one without a file.
        process: How a process of its own loads it, for `export_memory.peak_of`; None: its memory is not measured.
    """

    run: Step
    size: int | None = None
    process: tuple[Kind, Path] | None = None


def runtimes(graph: Graph, folder: Path, *, threads: int, compiled: bool) -> dict[str, Callable[[], Runtime]]:
    """Prepares a graph for each runtime of this machine, by name; `PyTorch` is the first.

    Args:
        graph: The graph.
        folder: Where files are written.
        threads: Threads of onnxruntime.
        compiled: Whether to use compilers, which take minutes.
    """
    module, archive, package, file, small = (
        folder / name for name in ("module.pt", "archive.pt2", "package.pt2", "graph.onnx", "int8.onnx")
    )

    def eager() -> Runtime:
        torch.save(graph.module, module)
        return Runtime(graph.module, process=("eager", module))

    def exported() -> Runtime:
        write_archive(graph, archive)
        return Runtime(load_archive(archive), archive.stat().st_size, ("archive", archive))

    def packaged() -> Runtime:
        compile_archive(archive, package)
        return Runtime(load_compiled(package), package.stat().st_size, ("package", package))

    def onnx() -> Runtime:
        write_graph(graph, file)
        return Runtime(_session(file, threads), file.stat().st_size, ("onnx", file))

    def int8() -> Runtime:
        quantize(file, small)
        return Runtime(_session(small, threads), small.stat().st_size, ("onnx", small))

    found: dict[str, Callable[[], Runtime]] = {"PyTorch": eager}
    if compiled and has_compiler():
        found["compiled"] = lambda: Runtime(torch.compile(graph.module, dynamic=True), process=("compiled", module))
    found["torch.export"] = exported
    if compiled and has_compiler():
        found["AOTInductor"] = packaged
    return found | {"ONNX": onnx, "ONNX int8": int8}


def _session(path: Path, threads: int) -> Step:
    session = run_of(open_session(path, threads=threads))

    def run(**inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.as_tensor, session({name: value.numpy() for name, value in inputs.items()})))

    return run


class Engine(ABC):
    """Abstract: the Thinker in a program with a cache and a loop of its own.

    Attributes:
        size: Bytes of the weights on disk; None for one without a file.
    """

    size: int | None = None

    @abstractmethod
    def logits(self, tokens: list[int]) -> Tensor:
        """Logits after the last token, (vocab_size,)."""

    @abstractmethod
    def decode(self, tokens: list[int], count: int) -> list[int]:
        """The greedy continuation, of `count` tokens."""


@final
class Omni(Engine):
    """A Thinker, decoded as by `omni generate`.

    Args:
        thinker: The Thinker, in eval mode.
    """

    def __init__(self, thinker: Thinker) -> None:
        self._thinker = thinker

    def logits(self, tokens: list[int]) -> Tensor:
        return self._thinker(torch.tensor([tokens])).logits[0, -1]

    def decode(self, tokens: list[int], count: int) -> list[int]:
        options = {"vocab_size": self._thinker.vocab_size, "sampling": Sampling(temperature=0)}
        steps = generate(self._thinker, [tokens], max_tokens=count, stop=-1, **options)
        return [token for step in steps for token in step if token is not None]


@final
class Transformers(Engine):
    """The model of an exported folder in `transformers`, eager.

    Args:
        folder: As `omni export --to hf` writes it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from transformers import AutoModelForCausalLM, GenerationConfig
        except ImportError as error:
            raise UserError(f"the exported folder needs transformers: {install_hint('hf')}") from error
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._model.generation_config = GenerationConfig()  # any token, also the end of a text
        self.size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def logits(self, tokens: list[int]) -> Tensor:
        return self._model(torch.tensor([tokens])).logits[0, -1]

    def decode(self, tokens: list[int], count: int) -> list[int]:
        prompt = torch.tensor([tokens])
        whole = self._model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count)
        return whole[0, len(tokens) :].tolist()


@final
class LlamaCpp(Engine):
    """A GGUF file in llama.cpp; see docs/export.md.

    Args:
        path: The file.
        threads: Number of threads.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import llama_cpp  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError("gguf needs llama.cpp: pip install llama-cpp-python") from error
        if not path.is_file():
            raise UserError(f"gguf: {path} does not exist; docs/export.md says how to write it")
        self.size = path.stat().st_size
        self._model = llama_cpp.Llama(
            str(path),
            n_ctx=512,
            n_threads=threads,
            n_threads_batch=threads,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            logits_all=True,
            verbose=False,
        )

    def logits(self, tokens: list[int]) -> Tensor:
        self._model.reset()
        self._model.eval(tokens)
        return torch.tensor(self._model.scores[len(tokens) - 1].copy())

    def decode(self, tokens: list[int], count: int) -> list[int]:
        self._model.reset()
        steps = self._model.generate(tokens, temp=0, repeat_penalty=1.0)
        return [token for _, token in zip(range(count), steps, strict=False)]
