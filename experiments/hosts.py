"""Several processes, on one machine or many, as one run of a paper.

    python -m experiments.<paper> bench --coordinator host:port --num-processes 4 --process-id 0

Every process is given the same arguments but for its id. `--coordinator auto` lets JAX find the
others where it can (Slurm, Kubernetes, Cloud TPU, MPI). The first process writes the run folder and
shows progress; the checkpoints must lie on a disk that all of them see.
"""

import contextlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

import jax

from experiments import command
from lab.errors import InvalidInputError, LabError, require
from lab.report import Run
from lab.train.devices import largest_over_processes, start_distributed

USAGE = "--coordinator host:port --num-processes N --process-id i (or --coordinator auto)"
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service")
_shared_runs: list[Path] = []


def paper_main(name: str, args: list[str] | None = None) -> int:
    """`command.paper_main` for a paper that can run on several processes; returns the exit code.

    A process that loses another one says so in a line and leaves at once with code 3.
    """
    arguments = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(arguments):
        print(f"Several processes as one run: {USAGE}\n")
    options, rest = _taken_apart(arguments)
    if not options:
        return command.paper_main(name, rest)
    code = _run_joined(name, options, rest)
    if code:
        # The others are waiting for this process; leaving by sys.exit would wait for them.
        sys.stderr.flush()
        os._exit(code)
    return code


def _run_joined(name: str, options: dict[str, str], rest: list[str]) -> int:
    try:
        return command.guarded(lambda: _join(options), rest) or _run(name, rest)
    except (RuntimeError, ValueError) as error:
        if "--debug" in rest or not _is_loss(error):
            traceback.print_exc()
            return 1
        reason = str(error).split("[")[0].strip(" :\n")
        print(
            f"error: process {jax.process_index()} of {jax.process_count()}: another process of "
            "this run has gone, or cannot be reached; start all of them again with --resume to go "
            f"on from the last checkpoint ({reason})",
            file=sys.stderr,
        )
        return 3
    except BaseException:
        traceback.print_exc()
        return 1


def _is_loss(error: Exception) -> bool:
    """Whether an error is that of a collective that has lost its other end.

    jax raises a RuntimeError of its own or, where the call itself fails, a ValueError.
    """
    return any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def checkpoints_of(run: Run) -> Path:
    """The checkpoint folder of a run: that of the first process, which all processes share."""
    if not _shared_runs:
        return run.checkpoints
    return _shared_runs[0] / run.paper / run.folder.name / "checkpoints"


def is_first() -> bool:
    """Whether this process writes what all of them have in common."""
    return jax.process_index() == 0


def wait_for_all() -> None:
    """Returns once all processes of the run are here."""
    largest_over_processes(0)


def _taken_apart(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options that join processes, and the other arguments."""
    names = ("--coordinator", "--num-processes", "--process-id")
    options, rest, position = {}, [], 0
    while position < len(arguments):
        name, equals, value = arguments[position].replace("_", "-").partition("=")
        if name not in names:
            rest.append(arguments[position])
        else:
            if not equals:
                position += 1
                value = arguments[position] if position < len(arguments) else ""
            options[name] = arguments[position].partition("=")[2] if equals else value
        position += 1
    return options, rest


def _join(options: dict[str, str]) -> int:
    if options.get("--coordinator") == "auto":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize()
        return 0
    missing = {"--coordinator", "--num-processes", "--process-id"} - options.keys()
    require(not missing, f"{', '.join(sorted(missing))} is missing; give {USAGE}")
    numbers = [options["--num-processes"], options["--process-id"]]
    require(
        all(number.isdecimal() for number in numbers),
        f"--num-processes and --process-id must be whole numbers, got {' and '.join(numbers)}",
    )
    address = options["--coordinator"]
    require(
        address.rpartition(":")[2].isdecimal() and address.rpartition(":")[0] != "",
        f"--coordinator must be host:port, got {address!r}",
    )
    try:
        start_distributed(address, int(numbers[0]), int(numbers[1]))
    except (RuntimeError, ValueError) as error:
        if isinstance(error, LabError):
            raise
        raise InvalidInputError(f"the processes did not find each other: {error}") from error
    return 0


def _run(name: str, rest: list[str]) -> int:
    if is_first():
        return command.paper_main(name, rest)
    _shared_runs[:] = [_runs_dir(rest)]
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w", encoding="utf-8") as nothing,
        contextlib.redirect_stdout(nothing),
    ):
        # The last --runs-dir counts, and a folder of its own keeps this process off the first's.
        return command.paper_main(name, [*rest, "--runs-dir", folder])


def _runs_dir(rest: list[str]) -> Path:
    """What the first process takes as --runs-dir."""
    found = "runs"
    for position, argument in enumerate(rest):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == "--runs-dir":
            found = value if equals else rest[position + 1]
    return Path(found).absolute()
