"""The command line as a user meets it."""

import json
import time
from pathlib import Path

import pytest

from lab.report import Result


def load_result(folder, preset="quick", name="default"):
    return Result.load(folder / "runs" / "counting" / f"{preset}-{name}" / "result.json")


def test_paper_runs_quick_and_prints_what_it_found(call, counting):
    done = call("counting")
    assert done.code == 0, done.err
    assert "Counting (quick)" in done.out
    for part in ("C1", "the formula is right", "exact", "15", "holds", "not tested", "Sums"):
        assert part in done.out
    assert "runs/counting/quick-default/result.json" in done.out
    result = load_result(counting)
    assert [claim.verdict for claim in result.claims] == ["holds", "not tested at this scale"]
    assert len(result.code) == 12


def test_overrides_are_typed_and_kept(call, counting):
    options = ("--train.steps", "7", "--seeds", "3", "4", "5", "--name", "mine", "--data-dir", "/d")
    assert call("counting", "bench", *options).code == 0
    result = load_result(counting, "bench", "mine")
    assert result.config["train"]["steps"] == 7
    assert result.config["seeds"] == [3, 4, 5]
    assert result.notes == ("resumed: False, first: 1, data: /d",)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("counting", "--train.stepz", "7"), "--train.steps"),
        (("counting", "--train.steps", "many"), "many"),
        (("counting", "huge"), "no preset or command 'huge'; there are: quick, bench, describe"),
        (("spell",), "no command 'spell'; there are: report, data, speed, list, readme, new-paper"),
        (("--preset",), "--preset"),
    ],
)
def test_what_cannot_be_understood_is_told_with_what_can(call, args, told):
    done = call(*args)
    assert done.code == 2
    assert told in done.err + done.out
    assert "Traceback" not in done.err


def test_lab_error_is_one_line_and_code_2(call):
    done = call("counting", "--goes-wrong", "data")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: no data set 'abacus' in /data: get it by hand\n"


def test_debug_shows_the_traceback(call):
    done = call("counting", "--goes-wrong", "data", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.endswith("error: no data set 'abacus' in /data: get it by hand\n")


def test_non_finite_run_says_at_which_step(call):
    done = call("counting", "--goes-wrong", "nan")
    assert done.code == 2
    assert done.err == "error: the loss became nan; the last good state is kept (step 17)\n"


def test_verbs_of_a_paper_get_their_arguments(call):
    done = call("counting", "describe", "easy", "--really")
    assert (done.code, done.out) == (0, "counting is easy --really\n")


def test_finished_run_is_not_made_again_on_resume(call, counting):
    call("counting")
    before = load_result(counting)
    done = call("counting", "--resume")
    assert done.code == 0
    assert load_result(counting) == before


def test_resume_with_other_settings_names_them(call):
    call("counting")
    done = call("counting", "--resume", "--train.steps", "6")
    assert done.code == 2
    assert "train.steps was 5 and is 6" in done.err


def test_corrupt_result_is_told_on_resume(call, counting):
    call("counting")
    path = counting / "runs/counting/quick-default/result.json"
    path.write_text(path.read_text()[:100])
    done = call("counting", "--resume")
    assert done.code == 2
    assert "result.json is not a result" in done.err
    assert len(done.err.splitlines()) == 1


def test_list_tells_presets_needs_and_verbs(call):
    done = call("list")
    assert done.code == 0
    for part in ("counting: Counting", "quick", "bench", "abacus", "describe"):
        assert part in done.out
    assert "Says what counting is." in done.out
    assert "Nobody" not in done.out


def test_report_is_built_from_what_is_there(call, counting):
    call("counting")
    call("counting", "bench")
    done = call("report")
    page = counting / "runs" / "report.html"
    assert done.code == 0
    assert str(page) in done.out
    assert "Preset bench" in page.read_text()
    assert "Preset quick" in page.read_text()


def test_report_is_built_around_a_corrupt_result(call, counting):
    call("counting")
    call("counting", "bench")
    path = counting / "runs/counting/quick-default/result.json"
    path.write_text("{")
    done = call("report", "--output", "page.html")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "quick-default/result.json is not a result" in done.err
    page = (counting / "page.html").read_text()
    assert "Could not be read" in page
    assert "Preset bench" in page


def test_help_explains_presets_and_settings(call):
    done = call("counting", "--help")
    assert done.code == 0
    for part in ("Adds the numbers", "quick", "needs abacus", "--train.steps", "Numbers to count."):
        assert part in done.out


def test_help_starts_quickly_and_without_jax(launch):
    start = time.monotonic()
    process = launch("experiments", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.monotonic() - start < 20  # 0.4 s where nothing else runs
    for part in ("report", "data", "speed", "list", "--fresh", "Papers: counting"):
        assert part in out
    modules = {line.split("|")[-1].strip() for line in err.splitlines()}
    assert "tyro" in modules
    assert not modules & {"jax", "matplotlib", "tensorflow_datasets", "flax"}


def test_full_disk_is_one_line_and_the_earlier_parts_stay(launch, tmp_path):
    small_files = ("sh", "-c", 'ulimit -f 6; exec "$@"', "sh")  # in units of 512 bytes
    process = launch("experiments.counting", through=small_files)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    assert line.startswith("error: cannot write runs/counting/quick-default/figures/sum.png: ")
    assert "size limit" in line
    folder = tmp_path / "runs/counting/quick-default"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5
    assert json.loads((folder / "checkpoints/count.json").read_text()) == [15, 6]
    again = launch("experiments.counting", "--resume")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert load_result(tmp_path).notes[0].startswith("resumed: True, first: 6")


def test_folder_that_cannot_be_written_is_one_line(call):
    Path("runs").write_text("a file in the way")
    done = call("counting")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "cannot write" in done.err
