"""`omni export --to onnx`: the parts of a checkpoint as ONNX graphs, compared with PyTorch, in fp32 and int8."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from omni.checkpoints.checkpoint import Checkpoint
from omni.errors import UserError, install_hint
from omni.export.graphs import OPSET, write_graph
from omni.export.int8 import Variant, choose, measure, quantize
from omni.export.parts.codec import CodecDecoderPart, CodecEncoderPart
from omni.export.parts.image_classifier import ImageClassifierPart
from omni.export.parts.omni import AudioEmbeddingsPart, ImageEmbeddingsPart, OmniThinkerPart
from omni.export.parts.part import OnnxPart, RowKind, Rows, has_experts
from omni.export.parts.recognizer import RecognizerPart
from omni.export.parts.talker import ConditionerPart, TalkerStepPart, TalkerTextPart
from omni.export.parts.thinker import ThinkerPart
from omni.export.parts.vocoder import VocoderPart
from omni.runtime.engine import Run, onnxruntime, open_session, run_of
from omni.runtime.vocabulary import write_vocabulary

_SHOWN = 80  # characters of a result in an error
_COMPARED = 48  # rows that run in PyTorch, too; quality is of all
_CHOICES = 0.999  # smallest share of equal codes: a choice between two may hang on rounding
PARTS: tuple[type[OnnxPart], ...] = (
    RecognizerPart,
    ImageClassifierPart,
    ThinkerPart,
    ImageEmbeddingsPart,
    AudioEmbeddingsPart,
    OmniThinkerPart,
    TalkerTextPart,
    TalkerStepPart,
    ConditionerPart,
    CodecEncoderPart,
    CodecDecoderPart,
    VocoderPart,
)


class Differences(NamedTuple):
    """How the outputs of a graph differ from its module's.

    Attributes:
        worst: Largest difference of a float.
        choices: Number of integers.
        equal: Those of them that are equal.
        batches: Number of calls.
    """

    worst: float
    choices: int
    equal: int
    batches: int


def find_parts(
    checkpoint: Checkpoint, target: str = "onnx", *, among: Sequence[type[OnnxPart]] = PARTS
) -> list[type[OnnxPart]]:
    """The parts of a checkpoint that can be exported.

    Args:
        checkpoint: The checkpoint.
        target: `onnx` or `torch`.
        among: The parts that are looked for.

    Raises:
        UserError: If there are none; it says why, and what can be exported.
    """
    reasons = {part: _missing(part, checkpoint, target) for part in among if target in part.targets}
    if found := [part for part, reason in reasons.items() if reason is None]:
        return found
    held = ", ".join(sorted(checkpoint.content["parts"])) or "none"
    why = "; ".join(reason for reason in reasons.values() if reason and not reason.startswith("no "))
    what = "; ".join(dict.fromkeys(part.needs for part in reasons))
    because = f" ({why})" if why else ""
    raise UserError(
        f"{checkpoint} holds nothing that --to {target} exports{because}; its parts: {held}; "
        f"what can be exported: {what}",
        page="howto/export.md",
    )


def _missing(part: type[OnnxPart], checkpoint: Checkpoint, target: str) -> str | None:
    reason = part.missing(checkpoint)
    if reason is None and part is ThinkerPart and target == "onnx" and has_experts(checkpoint, "thinker"):
        return "the Thinker has experts, and ONNX has no grouped matrix product"
    if reason is None and part is ThinkerPart and target == "onnx" and OmniThinkerPart.missing(checkpoint) is None:
        return "the Thinker reads media: it is omni_thinker"
    return reason


def check_opset(opset: int) -> int:
    """Checks an opset against the graphs and the installed onnx.

    Raises:
        UserError: If it is too old or too new, or the packages of the extra `export` are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter imports it late
    except ImportError as error:
        raise UserError(f"--to onnx needs the packages onnx and onnxscript: {install_hint('export')}") from error
    onnxruntime()
    newest = onnx.defs.onnx_opset_version()
    if opset < OPSET:
        raise UserError(f"--opset {opset} is too old: the graphs need {OPSET} or later, the first with Gelu")
    if opset > newest:
        raise UserError(f"--opset {opset} is not known to onnx {onnx.__version__}, whose latest is {newest}")
    return opset


def export_onnx(
    checkpoint: Checkpoint,
    parts: Sequence[type[OnnxPart]],
    folder: Path,
    rows: Mapping[RowKind, Rows],
    *,
    opset: int = OPSET,
    int8: bool = False,
    smaller: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Writes the graphs of a checkpoint and what their hosts need into a folder, and compares them with PyTorch.

    Args:
        checkpoint: The checkpoint.
        parts: Those of its parts that are exported; see `find_parts`.
        folder: A folder without these parts.
        rows: Rows of each kind that the parts are compared on.
        opset: Version of ONNX's operators.
        int8: Also quantise, and measure time and quality of both.
        smaller: Choose int8 wherever its quality allows it, not only where it is faster.
        progress: Called with what is done next.

    Returns:
        The manifest's entries `parts` and `parity`.

    Raises:
        UserError: If a graph differs from PyTorch.
    """
    entries, parity = {}, {}
    for kind in parts:
        progress(f"{kind.name}: export")
        part = kind(checkpoint)
        path = folder / f"{part.name}.onnx"
        write_graph(part.graph, path, opset=opset)
        session = open_session(path)
        progress(f"{part.name}: compare")
        parity[part.name] = compare(part, run_of(session), rows[part.rows])
        entry: dict[str, Any] = {"file": path.name, "opset": opset, **_signature(session)}
        entry |= {"parameters": sum(parameter.numel() for parameter in nn.ModuleList(part.modules()).parameters())}
        entry["constants"] = part.constants()
        if part.vocabulary is not None:
            entry["vocabulary"] = write_vocabulary(part.vocabulary, folder, part.name)
        entry |= {"chosen": "fp32", "variants": {"fp32": {"file": path.name, "bytes": path.stat().st_size}}}
        if int8:
            progress(f"{part.name}: int8")
            measured = _with_int8(part, path, rows[part.rows], parity[part.name]["quality"])
            chosen, reason = choose(part.quality_loss, measured, smaller=smaller)
            entry |= {"variants": measured, "chosen": chosen, "reason": reason}
        entries[part.name] = entry
    return {"parts": entries, "parity": parity}


def compare(part: OnnxPart, run: Run, rows: Rows) -> dict[str, Any]:
    """Runs a graph and its module on the same rows.

    Args:
        part: The part.
        run: Its graph.
        rows: What is compared; random input where it is empty.

    Returns:
        The manifest's entry in `parity`.

    Raises:
        UserError: If an output differs by more than the part's tolerance, or a result is another.
    """
    items = rows.items[:_COMPARED] or part.random_items()
    source = rows.source if rows.items else f"random input: {rows.source}"
    module, differences = part.module_run(), _differences(part, run, items)
    worst, choices, equal, batches = differences
    if not worst <= part.tolerance:
        raise UserError(
            f"the exported {part.name} differs from PyTorch by {worst:.2g} (at most {part.tolerance:g}) on "
            f"{len(items)} rows of {source}; nothing was written"
        )
    if equal < _CHOICES * choices:
        raise UserError(
            f"the exported {part.name} chooses {choices - equal} of {choices:,} integers otherwise than PyTorch on "
            f"{len(items)} rows of {source}; nothing was written"
        )
    wanted, found = part.results(module, items), part.results(run, items)
    same = [one == other for one, other in zip(wanted, found, strict=True)]
    if sum(same) < part.agreement * len(same):
        row = same.index(False)
        raise UserError(
            f"the exported {part.name} gives {shorten(repr(found[row]), _SHOWN)} for row {row + 1} of {source}, and "
            f"PyTorch {shorten(repr(wanted[row]), _SHOWN)}: {same.count(False)} of {len(same)} results differ; nothing "
            "was written"
        )
    return {
        "against": f"torch {torch.__version__}, fp32, CPU",
        "onnxruntime": onnxruntime().__version__,
        "rows": {"source": source, "count": len(items), "batches": batches, "random": not rows.items},
        "max_abs_difference": worst,
        "tolerance": part.tolerance,
        "integers": {"count": choices, "equal": equal},
        "results": {"count": len(same), "equal": sum(same)},
        "quality": _quality(part, run, rows),
    }


def _differences(part: OnnxPart, run: Run, items: Sequence[Any]) -> Differences:
    module, worst, choices, equal, batches = part.module_run(), 0.0, 0, 0, 0
    for inputs in part.inputs(items):
        for wanted, found in zip(module(inputs), run(inputs), strict=True):
            if np.issubdtype(wanted.dtype, np.integer):
                choices, equal = choices + wanted.size, equal + int((wanted == found).sum())
            else:
                difference = np.abs(wanted.astype(np.float64) - found).max(initial=0)
                worst = float(np.maximum(worst, difference))  # NaN stays
        batches += 1
    return Differences(worst, choices, equal, batches)


def _quality(part: OnnxPart, run: Run, rows: Rows) -> dict[str, Any] | None:
    found = part.quality(run, rows.items) if rows.items else None
    return None if found is None else found._asdict()


def _with_int8(part: OnnxPart, path: Path, rows: Rows, quality: Mapping[str, Any] | None) -> dict[str, Any]:
    """Figures of a part's fp32 graph, whose quality is given, and of an int8 variant that is written beside it."""
    small = path.with_name(f"{part.name}.int8.onnx")
    quantize(path, small)
    items = rows.items or part.random_items()
    variants = {name: Variant(file, run_of(open_session(file))) for name, file in (("fp32", path), ("int8", small))}
    measured = measure(part, variants, items)
    measured["fp32"]["quality"] = quality
    measured["int8"]["quality"] = _quality(part, variants["int8"].run, rows)
    return measured


def _signature(session: Any) -> dict[str, Any]:
    """Names, shapes and types of a graph's inputs and outputs; an axis of any size has a name."""
    sides = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    return {
        side: [{"name": one.name, "shape": one.shape, "dtype": one.type[len("tensor(") : -1]} for one in values]
        for side, values in sides.items()
    }
