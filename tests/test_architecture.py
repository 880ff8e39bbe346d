"""The arrows between rooms point down, and the house stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED_ROOMS = ("train", "data", "nn", "metrics", "interop", "report")
PAPERS = sorted(p.name for p in (ROOT / "lab/papers").iterdir() if (p / "__init__.py").exists())


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth; relative ones are refused."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files_under(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_there_are_papers():
    assert "graph_unlearning" in PAPERS


@pytest.mark.parametrize("room", SHARED_ROOMS)
def test_shared_rooms_know_no_paper_and_no_experiment(room):
    assert files_under(f"lab/{room}")
    for path in files_under(f"lab/{room}"):
        wrong = [m for m in imports_of(path) if m.startswith(("lab.papers", "experiments"))]
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_imports_neither_experiments_nor_another_paper(paper):
    for path in files_under(f"lab/papers/{paper}"):
        for module in imports_of(path):
            assert not module.startswith("experiments"), f"{path} imports {module}"
            if module.startswith("lab.papers."):
                assert module.split(".")[2] == paper, f"{path} imports {module}"


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_models_and_losses_touch_no_files_and_no_loop(paper):
    for name in ("losses.py", "steps.py", "models.py", "model.py"):
        path = ROOT / "lab/papers" / paper / name
        if path.exists():
            wrong = [
                m for m in imports_of(path) if m.startswith(("lab.data", "lab.report", "pathlib"))
            ]
            assert not [m for m in wrong if m != "lab.data.graphs"], f"{path} imports {wrong}"


def test_only_devices_calls_pmap():
    callers = [
        path.relative_to(ROOT).as_posix()
        for path in files_under("lab") + files_under("experiments")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "pmap"
    ]
    assert set(callers) == {"lab/train/devices.py"}


def test_importing_lab_is_light():
    program = (
        "import sys, time; start = time.perf_counter(); import lab\n"
        "heavy = {'tensorflow_datasets', 'matplotlib', 'torch', 'lab.papers'} & set(sys.modules)\n"
        "print(time.perf_counter() - start, sorted(heavy))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    seconds, heavy = out.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 1.0


def test_no_file_is_longer_than_500_lines():
    for path in [*files_under("lab"), *files_under("experiments"), *files_under("tests")]:
        assert len(path.read_text().splitlines()) <= 500, path
