"""Progress in a terminal and in a file."""

import io

import pytest
from rich.console import Console

from experiments import progress
from experiments.progress import PacedTask, shown


def test_plain_output_has_one_line_a_counted_task():
    output = Console(file=io.StringIO(), width=100)
    with shown(output) as reporter, reporter.task("paper", None), reporter.task("train", 3) as task:
        for loss in (3.0, 2.0, 1.5):
            task.advance(1, loss=loss)
    (line,) = output.file.getvalue().splitlines()
    assert line.startswith("train  3/3  0.0 s")
    assert line.endswith("loss=1.5")


def test_long_task_tells_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    output = Console(file=io.StringIO(), width=100)
    with shown(output) as reporter, reporter.task("train", 4) as task:
        task.advance(1)
        task.advance(2)
    assert [line.split()[1] for line in output.file.getvalue().splitlines()] == [
        "1/4",
        "3/4",
        "3/4",
    ]


def test_live_display_leaves_nothing_behind():
    output = Console(file=io.StringIO(), width=100, force_terminal=True)
    with shown(output) as reporter, reporter.task("train", 2) as task:
        task.advance(2, loss=0.25)
    text = output.file.getvalue()
    assert "train" in text
    assert text.endswith(("\x1b[2K", "\x1b[?25h", "\r", "\x1b[1A\x1b[2K"))


def test_values_are_read_only_when_they_are_shown():
    class Costly:
        def __float__(self):
            raise AssertionError("read")

    shows = []
    task = PacedTask(10, shows.append, seconds_between=1e9)
    task.advance(1, loss=Costly())
    assert task.done == 1
    assert not shows
    with pytest.raises(AssertionError, match="read"):
        task.info()
