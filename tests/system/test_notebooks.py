"""Every notebook has the shared skeleton, carries no output, and runs from top to bottom."""

import json
from pathlib import Path
from string import Template

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SKELETON = ROOT / "experiments/templates/colab/slug.ipynb.template"
# Cells that are a paper's own; those with a text begin with it.
OWN = {"title": "# ", "quick-text": "## Run the quick preset\n", "step-text": "## ", "step": ""}
# The line of the install cell that a paper with dependencies of its own changes.
OWN_LINE = "EXTRAS, NEEDED = "


def cells_of(path: Path, **values: str) -> dict[str, dict]:
    """The cells of a notebook by their id, in order."""
    text = path.read_text(encoding="utf-8")
    cells = json.loads(Template(text).substitute(values) if values else text)["cells"]
    return {cell["id"]: cell for cell in cells}


def source_of(cell: dict) -> str:
    lines = "".join(cell["source"]).split("\n")
    return "\n".join(OWN_LINE if line.startswith(OWN_LINE) else line for line in lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_the_shared_skeleton(path):
    values = dict.fromkeys(("title", "summary", "arxiv"), "") | {"slug": path.stem}
    skeleton, cells = cells_of(SKELETON, **values), cells_of(path)
    assert list(cells) == list(skeleton)
    for id, cell in cells.items():
        assert cell["cell_type"] == skeleton[id]["cell_type"], id
        if id in OWN:
            assert source_of(cell).startswith(OWN[id]), id
        else:
            assert source_of(cell) == source_of(skeleton[id]), id
    assert f"](../lab/papers/{path.stem}/README.md)" in source_of(cells["title"])
    assert f"from lab.papers import {path.stem}" in source_of(cells["step"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_output(path):
    code = [cell for cell in cells_of(path).values() if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures
