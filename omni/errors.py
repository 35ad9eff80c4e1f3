"""The exception for mistakes that the user can correct, and parser errors as one line."""

import re

from omni.renamed import explained


class UserError(Exception):
    """A mistake in what the user gave: a file, a key, a value, a checkpoint.

    The message says what is wrong, where (file, row, key), and what to do, in one line. The command prints it alone
    and exits with code 2; nothing else in omni catches it.
    """


def one_line(error: BaseException) -> str:
    """Formats a jsonargparse error as one line: the key path, then the innermost cause."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    message = " ".join([line for line in lines if not _OTHER_CLASS.match(line)] or lines)
    message = re.sub(r"Parser key \"([^\"]+)\":", r"\1:", message)
    return explained(re.sub(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)':", r"\1:", message))


# Lines that jsonargparse adds for every alternative of a union type.
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value")

# One line for each class of a union that was not meant; kept where there is no other.
_OTHER_CLASS = re.compile(r"Import path [\w.]+ does not correspond to a subclass of \w+$")
