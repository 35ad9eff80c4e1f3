"""`torch.export` archives and AOTInductor packages of the graphs: PyTorch runs them without omni.

An archive holds the graph and its weights, and can be compiled for other machines. A package holds machine code for the
CPU on which it was compiled.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor
from torch.export import ExportedProgram

from omni.devices import has_compiler
from omni.errors import UserError
from omni.export.graphs import Graph

Run = Callable[..., tuple[Tensor, ...]]
"""Takes the inputs of a graph by name, returns all outputs."""


@torch.no_grad()
def write_archive(graph: Graph, path: Path) -> None:
    """Writes a graph with its weights as a `torch.export` archive.

    Args:
        graph: What to export.
        path: A file with the suffix `.pt2`.
    """
    program = torch.export.export(graph.module, (), kwargs=graph.example, dynamic_shapes=graph.dynamic)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # slices of one tensor are joined, as they should
        torch.export.save(program, path)


def load_archive(path: Path) -> Run:
    """Reads an archive, which PyTorch interprets.

    Raises:
        UserError: If the file is not an archive, or was cut.
    """
    return _tupled(_program(path).module())


@torch.no_grad()
def compile_archive(archive: Path, path: Path) -> None:
    """Compiles an archive to machine code of this CPU: minutes.

    Args:
        archive: As `write_archive` writes it.
        path: The package, with the suffix `.pt2`.

    Raises:
        UserError: If there is no C++ compiler, or the archive cannot be read.
    """
    if not has_compiler():
        raise UserError("a compiled package needs a C++ compiler, and none was found: install g++, or name one in CXX")
    torch._inductor.aoti_compile_and_package(_program(archive), package_path=str(path))


def load_compiled(path: Path) -> Run:
    """Reads a compiled package.

    Raises:
        UserError: If the file is not a package, was cut, or was compiled for another machine.
    """
    kind = "a compiled package of this machine"
    _check_file(path, kind)
    try:
        return _tupled(torch._inductor.aoti_load_package(str(path)))
    except RuntimeError as error:
        raise _unreadable(path, kind) from error


def _tupled(module: Callable[..., Any]) -> Run:
    @torch.no_grad()
    def run(**inputs: Tensor) -> tuple[Tensor, ...]:
        found = module(**inputs)
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    return run


def _program(path: Path) -> ExportedProgram:
    kind = "a torch.export archive"
    _check_file(path, kind)
    try:
        return torch.export.load(path)
    except RuntimeError as error:
        raise _unreadable(path, kind) from error


def _check_file(path: Path, kind: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} does not exist: export it with `omni export --to torch`")
    if not is_zipfile(path):  # PyTorch logs a traceback
        raise _unreadable(path, kind)


def _unreadable(path: Path, kind: str) -> UserError:
    return UserError(f"{path} is not {kind}, or was cut: export it again with `omni export --to torch`")
