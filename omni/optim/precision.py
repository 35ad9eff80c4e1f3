"""Chooses the training precision, and measures the peak throughput of a device."""

import time
from typing import Any

import torch

from omni.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
_INSTEAD = {
    "64-true": "32-true",
    "16-true": "16-mixed",
    "transformer-engine-float16": "16-mixed",
}


def check_precision(precision: Any) -> str:
    """Refuses precisions in which stages are not trained or evaluated correctly.

    With 16 bits, weights, positions, codebooks and averages silently lose small changes: positions from 256 on,
    averages after a few hundred batches, optimizer steps.

    Args:
        precision: The trainer's, such as `bf16-mixed`, `bf16` or 32.

    Returns:
        Its full name.

    Raises:
        UserError: If it is not supported; the message names the one to use instead.
    """
    name = _ALIASES.get(str(precision), str(precision))
    if name not in PRECISIONS:
        raise UserError(
            f"trainer.precision {name} is not supported: use {_INSTEAD.get(name, 'bf16-mixed')}; weights are kept in "
            f"32 bits, and products may have 16 ({', '.join(PRECISIONS)})"
        )
    return name


def best_precision(accelerator: str) -> str:
    """`bf16-mixed` on devices with bf16 in hardware, `32-true` elsewhere (where it is 5 × as fast, measured).

    Args:
        accelerator: The trainer's; `auto` means a GPU if there is one.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if multiplies_bf16(torch.device("cpu")) else "32-true"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def measure_peak_tflops(device: torch.device, precision: Any, *, size: int = 1024, seconds: float = 0.3) -> float:
    """TFLOP/s of square matrix products on a device at a training precision."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(precision), torch.float32)
    size = size * 8 if device.type == "cuda" else size
    a = torch.randn(size, size, device=device).to(dtype)

    def product() -> None:
        torch.mm(a, a)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    product()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        product()
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - start) / 1e12
