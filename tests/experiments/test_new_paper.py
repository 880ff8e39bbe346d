"""`python -m experiments new-paper`: an invented paper in a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from experiments import command, new_paper
from experiments.new_paper import ROOT, NewPaper, make, render
from lab.errors import InvalidInputError

SLUG = "invented"
GOLDEN = "tests/golden/test_golden.py"
COPIED = ("lab", "experiments", "tests", "pyproject.toml", "README.md", "ARCHITECTURE.md")


def call(folder, *args, **env):
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "LAB_GOLDEN_DIR"} | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree, without golden files, where the command made the paper."""
    folder = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "data" if name == "tests" else "")
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder / name)
    done = call(folder, "-m", "experiments", "new-paper", SLUG, "--arxiv", "2301.00001")
    assert done.returncode == 0, done.stderr
    assert f"python -m experiments.{SLUG}" in done.stdout
    return folder


def test_every_room_is_there(tree):
    for path in (
        f"lab/papers/{SLUG}/__init__.py",
        f"lab/papers/{SLUG}/README.md",
        f"experiments/{SLUG}/__main__.py",
        f"tests/papers/{SLUG}/test_losses.py",
        f"tests/experiments/test_{SLUG}.py",
        f"tests/golden/kinds/{SLUG}.py",
        f"tests/golden/data/{SLUG}/manifest.json",
        f"colab/{SLUG}.ipynb",
    ):
        assert (tree / path).is_file(), path
    assert "arXiv 2301.00001" in (tree / f"lab/papers/{SLUG}/README.md").read_text()


def test_the_golden_test_fails_until_it_is_filled(tree):
    done = call(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", GOLDEN, "-k", SLUG)
    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout
    assert f"{SLUG}/network.npz is not there yet: run the paper's official code" in done.stdout


def test_the_architecture_holds(tree):
    tests = ("tests/test_architecture.py", "tests/system/test_notebooks.py")
    done = call(
        tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", SLUG, "-m", "not slow"
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 4


@pytest.mark.parametrize("slug", ["x", "a_name_of_24_letters_long"[:24]])
def test_rendered_files_are_clean(tmp_path, slug):
    ruff = shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed: pip install tenfold[test]")
    (tmp_path / "experiments").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    made = make(NewPaper(slug, title="T" * 70, summary="S" * 85), tmp_path)
    assert len(made) > 15
    own = 'lint.isort.known-first-party = ["lab", "experiments", "tests"]'
    for arguments in (["check", "--config", own], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *arguments, "--no-cache", "."], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
    cells = json.loads((tmp_path / f"colab/{slug}.ipynb").read_text())["cells"]
    assert any(f"from lab.papers import {slug}\n" in cell["source"] for cell in cells)


@pytest.mark.parametrize(
    ("slug", "told"),
    [
        ("Privacy", "cannot name a paper"),
        ("3d", "cannot name a paper"),
        ("../up", "cannot name a paper"),
        ("lambda", "cannot name a paper"),
        ("n" * 25, "cannot name a paper"),
        ("dacfl", "choose another"),
        ("report", "choose another"),
    ],
)
def test_bad_and_taken_names_are_told(slug, told, tmp_path, monkeypatch):
    monkeypatch.setattr(new_paper, "write_atomically", None)  # nothing may be written
    with pytest.raises(InvalidInputError, match=told):
        make(NewPaper(slug), ROOT)


def test_texts_that_would_break_the_code_are_told(tmp_path):
    with pytest.raises(InvalidInputError, match='without "'):
        make(NewPaper(SLUG, title='A "quoted" title'), ROOT)
    with pytest.raises(InvalidInputError, match="no checkout"):
        make(NewPaper(SLUG), tmp_path)


def test_files_that_exist_stay_as_they_are(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    mine = tmp_path / f"lab/papers/{SLUG}/data.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InvalidInputError, match="stay as they are"):
        make(NewPaper(SLUG), tmp_path)
    assert mine.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*.py") if path != mine] == []


def test_templates_know_no_other_values():
    files = render({"slug": SLUG, "title": "Title", "summary": "What it does.", "arxiv": "1"})
    assert not [path for path, text in files.items() if "$" in text or "slug" in str(path)]


def test_the_command_is_wired(capsys):
    assert command.main(["new-paper", "Bad-Name"]) == 2
    assert "cannot name a paper" in capsys.readouterr().err


@pytest.mark.slow
def test_quick_preset_and_unit_tests_of_the_new_paper_pass(tree):
    done = call(tree, "-m", f"experiments.{SLUG}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tree / f"runs/{SLUG}/quick-default/result.json").read_text())
    assert [claim["verdict"] for claim in result["claims"]] == ["holds"]
    own = (f"tests/papers/{SLUG}", f"tests/experiments/test_{SLUG}.py", "tests/test_readme.py")
    done = call(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *own, "-k", SLUG)
    assert done.returncode == 0, done.stdout
    assert call(tree, "-m", "experiments", "list").stdout.count(SLUG) >= 1
