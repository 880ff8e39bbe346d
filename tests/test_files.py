"""Atomic writes on full disks, in read-only folders and under kill -9."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from lab.errors import LabError, StorageError
from lab.files import append_line, held_alone, write_atomically


@contextlib.contextmanager
def size_limit(num_bytes):
    """No file of this process may pass num_bytes: what a full disk looks like to the writer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def ordinary_user():
    """Root may write anywhere, so root steps down for the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    assert write_atomically(path, "größer") == path
    assert path.read_bytes() == "größer".encode()
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(path.parent) == ["b.txt"]


def test_written_file_has_the_users_mode(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert write_atomically(tmp_path / "b", "x").stat().st_mode == plain.stat().st_mode


def test_full_disk_keeps_the_old_content(tmp_path):
    path = write_atomically(tmp_path / "result.json", "old")
    with size_limit(1000), pytest.raises(StorageError, match=r"result\.json: .*size limit"):
        write_atomically(path, "x" * 5000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_full_disk_leaves_no_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, "first")
    with size_limit(1000), pytest.raises(StorageError):
        append_line(path, "x" * 5000)
    append_line(path, "second")
    assert path.read_text() == "first\nsecond\n"


def test_full_tmpfs_is_told(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        path = write_atomically(tmp_path / "a", "old")
        with pytest.raises(StorageError, match="disk is full"):
            write_atomically(path, "x" * 100_000)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_read_only_folder_is_told(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    path = write_atomically(folder / "a", "old")
    folder.chmod(0o555)
    tmp_path.chmod(0o755)
    try:
        with ordinary_user(), pytest.raises(StorageError, match="cannot write"):
            write_atomically(path, "new")
    finally:
        folder.chmod(0o755)
    assert path.read_text() == "old"


def test_storage_error_is_a_lab_error_and_an_os_error():
    assert issubclass(StorageError, LabError)
    assert issubclass(StorageError, OSError)


def test_lock_is_held_by_one_and_freed(tmp_path):
    path = tmp_path / "lock"
    with held_alone(path), pytest.raises(StorageError, match="another process"), held_alone(path):
        raise AssertionError("both hold the lock")
    with held_alone(path):
        pass


def test_kill_leaves_all_of_one_content(tmp_path):
    path = tmp_path / "state"
    program = (
        "import sys, itertools\n"
        "from lab.files import write_atomically\n"
        "for i in itertools.count():\n"
        "    write_atomically(sys.argv[1], bytes([i % 256]) * 300_000)\n"
    )
    for _ in range(3):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.03)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
