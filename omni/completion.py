"""Completion of verbs and options in a shell."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from textwrap import indent
from typing import NamedTuple

from omni.errors import UserError


class Rule(NamedTuple):
    """What completes the next word.

    Attributes:
        typed: The words after `omni`.
        words: The words that may follow.
        more: Whether any words may stand after `typed`, and only options are completed.
    """

    typed: str
    words: Sequence[str]
    more: bool = False


def completion(options: Mapping[str, Sequence[str]], shell: str | None = None) -> str:
    """A script that completes verbs, and options after `-`; other words are completed as file names.

    Args:
        options: The options of each verb; verbs have one or two words.
        shell: `bash`, `zsh` or `fish`; by default that of the environment variable `SHELL`, or `bash`.

    Raises:
        UserError: If there is no script for the shell.
    """
    name = PurePath(os.environ.get("SHELL", "")).name if shell is None else shell
    if name not in _SCRIPTS and shell is not None:
        raise UserError(f"--completion is {shell}: give one of {', '.join(_SCRIPTS)}")
    script = _SCRIPTS.get(name, _BASH)
    case = _fish_case if script is _FISH else _case
    return script.replace("CASES", indent("\n".join(map(case, _rules(options))), " " * 8).lstrip())


def _rules(options: Mapping[str, Sequence[str]]) -> Iterator[Rule]:
    """Rules of which the first that fits applies."""
    groups: dict[str, list[str]] = {}  # second words by first word
    for first, *others in map(str.split, options):
        groups.setdefault(first, []).extend(others)
    yield Rule("", list(groups))
    for first, seconds in groups.items():
        if seconds:
            yield Rule(first, [*seconds, *options.get(first, ())])
    for verb in sorted(options, key=lambda verb: -len(verb.split())):  # `configs copy` is tried before `configs`
        yield Rule(verb, options[verb], more=True)


def _case(rule: Rule) -> str:
    found = f"found='{' '.join(rule.words)}' ;;"
    return f"'{rule.typed}'*) [[ $current == -* ]] && {found}" if rule.more else f"'{rule.typed}') {found}"


def _fish_case(rule: Rule) -> str:
    found = f"string split -- ' ' '{' '.join(rule.words)}'"
    return (
        f"case '{rule.typed}*'\n    string match -q -- '-*' (commandline -ct); and {found}"
        if rule.more
        else f"case '{rule.typed}'\n    {found}"
    )


_BASH = """\
# omni --completion bash > ~/.local/share/bash-completion/completions/omni
_omni() {
    local current="${COMP_WORDS[COMP_CWORD]}" found=''
    case "${COMP_WORDS[*]:1:COMP_CWORD-1}" in
        CASES
    esac
    COMPREPLY=($(compgen -W "$found" -- "$current"))
}
complete -o default -F _omni omni"""

_ZSH = """\
#compdef omni
# omni --completion zsh > ~/.zfunc/_omni, and in ~/.zshrc: fpath+=~/.zfunc; autoload -U compinit; compinit
_omni() {
    local current="${words[CURRENT]}" found=''
    case "${(j: :)words[2,CURRENT-1]}" in
        CASES
    esac
    if [[ -n $found ]]; then compadd -- ${=found}; else _files; fi
}
if [[ ${funcstack[1]} == _omni ]]; then _omni "$@"; else compdef _omni omni; fi"""

_FISH = """\
# omni --completion fish > ~/.config/fish/completions/omni.fish
function __omni_words
    set -l typed (commandline -opc)
    switch "$typed[2..]"
        CASES
    end
end
complete -c omni -f -n 'count (__omni_words) > /dev/null' -a '(__omni_words)'"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
