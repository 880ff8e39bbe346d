"""Runs compositions from the command line, each in a run folder of its own."""

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import compositions
from experiments.command import guarded, parse, prepare
from experiments.progress import console, shown
from experiments.show import print_result
from lab.report import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every composition."""

    runs_dir: Path = Path("runs")
    """Folder that holds all runs."""
    debug: bool = False
    """Show the traceback of an error."""


def launch(name: str) -> int:
    """`python -m experiments.compositions.<name> [overrides]`; returns the exit code."""
    prepare()
    args = sys.argv[1:]
    return guarded(lambda: _parse_and_run(name, args), args)


def launch_all(args: list[str]) -> int:
    """`python -m experiments.compositions`; returns the exit code."""
    prepare()
    prog = "python -m experiments.compositions"

    def run_all() -> int:
        options = parse(Options, args, prog=prog, description=compositions.__doc__)
        for name in compositions.NAMES:
            run(name, load(name).Config(), options)
        return 0

    return guarded(run_all, args)


def load(name: str) -> Any:
    """The module of a composition."""
    return importlib.import_module(f"experiments.compositions.{name}")


def run(name: str, config: Any, options: Options) -> None:
    """Runs one composition and prints what it found."""
    composition, output = load(name), console()
    with shown(output) as reporter:
        opened = Run.open(
            options.runs_dir, compositions.FOLDER, name, "default", config, reporter=reporter
        )
        result = opened.finish(composition.main(config, opened))
    print_result(output, result, opened.folder)


def _parse_and_run(name: str, args: list[str]) -> int:
    composition = load(name)
    flat = tyro.conf.arg(name="")
    parts = [("config", composition.Config), ("options", Options)]
    command = dataclasses.make_dataclass("Command", [(n, Annotated[t, flat]) for n, t in parts])
    parsed = parse(
        command,
        args,
        prog=f"python -m experiments.compositions.{name}",
        description=f"{composition.TITLE}. {composition.SUMMARY}",
        default=command(composition.Config(), Options()),
    )
    run(name, parsed.config, parsed.options)
    return 0
