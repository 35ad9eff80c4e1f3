"""The exception for mistakes that the user can correct, and parser errors as one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omni.renamed import explained, moved_class

_DEEP = 50


def yaml_faults() -> tuple[type[Exception], ...]:
    """What `yaml.safe_load` raises for files that are not YAML, have impossible dates, or are nested too deeply."""
    import yaml  # hosts of exported graphs need not have it

    return yaml.YAMLError, ValueError, RecursionError


def is_deep(tree: Any) -> bool:
    """Whether plain data is nested deeper than any configuration, or in itself: parsers fail on it."""
    level = [tree]
    for _ in range(_DEEP):
        found = {
            id(child): child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        }
        if not found:
            return False
        level = list(found.values())
    return True


class UserError(Exception):
    """A mistake in the user's input: a file, a key, a value, a checkpoint.

    The message says in one line what is wrong, where (file, row, key), and what to do. The command prints only that
    line and exits with code 2; nothing else in omni catches the exception.

    Args:
        args: The message.
        page: The page that helps, and its heading, as a path below `docs`: `howto/install.md#extras`. The message ends
            with it.
    """

    def __init__(self, *args: object, page: str | None = None) -> None:
        if args and str(args[0]).startswith("Caught UserError in DataLoader worker process"):
            # Its message is the traceback of the worker, which ends with the original message.
            args = (str(args[0]).rpartition(f"\n{__name__}.UserError: ")[2].strip(),)
        super().__init__(*args if page is None else (f"{args[0]}{see(page)}",))


def see(page: str) -> str:
    """The end of a message: the page of the repository that helps, a path below `docs`."""
    return f" (see docs/{page})"


def install_hint(extra: str) -> str:
    """The command that installs optional dependencies, such as those of the extra `hf`.

    omni is not on PyPI: the package of that name there is another one.
    """
    return f"run `pip install -e '.[{extra}]'` in omni's repository{see('howto/install.md#extras')}"


@contextmanager
def parser_errors(verb: str) -> Iterator[None]:
    """Turns an error of the parser of `verb` into a `UserError` of one line."""
    from jsonargparse import ArgumentError

    try:
        yield
    except ArgumentError as error:
        raise UserError(f"{one_line(error)} (see `omni {verb} --help`)") from error


def one_line(error: BaseException) -> str:
    """Formats a jsonargparse error as one line: the key path, then the innermost cause."""
    key = _KEY.search(str(error))
    if moved := moved_class(str(error)):
        return f"{key[1]}: {moved}" if key else moved
    text = re.sub(r"Problem with given class_path '[^']*\.ya?ml':\s*.*", "", _KEY.sub(r"\1:", str(error)))
    lines = [_plain(line.strip(" -")) for line in text.splitlines()]
    lines = list(dict.fromkeys(line for line in lines if line and not _NOISE.match(line)))
    meant = [line for line in lines if not _OTHER_CLASS.search(line)]
    last = next((line for line in reversed(meant) if not _GIVEN.fullmatch(line)), ":")
    causes: list[str] = []
    for line in lines if last.endswith(":") else meant:
        previous = causes[-1] if causes else ""
        if given := _GIVEN.fullmatch(line):
            if previous.startswith("expected") and ", got " not in previous:
                causes[-1] += f", got {given[1]}"
        elif previous.startswith("expected") and line.startswith("expected"):  # another type of a union
            causes[-1] += f" or {line.removeprefix('expected ')}"
        else:
            causes.append(line)
    return explained(re.sub(r":; ", ": ", "; ".join(causes)))


def _plain(line: str) -> str:
    """A line of a jsonargparse error, without Python's notation for classes."""
    line = re.sub(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)':", r"\1:", line)
    line = re.sub(r"Expected a <class '(?:[\w.]+\.)?(\w+)'>", r"expected \1", line).replace(". Got value: ", ", got ")
    line = re.sub(r"Import path (?:[\w.]+\.)?(\w+) does not correspond to a subclass of", r"\1 is not a", line)
    line = re.sub(r"Expected a path but (.*\.ya?ml) either.*", r"\1 does not exist or cannot be read", line)
    return re.sub(r"Expected a dot import path string: (.*)", r"there is no class \1", line)


_KEY = re.compile(r"Parser key \"([^\"]+)\":")
_GIVEN = re.compile(r"Given value: (.*)")

# Lines that jsonargparse adds for every alternative of a union type.
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|expected NoneType|Given value type:"
    r"|Expected a path but .* not accessible or invalid$"
)

# One line for each class of a union that does not apply; kept where there is no other line.
_OTHER_CLASS = re.compile(r"^\w+ is not a \w+$|^Expected an instantiatable class, but [\w.]+ is abstract")
