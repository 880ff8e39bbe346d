"""The snippets of the READMEs run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", *sorted((ROOT / "lab/papers").glob("*/README.md"))]


def snippets():
    for path in READMES:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
        name = path.parent.name if path.parent != ROOT else "top"
        for number, block in enumerate(blocks):
            yield pytest.param(block, id=f"{name}-{number}")


@pytest.mark.parametrize("code", list(snippets()))
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_readme_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_the_top_readme_has_exactly_two_set_up_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("pip install ")]
    assert len(commands) == 2
    run, test = commands
    assert run.endswith("&& python -m experiments")
    assert "&& pytest" in test
