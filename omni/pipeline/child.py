"""A stage as a process: the command `omni`, stopped by SIGTERM when its parent process ends.

The parent holds the other end of its standard input and never writes. Once that end is closed, even by kill -9, the
stage saves and ends, as on any SIGTERM.
"""

import os
import signal
import sys
import threading

from omni.cli import main


def end_with_parent() -> None:
    """Sends this process SIGTERM once its standard input ends."""

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1:])
