import collections
import os
import pickle

import numpy as np
import pytest
import scipy.sparse

from lab.data.pickles import read_pickle
from lab.errors import CorruptFileError, DatasetNotFoundError, UnsafeFileError


def write(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_are_read(tmp_path, protocol):
    value = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "n": np.int64(3)}
    found = read_pickle(write(tmp_path / "batch", value, protocol))
    np.testing.assert_array_equal(found["data"], value["data"])
    assert found["labels"] == [1, 2]
    assert found["n"] == 3


@pytest.mark.parametrize("protocol", range(6))
def test_sparse_matrix_is_read(tmp_path, protocol):
    matrix = scipy.sparse.random(20, 30, 0.1, format="csr", random_state=0, dtype=np.float32)
    found = read_pickle(write(tmp_path / "x", matrix, protocol))
    np.testing.assert_array_equal(found.toarray(), matrix.toarray())


def test_python_2_spellings_are_read(tmp_path):
    graph = collections.defaultdict(list, {0: [1, 2], 1: [0]})
    content = pickle.dumps(graph, protocol=2)
    assert b"__builtin__" in content
    (tmp_path / "graph").write_bytes(content)
    assert read_pickle(tmp_path / "graph") == graph


class Hostile:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open('{}', 'w')",), "eval"),
        (getattr, ("text", "format"), "getattr"),
        (np.load, ("{}",), "load"),
        (pickle.loads, (b"",), "loads"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_by_name_and_not_run(tmp_path, function, arguments, name, protocol):
    mark = tmp_path / "mark"
    arguments = [a.format(mark) if isinstance(a, str) else a for a in arguments]
    path = write(tmp_path / "hostile", [Hostile(function, *arguments)], protocol)
    with pytest.raises(UnsafeFileError, match=rf"names \S*\.{name}; accepted"):
        read_pickle(path)
    assert not mark.exists()


def test_code_hidden_in_an_object_array_is_refused(tmp_path):
    array = np.array([Hostile(os.getcwd)], dtype=object)
    with pytest.raises(UnsafeFileError, match="getcwd"):
        read_pickle(write(tmp_path / "hostile", array))


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02]q\x00(K\x01"])
def test_damaged_pickle_is_corrupt(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CorruptFileError, match="truncated or no pickle"):
        read_pickle(tmp_path / "x")


def test_sparse_matrix_with_indices_out_of_range_is_corrupt(tmp_path):
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    matrix.indices[:] = 7
    with pytest.raises(CorruptFileError):
        read_pickle(write(tmp_path / "x", matrix))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"ind\.cora\.x is not there"):
        read_pickle(tmp_path / "ind.cora.x")
