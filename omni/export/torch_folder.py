"""`omni export --to torch`: the parts of a checkpoint as `torch.export` archives, and compiled for this CPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from numpy.typing import NDArray

from omni.checkpoints.checkpoint import Checkpoint
from omni.devices import has_compiler
from omni.errors import UserError
from omni.export.archives import Run as Archive
from omni.export.archives import compile_archive, load_archive, load_compiled, write_archive
from omni.export.onnx_folder import compare, find_parts
from omni.export.parts.part import OnnxPart, RowKind, Rows
from omni.runtime.engine import Run
from omni.runtime.vocabulary import write_vocabulary

_WARMUP, _RUNS = 3, 20


def check_compiler() -> None:
    """Checks that a package can be compiled.

    Raises:
        UserError: If there is no C++ compiler.
    """
    if not has_compiler():
        raise UserError("--compiled needs a C++ compiler, and none was found: install g++, or name one in CXX")


def export_torch(
    checkpoint: Checkpoint,
    folder: Path,
    rows: Mapping[RowKind, Rows],
    *,
    compiled: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Writes the archives of a checkpoint and what their hosts need into a folder, and compares them with PyTorch.

    Args:
        checkpoint: It holds at least one part; see `find_parts`.
        folder: An empty folder.
        rows: Rows of each kind that its parts are compared on.
        compiled: Also compile each archive for this CPU, compare it and measure its time: minutes a part.
        progress: Called with what is done next.

    Returns:
        The manifest's entries `parts` and `parity`.

    Raises:
        UserError: If an archive differs from PyTorch.
    """
    parts, parity = {}, {}
    for kind in find_parts(checkpoint, "torch"):
        progress(f"{kind.name}: export")
        part = kind(checkpoint)
        path = folder / f"{part.name}.pt2"
        write_archive(part.graph, path)
        progress(f"{part.name}: compare")
        runs = {"eager": part.module_run(), "archive": _run_of(load_archive(path))}
        parity[part.name] = compare(part, runs["archive"], rows[part.rows])
        del parity[part.name]["onnxruntime"]
        variants = {"archive": {"file": path.name, "bytes": path.stat().st_size}}
        if compiled:
            progress(f"{part.name}: compile, minutes")
            package = path.with_name(f"{part.name}.compiled.pt2")
            compile_archive(path, package)
            runs["compiled"] = _run_of(load_compiled(package))
            found = compare(part, runs["compiled"], rows[part.rows])
            parity[part.name]["compiled"] = {"max_abs_difference": found["max_abs_difference"]}
            variants["compiled"] = {"file": package.name, "bytes": package.stat().st_size}
        entry: dict[str, Any] = {"file": path.name, "inputs": [*part.graph.example], "outputs": [*part.graph.outputs]}
        entry |= {"parameters": sum(parameter.numel() for parameter in part.graph.module.parameters())}
        entry |= {"constants": part.constants(), "variants": variants}
        entry["milliseconds"] = _times(part, runs, rows[part.rows])
        if part.vocabulary is not None:
            entry["vocabulary"] = write_vocabulary(part.vocabulary, folder, part.name)
        parts[part.name] = entry
    return {"parts": parts, "parity": parity}


def _run_of(archive: Archive) -> Run:
    def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        found = archive(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return [output.numpy() for output in found]

    return run


def _times(part: OnnxPart, runs: Mapping[str, Run], rows: Rows) -> dict[str, float]:
    """Median time of the first row alone, in milliseconds: all in turn."""
    first = next(part.inputs((rows.items or part.random_items())[:1]))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_WARMUP + _RUNS):
        for name, run in runs.items():
            start = perf_counter()
            run(first)
            times[name].append(1000 * (perf_counter() - start))
    return {name: median(values[_WARMUP:]) for name, values in times.items()}
