"""Notebooks: their cells run in order on the results of the smoke chain."""

import json
import os
from pathlib import Path

import pytest
from doc_pages import SMOKE

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FIGURES = {  # of each notebook
    "quickstart": 4,
    "1-text": 4,
    "2-hearing": 4,
    "3-seeing": 5,
    "4-speaking": 5,
    "5-conversing": 5,
    "6-sweeps": 4,
    "7-your-part": 1,
}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_is_stored_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert len(cells) > 10
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter itself
@pytest.mark.skipif(not (SMOKE / "lightning_logs/world/report.json").exists(), reason="run `make smoke` first")
@pytest.mark.parametrize(("name", "figures"), FIGURES.items())
def test_runs_on_the_smoke_chain(name, figures):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    os.environ.setdefault("PYTHONPATH", str(NOTEBOOKS.parent))
    client(notebook, timeout=900, resources={"metadata": {"path": str(SMOKE)}}).execute()
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", {})]
    assert kinds.count("image/png") == figures


def test_all_are_run():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == FIGURES.keys()
