"""Experiment of the invented paper: counts, slowly if asked, and goes wrong if asked."""

import dataclasses
import json
import os
import time

import lab.papers.counting

from lab.errors import DatasetNotFoundError, NonFiniteError
from lab.files import write_atomically
from lab.report import Claim, Measurement, Result, Run, Table, figures

TITLE = "Counting"
SUMMARY = "Adds the numbers from one to n without adding them."


@dataclasses.dataclass(frozen=True)
class Train:
    """How to count."""

    steps: int = 5
    """Numbers to count."""
    seconds: float = 0.0
    """Seconds a number takes."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Counting."""

    train: Train = Train()
    goes_wrong: str = ""
    """What goes wrong: data, nan, crash, or nothing."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the repeats."""


PRESETS = {
    "quick": Config(Train(seconds=float(os.environ.get("COUNTING_SECONDS", 0)))),
    "bench": Config(Train(steps=50), goes_wrong=os.environ.get("COUNTING_GOES_WRONG", "")),
}
NEEDS = {"bench": ("abacus",)}


def describe(args: list[str]) -> int:
    """Says what counting is.

    Nobody needs this paragraph.
    """
    print("counting is", *args)
    return 0


VERBS = {"describe": describe}


def main(config: Config, run: Run) -> Result:
    """Counts; each number is a checkpoint."""
    _go_wrong(config, run)
    path = run.checkpoints / "count.json"
    total, first = json.loads(path.read_text()) if path.exists() else (0, 1)
    with run.progress("count", config.train.steps) as task:
        for number in range(first, config.train.steps + 1):
            time.sleep(config.train.seconds)
            total += number
            run.log(number, total=total)
            write_atomically(path, json.dumps([total, number + 1]))
            task.advance(1, total=total)
    fig, axes = figures.new()
    figures.bars(axes, ["sum"], [total])
    return Result(
        TITLE,
        SUMMARY,
        claims=[
            Claim("C1", "the formula is right", "exact", total, lambda m: m.mean == _gauss(config)),
            Claim("C2", "it works for infinitely many", "yes", None),
        ],
        tables=[Table("Sums", ["n", "sum"], [["few", Measurement.of([total, total])]])],
        figures=[run.figure("sum", fig, "The sum", "One bar.")],
        notes=[f"resumed: {run.resumed}, first: {first}, data: {run.data_dir}"],
    )


def _gauss(config: Config) -> int:
    return lab.papers.counting.gauss(config.train.steps)


def _go_wrong(config: Config, run: Run) -> None:
    if config.goes_wrong == "data":
        raise DatasetNotFoundError("no data set 'abacus'\nin /data: get it by hand")
    if config.goes_wrong == "nan":
        raise NonFiniteError("the loss became nan; the last good state is kept", step=17)
    if config.goes_wrong == "crash":
        raise ZeroDivisionError("an honest bug")


if __name__ == "__main__":
    from experiments import command

    raise SystemExit(command.paper_main("counting"))
