import dataclasses
import io

import pytest
from rich.console import Console

from experiments import data
from lab.data import catalogue
from lab.data.entries import ENTRIES, PublicFile
from lab.errors import DatasetNotFoundError, InvalidInputError
from tests.data.loopback import Loopback, serving


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    for name in ("LAB_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_listing_says_what_is_here_and_how_to_get_the_rest(tmp_path, capsys):
    (tmp_path / "kodak").mkdir()
    (tmp_path / "kodak" / "kodak24.zip").write_bytes(b"")
    assert data.run(["--data-dir", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == ENTRIES.keys()
    assert f"present   {tmp_path}/kodak/kodak24.zip" in lines["kodak"]
    assert lines["cora"].endswith("missing   python -m experiments data --fetch cora")
    assert "built in" in lines["karate_club"]


def test_listing_on_a_terminal_names_licences_and_the_cache_folder():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=250)
    data.show(data.survey(), console)
    assert "MIT" in output.getvalue()
    assert str(catalogue.fetched_dir()) in output.getvalue()


def test_fetch_brings_a_set(monkeypatch, capsys):
    with serving(b"content", Loopback.truncated, Loopback.good) as server:
        file = PublicFile(server.url, "coauthor/ms_academic_cs.npz")
        changed = dataclasses.replace(ENTRIES["coauthor_cs"], files=(file,))
        monkeypatch.setitem(ENTRIES, "coauthor_cs", changed)
        assert data.run(["--fetch", "coauthor_cs"]) == 0
    path = catalogue.locate("coauthor_cs")
    assert path.read_bytes() == b"content"
    assert str(path) in capsys.readouterr().out


def test_fetch_shows_bars_on_a_terminal(monkeypatch):
    output = io.StringIO()
    with serving(b"x" * 100_000, Loopback.good) as server:
        file = PublicFile(server.url, "coauthor/ms_academic_cs.npz")
        changed = dataclasses.replace(ENTRIES["coauthor_cs"], files=(file,))
        monkeypatch.setitem(ENTRIES, "coauthor_cs", changed)
        data.fetch(("coauthor_cs",), Console(file=output, force_terminal=True, width=100))
    assert "ms_academic_cs.npz" in output.getvalue()
    assert "100.0/100.0 kB" in output.getvalue()


def test_unknown_name_stops_before_the_first_download():
    with pytest.raises(InvalidInputError, match="no data set 'coraa'"):
        data.run(["--fetch", "cora", "coraa"])
    with pytest.raises(DatasetNotFoundError):
        catalogue.locate("cora")
