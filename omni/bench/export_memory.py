"""Memory of an exported part in a runtime: the peak of a fresh process that does nothing else.

`peak_of` starts `python -m omni.bench.export_memory KIND FILE INPUTS THREADS NEW_TOKENS`. This module imports libraries
only where a kind needs them, so that the process holds those of its runtime alone.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from omni.bench.peak import peak_resident

Inputs = Mapping[str, NDArray[Any]]
Kind = Literal["eager", "compiled", "archive", "package", "onnx", "omni", "transformers", "llama.cpp"]

_ENGINES = ("omni", "transformers", "llama.cpp")
_CALLS = 3  # the first allocates; later ones may need more


def peak_of(kind: Kind, path: Path, inputs: Inputs, *, threads: int, new_tokens: int = 0) -> int:
    """Peak resident memory of a fresh process that loads a part in a runtime and runs it three times.

    It is what the process of a host takes: interpreter, libraries, weights and activations. Of `compiled` it includes
    the compiler; processes that the compiler starts are not counted.

    Args:
        kind: The runtime.
        path: Its file: a pickled module (`eager`, `compiled`), a pickled Thinker (`omni`), an archive, a package, an
            ONNX graph, a folder of transformers, or a GGUF file.
        inputs: Inputs by name; of an engine, `tokens` (time,).
        threads: Number of threads.
        new_tokens: Tokens that an engine decodes.

    Returns:
        Bytes.

    Raises:
        RuntimeError: If the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **inputs)  # pyright: ignore[reportArgumentType]
        arguments = [kind, str(path), str(file), str(threads), str(new_tokens)]
        program = [sys.executable, "-m", "omni.bench.export_memory", *arguments]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{path} cannot run as {kind} in a process of its own:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def main(kind: Kind, path: Path, inputs: Path, threads: int, new_tokens: int) -> None:
    """The process: writes its peak in bytes to the standard output."""
    with np.load(inputs) as file:
        arrays = dict(file)
    if kind == "onnx":
        run = _onnx(path, threads)
    else:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        run = _engine(kind, path, threads, new_tokens) if kind in _ENGINES else _torch(kind, path)
    for _ in range(_CALLS):
        run(arrays)
    sys.stdout.write(f"{peak_resident()}\n")


def _onnx(path: Path, threads: int) -> Callable[[Inputs], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def _torch(kind: Kind, path: Path) -> Callable[[Inputs], object]:
    import torch

    if kind == "archive":
        module = torch.export.load(path).module()
    elif kind == "package":
        module = torch._inductor.aoti_load_package(str(path))
    else:
        module = torch.load(path, weights_only=False)
        if kind == "compiled":
            module = torch.compile(module, dynamic=True)
    return lambda inputs: module(**{name: torch.from_numpy(value) for name, value in inputs.items()})


def _engine(kind: Kind, path: Path, threads: int, new_tokens: int) -> Callable[[Inputs], object]:
    import torch

    from omni.bench.export_runtimes import LlamaCpp, Omni, Transformers

    if kind == "llama.cpp":
        engine = LlamaCpp(path, threads)
    else:
        engine = Transformers(path) if kind == "transformers" else Omni(torch.load(path, weights_only=False))
    return lambda inputs: engine.decode(inputs["tokens"].tolist(), new_tokens)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))  # pyright: ignore
