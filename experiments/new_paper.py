"""`python -m experiments new-paper <slug>`: the rooms of a paper, filled with a small start."""

import dataclasses
import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import tyro

import lab
from experiments.command import COMMANDS, parse
from lab.errors import InvalidInputError, require
from lab.files import write_atomically

ROOT = Path(lab.__file__).resolve().parents[1]
TEMPLATES = Path(__file__).parent / "templates"
LONGEST = {"slug": 24, "title": 70, "summary": 85}

_ABOUT = """Makes the rooms of a new paper in this checkout, filled with a small network that works.

Nothing that exists is touched. The golden test fails until outputs of the official code are there;
CONTRIBUTING.md says what comes next."""

_NEXT = """{count} files for {slug}; what works already, and what waits:
  python -m experiments.{slug}                 the quick preset, on generated digits
  pytest tests/papers/{slug} tests/experiments/test_{slug}.py
  pytest tests/golden -k {slug}                fails until its golden files are there
  python -m experiments readme                 puts the paper into the README's table
CONTRIBUTING.md says how to go on."""


@dataclasses.dataclass(frozen=True)
class NewPaper:
    """Options of `python -m experiments new-paper`."""

    slug: Annotated[str, tyro.conf.Positional]
    """Name of the package: lower-case letters, digits and _, at most 24."""
    title: str = ""
    """The paper in a few words; by default the name in words."""
    summary: str = ""
    """One sentence about what it does."""
    arxiv: str = "0000.00000"
    """Its arXiv number."""
    debug: bool = False
    """Show the traceback of an error."""


def run(args: list[str]) -> int:
    """Makes the rooms and says how to go on; returns the exit code."""
    options = parse(NewPaper, args, prog="python -m experiments new-paper", description=_ABOUT)
    made = make(options, ROOT)
    for path in made:
        print(path.relative_to(ROOT))
    print(_NEXT.format(count=len(made), slug=options.slug))
    return 0


def make(paper: NewPaper, root: Path) -> list[Path]:
    """Writes every template into the checkout `root`; returns the files.

    Raises: InvalidInputError for a bad or taken name, a text that does not fit a line, or a root
      that is no checkout; StorageError.
    """
    files = render(_settled(paper, root))
    taken = [str(path) for path in files if (root / path).exists()]
    require(not taken, f"{paper.slug!r} has files already, which stay as they are: {taken}")
    return [write_atomically(root / path, text) for path, text in files.items()]


def render(values: dict[str, str]) -> dict[Path, str]:
    """The files of a paper, path relative to the checkout to text.

    Args: values, for `$slug`, `$title`, `$summary` and `$arxiv`; a template's own path holds `slug`
      in place of `$slug`.
    """
    files = {}
    for template in sorted(TEMPLATES.rglob("*.template")):
        path = template.relative_to(TEMPLATES).with_suffix("").as_posix()
        text = template.read_text(encoding="utf-8")
        files[Path(path.replace("slug", values["slug"]))] = Template(text).substitute(values)
    return files


def _settled(paper: NewPaper, root: Path) -> dict[str, str]:
    """The values of the templates, checked."""
    slug, words = paper.slug, paper.slug.replace("_", " ").capitalize()
    is_name = re.fullmatch(r"[a-z][a-z0-9_]*", slug) and not keyword.iskeyword(slug)
    if not is_name or len(slug) > LONGEST["slug"]:
        raise InvalidInputError(
            f"{slug!r} cannot name a paper: lower-case letters, digits and _, a letter first, at "
            f"most {LONGEST['slug']}, no keyword of Python"
        )
    require(
        (root / "pyproject.toml").is_file(),
        f"{root} is no checkout of the repository; clone it and install with pip install -e .",
    )
    modules = {path.stem for path in (root / "experiments").iterdir()} | set(COMMANDS)
    require(slug not in modules, f"experiments has a module or command {slug!r}; choose another")
    values = {
        "slug": slug,
        "title": paper.title or words,
        "summary": paper.summary or f"{words}, in a sentence.",
        "arxiv": paper.arxiv,
    }
    for name, text in values.items():
        too_long = len(text) > LONGEST.get(name, 20)
        if too_long or re.search(r"[\"\\\n]", text):
            raise InvalidInputError(
                f"{name} is {text!r}: one line of at most {LONGEST.get(name, 20)} characters "
                'without " and \\'
            )
    return values
