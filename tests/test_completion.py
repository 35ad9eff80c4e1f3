"""Scripts that complete verbs and options in bash, zsh and fish: each is run by its shell."""

import re
import shlex
import shutil
import subprocess

import pytest

from omni.cli import PARSING_VERBS, TRAINER_VERBS, VERBS, main, verb_parser
from omni.completion import completion

OPTIONS = {"speak": ["--out", "--file"], "data world": ["--docs"], "configs": ["--out"], "configs copy": ["--to"]}
SHELLS = ("bash", "zsh", "fish")
ASK = {
    "bash": 'COMP_WORDS=({words}); COMP_CWORD={count}; _omni; printf "%s\\n" "${{COMPREPLY[@]}}"',
    # `compadd` selects by what is typed: here its arguments are printed.
    "zsh": "words=({words}); CURRENT=$(({count} + 1)); compadd() {{ shift; print -l -- $@ }}; _files() {{ }}; _omni",
    "fish": "complete -C {line}",
}
BEFORE = {"zsh": "compdef() { }\n"}  # of the completion system, which only interactive shells load


def needs(shell):
    """A parameter: a shell, skipped where it is not installed."""
    return pytest.param(shell, marks=pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell}"))


def output(shell, script):
    result = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("shell", list(map(needs, SHELLS)))
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["sp"], ["speak"]),
        (["data", "w"], ["world"]),
        (["configs", ""], ["copy", "--out"]),
        (["configs", "copy", "a", "-"], ["--to"]),
        (["speak", "a text", "--o"], ["--out"]),
        (["data", "world", "--"], ["--docs"]),
        (["speak", "zz"], []),
    ],
)
def test_completes(shell, typed, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # fish also lists files, and here are none
    words = shlex.join(["omni", *typed])
    line = shlex.quote(words.removesuffix("''"))
    ask = ASK[shell].format(words=words, count=len(typed), line=line)
    found = output(shell, f"{BEFORE.get(shell, '')}{completion(OPTIONS, shell)}\n{ask}").split()
    chosen = [word for word in found if word.startswith(typed[-1])]
    assert sorted(chosen) == sorted(expected)


@pytest.mark.parametrize("shell", list(map(needs, SHELLS)))
def test_the_whole_script_is_one_that_the_shell_accepts(shell, tmp_path, capsys):
    main(["--completion", shell])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    result = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=True)
    assert result.stderr == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_knows_every_verb_and_its_options(shell, capsys):
    main(["--completion", shell])
    script = capsys.readouterr().out
    for verb in (*TRAINER_VERBS, *VERBS):
        start = re.escape(f"case '{verb}*'" if shell == "fish" else f"'{verb}'*)")
        [line] = re.findall(rf"^ *{start}\s+(.+)$", script, re.MULTILINE)
        words = set(re.findall("'([^']+)'", line)[-1].split())
        assert "--help" in words
        if verb not in (*TRAINER_VERBS, *PARSING_VERBS):
            assert words == set(verb_parser(verb, VERBS[verb])._option_string_actions), verb


@pytest.mark.parametrize(
    ("default", "start"),
    [("/bin/zsh", "#compdef omni"), ("/usr/bin/fish", "# omni"), ("/bin/tcsh", "# omni"), ("", "#")],
)
def test_the_default_is_the_shell_of_the_user(default, start, monkeypatch):
    monkeypatch.setenv("SHELL", default)
    assert completion(OPTIONS).startswith(start)
    assert ("function __omni_words" in completion(OPTIONS)) == default.endswith("fish")


def test_other_shells_are_refused(fails):
    assert "--completion is tcsh: give one of bash, zsh, fish" in fails(main, ["--completion", "tcsh"])
