"""Progress for people: one calm live display in a terminal, a few plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lab.report import format_number
from lab.report.run import Reporter

_SECONDS_BETWEEN_REFRESHES = 0.1
_SECONDS_BETWEEN_LINES = 15.0


def console() -> Console:
    """Standard output; wide enough for tables where it is no terminal."""
    if sys.stdout.isatty():
        return Console()
    return Console(width=120, soft_wrap=False)


@contextlib.contextmanager
def shown(output: Console) -> Iterator[Reporter]:
    """A reporter for the block: live in a terminal, plain lines elsewhere."""
    if not output.is_terminal:
        yield PlainReporter(output)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[info]}", style="dim"),
    )
    with Progress(*columns, console=output, transient=True) as progress:
        yield LiveReporter(progress)


class LiveReporter:
    """A bar a task in a rich display; a task's bar leaves with it."""

    def __init__(self, progress: Progress):
        self._progress = progress

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator["PacedTask"]:
        """Shows a bar for the block."""
        bar = self._progress.add_task(description, total=total, count="", info="")

        def show(task: PacedTask) -> None:
            texts = {"count": task.count(), "info": task.info()}
            self._progress.update(bar, completed=task.done, **texts)

        task = PacedTask(total, show, _SECONDS_BETWEEN_REFRESHES)
        show(task)
        try:
            yield task
        finally:
            self._progress.remove_task(bar)


class PlainReporter:
    """A line when a counted task is done, and one now and then while a long one goes on."""

    def __init__(self, output: Console):
        self._output = output

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator["PacedTask"]:
        """Prints lines about the block."""

        def show(task: PacedTask) -> None:
            parts = [description, task.count(), f"{task.seconds:.1f} s", task.info()]
            self._output.print("  ".join(filter(None, parts)), highlight=False, markup=False)

        task = PacedTask(total, show, _SECONDS_BETWEEN_LINES)
        yield task
        if total is not None:
            show(task)


class PacedTask:
    """Counts what is done and calls `show(task)` at most once an interval.

    The values of `info` are only read when they are shown: reading an array waits for the device.
    """

    def __init__(self, total: float | None, show: Any, seconds_between: float):
        self.done, self.total = 0.0, total
        self._show, self._between = show, seconds_between
        self._info: dict[str, Any] = {}
        self._start = self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the task began."""
        return time.monotonic() - self._start

    def advance(self, n: float = 1, **info: Any) -> None:
        """Marks n more units as done; `info` is shown beside."""
        self.done += n
        self._info |= info
        now = time.monotonic()
        if now - self._last >= self._between:
            self._last = now
            self._show(self)

    def count(self) -> str:
        """ "120/500", or "120" where the total is not known."""
        if self.total is None:
            return f"{self.done:g}" if self.done else ""
        return f"{self.done:g}/{self.total:g}"

    def info(self) -> str:
        """ "loss=0.31", the latest values."""
        return " ".join(f"{name}={_text(value)}" for name, value in self._info.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else format_number(value)
