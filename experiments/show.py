"""Results in the terminal: the claims, the tables, and where the pictures are."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lab.report import FAILS, HOLDS, NOT_TESTED, REPORTED, Result, Table
from lab.report.claims import counted
from lab.report.result import format_cell

STYLES = {HOLDS: "green", FAILS: "red", REPORTED: "cyan", NOT_TESTED: "dim"}


def print_result(output: Console, result: Result, folder: Path) -> None:
    """Prints what a run found and where its files are."""
    output.print(Text(f"{result.title} ({result.preset})", style="bold"))
    output.print(Text(result.summary))
    if result.claims:
        output.print(_claims(result))
    for table in result.tables:
        output.print(_grid(table))
    for note in result.notes:
        output.print(Text(f"note: {note}"))
    output.print(Text(f"{result.seconds:.1f} s on {result.machine}", style="dim"))
    for line in [folder / "result.json", *(folder / figure.path for figure in result.figures)]:
        output.print(Text(str(line), style="dim"), soft_wrap=True)


def counts_in_words(result: Result) -> str:
    """ "3 hold, 1 fails", the verdicts that occur."""
    counts = result.counts().items()
    return ", ".join(counted(verdict, n) for verdict, n in counts if n) or "no claims"


def _claims(result: Result) -> Grid:
    grid = _empty_grid("Claims")
    for column in ("id", "claim", "paper", "measured", "verdict"):
        grid.add_column(column, overflow="fold", no_wrap=column == "id")
    for claim in result.claims:
        statement = f"{claim.statement} ({claim.note})" if claim.note else claim.statement
        verdict = Text(claim.verdict, style=STYLES[claim.verdict])
        cells = (claim.id, statement, claim.paper, format_cell(claim.measured))
        grid.add_row(*map(Text, cells), verdict)
    return grid


def _empty_grid(title: str) -> Grid:
    return Grid(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)


def _grid(table: Table) -> Grid:
    grid = _empty_grid(table.title)
    grid.caption, grid.caption_justify = Text(table.note) if table.note else None, "left"
    for i, column in enumerate(table.columns):
        is_text = all(isinstance(row[i], str) for row in table.rows)
        grid.add_column(Text(column), justify="left" if is_text else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(format_cell(cell)) for cell in row))
    return grid
