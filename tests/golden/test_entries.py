"""How manifests are read: both dialects, prefixes, JSON paths, data files."""

import gzip
import json

import numpy as np
import pytest

from tests.golden.entries import Entry, read_entries
from tests.golden.test_golden import as_case, skip_without_data


@pytest.fixture
def folder(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        **{
            "case0/input/x": np.arange(3.0),
            "case0/output/y": np.arange(3.0) * 2,
            "case0/output/best": np.int64(1),
            "case0/grad/w": np.ones(2),
            "case1/output/y": np.zeros(1),
            "input/plain/z": np.zeros(1),
            "output/plain/z": np.ones(1),
            "shared": np.full(2, 7.0),
        },
    )
    document = {"cases": [{"in": "a", "out": [1, 2]}, {"in": "b/c", "out": {"b/c": 3}}]}
    with gzip.open(tmp_path / "b.json.gz", "wt") as file:
        json.dump(document, file)
    (tmp_path / "c.txt").write_bytes(b"text")
    return tmp_path


def entry(folder, **fields):
    fields = {"config": {}, "tolerance": {"atol": 0, "rtol": 0}, "kind": "k", "prefix": ""} | fields
    return Entry("paper", folder, fields)


def test_compare_patterns_are_relative_to_the_prefix(folder):
    found = entry(folder, file="a.npz", prefix="case0/", compare=["output/*"])
    assert set(found.expected) == {"output/y", "output/best"}
    np.testing.assert_array_equal(found.arrays["input/x"], np.arange(3.0))


def test_information_is_not_compared(folder):
    fields = {"compare": ["output/*"], "information": ["output/best"]}
    assert set(entry(folder, file="a.npz", prefix="case0/", **fields).expected) == {"output/y"}


def test_keys_of_the_other_dialect_select_full_names(folder):
    keys = {"inputs": ["shared", "case0/input/*"], "outputs": ["case0/output/*"]}
    found = entry(folder, file="a.npz", prefix="case0/", keys=keys)
    assert set(found.expected) == {"output/y", "output/best"}
    assert found.arrays["shared"][0] == 7


def test_without_keys_outputs_and_gradients_are_compared(folder):
    found = entry(folder, file="a.npz", prefix="case0/")
    assert set(found.expected) == {"output/y", "output/best", "grad/w"}


def test_starred_prefix_cuts_the_case_name_out(folder):
    found = entry(folder, file="a.npz", prefix="*/plain/")
    assert set(found.arrays) == {"input/z", "output/z"}
    assert set(found.expected) == {"output/z"}


def test_json_prefix_is_a_path_and_keys_may_hold_slashes(folder):
    found = entry(folder, file="b.json.gz", prefix="cases/1/", compare=["out"])
    assert found.expected == {"out": {"b/c": 3}}
    assert found.arrays["out/b/c"] == 3


def test_empty_pattern_compares_the_value_at_the_prefix(folder):
    found = entry(folder, file="b.json.gz", prefix="cases/0/out", compare=[""])
    assert found.expected == {"": [1, 2]}


def test_topmost_json_node_stands_for_what_is_below_it(folder):
    found = entry(folder, file="b.json.gz", prefix="cases/", compare=["*"])
    assert set(found.expected) == {"0", "1"}


def test_other_keys_name_arrays_and_groups_outside_the_prefix(folder):
    others = {"shared": "shared", "second": "case1/"}
    found = entry(folder, file="a.npz", prefix="case0/", compare=["output/y"], other_keys=others)
    assert found.other("shared").shape == (2,)
    assert list(found.other("second")) == ["output/y"]


def test_first_matching_tolerance_wins(folder):
    rules = {"output/b*": {"atol": 1, "rtol": 0}, "output/*": {"atol": 2, "rtol": 0}}
    fields = {"prefix": "case0/", "compare": ["*"], "tolerance_by_key": rules}
    found = entry(folder, file="a.npz", **fields)
    atols = [found.tolerance(key)["atol"] for key in ("output/best", "output/y", "grad/w")]
    assert atols == [1, 2, 0]


def test_tolerances_by_full_key(folder):
    tolerance = {"atol": 0, "rtol": 0, "by_key": {"case0/output/y": {"atol": 3, "rtol": 0}}}
    found = entry(folder, file="a.npz", prefix="case0/", tolerance=tolerance)
    assert found.tolerance("output/y") == {"atol": 3, "rtol": 0}
    assert found.tolerance("grad/w") == {"atol": 0, "rtol": 0}


def test_data_files_are_those_of_data_objects_and_file_names():
    config = {
        "data": {"graph": "planetoid/cora.npz", "member": "inside/archive.txt"},
        "nested": {"lidar_file": "nuscenes/a.bin", "loss": "a/b"},
    }
    assert entry(None, file="x.npz", config=config).data_files == [
        "nuscenes/a.bin",
        "planetoid/cora.npz",
    ]


def test_entries_of_papers_without_code_are_not_read(tmp_path):
    root, papers = tmp_path / "golden", tmp_path / "papers"
    for slug in ("built", "planned"):
        (root / slug).mkdir(parents=True)
        manifest = {"slug": slug, "entries": [{"file": "a.npz", "kind": "k"}]}
        (root / slug / "manifest.json").write_text(json.dumps(manifest))
    (papers / "built").mkdir(parents=True)
    (papers / "built" / "__init__.py").write_text("")
    assert [entry.slug for entry in read_entries(root, papers)] == ["built"]


def test_id_names_slug_kind_file_and_prefix():
    named = entry(None, file="a.npz", prefix="case0/", mode="eval")
    assert named.id == "paper-k-a.npz-case0-eval"


def test_entry_with_data_is_marked_and_skips_without_it(tmp_path, monkeypatch):
    needy = entry(None, file="x.npz", config={"data": {"graph": "planetoid/cora.npz"}})
    assert [mark.name for mark in as_case(needy).marks] == ["real_data"]
    monkeypatch.setenv("LAB_DATA_DIR", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="needs planetoid/cora"):
        skip_without_data(needy)
    (tmp_path / "planetoid").mkdir()
    (tmp_path / "planetoid" / "cora.npz").write_bytes(b"")
    skip_without_data(needy)
    assert needy.data_path("planetoid/cora.npz").exists()
