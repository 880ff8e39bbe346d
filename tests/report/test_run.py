"""Run folders: what they hold, resuming, starting over."""

import dataclasses
import json
import time

import pytest

from lab.errors import CorruptFileError, InvalidInputError, StorageError
from lab.report import Result, Run, figures
from lab.report.run import read_config
from tests.report.example import example_result


@dataclasses.dataclass(frozen=True)
class Train:
    steps: int = 5
    rates: tuple[float, ...] = (0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class Config:
    train: Train = Train()
    model: str = "gcn"


def open_run(root, config=None, **kwargs):
    return Run.open(root, "counting", "quick", "default", config or Config(), **kwargs)


def test_finished_run_holds_everything(tmp_path):
    run = open_run(tmp_path, code="c0de")
    run.log(1, loss=0.5)
    fig, axes = figures.new()
    figures.bars(axes, ["a"], [1.0])
    picture = run.figure("f1", fig, "caption", "alt")
    result = run.finish(Result("Title", "Summary.", figures=[picture]))

    folder = tmp_path / "counting" / "quick-default"
    assert run.folder == folder
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    expected = ["config.json", "figures", "figures/f1.png", "metrics.jsonl", "result.json"]
    assert names == expected
    assert (folder / picture.path).read_bytes().startswith(b"\x89PNG")
    assert Result.load(folder / "result.json") == result
    assert (result.paper, result.preset, result.code) == ("counting", "quick", "c0de")
    assert result.config == {"train": {"steps": 5, "rates": [0.1, 0.2]}, "model": "gcn"}
    assert "core" in result.machine
    assert result.commit
    assert result.date.endswith("+00:00")
    assert 0 <= result.seconds < 60


def test_log_lines_are_json_with_step_and_seconds(tmp_path):
    run = open_run(tmp_path)
    run.log(1, loss=0.5)
    run.log(2, loss=float("nan"), phase="shards")
    first, second = run.metrics()
    assert first["step"] == 1
    assert first["loss"] == 0.5
    assert second["loss"] == "nan"
    assert 0 <= first["seconds"] <= second["seconds"]


def test_resume_goes_on_behind_a_line_that_a_kill_cut(tmp_path):
    run = open_run(tmp_path)
    run.log(1, loss=0.5)
    path = run.folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 2, "lo')
    resumed = open_run(tmp_path, resume=True)
    assert resumed.resumed
    resumed.log(2, loss=0.25)
    assert [(line["step"], line["loss"]) for line in resumed.metrics()] == [(1, 0.5), (2, 0.25)]


def test_damage_inside_the_metrics_is_told(tmp_path):
    run = open_run(tmp_path)
    (run.folder / "metrics.jsonl").write_text('{"step": 1, \n{"step": 2, "seconds": 1}\n')
    with pytest.raises(CorruptFileError, match="line 1"):
        open_run(tmp_path, resume=True)


def test_seconds_go_on_over_a_resume(tmp_path):
    run = open_run(tmp_path)
    time.sleep(0.05)
    run.log(1, loss=0.5)
    assert open_run(tmp_path, resume=True).seconds >= 0.05


def test_resume_of_another_configuration_names_the_fields(tmp_path):
    open_run(tmp_path)
    other = Config(train=Train(steps=6), model="gat")
    with pytest.raises(InvalidInputError) as caught:
        open_run(tmp_path, other, resume=True)
    message = str(caught.value)
    assert "train.steps was 5 and is 6" in message
    assert "model was 'gcn' and is 'gat'" in message
    assert "rates" not in message


def test_resume_without_an_earlier_run_begins_one(tmp_path):
    assert not open_run(tmp_path, resume=True).resumed


def test_resume_with_a_damaged_configuration_is_told(tmp_path):
    run = open_run(tmp_path)
    (run.folder / "config.json").write_text('{"paper"')
    with pytest.raises(CorruptFileError, match="without resuming"):
        open_run(tmp_path, resume=True)


def test_starting_over_clears_the_run_and_nothing_else(tmp_path):
    run = open_run(tmp_path)
    run.log(1, loss=0.5)
    run.checkpoints.mkdir()
    (run.checkpoints / "state").write_text("x")
    (run.folder / "my-notes.txt").write_text("mine")
    again = open_run(tmp_path)
    assert not again.resumed
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "my-notes.txt"]


def test_starting_over_does_not_follow_links(tmp_path):
    run = open_run(tmp_path / "runs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "state").write_text("x")
    run.checkpoints.symlink_to(outside)
    open_run(tmp_path / "runs")
    assert (outside / "state").exists()
    assert not run.checkpoints.exists()


def test_rewind_forgets_later_lines_of_its_label(tmp_path):
    run = open_run(tmp_path)
    for phase in ("a", "b"):
        for step in (1, 2, 3):
            run.log(step, phase=phase)
    run.rewind(1, phase="b")
    kept = [(line["phase"], line["step"]) for line in run.metrics()]
    assert kept == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(InvalidInputError, match="cannot name a file"):
        Run.open(tmp_path, "counting", "quick", name, Config())


def test_result_with_a_figure_from_elsewhere_is_refused(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(InvalidInputError, match=r"figures/f1\.png is not in"):
        run.finish(example_result())
    assert not run.result_path.exists()


def test_figure_needs_words_for_those_who_cannot_see_it(tmp_path):
    fig, _ = figures.new()
    with pytest.raises(InvalidInputError, match="alt"):
        open_run(tmp_path).figure("f1", fig, "caption", "")


def test_run_reports_progress_to_its_reporter(tmp_path):
    run = open_run(tmp_path)
    with run.progress("silent", 3) as task:
        task.advance(1, loss=1.0)

    class Recorder:
        def __init__(self):
            self.seen = []

        def task(self, description, total):
            self.seen.append((description, total))
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.seen.append("closed")

        def advance(self, n=1, **info):
            self.seen.append((n, info))

    run.reporter = Recorder()
    with run.progress("train", 500) as task:
        task.advance(10, loss=0.5)
    assert run.reporter.seen == [("train", 500), (10, {"loss": 0.5}), "closed"]


def test_config_file_tells_which_run_it_is(tmp_path):
    run = open_run(tmp_path, code="c0de")
    values = json.loads((run.folder / "config.json").read_text())
    assert values == read_config(run.folder)
    assert values["code"] == "c0de"
    assert read_config(tmp_path / "nowhere") is None


def test_run_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "counting").write_text("a file")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        open_run(tmp_path)
