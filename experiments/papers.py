"""The papers that exist here, and what an experiment module must offer."""

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import experiments
import lab
import lab.papers
from lab.errors import InvalidInputError, require
from lab.report import Result, Run

_REQUIRED = ("TITLE", "SUMMARY", "Config", "PRESETS", "main")


class Experiment(Protocol):
    """What `experiments/<paper>.py` offers.

    Optional beside these: `NEEDS`, preset to the names of the data sets it needs; `VERBS`, name to
    a function of the remaining arguments that returns an exit code; `speed_cases()`, which yields
    `experiments.speed.SpeedCase`s.
    """

    TITLE: str
    SUMMARY: str
    Config: type
    PRESETS: Mapping[str, Any]
    main: Callable[[Any, Run], Result]


def names() -> list[str]:
    """Papers with rooms in lab.papers and an experiment here, in alphabetical order."""
    rooms = {module.name for module in pkgutil.iter_modules(lab.papers.__path__)}
    wired = {module.name for module in pkgutil.iter_modules(experiments.__path__)}
    return sorted(rooms & wired)


def rooms(name: str) -> Path:
    """The folder `lab/papers/<name>`. Raises: InvalidInputError for an unknown paper."""
    require(
        name in names(),
        f"there is no paper {name!r} here; there are: {', '.join(names()) or 'none yet'}",
    )
    return next(
        Path(folder) / name for folder in lab.papers.__path__ if (Path(folder) / name).is_dir()
    )


def load(name: str) -> Experiment:
    """Imports a paper's experiment.

    Raises: InvalidInputError for an unknown paper, or a module that lacks a part.
    """
    rooms(name)
    module = importlib.import_module(f"experiments.{name}")
    missing = [part for part in _REQUIRED if not hasattr(module, part)]
    require(not missing, f"experiments.{name} lacks {', '.join(missing)}")
    return module


def preset(experiment: Experiment, name: str) -> Any:
    """The configuration of a preset. Raises: InvalidInputError for an unknown one."""
    if name not in experiment.PRESETS:
        known = ", ".join(experiment.PRESETS)
        raise InvalidInputError(f"there is no preset {name!r}; there are: {known}")
    return experiment.PRESETS[name]


def needs(experiment: Experiment, preset_name: str) -> tuple[str, ...]:
    """Names of the data sets that a preset needs; none where it makes its own."""
    return tuple(getattr(experiment, "NEEDS", {}).get(preset_name, ()))


def verbs(experiment: Experiment) -> dict[str, Callable[[list[str]], int]]:
    """The paper's own commands beside its presets."""
    return dict(getattr(experiment, "VERBS", {}))


def code_version(name: str) -> str:
    """Digest of the sources that a paper's numbers depend on: its own and the shared rooms."""
    digest = hashlib.sha256()
    for file in sorted(_sources(name)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _sources(name: str) -> Iterable[Path]:
    library = Path(lab.__file__).parent
    for file in library.rglob("*.py"):
        if "papers" not in file.relative_to(library).parts:
            yield file
    for package in (lab.papers, experiments):
        for folder in map(Path, package.__path__):
            yield from (folder / name).rglob("*.py")
            if (folder / f"{name}.py").is_file():
                yield folder / f"{name}.py"


def first_paragraph(described: ModuleType | type | Any) -> str:
    """The first paragraph of a docstring on one line, empty where there is none."""
    text = (getattr(described, "__doc__", None) or "").strip()
    return " ".join(text.split("\n\n")[0].split())
