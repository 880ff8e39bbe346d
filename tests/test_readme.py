"""The snippets of the READMEs run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", *sorted((ROOT / "lab/papers").glob("*/README.md"))]


# Sections of a paper's page, in this order; others may stand between them.
SECTIONS = ("## In ten lines", "## Results", "## What the numbers say", "## Where this differs")


def snippets():
    for path in READMES:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
        name = path.parent.name if path.parent != ROOT else "top"
        if (ROOT / "tests/papers" / name / "test_readme.py").exists():
            continue  # runs them itself and looks at what comes out
        for number, block in enumerate(blocks):
            yield pytest.param(block, id=f"{name}-{number}")


@pytest.mark.parametrize("code", list(snippets()))
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "snippet"}
    exec(compile(code, "README.md", "exec"), names)
    if "jax.jit(" in code:
        assert int(names["state"].step) > 0
        measured = names.get("history", names.get("metrics"))
        assert measured
        assert all(np.isfinite(x).all() for x in measured.values())


@pytest.mark.parametrize("path", READMES[1:], ids=lambda path: path.parent.name)
def test_a_papers_page_shows_a_jitted_step(path):
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    assert any("jax.jit(" in block for block in blocks)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_readme_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", READMES[1:], ids=lambda path: path.parent.name)
def test_a_papers_page_has_the_sections_that_every_page_has(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    found = [s for line in headings for s in SECTIONS if line.startswith(s)]
    assert found == list(SECTIONS)
    assert any(f"python -m experiments.{path.parent.name} " in line for line in lines)


def test_the_top_readme_has_exactly_two_set_up_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("pip install ")]
    assert len(commands) == 2
    run, test = commands
    assert run.endswith("&& python -m experiments")
    assert "&& pytest" in test
