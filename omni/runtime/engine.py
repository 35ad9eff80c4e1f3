"""Graphs run by onnxruntime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni.errors import UserError, install_hint

Run = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]
"""Maps the inputs of a graph, by name, to its outputs in order."""


def onnxruntime() -> Any:
    """The module.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"exported graphs need the package onnxruntime: {install_hint('export')}") from error
    return onnxruntime


def open_session(path: Path, *, threads: int = 0) -> Any:
    """Loads a graph onto the CPU.

    Args:
        path: An ONNX file.
        threads: Number of threads; 0: one for each core.

    Raises:
        UserError: If onnxruntime is not installed, or cannot load the file.
    """
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class of their own
        raise UserError(f"{path} cannot be loaded by onnxruntime {library.__version__}: export it again") from error


def run_of(session: Any) -> Run:
    """A function that runs a session."""
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return [np.asarray(output) for output in session.run(names, dict(inputs))]

    return run
