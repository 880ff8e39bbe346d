"""Lists the data sets of the catalogue and fetches public ones.

python -m experiments data
python -m experiments data --fetch cora citeseer
"""

import contextlib
import dataclasses
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
from rich.table import Table

from lab.data import catalogue
from lab.errors import DatasetNotFoundError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Lists which data sets are here, which are missing and how to get them."""

    fetch: tuple[str, ...] = ()
    """Names of data sets whose public files shall be downloaded into the cache folder."""
    data_dir: Path | None = None
    """Folder to look in first."""


@dataclasses.dataclass(frozen=True)
class Availability:
    """Whether one data set is at hand."""

    name: str
    title: str
    licence: str
    status: str
    """"present", "built in" or "missing"."""
    where: str
    """Its path, or how to get it."""


def run(args: list[str]) -> int:
    """The `data` verb. Returns the exit code.

    Raises: LabError for unknown names and failed downloads.
    """
    arguments = tyro.cli(
        Arguments, args=args, prog="python -m experiments data", description=Arguments.__doc__
    )
    console = Console()
    if arguments.fetch:
        fetch(arguments.fetch, console)
    else:
        show(survey(arguments.data_dir), console)
    return 0


def survey(data_dir: Path | None = None) -> list[Availability]:
    """What is at hand, for every data set of the catalogue."""
    return [_availability(name, data_dir) for name in catalogue.names()]


def show(rows: list[Availability], console: Console) -> None:
    """Prints a table, or one plain line a data set where the output is no terminal."""
    if not console.is_terminal:
        width = max(len(row.name) for row in rows)
        for row in rows:
            console.file.write(f"{row.name:<{width}}  {row.status:<8}  {row.where}\n")
        return
    table = Table(title="Data sets", caption=f"Fetched files go to {catalogue.fetched_dir()}")
    for heading in ("name", "content", "licence", "status", "where, or how to get it"):
        table.add_column(heading, overflow="fold")
    colours = {"present": "green", "built in": "green", "missing": "yellow"}
    for row in rows:
        status = f"[{colours[row.status]}]{row.status}[/]"
        table.add_row(row.name, row.title, row.licence, status, row.where)
    console.print(table)


def fetch(names: tuple[str, ...], console: Console) -> None:
    """Downloads the public files of the named sets, with progress."""
    for name in names:
        catalogue.entry(name)  # An unknown name is an error before the first download.
    for name in names:
        with _progress(console) as report:
            path = catalogue.fetch_dataset(name, report)
        console.print(f"{name}: {path}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(console: Console):
    """A callback for `fetch_dataset`: bars on a terminal, silence elsewhere."""
    if not console.is_terminal:
        yield None
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def report(file: catalogue.PublicFile, done: int, total: int | None) -> None:
            if file.path not in tasks:
                tasks[file.path] = bars.add_task(Path(file.path).name, total=total)
            bars.update(tasks[file.path], completed=done, total=total)

        yield report


def _availability(name: str, data_dir: Path | None) -> Availability:
    found = catalogue.entry(name)
    if found.is_embedded:
        status, where = "built in", f"lab.data.load({name!r})"
    else:
        try:
            status, where = "present", str(catalogue.locate(name, data_dir))
        except DatasetNotFoundError:
            status, where = "missing", found.command
    return Availability(name, found.title, found.licence, status, where)
