"""A golden case can fail: each way in which a result may be wrong is found."""

import numpy as np
import pytest

from tests.golden.comparison import difference, disagreements
from tests.golden.entries import Entry
from tests.golden.test_golden import run_entry

EXACT = {"atol": 0, "rtol": 0, "compared": True}


@pytest.fixture
def entry(tmp_path):
    arrays = {
        "output/y": np.array([1.0, np.nan, 100.0]),
        "output/n": np.array([1, 2]),
        "output/flag": np.array([True]),
        "param_after3/w": np.array([1.0, 2.0]),
        "grad/w": np.array([1e-6, 1.0]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "song.txt").write_bytes(b"x-o")
    fields = {
        "file": "a.npz",
        "kind": "k",
        "prefix": "",
        "config": {"sizes": [3, 4]},
        "compare": ["output/*", "param_after3/*"],
        "tolerance": {"atol": 0, "rtol": 0.01},
        "tolerance_by_key": {"param*": {"atol": 0.1, "rtol": 0, "mask_min_abs_grad": 1e-4}},
        "other_files": {"song": "song.txt"},
    }
    return Entry("paper", tmp_path, fields)


def right():
    return {
        "output/y": np.array([1.005, np.nan, 100.5]),
        "output/n": np.array([1, 2]),
        "output/flag": np.array([True]),
        "param_after3/w": np.array([9.0, 2.05]),
    }


def test_right_values_agree(entry):
    assert disagreements(entry, right()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output/y", np.array([1.02, np.nan, 100.0])),
        ("output/y", np.array([1.0, 0.0, 100.0])),
        ("output/y", np.array([1.0, np.nan, np.nan])),
        ("output/y", np.array([1.0, np.nan])),
        ("output/n", np.array([1.0, 2.0])),
        ("output/n", np.array([1, 3])),
        ("output/flag", np.array([1])),
        ("param_after3/w", np.array([1.0, 2.2])),
    ],
)
def test_wrong_value_shape_or_dtype_fails(entry, key, value):
    problems = disagreements(entry, right() | {key: value})
    assert len(problems) == 1
    assert problems[0].startswith(key)


def test_missing_key_fails(entry):
    values = right()
    del values["output/n"]
    assert disagreements(entry, values) == ["output/n: not computed"]


def test_key_that_is_not_compared_fails(entry):
    problems = disagreements(entry, right() | {"output/z": 1.0})
    assert problems == ["output/z: not a key that this entry compares"]


def test_masked_elements_are_left_out_but_not_all(entry):
    one = np.ma.array([9.0, 0.0, 100.0], mask=[True, True, False])
    assert disagreements(entry, right() | {"output/y": one}) == []
    everything = np.ma.array([9.0, 0.0, 1.0], mask=True)
    assert disagreements(entry, right() | {"output/y": everything}) == [
        "output/y: no element is compared"
    ]


def test_files_and_configuration_values_can_be_compared(entry):
    more = {"song": b"x-o", "config/sizes": np.array([3, 4])}
    assert disagreements(entry, right() | more) == []
    assert len(disagreements(entry, right() | {"song": b"x--", "config/sizes": [3, 5]})) == 2


def test_comparing_nothing_fails(entry):
    empty = Entry("paper", entry.folder, entry.manifest_entry | {"compare": []})
    assert disagreements(empty, {}) == ["nothing was compared"]


def test_unknown_tolerance_rule_is_refused(entry):
    rules = {"*": {"atol": 0, "rtol": 0, "surprise": 1}}
    changed = Entry("paper", entry.folder, entry.manifest_entry | {"tolerance_by_key": rules})
    with pytest.raises(ValueError, match="surprise"):
        disagreements(changed, right())


def test_unknown_kind_fails(entry):
    with pytest.raises(pytest.fail.Exception, match="no handler"):
        run_entry(entry, {"another": lambda _: {}})


def test_disagreement_fails_the_case(entry):
    with pytest.raises(AssertionError, match="output/n"):
        run_entry(entry, {"k": lambda _: right() | {"output/n": np.array([0, 2])}})


@pytest.mark.parametrize(
    ("computed", "expected"),
    [
        ("a", "a"),
        (None, None),
        ({"a": [1, 2.0]}, {"a": [1, 2.0]}),
        ([["a", 1]], [["a", 1]]),
        ((1, 2), [1, 2]),
        ([], []),
    ],
)
def test_equal_json_values_agree(computed, expected):
    assert difference(computed, expected, EXACT) is None


@pytest.mark.parametrize(
    ("computed", "expected"),
    [
        ("a", "b"),
        (0, None),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([["a", 1]], [["a", 2]]),
        ([1], [1, 2]),
        (b"a", "a"),
    ],
)
def test_unequal_json_values_differ(computed, expected):
    assert difference(computed, expected, EXACT) is not None


def test_large_integers_are_compared_exactly():
    assert difference(np.array([2**62 + 1]), np.array([2**62]), EXACT) is not None
