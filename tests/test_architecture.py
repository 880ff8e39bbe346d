"""The arrows between rooms point down, and the house stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import papers

ROOT = Path(__file__).parent.parent
SHARED_ROOMS = ("train", "data", "nn", "metrics", "interop", "report")
PAPERS = sorted(p.name for p in (ROOT / "lab/papers").iterdir() if (p / "__init__.py").exists())
# What belongs to every paper beside the files that its concepts call for.
OF_A_PAPER = (
    "lab/papers/{}/README.md",
    "lab/papers/{}/convert.py",
    "lab/papers/{}/data.py",
    "lab/papers/{}/losses.py",
    "experiments/{}/__main__.py",
    "experiments/{}/claims.py",
    "experiments/{}/pictures.py",
    "experiments/{}/report.py",
    "experiments/{}/study.py",
    "tests/papers/{}/__init__.py",
    "tests/experiments/test_{}.py",
    "tests/golden/kinds/{}.py",
    "tests/golden/data/{}/manifest.json",
    "colab/{}.ipynb",
)


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


def listed_rooms() -> list[str]:
    """The paths that ARCHITECTURE.md's table names, without the closing slash."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return [path.rstrip("/") for cell in cells for path in re.findall(r"`([^`]+)`", cell)]


def standing_rooms() -> set[str]:
    """Packages and single modules of lab and experiments, tests' folders, but not the papers'."""
    inits = {path.parent for path in files_under("lab") if path.name == "__init__.py"}
    own = {folder for folder in inits if folder.parent == ROOT / "lab/papers"}
    modules = {*(ROOT / "lab").glob("*.py"), *(ROOT / "experiments").glob("*.py")}
    found = (inits - own - {ROOT / "lab"}) | {p for p in modules if p.name != "__init__.py"}
    folders = [*(ROOT / "experiments").iterdir(), *(ROOT / "tests").iterdir()]
    found |= {path for path in folders if path.is_dir() and path.name not in PAPERS}
    found = {path for path in found if not path.name.startswith(("__pycache__", "."))}
    return {path.relative_to(ROOT).as_posix() for path in found} | {"colab", "docs", "typings"}


def test_there_are_papers():
    assert "graph_unlearning" in PAPERS
    assert papers.names() == PAPERS


def test_architecture_page_names_every_room_once_and_no_other():
    rooms = listed_rooms()
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == standing_rooms()


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_has_the_rooms_that_every_paper_has(paper):
    missing = [
        path.format(paper) for path in OF_A_PAPER if not (ROOT / path.format(paper)).exists()
    ]
    assert not missing
    package = ast.parse((ROOT / f"lab/papers/{paper}/__init__.py").read_text(encoding="utf-8"))
    assert len((ast.get_docstring(package) or "").splitlines()) >= 5, "maps the paper to functions"


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


def loaded_by(program: str) -> tuple[float, set[str]]:
    """Seconds that a program takes, and which heavy modules it loads."""
    program = (
        f"import sys, time; start = time.process_time()\n{program}\n"
        "heavy = {'tensorflow_datasets', 'matplotlib', 'torch', 'scipy', 'jax', 'lab.papers'}\n"
        "print(time.process_time() - start, *sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    return float(out[0]), set(out[1:])


def test_importing_lab_is_light():
    seconds, heavy = loaded_by("import lab")
    assert heavy == set()
    assert seconds < 1.0


def test_papers_are_listed_without_drawing_and_data_libraries():
    _, heavy = loaded_by("from experiments import papers\nlist(map(papers.load, papers.names()))")
    assert heavy <= {"jax", "lab.papers"}


def test_no_file_is_longer_than_500_lines():
    for path in [*files_under("lab"), *files_under("experiments"), *files_under("tests")]:
        assert len(path.read_text().splitlines()) <= 500, path
