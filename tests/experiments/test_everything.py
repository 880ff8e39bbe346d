"""`python -m experiments`: every paper, interrupted, resumed, kept, crashed."""

import os
import signal
import sys
import time

import pytest

from experiments import papers
from lab.report import Result

FOLDER = "runs/counting/quick-default"


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_all_papers_run_and_the_report_is_built(call, counting):
    done = call()
    assert done.code == 0, done.err
    assert "counting: 1 holds, 1 not tested" in done.out
    assert f"report: {counting / 'runs' / 'report.html'}" in done.out
    assert "Adds the numbers" in (counting / "runs" / "report.html").read_text()


def test_finished_papers_are_kept_until_asked_afresh(call, counting):
    call()
    first = Result.load(counting / FOLDER / "result.json")
    assert "kept from before" in call().out
    assert Result.load(counting / FOLDER / "result.json") == first
    assert "kept from before" not in call("--fresh").out


def test_paper_of_other_code_is_run_again(call, monkeypatch):
    call()
    monkeypatch.setattr(papers, "code_version", lambda name: "changed")
    assert "kept from before" not in call().out


def test_corrupt_result_is_made_again(call, counting):
    call()
    path = counting / FOLDER / "result.json"
    path.write_text(path.read_text()[:50])
    done = call()
    assert done.code == 0, done.err
    assert Result.load(path).claims[0].verdict == "holds"


@pytest.mark.parametrize(("goes_wrong", "code"), [("data", 2), ("crash", 1)])
def test_paper_that_goes_wrong_leaves_the_others_and_the_report(
    call, counting, monkeypatch, goes_wrong, code
):
    call()
    monkeypatch.setenv("COUNTING_GOES_WRONG", goes_wrong)
    papers.load("counting")
    sys.modules.pop("experiments.counting")
    done = call("--preset", "bench")
    assert done.code == code
    assert "counting: error: " in done.out
    assert "Preset quick" in (counting / "runs" / "report.html").read_text()
    if goes_wrong == "crash":
        assert "ZeroDivisionError: an honest bug" in done.out
        trace = counting / "runs/counting/bench-default/crash.txt"
        assert "_go_wrong" in trace.read_text()


def test_unknown_preset_or_paper_is_told(call):
    assert "no preset 'huge'; there are: quick, bench" in call("--preset", "huge").out
    done = call("--papers", "spelling")
    assert done.code == 2
    assert "no paper 'spelling'" in done.out


def test_interrupted_call_goes_on_where_it_stopped(launch, tmp_path):
    process = launch("experiments", env={"COUNTING_SECONDS": "0.5"})
    checkpoint = tmp_path / FOLDER / "checkpoints" / "count.json"
    wait_for(checkpoint.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted: 0 of 1 papers are done; the same command goes on\n"
    assert not (tmp_path / FOLDER / "result.json").exists()

    again = launch("experiments", env={"COUNTING_SECONDS": "0.5"})
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    result = Result.load(tmp_path / FOLDER / "result.json")
    assert result.notes[0].startswith("resumed: True")
    assert result.claims[0].measured.mean == 15
    assert "report: " in out


def test_interrupted_paper_says_how_to_go_on(launch, tmp_path):
    process = launch("experiments.counting", "--train.seconds", "0.5")
    wait_for((tmp_path / FOLDER / "checkpoints" / "count.json").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted: the same command with --resume goes on\n"


def test_second_process_on_one_run_is_refused(launch, tmp_path):
    first = launch("experiments.counting", "--train.seconds", "0.5")
    wait_for((tmp_path / FOLDER / "checkpoints" / "count.json").exists)
    second = launch("experiments.counting")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another process is at work here" in err
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert os.path.exists(tmp_path / FOLDER / "result.json")
