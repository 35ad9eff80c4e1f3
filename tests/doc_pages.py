"""The pages of the documentation, and what stands in them: blocks of code, commands, links, anchors."""

import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SMOKE = ROOT / "build/smoke"  # `make smoke` writes it
SHELL = ("bash", "")  # languages of blocks of commands: fenced, or indented


class Block(NamedTuple):
    """A block of code: its language, empty for an indented one, and its text."""

    language: str
    text: str


def name_of(page: Path) -> str:
    """The path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """The blocks of code of a page, in order."""
    pattern = r"^( *)```(\w+)\n(.*?)^\1```$|(?<=\n\n)((?:    \S[^\n]*\n(?:\n(?=    ))?)+)"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        indent, language, fenced, indented = match.groups()
        lines = (indented if fenced is None else fenced).splitlines()
        width = 4 if fenced is None else len(indent)
        yield Block(language or "", "".join(f"{line[width:]}\n" for line in lines))


def without_blocks(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a page: those of its shell blocks, and those in its sentences, as in `omni chat`."""
    for block in blocks(text):
        if block.language in SHELL:
            yield from _split(block.text)
    for span in re.findall(r"`((?:omni|make) [^`]+)`", without_blocks(text)):
        yield from _split(" ".join(span.split()))


def _split(script: str) -> Iterator[list[str]]:
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", "|", ";", ">"):
                if words := [each for each in words if not re.fullmatch(r"[A-Z_]+=.*", each)]:
                    yield words
                words = []
            else:
                words.append(word)


def links(text: str) -> list[str]:
    """The relative links and sources of images of a page."""
    prose = re.sub(r"`[^`]*`", "", without_blocks(text))
    found = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|srcset|href)="([^"]+)"', prose)
    return [link for link in found if not re.match(r"https?:|mailto:", link)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    titles = re.findall(r"^#+ (.+?)$", without_blocks(text), re.MULTILINE)
    return {_slug(title) for title in titles}


def _slug(title: str) -> str:
    plain = unicodedata.normalize("NFKD", title.replace("`", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
