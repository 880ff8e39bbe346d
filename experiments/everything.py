"""`python -m experiments`: one preset of every paper, then the report."""

import contextlib
import dataclasses
import sys
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from experiments import papers, report
from experiments.command import Options, in_one_line, parse, run_paper
from experiments.progress import console, shown
from experiments.show import counts_in_words
from lab.errors import CorruptFileError, LabError
from lab.files import write_atomically
from lab.report import Result
from lab.report.plain import plain
from lab.report.run import CRASH_FILE, Reporter, read_config

_ABOUT = """Runs the quick preset of every paper and builds the report page.

An interrupted call goes on where it stopped: papers that are finished with the same configuration
and code are kept. One paper: python -m experiments.<paper> [quick|bench|paper] [overrides].

Other commands:
  report     build the report page of the runs there are
  data       which data sets are here, which are missing, and how to get them
  speed      compile time, steps a second, memory, and what running together gains
  list       the papers, their presets, and what these need
  readme     writes the results of finished bench runs into the READMEs
  new-paper  makes the rooms of a new paper, with a preset that works

Papers: {papers}"""


@dataclasses.dataclass(frozen=True)
class Everything:
    """Options of `python -m experiments`."""

    papers: tuple[str, ...] = ()
    """Only these papers; all by default."""
    preset: str = "quick"
    """The preset to run of each."""
    fresh: bool = False
    """Run every paper again, also those that are finished."""
    name: str = "default"
    """Name of the runs: a folder is <runs-dir>/<paper>/<preset>-<name>."""
    runs_dir: Path = Path("runs")
    """Folder that holds all runs, and the report."""
    data_dir: Path | None = None
    """Folder of data sets; by default $LAB_DATA_DIR, then where tensorflow-datasets keeps its."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one paper went: its result, or what went wrong."""

    paper: str
    result: Result | None = None
    is_kept: bool = False
    error: str = ""
    exit_code: int = 0


def run(args: list[str]) -> int:
    """Runs every paper; returns 0, 2 after an expected error, 1 after a crash, 130 on interrupt."""
    about = _ABOUT.format(papers=", ".join(papers.names()) or "none yet")
    wanted = parse(Everything, args, prog="python -m experiments", description=about)
    chosen = wanted.papers or papers.names()
    output = console()
    outcomes: list[Outcome] = []
    was_interrupted = False
    with shown(output) as reporter, reporter.task("papers", len(chosen)) as overall:
        try:
            for paper in chosen:
                with reporter.task(paper, None):
                    outcomes.append(_outcome(paper, wanted, reporter))
                _print_outcome(output, outcomes[-1])
                overall.advance(1)
        except KeyboardInterrupt:
            was_interrupted = True
    if was_interrupted:
        done = sum(outcome.result is not None for outcome in outcomes)
        told = f"interrupted: {done} of {len(chosen)} papers are done; the same command goes on"
        print(told, file=sys.stderr)
        return 130
    page, problems = report.build(wanted.runs_dir, wanted.runs_dir / "report.html")
    output.print(Text(f"report: {page.resolve()}"), soft_wrap=True)
    codes = {outcome.exit_code for outcome in outcomes} | {2 if problems else 0}
    return 1 if 1 in codes else max(codes)


def _outcome(paper: str, wanted: Everything, reporter: Reporter) -> Outcome:
    """Runs one paper, whatever happens to it."""
    folder = wanted.runs_dir / paper / f"{wanted.preset}-{wanted.name}"
    try:
        config = papers.preset(papers.load(paper), wanted.preset)
        is_same = not wanted.fresh and _is_same_run(folder, paper, config)
        kept = _finished(folder) if is_same else None
        if kept is not None:
            return Outcome(paper, kept, is_kept=True)
        options = Options(
            name=wanted.name,
            resume=is_same,
            runs_dir=wanted.runs_dir,
            data_dir=wanted.data_dir,
            debug=wanted.debug,
        )
        return Outcome(paper, run_paper(paper, wanted.preset, config, options, reporter))
    except LabError as error:
        if wanted.debug:
            traceback.print_exc()
        return Outcome(paper, error=in_one_line(error), exit_code=2)
    except Exception as error:  # one paper's crash must not take the others with it
        told = f"{type(error).__name__}: {in_one_line(error)}"
        with contextlib.suppress(LabError):
            path = write_atomically(folder / CRASH_FILE, traceback.format_exc())
            told = f"{told} (traceback in {path})"
        return Outcome(paper, error=told, exit_code=1)
    finally:
        _forget_compiled()


def _is_same_run(folder: Path, paper: str, config: Any) -> bool:
    try:
        earlier = read_config(folder)
    except CorruptFileError:
        return False
    if earlier is None:
        return False
    return earlier["code"] == papers.code_version(paper) and earlier["config"] == plain(config)


def _finished(folder: Path) -> Result | None:
    """The result of a finished run; a damaged one is removed, to be made again."""
    path = folder / "result.json"
    try:
        return Result.load(path)
    except FileNotFoundError:
        return None
    except CorruptFileError:
        path.unlink()
        return None


def _forget_compiled() -> None:
    """Frees the compiled programs of the paper that is done: the next one shares none."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def _print_outcome(output: Console, outcome: Outcome) -> None:
    if outcome.result is None:
        line = f"{outcome.paper}: error: {outcome.error}"
        output.print(Text(line, style="red"), soft_wrap=True)
        return
    kept = ", kept from before" if outcome.is_kept else ""
    seconds = f"{outcome.result.seconds:.1f} s"
    line = f"{outcome.paper}: {counts_in_words(outcome.result)} ({seconds}{kept})"
    output.print(Text(line), soft_wrap=True)
