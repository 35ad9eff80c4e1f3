"""Errors that name a page of the documentation: the page exists, and the line ends with it."""

import ast
import pickle

import pytest
import torch
from doc_pages import ROOT, anchors

from omni.cli import main
from omni.errors import UserError
from omni.training.memory import memory_error


def pages_of(node):
    """The page that a call of `see` or a keyword `page` of an error names, if the node is one."""
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "see":
            return [ast.unparse(node.args[0])]
        if name.endswith("Error"):
            return [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "page"]
    return []


def named_pages():
    """Each place in omni's code that names a page, and the page's source text."""
    for path in sorted((ROOT / "omni").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for page in pages_of(node):
                if page != "page":  # passed on, in `omni.errors`
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.literal_eval(page)


def test_the_pages_exist():
    found = dict(named_pages())
    assert len(found) > 35
    assert len(set(found.values())) > 15
    for place, page in found.items():
        path, _, anchor = page.partition("#")
        file = ROOT / "docs" / path
        assert file.is_file(), (place, page)
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), (place, page)


def test_the_line_ends_with_the_page(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}}, "theirs.ckpt")
    assert fails(main, ["generate", "--checkpoint", "theirs.ckpt"]) == (
        "omni: checkpoint theirs.ckpt was not written by omni: it has no parts and no lineage "
        "(see docs/reference/checkpoints.md)"
    )


def test_a_pickle_is_refused_with_the_page_on_trust(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "who": torch.nn.Linear(1, 1)}, "theirs.ckpt")
    assert fails(main, ["generate", "--checkpoint", "theirs.ckpt"]).endswith(
        "it is damaged, or holds more than tensors and plain data (see docs/trust.md)"
    )


def test_errors_of_other_processes_keep_the_page():
    error = UserError("a row", page="faq.md#rows-are-missing")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a row (see docs/faq.md#rows-are-missing)"
    text = f"Caught UserError in DataLoader worker process 0.\nTraceback ...\nomni.errors.UserError: {error}\n"
    assert str(UserError(text)) == str(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB"
            ),
            "CUDA out of memory. Tried to allocate 2.00 GiB: take a smaller batch",
        ),
        (RuntimeError("CUDA error"), None),
    ],
)
def test_a_device_without_memory_is_one_line(error, expected):
    found = memory_error(error)
    assert (found is None) == (expected is None)
    if found is not None:
        assert str(found).startswith(str(expected))
        assert str(found).endswith("(see docs/howto/run.md#plan-before-training)")
        assert "\n" not in str(found)
