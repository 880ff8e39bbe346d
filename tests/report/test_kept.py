import json

import numpy as np
import pytest

from lab.errors import CorruptFileError, InvalidInputError
from lab.report import Run


def test_a_part_is_computed_once_and_comes_back_as_plain_values(tmp_path):
    run = Run.open(tmp_path, "paper", "quick", "name", {})
    calls = []

    def compute():
        calls.append(1)
        return {"f1": np.array([0.5, 0.25]), "n": 3}

    first = run.kept("cell", compute)
    assert first == {"f1": [0.5, 0.25], "n": 3}
    resumed = Run.open(tmp_path, "paper", "quick", "name", {}, resume=True)
    assert resumed.kept("cell", compute) == first
    assert len(calls) == 1


def test_a_new_run_computes_again(tmp_path):
    Run.open(tmp_path, "paper", "quick", "name", {}).kept("cell", lambda: 1)
    assert Run.open(tmp_path, "paper", "quick", "name", {}).kept("cell", lambda: 2) == 2


def test_a_damaged_part_and_a_bad_name_are_errors(tmp_path):
    run = Run.open(tmp_path, "paper", "quick", "name", {})
    run.kept("cell", lambda: 1)
    (run.checkpoints / "cell.json").write_text('{"a": ')
    with pytest.raises(CorruptFileError, match="delete it"):
        run.kept("cell", lambda: json)
    with pytest.raises(InvalidInputError, match="cannot name a file"):
        run.kept("a/b", lambda: 1)
