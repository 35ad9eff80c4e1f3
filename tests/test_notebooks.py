"""Notebooks: their cells run in order on the results of the smoke chain."""

import json
import os
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMOKE = Path(__file__).parents[1] / "build/smoke"  # `make smoke` writes it


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
def test_quickstart_runs_on_the_smoke_chain():
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(NOTEBOOKS / "quickstart.ipynb", as_version=4)
    os.environ.setdefault("PYTHONPATH", str(NOTEBOOKS.parent))
    client(notebook, timeout=300, resources={"metadata": {"path": str(SMOKE)}}).execute()
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 4  # curves, the picture, attention, spectrograms
