"""A part of an exported folder: its graph, its constants and its vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from omni.errors import UserError
from omni.media.mel_scale import mel_constants
from omni.runtime.engine import open_session, run_of
from omni.runtime.manifest import MANIFEST, find_manifest, read_manifest
from omni.runtime.vocabulary import read_vocabulary
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer

V = TypeVar("V", Tokenizer, CTCVocabulary)


@final
class ExportedPart:
    """A part of a folder that `omni export --to onnx` has written.

    Args:
        folder: The folder.
        name: The part, such as `recognizer`.
        variant: `fp32` or `int8`; by default the one that the export chose.
        threads: Number of threads; 0: one for each core.

    Attributes:
        constants: Constants for the host, by the manifest.
        run: The graph.

    Raises:
        UserError: If the folder is not a complete export for onnx, or has no such part or variant.
    """

    def __init__(self, folder: str | Path, name: str, *, variant: str | None = None, threads: int = 0) -> None:
        self.folder, self.name = Path(folder).expanduser(), name
        manifest = read_manifest(self.folder, target="onnx")
        if name not in manifest["parts"]:
            held = ", ".join(manifest["parts"]) or "none"
            raise UserError(f"{folder} holds no {name}; its parts: {held}")
        self._entry: Mapping[str, Any] = manifest["parts"][name]
        self.constants: Mapping[str, Any] = self._entry["constants"]
        variants = self._entry["variants"]
        variant = variant or self._entry["chosen"]
        if variant not in variants:
            raise UserError(
                f"{folder} has no variant {variant} of {name}, but {', '.join(variants)}: export with --int8"
            )
        self._inputs = {one["name"]: one["shape"] for one in self._entry.get("inputs", ())}
        self.run = run_of(open_session(self.folder / variants[variant]["file"], threads=threads))

    def start(self, name: str) -> NDArray[np.float32]:
        """The state that an input has before the first call: zeros, of a batch of one, without entries.

        Args:
            name: The input.
        """
        shape = self._inputs[name]
        free = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        sizes = [size if isinstance(size, int) else int(axis == free[0]) for axis, size in enumerate(shape)]
        return np.zeros(sizes, dtype=np.float32)

    def vocabulary(self, kind: type[V]) -> V:
        """Its vocabulary.

        Args:
            kind: The class that is needed.

        Raises:
            UserError: If it is damaged, or of another vocabulary than the graph.
        """
        found = read_vocabulary(self.folder, self._entry["vocabulary"])
        if not isinstance(found, kind):
            raise UserError(f"{self.folder}: the vocabulary of {self.name} is of another kind: export again")
        return found

    def check_mel(self, constants: Mapping[str, Any]) -> None:
        """Compares constants of spectrograms with this version's.

        Raises:
            UserError: If one differs.
        """
        for key, here in mel_constants().items():
            if constants.get(key) != here:
                raise UserError(
                    f"{self.folder} was exported with other spectrograms ({key} is {constants.get(key)} there and "
                    f"{here} here): use the version of omni that exported it"
                )


def parts_of(folder: str | Path) -> list[str]:
    """Names of the parts of a folder that `omni export --to onnx` has written.

    Raises:
        UserError: If it is not one.
    """
    return list(read_manifest(Path(folder).expanduser(), target="onnx")["parts"])


def is_export(path: str | Path) -> bool:
    """Whether a path is a folder that `omni export` has written, and not a checkpoint."""
    return find_manifest(Path(path).expanduser()) is not None


def uses_onnx(checkpoint: str, runtime: str) -> bool:
    """Whether a verb runs an exported folder, rather than a checkpoint by PyTorch.

    Args:
        checkpoint: What the user named.
        runtime: `auto`: by what it is; `onnx` or `torch`: it must be that.

    Raises:
        UserError: If it is the other.
    """
    exported = is_export(checkpoint)
    if runtime == "onnx" and not exported:
        raise UserError(
            f"{checkpoint} is not an export of omni: it has no valid {MANIFEST}; make one with `omni export CHECKPOINT "
            "--to onnx`"
        )
    if runtime == "torch" and exported:
        raise UserError(f"{checkpoint} is an exported folder, which runs by onnxruntime: give the checkpoint")
    return exported


def check_cpu(device: str) -> None:
    """Checks a verb's device: exported graphs run on the CPU.

    Raises:
        UserError: If it is another.
    """
    if device not in ("auto", "cpu"):
        raise UserError(f"an exported folder runs on the CPU: leave --device {device} out, or give the checkpoint")
