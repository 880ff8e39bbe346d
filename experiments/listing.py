"""`python -m experiments list`: the papers, their presets, and what these need."""

import dataclasses

from rich.table import Table as Grid
from rich.text import Text

from experiments import compositions, papers
from experiments.command import ABOUT_PRESETS, parse
from experiments.progress import console

_ABOUT = "Lists the papers, their presets and commands, and the data sets these need."


@dataclasses.dataclass(frozen=True)
class Listing:
    """Options of `python -m experiments list`."""

    debug: bool = False
    """Show the traceback of an error."""


def run(args: list[str]) -> int:
    """Prints the list; returns the exit code."""
    parse(Listing, args, prog="python -m experiments list", description=_ABOUT)
    output = console()
    for name in papers.names():
        experiment = papers.load(name)
        output.print(Text(f"{name}: {experiment.TITLE}", style="bold"))
        output.print(Text(experiment.SUMMARY))
        grid = Grid(box=None, show_header=False, padding=(0, 2, 0, 0))
        for preset in experiment.PRESETS:
            data = ", ".join(papers.needs(experiment, preset)) or "nothing"
            grid.add_row(f"  {preset}", ABOUT_PRESETS.get(preset, ""), Text(f"needs {data}"))
        for verb, function in papers.verbs(experiment).items():
            grid.add_row(f"  {verb}", Text(papers.first_paragraph(function)), "")
        output.print(grid)
    if not papers.names():
        output.print("there are no papers here yet")
    output.print(Text("Papers put together", style="bold"))
    for name in compositions.NAMES:
        output.print(Text(f"  python -m experiments.compositions.{name}"))
    return 0
