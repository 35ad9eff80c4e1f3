"""Errors of the processes that load data, as one line: PyTorch raises them with the worker's whole traceback."""

import re

from omni.errors import UserError

_KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: \w+|exited unexpectedly)")
_CAUGHT = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")
_MEANT = re.compile(r"omni\.[\w.]+: (.+)")


def worker_error(error: BaseException) -> UserError | None:
    """The error that a user can correct, of a worker that has met one or was killed; None for any other error."""
    text = str(error)
    if killed := _KILLED.search(text):
        return UserError(
            f"a process that loads data has died, for lack of memory perhaps ({killed[0]}): resume with --ckpt_path "
            "last, with a lower data.init_args.num_workers",
            page="faq.md#it-stops",
        )
    last = text.rstrip().rpartition("\n")[2]
    if _CAUGHT.match(text) and (meant := _MEANT.fullmatch(last)):
        return UserError(meant[1])
    return None
