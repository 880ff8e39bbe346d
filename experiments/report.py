"""`python -m experiments report`: the page of all results."""

import dataclasses
import sys
from pathlib import Path

from experiments.command import in_one_line, parse
from experiments.compositions import FOLDER
from lab.errors import CorruptFileError
from lab.files import write_atomically
from lab.report import Result
from lab.report.page import Finished, render

_ABOUT = "Builds one self-contained HTML page of the finished runs and says where it is."
KEPT_RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Options of `python -m experiments report`."""

    runs_dir: Path = Path("runs")
    """Folder that holds all runs."""
    output: Path | None = None
    """The page to write; by default report.html in the folder of runs."""
    debug: bool = False
    """Show the traceback of an error."""


def run(args: list[str]) -> int:
    """Builds the page; returns 0, or 2 where a result could not be read."""
    options = parse(ReportOptions, args, prog="python -m experiments report", description=_ABOUT)
    page, problems = build(options.runs_dir, options.output or options.runs_dir / "report.html")
    print(f"report: {page.resolve()}")
    return 2 if problems else 0


def build(runs_dir: Path, output: Path) -> tuple[Path, list[str]]:
    """Writes the page; returns its path and what could not be read, which the page tells too.

    The results kept with the code stand in for presets that were not run here.

    Raises: StorageError.
    """
    found, problems = [], []
    for path in sorted(runs_dir.glob("*/*/result.json")) + sorted(KEPT_RESULTS.glob("*.json")):
        try:
            result = Result.load(path)
        except CorruptFileError as error:
            problems.append(in_one_line(error))
            print(f"error: {problems[-1]}", file=sys.stderr)
            continue
        if path.parent != KEPT_RESULTS:
            found.append(Finished(result, path.parent))
        elif not _has(found, result):
            found.append(Finished(result, None))
    together = [finished for finished in found if finished.result.paper == FOLDER]
    papers = [finished for finished in found if finished.result.paper != FOLDER]
    return write_atomically(output, render(papers, problems, together)), problems


def _has(found: list[Finished], result: Result) -> bool:
    same = (result.paper, result.preset)
    return any((other.result.paper, other.result.preset) == same for other in found)
