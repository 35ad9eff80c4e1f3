"""The exception for mistakes that the user can correct, and parser errors as one line."""

import re

from omni.renamed import explained, moved_class


class UserError(Exception):
    """A mistake in the user's input: a file, a key, a value, a checkpoint.

    The message says in one line what is wrong, where (file, row, key), and what to do. The command prints only that
    line and exits with code 2; nothing else in omni catches the exception.
    """


def one_line(error: BaseException) -> str:
    """Formats a jsonargparse error as one line: the key path, then the innermost cause."""
    key = _KEY.search(str(error))
    if moved := moved_class(str(error)):
        return f"{key[1]}: {moved}" if key else moved
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    message = " ".join([line for line in lines if not _OTHER_CLASS.match(line)] or lines)
    message = re.sub(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)':", r"\1:", _KEY.sub(r"\1:", message))
    return explained(message)


_KEY = re.compile(r"Parser key \"([^\"]+)\":")

# Lines that jsonargparse adds for every alternative of a union type.
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value")

# One line for each class of a union that does not apply; kept where there is no other line.
_OTHER_CLASS = re.compile(r"Import path [\w.]+ does not correspond to a subclass of \w+$")
