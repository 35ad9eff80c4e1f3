"""Processes for tests: single ones, and the ranks of a run.

Each is forked from a server that has imported what a run needs and has trained nothing. A fork of the test process
could not train once autograd has started threads there, which it does at the first backward pass on a machine with a
GPU.

Ranks are guarded: if their collectives differ, they fail with the calls of each (see `collectives.py`).
"""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import collectives
import pytest
import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["omni.cli", "omni.training.lightning_cli", "torch.utils.tensorboard", "pytest"])
_DUMP_SECONDS = 10.0  # for a process to write its stack, on a busy machine


def use_toy_settings(patch: pytest.MonkeyPatch) -> None:
    """Settings of every process of the tests: one thread, fp32, a peak measured in 0.01 s, trust in the toys' parts.

    Args:
        patch: Makes the changes. A test process undoes them after each test.
    """
    from omni.optim.precision import measure_peak_tflops

    torch.set_num_threads(1)
    patch.setenv("OMNI_TRUST", "toy_speech, toy_voice")  # whose parts the tests' checkpoints hold
    for module in ("optim.precision", "optim.optimizers"):
        patch.setattr(f"omni.{module}.multiplies_bf16", lambda device: False)
    peak = partial(measure_peak_tflops, size=256, seconds=0.01)
    patch.setattr("omni.training.callbacks.throughput.measure_peak_tflops", peak)


def start(function: Callable[[], Any], *, output: Path, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Calls a function in another process, with the settings, the warning filters and the current folder of the test.

    Its exit code is 0, that of `SystemExit`, or 1 after another exception. SIGUSR1 makes it write its stack.

    Args:
        function: A function of a module or a `partial` of one, as it is pickled. Patches of the test do not reach it.
        output: File to which stdout and stderr are appended.
        environment: Further environment variables.
    """
    variables = {**os.environ, **(environment or {})}
    arguments = (pickle.dumps(function), output.absolute(), variables, warnings.filters[:])
    process = CONTEXT.Process(target=_call, args=arguments)
    process.start()
    return process


def _call(function: bytes, output: Path, environment: dict[str, str], filters: list[Any]) -> None:
    code = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        faulthandler.register(signal.SIGUSR1, file=2)
        os.environ.clear()
        os.environ.update(environment)
        use_toy_settings(pytest.MonkeyPatch())
        warnings.resetwarnings()
        warnings.filters.extend(filters)
        pickle.loads(function)()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # without waiting for threads


class Ranks:
    """Processes that call a function as the ranks of a run, as started by torchrun; killed at the end if still running.

    Args:
        function: Called on each rank, as `start` calls it; the environment holds the rank.
        count: Number of ranks.
        results: Whether the results of the function are kept, for `results`.
    """

    def __init__(self, function: Callable[[], Any], count: int = 2, *, results: bool = False) -> None:
        for rank in range(count):  # files of an earlier run in this folder
            Path(f"collectives-{rank}.txt").unlink(missing_ok=True)
            Path(f"rank-{rank}.txt").write_bytes(b"")
        # Reserves the port for rank 0: no other process is given it meanwhile.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("localhost", 0))
        environment = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self._reserved.getsockname()[1]),
            "TORCHELASTIC_RUN_ID": "test",
            "WORLD_SIZE": str(count),
        }
        self.processes = [
            start(
                partial(_run_rank, rank, function, results),
                output=Path(f"rank-{rank}.txt"),
                environment={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(count)
        ]

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self._reserved.close()

    def kill(self) -> None:
        """Kills all running ranks by SIGKILL."""
        for process in self.processes:
            process.kill()
            process.join()

    def wait(self, seconds: float = 60.0) -> list[int]:
        """Exit codes, in the order of the ranks.

        Raises:
            AssertionError: If the ranks' collectives differ.
            TimeoutError: If a rank is still running after this time; the message holds the last collective, the output
                and the stack of each.
        """
        start = looked = time.monotonic()
        while any(process.exitcode is None for process in self.processes):
            now = time.monotonic()
            if now > start + seconds:
                raise TimeoutError(self._stuck())
            if now > looked + 1:
                self._guard()
                looked = now
            time.sleep(0.01)
        self._guard()
        return [process.exitcode for process in self.processes]

    def results(self, seconds: float = 60.0) -> list[Any]:
        """The results of the function on each rank; waits as `wait` does, and fails if a rank fails."""
        codes = self.wait(seconds)
        assert not any(codes), "\n".join([f"exit codes {codes}", *map(self.output, range(len(codes)))])
        return [torch.load(f"rank-{rank}.pt", weights_only=False) for rank in range(len(codes))]

    def _guard(self) -> None:
        done = [rank for rank, process in enumerate(self.processes) if process.exitcode == 0]
        if found := collectives.difference(len(self.processes), done=done):
            raise AssertionError(found)

    def _stuck(self) -> str:
        lines = [collectives.last(len(self.processes))]
        for rank, process in enumerate(self.processes):
            if process.exitcode is None:
                self._dump_stack(rank)
            lines += [f"rank {rank}:", *(line for line in self.output(rank).splitlines() if "/_pytest/" not in line)]
        return "\n".join(line for line in lines if "/pluggy/" not in line)

    def _dump_stack(self, rank: int) -> None:
        """Makes a running rank write its stack, and waits until the last line, of the main thread, is written."""
        os.kill(self.processes[rank].pid, signal.SIGUSR1)
        end = time.monotonic() + _DUMP_SECONDS
        while self.processes[rank].exitcode is None and time.monotonic() < end:
            if self.output(rank).rstrip().endswith("in <module>"):
                break
            time.sleep(0.01)

    def output(self, rank: int) -> str:
        """The output of a rank to stdout and stderr."""
        return Path(f"rank-{rank}.txt").read_text(encoding="utf-8")


def _run_rank(rank: int, function: Callable[[], Any], keeps: bool) -> None:
    collectives.record(rank)
    result = function()
    if keeps:
        torch.save(result, f"rank-{rank}.pt")
