"""Errors of the Hugging Face Hub and of `datasets` as one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from omni.errors import UserError
from omni.files import NO_ROOM

_AGAIN = "then run the same command: what has been loaded is kept (a run: with --ckpt_path last)"
_FULL = re.compile("Not enough disk space")


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turns the errors of `datasets` and of the Hub into one line.

    Args:
        name: Of the data set.

    Raises:
        UserError: For whatever keeps a data set from being loaded.
    """
    import httpx
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
        raise UserError(f"{name}: {_explained(error)}", page="howto/public-data.md") from error


def _explained(error: BaseException) -> str:
    """What is wrong and what to do, by the first known error among an error and its causes."""
    import httpx
    from datasets.exceptions import DatasetGenerationCastError
    from datasets.table import CastError
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    causes = list(_causes(error))
    # `datasets` compares the size of a set with the free space, without an errno.
    if any(isinstance(one, OSError) and (one.errno in NO_ROOM or _FULL.match(str(one))) for one in causes):
        return f"no room is left on the disk (or the quota): make room, {_AGAIN}"
    if any(isinstance(one, GatedRepoError) or re.search(r"\bgated\b", str(one)) for one in causes):
        return (
            "gated: accept its terms on its page on the Hub, and log in with `hf auth login` or set HF_TOKEN; or use "
            "another data set"
        )
    if any(isinstance(one, RevisionNotFoundError) for one in causes) or "Revision" in str(error):
        return f"cannot be loaded ({_line(error)}): give a branch, a tag or a commit of the data set after @"
    # A timeout of the operating system is an OSError too.
    if any(isinstance(one, ConnectionError | TimeoutError | httpx.TransportError) for one in causes):
        return (
            "the Hub cannot be reached: check the network, or download the data set and name its files in data.train "
            f"(beforehand: `omni data fetch`); {_AGAIN}"
        )
    if any(isinstance(one, CastError | DatasetGenerationCastError) for one in causes):
        return f"its files differ in their columns ({_line(error)}): pin an earlier revision, hub:OWNER/NAME@REVISION"
    return f"cannot be loaded ({_line(error)}): check its name and split"


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
