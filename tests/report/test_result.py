"""Results and their file."""

import json
import math

import numpy as np
import pytest

from lab.errors import CorruptFileError, InvalidInputError
from lab.report import Claim, Measurement, Result, Table
from lab.report.plain import dotted, plain
from tests.report.example import example_result


def test_result_survives_its_file(tmp_path):
    result = example_result()
    loaded = Result.load(result.save(tmp_path / "deep" / "result.json"))
    assert loaded == result
    assert [claim.verdict for claim in loaded.claims] == ["holds", "not tested at this scale"]
    assert loaded.tables[0].rows[0][1] == Measurement.of([0.7, 0.8])


def test_numbers_that_are_not_finite_survive_in_strict_json(tmp_path):
    claim = Claim("C1", "finite", "1", Measurement.of([math.inf, 1.0]))
    path = example_result(claims=[claim], figures=[]).save(tmp_path / "result.json")

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    loaded = Result.load(path).claims[0]
    assert (loaded.measured.mean, loaded.verdict) == (math.inf, "fails")
    assert math.isnan(loaded.measured.std)


def test_truncated_result_is_corrupt_wherever_it_is_cut(tmp_path):
    path = example_result().save(tmp_path / "result.json")
    text = path.read_text()
    for end in range(0, len(text.rstrip()), 97):
        path.write_text(text[:end])
        with pytest.raises(CorruptFileError, match=r"result\.json is not a result"):
            Result.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("schema", 99), ("claims", [{"id": "C1"}]), ("tables", 3), ("extra", 1), ("seconds", "long")],
)
def test_result_of_another_form_is_corrupt(tmp_path, name, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(example_result().to_json()) | {name: value}))
    with pytest.raises(CorruptFileError):
        Result.load(path)


def test_typed_in_verdict_is_found_out(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(example_result().to_json().replace("not tested at this scale", "holds"))
    with pytest.raises(CorruptFileError, match="C2 says 'holds'"):
        Result.load(path)


def test_binary_rubbish_is_corrupt(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"\xff\xfe\x00 rubbish")
    with pytest.raises(CorruptFileError):
        Result.load(path)


def test_claims_need_ids_of_their_own():
    with pytest.raises(InvalidInputError, match="C1"):
        example_result(claims=[Claim("C1", "a", "1", 1.0), Claim("C1", "b", "1", 1.0)])


def test_ragged_table_is_refused():
    with pytest.raises(InvalidInputError, match="has 2 columns, not 1"):
        Table("F1", ["method", "F1"], [["mean"]])


def test_plain_knows_arrays_paths_and_nesting(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(3), "c": (tmp_path, None), "d": math.nan}
    assert plain(value) == {"a": 0.5, "b": [0, 1, 2], "c": [str(tmp_path), None], "d": "nan"}


def test_plain_refuses_functions():
    with pytest.raises(InvalidInputError, match="function"):
        plain({"loss": test_plain_refuses_functions})


def test_dotted_names_reach_every_leaf():
    assert dict(dotted({"a": {"b": {"c": 1}, "d": []}, "e": {}})) == {
        "a.b.c": 1,
        "a.d": [],
        "e": {},
    }
