"""`python -m experiments readme`: the measured tables of the READMEs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

import lab
from experiments import papers
from experiments.command import parse
from experiments.report import KEPT_RESULTS
from lab.files import write_atomically
from lab.report import Result, Table
from lab.report.claims import counted
from lab.report.markdown import BEGIN, replace_block, results_markdown, table_markdown

_ABOUT = """Writes the results of finished bench runs into the READMEs of a checkout.

Each result is kept in experiments/results/<paper>.json; a paper that was not run here keeps the one
it has. Tables go between the markers of a README."""

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
    """Takes results over and writes the tables; returns the exit code."""
    options = parse(ReadmeOptions, args, prog="python -m experiments readme", description=_ABOUT)
    for name in options.papers or papers.names():
        result = _kept(name, options)
        if result is None:
            print(f"{name}: no run yet: python -m experiments.{name} {options.preset}")
            continue
        readme = papers.rooms(name) / "README.md"
        _write_block(readme, results_markdown(result))
        print(f"{name}: {readme}")
    results = [Result.load(path) for path in sorted(KEPT_RESULTS.glob("*.json"))]
    if BEGIN in TOP.read_text(encoding="utf-8"):
        _write_block(TOP, summary_markdown(results))
        print(f"summary: {TOP}")
    return 0


def summary_markdown(results: Sequence[Result]) -> str:
    """One row a paper: what it is, and how its claims came out."""
    rows = []
    for result in results:
        counts = result.counts().items()
        verdicts = ", ".join(counted(verdict, count) for verdict, count in counts if count)
        link = f"[{result.title}](lab/papers/{result.paper}/README.md)"
        rows.append((link, result.summary, verdicts))
    return table_markdown(Table("Results", ("paper", "what it is", "claims"), rows))


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
