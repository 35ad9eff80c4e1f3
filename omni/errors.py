"""The one exception that means: the user can mend this."""

import re


class UserError(Exception):
    """A mistake in what the user gave: a file, a key, a value, a checkpoint.

    The message says what is wrong, where (file, row, key), and what to do, in one line. The command prints it alone
    and exits with code 2; nothing else in omni catches it.
    """


def one_line(error: BaseException) -> str:
    """What jsonargparse complains of, as one line: the innermost problem behind the keys that lead to it."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    message = " ".join([line for line in lines if not _OTHER_CLASS.match(line)] or lines)
    message = re.sub(r"Parser key \"([^\"]+)\":", r"\1:", message)
    return re.sub(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)':", r"\1:", message)


# What every failed choice between types adds, and says nothing of the one that was meant.
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value")

# Said of each class that was not meant, where a part may be of several; more than noise where nothing else is said.
_OTHER_CLASS = re.compile(r"Import path [\w.]+ does not correspond to a subclass of \w+$")
