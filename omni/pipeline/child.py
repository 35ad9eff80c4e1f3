"""A stage as a process: the command `omni`, stopped by SIGTERM when its parent process ends.

The parent holds the other end of its standard input. Once that end is closed, even by kill -9, the stage saves and
ends, as on any SIGTERM. A number that the parent writes becomes the stage's number of threads.
"""

import os
import signal
import sys
import threading
from importlib import import_module

from omni.cli import main


def follow_parent() -> None:
    """Sends this process SIGTERM once its standard input ends; a number from there becomes PyTorch's threads."""
    numbers: list[int] = []

    def set_threads(signum: int, frame: object) -> None:
        import torch

        if torch.distributed.is_initialized():  # the other ranks have cores too, and no number
            return
        torch.set_num_threads(numbers[-1])
        os.write(1, f"threads: {numbers[-1]}, as no other stage runs\n".encode())

    def watch() -> None:
        while message := os.read(0, 16):
            import_module("torch")  # waits until the main thread, if it has begun to import it, is done
            numbers.append(int(message))
            signal.pthread_kill(main_thread, signal.SIGUSR2)  # OpenMP keeps the number for each thread by itself
        os.kill(os.getpid(), signal.SIGTERM)

    main_thread = threading.get_ident()
    signal.signal(signal.SIGUSR2, set_threads)
    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    follow_parent()
    main(sys.argv[1:])
