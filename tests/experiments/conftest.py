"""The command line with an invented paper, in this process or in one of its own."""

import dataclasses
import importlib
import os
import subprocess
import sys

import pytest

import experiments
import lab.papers
from experiments import command
from tests.experiments.invented import HERE


@dataclasses.dataclass
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def counting(monkeypatch, tmp_path):
    """Makes the invented paper the only one, in an empty working folder."""
    monkeypatch.setattr(lab.papers, "__path__", [str(HERE / "lab_papers")])
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(HERE / "experiments")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "prepare", lambda: None)  # this process has its cache already
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("experiments.counting", "lab.papers.counting"):
        sys.modules.pop(name, None)
    vars(experiments).pop("counting", None)
    vars(lab.papers).pop("counting", None)


@pytest.fixture
def call(counting, capsys):
    """`call("counting", "bench")` runs a command in this process."""

    def run(*args):
        try:
            code = command.main(list(args))
        except SystemExit as exit:
            code = exit.code or 0
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def launch(tmp_path):
    """`launch("experiments", ...)` starts a command in a process of its own."""

    def start(*args, env=None, through=()):
        return subprocess.Popen(
            [*through, sys.executable, str(HERE / "launch.py"), *args],
            cwd=tmp_path,
            env=os.environ | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
