"""A hook of MkDocs: the reference of all verbs, made from their parsers when the pages are built."""

import re
from argparse import SUPPRESS, Action
from typing import Any

from omni.cli import PARSING_VERBS, TRAINER_VERBS, VERBS, verb_parser, verbs_by_kind

MARKER = "<!-- verbs -->"
EVERYWHERE = {"help", "config", "print_config"}  # options of every verb


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the reference in the place of its marker."""
    return markdown.replace(MARKER, reference()) if MARKER in markdown else markdown


def reference() -> str:
    """The verbs by kind, each with its description, arguments and options, in Markdown."""
    lines = []
    for kind, verbs in verbs_by_kind().items():
        lines += [f"## {kind.capitalize()}", ""]
        for verb, line in verbs.items():
            if verb in VERBS or verb in TRAINER_VERBS:
                lines += [f"### omni {verb} {{: #{verb.replace(' ', '-')} }}", "", *_verb(verb, line), ""]
    return "\n".join(lines)


def _verb(verb: str, line: str) -> list[str]:
    if verb in TRAINER_VERBS or verb in PARSING_VERBS:
        return [f"{line.rstrip('.')}. Its options are [configuration keys](configuration.md)."]
    parser = verb_parser(verb, VERBS[verb])
    actions = [action for action in parser._actions if action.dest not in EVERYWHERE and action.help != SUPPRESS]
    example = ["```bash", parser.epilog.removeprefix("Example: "), "```", ""] if parser.epilog else []
    return [_prose(parser.description) or line, "", *example, *(text for each in actions for text in _option(each))]


def _option(action: Action) -> list[str]:
    """A definition: name, type and default; then the help."""
    name = action.option_strings[0] if action.option_strings else action.dest.upper()
    details = [_type(action), "several" * (action.nargs in ("+", "*"))]
    if action.option_strings and action.default not in (None, SUPPRESS, False):
        details.append(f"default `{action.default}`")
    facts = ", ".join(filter(None, details))
    return [f"`{name}`{facts and f' · {facts}'}", f":   {_prose(action.help or '') or 'No further description.'}", ""]


def _prose(text: str) -> str:
    """A help text in a line, without what would be Markdown outside of code."""
    parts = re.sub(r"\s+", " ", text).strip().split("`")
    parts[::2] = [re.sub(r"[\[\]<>*]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _type(action: Action) -> str:
    """A type as it is written, without modules; nothing for a flag."""
    hint = getattr(action, "_typehint", None) or action.type
    if hint is None or action.nargs == 0:
        return ""
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    return f"`{re.sub(r'(?:[A-Za-z_]+[.])+(?=[A-Za-z_])', '', text)}`"
