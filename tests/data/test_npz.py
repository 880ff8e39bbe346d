import resource

import numpy as np
import pytest

from lab.data.npz import read_npz, write_npz
from lab.errors import CorruptFileError, DataError, DatasetNotFoundError, UnsafeFileError


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "set.npz"
    write_npz(path, first=np.arange(1000), second=np.ones((2, 3)))
    return path


def test_written_arrays_are_read_back(written):
    arrays = read_npz(written, ("first",), optional=("second", "third"))
    assert arrays.keys() == {"first", "second"}
    np.testing.assert_array_equal(arrays["first"], np.arange(1000))


def test_missing_file_names_the_expected_keys(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="expected an npz file with keys x, y"):
        read_npz(tmp_path / "none.npz", ("x", "y"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_file_names_the_expected_keys(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptFileError, match="expected an npz file with keys first, second"):
        read_npz(written, ("first", "second"))


def test_damaged_member_is_corrupt(written):
    content = bytearray(written.read_bytes())
    content[500:504] = b"\xff\xff\xff\xff"
    written.write_bytes(content)
    with pytest.raises(CorruptFileError, match="expected an npz file"):
        read_npz(written, ("first",))


def test_missing_key_says_what_was_found(written):
    with pytest.raises(CorruptFileError, match=r"no key third; .* found first, second"):
        read_npz(written, ("first", "third"))


def test_single_array_file_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(CorruptFileError, match="no npz file"):
        read_npz(tmp_path / "one.npy", ("x",))


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UnsafeFileError, match="pickled Python objects"):
        read_npz(tmp_path / "objects.npz", ("x",))


def test_full_disk_leaves_nothing_and_keeps_the_old_file(written):
    before = written.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot write"):
            write_npz(written, first=np.ones(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]
