"""One run of an experiment and its folder `runs/<paper>/<preset>-<name>/`."""

import contextlib
import dataclasses
import datetime
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from lab.errors import CorruptFileError, require
from lab.files import append_line, storage_errors, write_atomically
from lab.report.plain import dotted, plain
from lab.report.provenance import commit_in_words, machine_in_words
from lab.report.result import Figure, Result

# Where the command line leaves the traceback of a crash, until the run finishes after all.
CRASH_FILE = "crash.txt"
_CONTENTS = ("config.json", "metrics.jsonl", "result.json", "figures", "checkpoints", CRASH_FILE)


class Task(Protocol):
    """One stretch of work that is being shown."""

    def advance(self, n: float = 1, **info: Any) -> None:
        """Marks n more units as done; `info` is shown beside (loss=0.31)."""
        ...


class Reporter(Protocol):
    """Whoever shows progress; the command line brings one."""

    def task(
        self, description: str, total: float | None
    ) -> contextlib.AbstractContextManager[Task]:
        """Opens a stretch of `total` units (None where the number is not known)."""
        ...


class SilentTask:
    """A task that nobody looks at."""

    def advance(self, n: float = 1, **info: Any) -> None:
        """Does nothing."""


class SilentReporter:
    """Shows nothing: the default of a run that is opened from Python."""

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Task]:
        """Opens a task that shows nothing."""
        yield SilentTask()


@dataclasses.dataclass
class Run:
    """An open run. Make one with `Run.open`; `main(config, run)` is given one.

    Attributes:
      folder: where everything of this run lies.
      resumed: whether there is earlier work in the folder to go on from.
      data_dir: the folder of data sets that the user named, or None; for `lab.data.load`.
      reporter: shows progress; silent by default.
    """

    folder: Path
    paper: str
    preset: str
    name: str
    config: dict[str, Any]
    resumed: bool = False
    data_dir: Path | None = None
    code: str = ""
    reporter: Reporter = dataclasses.field(default_factory=SilentReporter)
    _seconds_before: float = 0.0
    _start: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        root: str | Path,
        paper: str,
        preset: str,
        name: str,
        config: Any,
        resume: bool = False,
        *,
        data_dir: str | Path | None = None,
        code: str = "",
        reporter: Reporter | None = None,
    ) -> "Run":
        """Opens `root/paper/preset-name`, emptied of an earlier run unless `resume`.

        Args:
          config: the experiment's configuration, a dataclass or mapping of plain values.
          resume: go on from the checkpoints of an earlier run; an empty folder begins a new one.
          code: digest of the sources, kept beside the configuration.

        Raises: InvalidInputError for a name that is no file name, or where the earlier run had
          another configuration (it names the fields); StorageError.
        """
        for value in (paper, preset, name):
            _require_file_name(value)
        folder = Path(root) / paper / f"{preset}-{name}"
        values = plain(config)
        earlier = read_config(folder) if resume else None
        if earlier is not None:
            _require_same_config(folder, earlier["config"], values)
        else:
            clear(folder)
            described = {"paper": paper, "preset": preset, "name": name, "code": code}
            text = json.dumps(described | {"config": values}, indent=1, ensure_ascii=False)
            write_atomically(folder / "config.json", text + "\n")
        run = cls(folder, paper, preset, name, values, resumed=earlier is not None)
        run.data_dir = None if data_dir is None else Path(data_dir)
        run.code, run.reporter = code, reporter or SilentReporter()
        if run.resumed:
            run._rewrite(run.metrics())
            run._seconds_before = max((line["seconds"] for line in run.metrics()), default=0.0)
        return run

    @property
    def checkpoints(self) -> Path:
        """The folder for saved states; whoever saves makes it."""
        return self.folder / "checkpoints"

    @property
    def result_path(self) -> Path:
        """Where `finish` writes the result."""
        return self.folder / "result.json"

    @property
    def seconds(self) -> float:
        """Wall time of this run so far, earlier parts of a resumed run included."""
        return self._seconds_before + time.monotonic() - self._start

    def log(self, step: int, **metrics: Any) -> None:
        """Appends a line to `metrics.jsonl`: step, seconds since the start, and plain values.

        Raises: StorageError.
        """
        line = plain({"step": step, "seconds": round(self.seconds, 3)} | metrics)
        append_line(self._metrics_path, json.dumps(line, ensure_ascii=False, allow_nan=False))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines logged so far. A last line that a kill cut short is left out.

        Raises: CorruptFileError for any other line that cannot be read.
        """
        try:
            lines = self._metrics_path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return []
        parsed = []
        for number, line in enumerate(lines[:-1], start=1):  # the piece behind the last newline
            try:
                parsed.append(json.loads(line))
            except ValueError as error:
                raise CorruptFileError(
                    f"{self._metrics_path}, line {number} cannot be read: {line[:80]!r}"
                ) from error
        return parsed

    def rewind(self, step: int, **labels: Any) -> None:
        """Forgets the lines after `step` that carry `labels`: what a resumed run logs again."""
        labels = plain(labels)

        def is_kept(line: dict[str, Any]) -> bool:
            is_other = any(line.get(name) != value for name, value in labels.items())
            return is_other or line["step"] <= step

        self._rewrite([line for line in self.metrics() if is_kept(line)])

    def kept(self, name: str, compute: Callable[[], Any]) -> Any:
        """The plain value of a part of the run: of `checkpoints/<name>.json`, else computed.

        A study of many parts goes on from the last one that a killed run finished.

        Args: name, of the part; compute, gives a value of what JSON holds and arrays (which come
          back as lists, also the first time).
        Raises: CorruptFileError, StorageError.
        """
        _require_file_name(name)
        path = self.checkpoints / f"{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps(plain(compute())))
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise CorruptFileError(f"{path} cannot be read: {error}; delete it") from error

    def figure(self, name: str, fig: Any, caption: str, alt: str) -> Figure:
        """Saves a matplotlib figure as `figures/<name>.png` for the result.

        Args:
          caption: printed under the picture.
          alt: what the picture shows, for a reader who cannot see it.

        Raises: InvalidInputError for a name that is no file name or an empty text; StorageError.
        """
        _require_file_name(name)
        require(bool(caption and alt), f"figure {name!r} needs a caption and an alt text")
        picture = io.BytesIO()
        fig.savefig(picture, format="png")
        path = write_atomically(self.folder / "figures" / f"{name}.png", picture.getvalue())
        return Figure(path.relative_to(self.folder).as_posix(), caption, alt)

    @contextlib.contextmanager
    def progress(self, description: str, total: float | None = None) -> Iterator[Task]:
        """Shows a stretch of work: `with run.progress("train", 500) as task: task.advance(10)`."""
        with self.reporter.task(description, total) as task:
            yield task

    def finish(self, result: Result) -> Result:
        """Adds which run this was, and where and when, and writes `result.json`.

        Raises: InvalidInputError for a figure that is not in the run folder; StorageError.
        """
        for figure in result.figures:
            require(
                (self.folder / figure.path).is_file(),
                f"figure {figure.path} is not in {self.folder}: make it with run.figure(...)",
            )
        now = datetime.datetime.now(datetime.UTC)
        whole = dataclasses.replace(
            result,
            paper=self.paper,
            preset=self.preset,
            name=self.name,
            config=self.config,
            seconds=round(self.seconds, 2),
            machine=machine_in_words(),
            commit=commit_in_words(),
            code=self.code,
            date=now.isoformat(timespec="seconds"),
        )
        whole.save(self.result_path)
        (self.folder / CRASH_FILE).unlink(missing_ok=True)
        return whole

    @property
    def _metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(self._metrics_path, text)


def read_config(folder: Path) -> dict[str, Any] | None:
    """What `config.json` of a run folder says (paper, preset, name, code, config), None if absent.

    Raises: CorruptFileError.
    """
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {key: values[key] for key in ("paper", "preset", "name", "code", "config")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path} is not a run's configuration: {error}; start the run without resuming"
        ) from error


def clear(folder: Path) -> None:
    """Removes what a run has written in its folder, and nothing else. Raises: StorageError."""
    with storage_errors(folder):
        for name in _CONTENTS:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _require_same_config(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    before, after = dict(dotted(earlier)), dict(dotted(now))
    changes = []
    for name in sorted(before.keys() | after.keys()):
        was, is_now = (
            repr(values[name]) if name in values else "absent" for values in (before, after)
        )
        if was != is_now:
            changes.append(f"{name} was {was} and is {is_now}")
    require(
        not changes,
        f"{folder} holds a run of another configuration: {', '.join(changes)}; "
        "give this one a --name of its own, or start over without --resume",
    )


def _require_file_name(name: str) -> None:
    require(
        bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name)),
        f"{name!r} cannot name a file: use letters, digits and . _ + -, a letter or digit first",
    )
