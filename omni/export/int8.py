"""Dynamic int8 quantisation of graphs, measured against fp32 in size, time and quality."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from omni.export.parts.part import OnnxPart
from omni.runtime.engine import Run

_WARMUP = 2
_RUNS = 20  # timed runs of each variant, alternating
_FASTER = 1.1  # least ratio of times: less is noise


class Variant(NamedTuple):
    """A graph of a part.

    Attributes:
        path: Its file.
        run: The graph.
    """

    path: Path
    run: Run


def quantize(path: Path, out: Path) -> None:
    """Writes a graph with int8 weights, a scale for each channel; activations are quantised as they come.

    Convolutions stay in fp32: onnxruntime's in int8 are slower on a CPU.

    Args:
        path: An ONNX file in fp32.
        out: The file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it advises a preparation that these graphs do not need
    try:
        quantize_dynamic(
            path, out, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm", "Gather"]
        )
    finally:
        root.setLevel(level)


def measure(part: OnnxPart, variants: Mapping[str, Variant], items: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Size and time of variants.

    Args:
        part: The part.
        variants: By name.
        items: Rows.

    Returns:
        By name `file`, `bytes` and `milliseconds` (median, of the first row alone).
    """
    first = next(inputs for item in items for inputs in part.inputs([item]))  # a row may have none, as no image
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_WARMUP + _RUNS):
        for name, variant in variants.items():
            start = perf_counter()
            variant.run(first)
            times[name].append(perf_counter() - start)
    return {
        name: {
            "file": variant.path.name,
            "bytes": variant.path.stat().st_size,
            "milliseconds": 1000 * float(np.median(times[name][_WARMUP:])),
        }
        for name, variant in variants.items()
    }


def choose(allowed: float, measured: Mapping[str, Mapping[str, Any]], *, smaller: bool = False) -> tuple[str, str]:
    """The variant to use, and why.

    Args:
        allowed: Most that int8 may be worse, in units of its metric.
        measured: Of `fp32` and `int8`: as of `measure`, with the `quality` of each.
        smaller: Choose int8 for its size, also where it is not faster.
    """
    full, small = measured["fp32"], measured["int8"]
    if full["quality"] is None or small["quality"] is None:
        return "fp32", "the quality of int8 is not known: there are no rows with references"
    sign = -1 if full["quality"]["metric"] == "accuracy" else 1
    worse = sign * (small["quality"]["value"] - full["quality"]["value"])
    if not worse <= allowed:
        metric = full["quality"]["metric"]
        return "fp32", f"the {metric} of int8 is worse by {worse:.4f}, and at most {allowed:g} is allowed"
    if smaller:
        share = 100 * small["bytes"] / full["bytes"]
        return "int8", f"int8 has {share:.0f} % of fp32's size, and its quality is within {allowed:g}"
    ratio = full["milliseconds"] / small["milliseconds"]
    if not ratio >= _FASTER:
        return "fp32", f"int8 is {ratio:.2f} × as fast as fp32, and at least {_FASTER:g} × is asked"
    return "int8", f"int8 is {ratio:.2f} × as fast as fp32, and its quality is within {allowed:g}"
