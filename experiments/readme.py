"""`python -m experiments readme`: the measured tables of the READMEs."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

import lab
from experiments import papers
from experiments.command import parse
from experiments.report import KEPT_RESULTS
from experiments.show import counts_in_words
from lab.errors import require
from lab.files import write_atomically
from lab.report import Result, Table
from lab.report.markdown import replace_block, results_markdown, table_markdown

_ABOUT = """Writes the results of finished bench runs into the READMEs of a checkout.

Each result is kept in experiments/results/<paper>.json; a paper that was not run here keeps the one
it has. Tables go between the markers of a README; the top one gets a row a paper."""

TOP = Path(lab.__file__).resolve().parents[1] / "README.md"


@dataclasses.dataclass(frozen=True)
class ReadmeOptions:
    """Options of `python -m experiments readme`."""

    papers: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Papers whose results are taken over; all by default."""
    preset: str = "bench"
    """The preset whose results are shown."""
    name: str = "default"
    """Name of the runs."""
    runs_dir: Path = Path("runs")
    """Folder that holds all runs."""
    debug: bool = False
    """Show the traceback of an error."""


def run(args: list[str]) -> int:
    """Takes results over and writes the tables; returns the exit code.

    Raises: InvalidInputError outside a checkout, or for a README without its markers.
    """
    options = parse(ReadmeOptions, args, prog="python -m experiments readme", description=_ABOUT)
    require(TOP.is_file(), f"{TOP} is not there: run this in a clone of the repository")
    for name in options.papers or papers.names():
        result = _kept(name, options)
        if result is None:
            print(f"{name}: no run yet: python -m experiments.{name} {options.preset}")
            continue
        readme = papers.rooms(name) / "README.md"
        _write_block(readme, results_markdown(result))
        print(f"{name}: {readme}")
    _write_block(TOP, summary_markdown())
    print(f"summary: {TOP}")
    return 0


def summary_markdown() -> str:
    """One row a paper: what it does, how its claims came out, and where that was measured."""
    rows = []
    for name in papers.names():
        experiment, kept = papers.load(name), KEPT_RESULTS / f"{name}.json"
        claims, where = "not measured yet", ""
        if kept.is_file():
            result = Result.load(kept)
            claims = counts_in_words(result)
            where = f"{result.date[:10]}, {result.seconds:.0f} s on {result.machine}"
        link = f"[{experiment.TITLE}](lab/papers/{name}/README.md), `{name}`"
        rows.append((link, experiment.SUMMARY, claims, where))
    return table_markdown(Table("", ("paper", "what it does", "claims", "measured"), rows))


def _kept(name: str, options: ReadmeOptions) -> Result | None:
    """The result to show: of the run here, which is then kept with the code, or the kept one."""
    kept = KEPT_RESULTS / f"{name}.json"
    fresh = options.runs_dir / name / f"{options.preset}-{options.name}" / "result.json"
    if fresh.is_file():
        Result.load(fresh).save(kept)
    return Result.load(kept) if kept.is_file() else None


def _write_block(readme: Path, block: str) -> None:
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    write_atomically(readme, replace_block(text, block))
