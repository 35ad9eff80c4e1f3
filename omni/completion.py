"""Completion of verbs and options in a shell."""

from collections.abc import Mapping, Sequence
from textwrap import indent


def bash_completion(options: Mapping[str, Sequence[str]]) -> str:
    """A script for bash that completes verbs, and options after `-`; other words are completed as file names.

    Args:
        options: The options of each verb; verbs have one or two words.
    """
    groups: dict[str, list[str]] = {}  # second words by first word
    for first, *others in map(str.split, options):
        groups.setdefault(first, []).extend(others)
    pairs = sorted(options, key=lambda verb: -len(verb.split()))  # `configs copy` is tried before `configs`
    cases = [_case("", groups)]
    cases += [_case(first, seconds, more=options.get(first, ())) for first, seconds in groups.items() if seconds]
    cases += [f"'{verb}'*) [[ $current == -* ]] && words='{' '.join(options[verb])}' ;;" for verb in pairs]
    return _SCRIPT.format(cases=indent("\n".join(cases), " " * 8))


def _case(typed: str, words: Mapping[str, object] | Sequence[str], *, more: Sequence[str] = ()) -> str:
    return f"'{typed}') words='{' '.join((*words, *more))}' ;;"


_SCRIPT = """\
# omni --completion > ~/.local/share/bash-completion/completions/omni
_omni() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" words=''
    case "${{COMP_WORDS[*]:1:COMP_CWORD-1}}" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _omni omni"""
