"""`python -m experiments speed [paper ...]`: what compiling together costs and gains.

A paper offers cases by `speed_cases() -> Iterable[SpeedCase]` in its experiment module.
"""

import contextlib
import dataclasses
import datetime
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from experiments import papers
from experiments.command import parse
from experiments.progress import console, shown
from lab.errors import require
from lab.files import write_atomically
from lab.report import Measurement, commit_in_words, format_number, machine_in_words
from lab.report.plain import plain

_ABOUT = """Measures the compiled runs of the papers that offer speed cases.

Compilation is timed cold, the rest warm; what is compared runs in turns, because machines are
noisy, and a ratio is the median over the turns. A step is one step of one copy (shard, seed,
user ...). Ratios are reported, not judged."""


@dataclasses.dataclass(frozen=True)
class SpeedCase:
    """One workload in up to three ways; each callable runs all of it and returns its arrays.

    Attributes:
      name: the workload in a few words.
      together: every copy in one compiled call.
      one_at_a_time: the same compiled run, a copy after the other.
      python_loop: Python loops over copies and steps around a jitted step.
      num_steps: steps of one copy.
      num_copies: independent copies (shards, seeds, users ...).
      note: what a reader must know of the workload.
    """

    name: str
    together: Callable[[], Any]
    one_at_a_time: Callable[[], Any] | None = None
    python_loop: Callable[[], Any] | None = None
    _: dataclasses.KW_ONLY
    num_steps: int
    num_copies: int = 1
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured of a case.

    Attributes:
      first_seconds: the first call together: tracing, compilation and one run.
      seconds: of a warm call together, median.
      spread: the warm calls as a measurement (mean, std, n).
      steps_per_second: num_steps * num_copies / seconds.
      peak_bytes: highest memory of the device, or of this process on CPU, in the first call.
      python_loop_ratio, one_at_a_time_ratio: their seconds over those together, median of turns.
    """

    paper: str
    case: str
    num_steps: int
    num_copies: int
    first_seconds: float
    seconds: float
    spread: Measurement
    steps_per_second: float
    peak_bytes: int
    python_loop_ratio: float | None = None
    one_at_a_time_ratio: float | None = None
    note: str = ""

    @property
    def compile_seconds(self) -> float:
        """Tracing and compilation: the first call less a warm one."""
        return max(self.first_seconds - self.seconds, 0.0)


@dataclasses.dataclass(frozen=True)
class SpeedOptions:
    """Options of `python -m experiments speed`."""

    papers: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Papers to measure; by default all that offer speed cases."""
    repeats: int = 5
    """Warm turns of each case."""
    budget: float = 120.0
    """Seconds after which a case begins no further turn (it has at least one)."""
    runs_dir: Path = Path("runs")
    """Folder for speed.json."""
    debug: bool = False
    """Show the traceback of an error."""


def run(args: list[str]) -> int:
    """Measures, prints a table and writes `speed.json`; returns the exit code."""
    options = parse(SpeedOptions, args, prog="python -m experiments speed", description=_ABOUT)
    require(options.repeats >= 1, f"--repeats must be at least 1, got {options.repeats}")
    experiments = {name: papers.load(name) for name in options.papers or papers.names()}
    offering = {name: e for name, e in experiments.items() if hasattr(e, "speed_cases")}
    silent = sorted(set(options.papers) - offering.keys())
    require(not silent, f"no speed cases are offered by: {', '.join(silent)}")
    _compile_cold()
    output = console()
    speeds = []
    with shown(output) as reporter:
        for name, experiment in offering.items():
            for case in experiment.speed_cases():
                with reporter.task(f"{name}: {case.name}", options.repeats) as task:
                    speeds.append(
                        measure(name, case, options.repeats, options.budget, task.advance)
                    )
    output.print(_grid(speeds) if speeds else "no paper offers speed cases yet")
    for speed in speeds:
        if speed.note:
            output.print(Text(f"{speed.case}: {speed.note}", style="dim"))
    _print_place(output, _write(options.runs_dir / "speed.json", speeds))
    return 0


def measure(
    paper: str,
    case: SpeedCase,
    repeats: int,
    budget: float = float("inf"),
    turn_done: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Times a case: the first call, then warm turns of all its ways one after the other.

    Args:
      repeats: number of turns; fewer once `budget` seconds are over, at least one.
      turn_done: called after each turn.
      clock: seconds, rising.
    """
    start = clock()
    _forget_peak()
    first = _timed(case.together, clock)
    peak = _peak_bytes()
    rivals = {"python_loop": case.python_loop, "one_at_a_time": case.one_at_a_time}
    rivals = {name: way for name, way in rivals.items() if way is not None}
    for way in rivals.values():
        _timed(way, clock)
    together: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in rivals}
    while len(together) < repeats and (not together or clock() - start < budget):
        together.append(_timed(case.together, clock))
        for name, way in rivals.items():
            ratios[name].append(_timed(way, clock) / together[-1])
        turn_done()
    seconds = statistics.median(together)
    return Speed(
        paper=paper,
        case=case.name,
        num_steps=case.num_steps,
        num_copies=case.num_copies,
        first_seconds=first,
        seconds=seconds,
        spread=Measurement.of(together, "s"),
        steps_per_second=case.num_steps * case.num_copies / seconds,
        peak_bytes=peak,
        note=case.note,
        **{f"{name}_ratio": statistics.median(values) for name, values in ratios.items()},
    )


def _timed(way: Callable[[], Any], clock: Callable[[], float]) -> float:
    import jax

    start = clock()
    jax.block_until_ready(way())
    return clock() - start


def _compile_cold() -> None:
    """Turns the cache of compiled programs off: compilation is part of what is measured."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    jax.clear_caches()


def _forget_peak() -> None:
    """Starts the process's peak memory afresh, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _grid(speeds: Sequence[Speed]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD)
    names = ("case", "copies", "steps", "compile", "warm", "steps/s", "peak memory")
    for name in (*names, "vs Python loop", "vs one at a time"):
        grid.add_column(name, justify="left" if name == "case" else "right", overflow="fold")
    for speed in speeds:
        grid.add_row(
            Text(f"{speed.paper}: {speed.case}"),
            format_number(speed.num_copies),
            format_number(speed.num_steps),
            f"{speed.compile_seconds:.2f} s",
            f"{format_number(speed.seconds)} s",
            format_number(speed.steps_per_second),
            f"{speed.peak_bytes / 2**20:,.0f} MiB",
            _ratio(speed.python_loop_ratio),
            _ratio(speed.one_at_a_time_ratio),
        )
    return grid


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3g}x"


def _write(path: Path, speeds: Sequence[Speed]) -> Path:
    values = {
        "machine": machine_in_words(),
        "commit": commit_in_words(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cases": [plain(speed) | {"compile_seconds": speed.compile_seconds} for speed in speeds],
    }
    return write_atomically(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _print_place(output: Console, path: Path) -> None:
    output.print(Text(f"{machine_in_words()}; {path}", style="dim"), soft_wrap=True)
