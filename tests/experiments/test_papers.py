"""Which papers there are, and which sources a paper's numbers depend on."""

import shutil

import pytest

import experiments
import lab.papers
from experiments import papers
from experiments.command import parse_paper
from lab.errors import InvalidInputError
from tests.experiments.invented import HERE


@pytest.fixture
def copies(monkeypatch, tmp_path):
    """Rooms and experiment of counting, copied to where they can be changed."""
    shutil.copytree(HERE / "lab_papers", tmp_path / "rooms")
    shutil.copytree(HERE / "experiments", tmp_path / "wiring")
    monkeypatch.setattr(lab.papers, "__path__", [str(tmp_path / "rooms")])
    monkeypatch.setattr(experiments, "__path__", [str(tmp_path / "wiring")])
    return tmp_path


def test_paper_needs_rooms_and_wiring(copies):
    (copies / "wiring" / "lonely.py").write_text("")
    (copies / "rooms" / "unwired").mkdir()
    (copies / "rooms" / "unwired" / "__init__.py").write_text("")
    assert papers.names() == ["counting"]


def test_code_version_follows_the_papers_own_sources_only(copies):
    before = papers.code_version("counting")
    other = copies / "rooms" / "other"
    other.mkdir()
    (other / "__init__.py").write_text("changed = 1")
    assert papers.code_version("counting") == before
    for file in (copies / "rooms/counting/__init__.py", copies / "wiring/counting.py"):
        text = file.read_text()
        file.write_text(text + "\n# changed\n")
        assert papers.code_version("counting") != before
        file.write_text(text)
    assert papers.code_version("counting") == before


def test_unknown_paper_is_told_with_those_there_are(copies):
    with pytest.raises(InvalidInputError, match="no paper 'spelling' here; there are: counting"):
        papers.load("spelling")


def test_experiment_that_lacks_parts_is_told(counting, monkeypatch):
    monkeypatch.delattr(papers.load("counting"), "SUMMARY")
    with pytest.raises(InvalidInputError, match=r"experiments\.counting lacks SUMMARY"):
        papers.load("counting")


@pytest.mark.parametrize("name", papers.names())
def test_every_paper_can_be_overridden_from_the_command_line(name):
    """Settings and common options share one line, so their names must differ."""
    experiment = papers.load(name)
    for preset in experiment.PRESETS:
        config, _ = parse_paper(experiment, name, preset, [])
        assert config == experiment.PRESETS[preset]
