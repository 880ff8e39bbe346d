"""READMEs carry the results of finished bench runs."""

import shutil

import pytest

import lab.papers
from experiments import readme, report
from lab.report import Result
from lab.report.markdown import BEGIN, END
from tests.experiments.invented import HERE


@pytest.fixture
def checkout(counting, monkeypatch):
    """A checkout of the invented paper with READMEs that await results."""
    shutil.copytree(HERE / "lab_papers", counting / "rooms")
    monkeypatch.setattr(lab.papers, "__path__", [str(counting / "rooms")])
    for module in (readme, report):
        monkeypatch.setattr(module, "KEPT_RESULTS", counting / "results")
    monkeypatch.setattr(readme, "TOP", counting / "README.md")
    for path in (counting / "README.md", counting / "rooms/counting/README.md"):
        path.write_text(f"# Title\n\n{BEGIN}\n{END}\n")
    return counting


def test_bench_result_is_kept_and_shown(call, checkout):
    call("counting", "bench")
    done = call("readme")
    assert done.code == 0, done.err
    kept = Result.load(checkout / "results" / "counting.json")
    assert kept == Result.load(checkout / "runs/counting/bench-default/result.json")
    text = (checkout / "rooms/counting/README.md").read_text()
    assert "| C1 | the formula is right | exact | 1,275 | **holds** |" in text
    top = (checkout / "README.md").read_text()
    assert "[Counting](lab/papers/counting/README.md)" in top
    assert "1 holds, 1 not tested" in top


def test_kept_result_stands_where_nothing_was_run(call, checkout):
    call("counting", "bench")
    call("readme")
    before = (checkout / "rooms/counting/README.md").read_text()
    shutil.rmtree(checkout / "runs")
    call("readme")
    assert (checkout / "rooms/counting/README.md").read_text() == before
    call("report")
    assert "Preset bench" in (checkout / "runs" / "report.html").read_text()


def test_paper_without_a_run_says_how_to_make_one(call, checkout):
    done = call("readme")
    assert done.code == 0
    assert "counting: no run yet: python -m experiments.counting bench" in done.out


def test_readme_without_markers_is_told(call, checkout):
    call("counting", "bench")
    (checkout / "rooms/counting/README.md").write_text("# Counting\n")
    done = call("readme")
    assert done.code == 2
    assert "results:begin" in done.err
