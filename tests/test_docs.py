"""The documentation: its commands parse, its Python compiles, its links resolve, its drawing is the script's."""

import ast
import importlib
import importlib.util
import inspect
import re
from argparse import SUPPRESS
from functools import cache
from pathlib import Path

import pytest
import yaml
from doc_pages import PAGES, ROOT, anchors, blocks, commands, links, name_of, without_blocks
from jsonargparse import ArgumentParser

import omni
from omni.cli import PARSING_VERBS, TRAINER_VERBS, VERBS, verb_parser
from omni.commands.plan import _PlanCLI, add_options
from omni.errors import parser_errors

CHAINED = ("train", "sweep")  # verbs whose first argument is a shipped file
# Configurations that a reader makes: by an earlier command, by hand, or a placeholder.
MADE = (
    r".*\.\.\.|FILE|CHAIN\.yaml|(fitted|theirs|mine)\.yaml|mine/chain\.yaml|data/\w+/chain\.yaml|.*/STAGE\.yaml"
    r"|.*/best\.yaml"
)
NO_VERBS = ("--help", "--version", "--completion", "VERB", "words")  # the last is the example of CONTRIBUTING.md
ELLIPSES = ("...", "…")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def read(page):
    return page.read_text(encoding="utf-8")


def in_pages(select):
    """Parameters: the pages for which `select(text)` is not empty."""
    return pytest.mark.parametrize("page", [page for page in PAGES if list(select(read(page)))], ids=name_of)


def python_blocks(text):
    return [block.text for block in blocks(text) if block.language == "python"]


def omni_commands(text):
    return [words[1:] for words in commands(text) if words[0] in ("omni", ".venv/bin/omni") and len(words) > 1]


def test_all_pages_and_their_blocks_are_found():
    assert len(PAGES) > 40
    assert sum(len(omni_commands(read(page))) for page in PAGES) > 150
    assert sum(len(python_blocks(read(page))) for page in PAGES) > 15
    assert sum(len(links(read(page))) for page in PAGES) > 120


def test_the_readme_is_short():
    lines = read(ROOT / "README.md").splitlines()
    assert len(lines) <= 150
    cells = [cell.strip() for line in lines if line.startswith("|") for cell in line.split("|")]
    assert len(cells) > 50
    assert max(map(len, cells)) <= 120


def shipped(file):
    """Whether a file is in the repository, or is one that a reader makes."""
    return (ROOT / file).is_file() or (ROOT / "configs" / file).is_file() or re.fullmatch(MADE, file) is not None


def options(words):
    return [word.partition("=")[0] for word in words if word.startswith("--")]


@cache
def trainer_options(words):
    """Parses the arguments of `fit` or `plan`; a configuration that a reader makes is replaced by a shipped one."""
    words = ["configs/thinker.yaml" if re.fullmatch(MADE, word) else word for word in words]
    with parser_errors("plan"):
        _PlanCLI([word for word in words if word != "--print_config"])


def check_trainer_verb(words):
    files = [words[number + 1] for number, word in enumerate(words[:-1]) if word in ("--config", "--chain")]
    assert all(map(shipped, files)), files
    if "--chain" in words:
        parser = ArgumentParser()
        add_options(parser)
        assert set(options(words)) <= {"--chain", *parser._option_string_actions}
    elif files and not set(ELLIPSES) & set(words):
        trainer_options(tuple(words))


@cache
def parser_of(verb):
    return verb_parser(verb, VERBS[verb])


def check_other_verb(verb, words):
    known = set(parser_of(verb)._option_string_actions)
    assert set(options(words)) <= known, set(options(words)) - known
    if verb in CHAINED and words and not words[0].startswith("-"):
        assert shipped(words[0]), words[0]


def check_whole(verb, words):
    """Parses all arguments of a command in a shell block, unless some are left out."""
    if not set(ELLIPSES) & set(words) and "--help" not in words:
        with parser_errors(verb):
            parser_of(verb).parse_args(words)


def split_verb(words):
    for count in (2, 1):
        verb = " ".join(words[:count])
        if verb in VERBS or verb in TRAINER_VERBS:
            return verb, words[count:]
    raise AssertionError(f"unknown verb: {words}")


@in_pages(omni_commands)
def test_commands_of_omni_are_accepted(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    in_blocks = [words[1:] for block in blocks(read(page)) if block.language in ("bash", "")
                 for words in commands(f"\n\n```bash\n{block.text}```\n")]  # fmt: skip
    for words in omni_commands(read(page)):
        if words[0] in NO_VERBS:
            continue
        verb, arguments = split_verb(words)
        if verb in TRAINER_VERBS or verb in PARSING_VERBS:
            check_trainer_verb(arguments)
        else:
            check_other_verb(verb, arguments)
            if words in in_blocks:
                check_whole(verb, arguments)


@in_pages(lambda text: [words for words in commands(text) if words[0] == "make"])
def test_targets_of_make_exist(page):
    named = [word for words in commands(read(page)) if words[0] == "make" for word in words[1:] if "=" not in word]
    assert set(named) <= TARGETS


def test_an_unknown_option_is_found():
    with pytest.raises(AssertionError):
        check_other_verb("speak", ["a text", "--volume", "3"])
    with pytest.raises(Exception, match="lrr"):
        trainer_options(("--config", str(ROOT / "configs/thinker.yaml"), "--model.init_args.lrr", "3"))


def names_of(tree):
    """The names that a block imports from omni, and what they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name: importlib.import_module(each.name) for each in node.names if each.name == "omni"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "omni":
            module = importlib.import_module(node.module)
            found |= {each.asname or each.name: getattr(module, each.name) for each in node.names}
    return found


def called(function, names):
    """What a call calls, where that is an attribute of a name of omni; else None."""
    attributes = []
    while isinstance(function, ast.Attribute):
        attributes.append(function.attr)
        function = function.value
    if not (isinstance(function, ast.Name) and function.id in names):
        return None
    value = names[function.id]
    for attribute in reversed(attributes):
        value = getattr(value, attribute)
    return value


@in_pages(python_blocks)
def test_python_compiles_and_its_names_and_arguments_exist(page):
    for text in python_blocks(read(page)):
        tree = ast.parse(text)
        names = names_of(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if (target := called(call.func, names)) is not None:
                parameters = inspect.signature(target).parameters
                open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
                given = {keyword.arg for keyword in call.keywords}
                assert open_ended or given <= set(parameters), (text, given)


@pytest.mark.parametrize("page", ["docs/howto/text.md", "docs/reference/checkpoints.md"])
def test_python_runs_on_a_toy_checkpoint(page, trained, capsys):
    for text in python_blocks(read(ROOT / page)):
        exec(compile(text, page, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_python_runs_on_a_pretrained_model_with_lora(fit_llm):
    fit_llm()
    fit_llm("asr_llm_lora", model__init_args__thinker__init_args__lora_targets='["q_proj"]')
    for text in python_blocks(read(ROOT / "docs/howto/llm.md")):
        exec(compile(text, "docs/howto/llm.md", "exec"), {})
    assert Path("merged/model.safetensors").is_file()


def test_the_program_of_agents_finds_what_missed_its_target(tmp_path):
    [text] = python_blocks(read(ROOT / "AGENTS.md"))
    names = {}
    exec(compile(text, "AGENTS.md", "exec"), names)
    report = tmp_path / "report.json"
    stages = '[{"name": "a", "value": 1.0, "reached": true}, {"name": "b", "value": 2.0, "reached": false}]'
    report.write_text(f'{{"stages": {stages}}}', encoding="utf-8")
    assert names["missed"](report) == {"b": 2.0}


@in_pages(lambda text: [block for block in blocks(text) if block.language == "yaml"])
def test_yaml_parses(page):
    for block in blocks(read(page)):
        if block.language == "yaml":
            assert yaml.safe_load(block.text)


@in_pages(links)
def test_links_resolve(page):
    for link in links(read(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(read(target)), link


def test_pages_use_fences_with_a_language():
    for page in (page for page in PAGES if page.parent != ROOT):
        text = read(page)
        assert not re.findall(r"^ *```$(?=\n\S)", re.sub(r"^ *```\w.*?^ *```$", "", text, flags=re.M | re.S), re.M), (
            page
        )
        assert not [block for block in blocks(without_blocks(text)) if not block.language], page


def test_the_navigation_has_every_page():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for each in (entry.values() if isinstance(entry, dict) else entry) for page in pages(each)]

    listed = pages(yaml.safe_load(read(ROOT / "mkdocs.yml"))["nav"])
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def script(name):
    """A script of the folder `docs`, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_drawing_is_what_its_script_draws():
    module = script("system_drawing")
    for theme in module.THEMES:
        assert module.drawing(theme) == read(ROOT / f"docs/images/system-{theme}.svg")


def test_the_reference_has_every_verb_and_option():
    module = script("command_line")
    page = module.on_page_markdown(f"# Verbs\n\n{module.MARKER}")
    assert module.MARKER not in page
    for verb in (*TRAINER_VERBS, *VERBS):
        assert f"### omni {verb} {{" in page
        if verb in VERBS and verb not in PARSING_VERBS:
            section = page.split(f"### omni {verb} {{")[1].split("\n### ")[0]
            shown = (each for each in parser_of(verb)._actions if each.option_strings and each.help != SUPPRESS)
            missing = {each.option_strings[0] for each in shown} - set(
                re.findall(r"^`(--[\w.]+)`", section, re.MULTILINE)
            )
            assert missing <= {"-h", "--help", "--config", "--print_config"}, verb


def test_the_expected_losses_are_those_of_the_shipped_chains():
    module = script("expected_losses")
    page = module.on_page_markdown(read(ROOT / "docs/howto/watch.md"))
    losses = yaml.safe_load(read(ROOT / "configs/world/chain.yaml"))["stages"]["talker"]["expected_loss"]
    assert f"| `world/chain.yaml` | talker | {' | '.join(f'{loss:g}' for loss in losses.values())} |" in page


def test_python_files_of_the_pages_are_not_published():
    assert yaml.safe_load(read(ROOT / "mkdocs.yml"))["exclude_docs"] == "*.py"
    names = {path.name for path in Path(ROOT / "docs").glob("*.py")}
    assert names == {"command_line.py", "expected_losses.py", "system_drawing.py"}


@cache
def messages():
    """Every string in omni's code; `…` stands for what an f-string inserts."""
    found = set()
    for path in (ROOT / "omni").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
                found.add("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_the_faq_quotes_messages_that_exist():
    quoted = re.findall(r"^\*\*`([^`]+)`\*\*", read(ROOT / "docs/faq.md"), re.MULTILINE)
    assert len(quoted) > 8
    for message in quoted:
        pattern = ".*".join(
            re.escape(part.strip()) for part in message.removeprefix("omni: ").split("…") if part.strip()
        )
        assert any(re.search(pattern, each, re.DOTALL) for each in messages()), message


def test_the_citation_has_the_version_and_templates_have_names():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert citation["version"] == omni.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    templates = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) == 2
    for path in templates:
        assert yaml.safe_load(read(path).split("---")[1]).keys() == {"name", "about"}
