"""READMEs carry the results of finished bench runs."""

import shutil

import pytest

import lab.papers
from experiments import readme, report
from lab.report import Result
from lab.report.markdown import BEGIN, END, results_markdown
from tests.experiments.invented import HERE

TO_MEND = "python -m experiments readme writes the tables anew"


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
    row = (
        "| [Counting](lab/papers/counting/README.md), `counting` "
        "| Adds the numbers from one to n without adding them. | 1 holds, 1 not tested "
        f"| {kept.date[:10]}, {kept.seconds:.0f} s on {kept.machine} |\n"
    )
    assert row in (checkout / "README.md").read_text()


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
    assert "| not measured yet |" in (checkout / "README.md").read_text()


def test_readme_without_markers_is_told(call, checkout):
    call("counting", "bench")
    (checkout / "rooms/counting/README.md").write_text("# Counting\n")
    done = call("readme")
    assert done.code == 2
    assert "results:begin" in done.err


def test_outside_a_checkout_it_says_so(call, checkout):
    (checkout / "README.md").unlink()
    done = call("readme")
    assert done.code == 2
    assert "clone of the repository" in done.err


def test_the_repositorys_tables_are_those_of_its_kept_results():
    for path in sorted(report.KEPT_RESULTS.glob("*.json")):
        paper = readme.papers.rooms(path.stem) / "README.md"
        assert results_markdown(Result.load(path)) in paper.read_text(), TO_MEND
    assert readme.summary_markdown() in readme.TOP.read_text(), TO_MEND
