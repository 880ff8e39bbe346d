"""One case for every entry of every golden manifest: the library against the official code."""

import functools
import importlib
import os
import pkgutil
from pathlib import Path

import pytest

from tests.golden import kinds
from tests.golden.comparison import disagreements
from tests.golden.entries import SHIPPED_DIR, Entry, golden_dir, read_entries, read_manifest


@functools.cache
def handlers(slug: str) -> dict:
    """kind -> handler of one paper: the `KINDS` of all modules `kinds/<slug>*.py` together."""
    merged = {}
    for module in pkgutil.iter_modules(kinds.__path__):
        if module.name == slug or module.name.startswith(f"{slug}_"):
            merged |= importlib.import_module(f"{kinds.__name__}.{module.name}").KINDS
    return merged


def run_entry(entry: Entry, handlers: dict) -> None:
    """Computes an entry and compares it; fails with every disagreement."""
    if entry.kind not in handlers:
        pytest.fail(f"no handler in tests/golden/kinds for {entry.kind!r} of {entry.slug}")
    problems = disagreements(entry, handlers[entry.kind](entry))
    assert not problems, f"{entry.id}\n" + "\n".join(problems)


def skip_without_data(entry: Entry) -> None:
    """Skips an entry whose data files are not on this machine."""
    data_dir = os.environ.get("LAB_DATA_DIR", "")
    missing = [
        name for name in entry.data_files if not (data_dir and Path(data_dir, name).exists())
    ]
    if missing:
        pytest.skip(
            f"needs {', '.join(missing)} below $LAB_DATA_DIR ({data_dir or 'not set'}); "
            "`python -m experiments data` says how to get it"
        )


def as_case(entry: Entry):
    marks = [pytest.mark.real_data] if entry.data_files else []
    if any("package" in value for value in entry.config.values() if isinstance(value, dict)):
        marks.append(pytest.mark.slow)  # a whole published model, out of a package
    return pytest.param(entry, id=entry.id, marks=marks)


ENTRIES = read_entries(golden_dir())
SHIPPED = sorted(path.parent for path in SHIPPED_DIR.glob("*/manifest.json"))


def test_golden_folder_holds_entries():
    assert ENTRIES, f"no manifest with entries of a built paper below {golden_dir()}"


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_every_shipped_entry_has_its_file(folder):
    files = {entry["file"] for entry in read_manifest(folder)["entries"]}
    missing = sorted(file for file in files if not (folder / file).is_file())
    assert not missing, f"{folder} lacks {missing} (CONTRIBUTING.md, Golden files)"


@pytest.mark.parametrize("entry", [as_case(entry) for entry in ENTRIES])
def test_agrees_with_the_official_code(entry):
    skip_without_data(entry)
    run_entry(entry, handlers(entry.slug))
