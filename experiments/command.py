"""The command line: `python -m experiments` and `python -m experiments.<paper>`."""

import dataclasses
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import papers
from experiments.progress import console, shown
from experiments.show import print_result
from lab.errors import InvalidInputError, LabError, NonFiniteError, require
from lab.files import held_alone
from lab.report import Result, Run
from lab.report.run import Reporter

# Command to the module whose `run(args)` does it, imported when it is called for.
COMMANDS = {
    "report": "report",
    "data": "data",
    "speed": "speed",
    "list": "listing",
    "readme": "readme",
    "new-paper": "new_paper",
}
ABOUT_PRESETS = {
    "quick": "embedded data, at most 90 s on two CPU cores",
    "bench": "real data at reduced scale, about 20 minutes on two CPU cores",
    "paper": "the paper's data and settings, for accelerators",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that every experiment has."""

    name: str = "default"
    """Name of the run: its folder is <runs-dir>/<paper>/<preset>-<name>."""
    resume: bool = False
    """Go on from the last checkpoint of the same run instead of starting over."""
    runs_dir: Path = Path("runs")
    """Folder that holds all runs."""
    data_dir: Path | None = None
    """Folder of data sets; by default $LAB_DATA_DIR, then where tensorflow-datasets keeps its."""
    debug: bool = False
    """Show the traceback of an error."""


def main(args: list[str]) -> int:
    """`python -m experiments [command] ...`; returns the exit code."""
    prepare()
    if not args or args[0].startswith("-"):
        from experiments import everything

        return guarded(lambda: everything.run(args), args)
    return guarded(lambda: _dispatch(args[0], args[1:]), args)


def paper_main(name: str, args: list[str] | None = None) -> int:
    """`python -m experiments.<name> [preset or verb] [overrides]`; returns the exit code."""
    prepare()
    arguments = sys.argv[1:] if args is None else args
    return guarded(lambda: _run_command(name, arguments), arguments)


def prepare() -> None:
    """Keeps compiled programs between runs, and native log lines out of the way."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    cache = os.environ.get("LAB_CACHE_DIR") or Path.home() / ".cache" / "tenfold"
    settings = {
        "jax_compilation_cache_dir": str(Path(cache).expanduser() / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.05,
    }
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        os.environ[name.upper()] = str(value)
        if "jax" in sys.modules:  # it read its environment when it was imported
            sys.modules["jax"].config.update(name, value)


def guarded(action: Callable[[], int], args: list[str]) -> int:
    """Runs an action: an expected error or an interrupt becomes one line and an exit code."""
    try:
        return action()
    except LabError as error:
        if "--debug" in args:
            traceback.print_exc()
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def in_one_line(error: BaseException) -> str:
    """The message of an error on one line, with the step where it has one."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, NonFiniteError) and error.step is not None:
        is_told = f"step {error.step}" in text
        return text if is_told else f"{text} (step {error.step})"
    return text


def parse(kind: type, args: list[str], *, prog: str, description: str, default: Any = None) -> Any:
    """Arguments as a typed object; leaves by SystemExit for --help (0) and bad arguments (2)."""
    given = {} if default is None else {"default": default}
    return tyro.cli(kind, args=args, prog=prog, description=description, **given)


def run_paper(
    name: str, preset: str, config: Any, options: Options, reporter: Reporter | None = None
) -> Result:
    """Runs one experiment in its run folder, or returns what a finished run found on --resume.

    Raises: LabError for whatever the experiment or the folder has to complain about.
    """
    experiment = papers.load(name)
    folder = options.runs_dir / name / f"{preset}-{options.name}"
    with held_alone(folder.with_name(f".{folder.name}.lock")):
        run = Run.open(
            options.runs_dir,
            name,
            preset,
            options.name,
            config,
            resume=options.resume,
            data_dir=options.data_dir,
            code=papers.code_version(name),
            reporter=reporter,
        )
        if run.resumed and run.result_path.exists():
            return Result.load(run.result_path)
        return run.finish(experiment.main(config, run))


def _dispatch(command: str, args: list[str]) -> int:
    if command in papers.names():
        return _run_command(command, args)
    if command in COMMANDS:
        return importlib.import_module(f"experiments.{COMMANDS[command]}").run(args)
    known = ", ".join([*COMMANDS, *papers.names()])
    raise InvalidInputError(f"there is no command {command!r}; there are: {known}")


def _run_command(name: str, args: list[str]) -> int:
    experiment = papers.load(name)
    verbs = papers.verbs(experiment)
    first = args[0] if args and not args[0].startswith("-") else None
    if first in verbs:
        return verbs[first](args[1:])
    known = ", ".join([*experiment.PRESETS, *verbs])
    require(
        first is None or first in experiment.PRESETS,
        f"{name} has no preset or command {first!r}; there are: {known}",
    )
    preset = first or "quick"
    config, options = parse_paper(experiment, name, preset, args[1:] if first else args)
    output = console()
    try:
        with shown(output) as reporter:
            result = run_paper(name, preset, config, options, reporter)
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on", file=sys.stderr)
        return 130
    folder = options.runs_dir / name / f"{preset}-{options.name}"
    print_result(output, result, folder)
    return 0


def parse_paper(
    experiment: papers.Experiment, name: str, preset: str, args: list[str]
) -> tuple[Any, Options]:
    """The preset's configuration with the overrides applied, and the common options."""
    flat = tyro.conf.arg(name="")
    parts = [("config", experiment.Config), ("options", Options)]
    command = dataclasses.make_dataclass("Command", [(n, Annotated[t, flat]) for n, t in parts])
    parsed = parse(
        command,
        args,
        prog=f"python -m experiments.{name} {preset}",
        description=_description(experiment, name),
        default=command(papers.preset(experiment, preset), Options()),
    )
    return parsed.config, parsed.options


def _description(experiment: papers.Experiment, name: str) -> str:
    title = f"{experiment.TITLE}. {experiment.SUMMARY}"
    lines = [title, "", "Presets and commands, named first on the line (quick by default):"]
    about = {preset: _about_preset(experiment, preset) for preset in experiment.PRESETS}
    about |= {verb: papers.first_paragraph(f) for verb, f in papers.verbs(experiment).items()}
    width = max(map(len, about))
    lines += [f"  {first:{width}}  {text}" for first, text in about.items()]
    example = f"python -m experiments.{name} bench --name mine"
    return "\n".join([*lines, "", f"The options below override the preset: {example}"])


def _about_preset(experiment: papers.Experiment, preset: str) -> str:
    data = papers.needs(experiment, preset)
    about = ABOUT_PRESETS.get(preset, "")
    return f"{about}; needs {', '.join(data)}" if data else about
