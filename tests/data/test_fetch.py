import hashlib
import resource
import socket
import time

import numpy as np
import pytest

from lab.data.fetch import fetch
from lab.errors import CorruptFileError, DownloadError, InvalidInputError
from tests.data.loopback import Loopback, serving

CONTENT = np.random.default_rng(0).bytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
THIRD = len(CONTENT) // 3
QUICK = {"pause": 0.0, "timeout": 0.3}


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "answer", [Loopback.good, Loopback.without_length], ids=["length", "no length"]
)
def test_whole_file_arrives_with_progress(tmp_path, answer):
    seen = []
    with serving(CONTENT, answer) as server:
        path = fetch(
            server.url + "/file",
            tmp_path / "deep" / "file",
            sha256=SHA256,
            size=len(CONTENT),
            progress=lambda done, total: seen.append((done, total)),
            **QUICK,
        )
    assert path.read_bytes() == CONTENT
    assert left_in(path.parent) == ["file"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_truncated_answer_is_continued_where_it_ended(tmp_path):
    with serving(CONTENT, Loopback.truncated, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", sha256=SHA256, **QUICK)
        assert server.ranges == [None, f"bytes={THIRD}-"]
    assert path.read_bytes() == CONTENT


def test_stalled_answer_is_given_up_and_continued(tmp_path):
    start = time.monotonic()
    with serving(CONTENT, Loopback.stalled, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", **QUICK)
        assert server.ranges == [None, f"bytes={THIRD}-"]
    assert path.read_bytes() == CONTENT
    assert time.monotonic() - start < 10


def test_endless_stall_says_so_and_shows_no_file(tmp_path):
    with serving(CONTENT, Loopback.stalled) as server:  # noqa: SIM117
        with pytest.raises(DownloadError, match=r"failed 2 times, last: no byte for 0.3 seconds"):
            fetch(server.url, tmp_path / "file", retries=1, **QUICK)
    assert left_in(tmp_path) == ["file.part"]


def test_endless_truncation_says_how_far_it_came(tmp_path):
    with serving(CONTENT, Loopback.truncated) as server:  # noqa: SIM117
        with pytest.raises(DownloadError, match=rf"ended after \d+ of {len(CONTENT)} bytes"):
            fetch(server.url, tmp_path / "file", retries=0, **QUICK)


def test_corrupted_answer_is_refused_and_nothing_kept(tmp_path):
    with serving(CONTENT, Loopback.corrupted) as server:
        with pytest.raises(CorruptFileError, match=f"expected {SHA256}; nothing was kept"):
            fetch(server.url, tmp_path / "file", sha256=SHA256, **QUICK)
        assert len(server.ranges) == 1
    assert left_in(tmp_path) == []


def test_wrong_size_is_refused(tmp_path):
    with serving(CONTENT, Loopback.good) as server:  # noqa: SIM117
        with pytest.raises(CorruptFileError, match=f"gave {len(CONTENT)} bytes, expected 5"):
            fetch(server.url, tmp_path / "file", size=5, **QUICK)
    assert left_in(tmp_path) == []


def test_server_that_ignores_ranges_is_read_from_the_start(tmp_path):
    with serving(CONTENT, Loopback.truncated, Loopback.ignoring_ranges) as server:
        path = fetch(server.url, tmp_path / "file", sha256=SHA256, **QUICK)
    assert path.read_bytes() == CONTENT


def test_wrong_range_is_not_stitched(tmp_path):
    answers = (Loopback.truncated, Loopback.wrong_range, Loopback.good)
    with serving(CONTENT, *answers) as server:
        path = fetch(server.url, tmp_path / "file", **QUICK)
        assert server.ranges == [None, f"bytes={THIRD}-", None]
    assert path.read_bytes() == CONTENT


def test_part_of_an_earlier_call_is_continued(tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    with serving(CONTENT, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", sha256=SHA256, **QUICK)
        assert server.ranges == ["bytes=1000-"]
    assert path.read_bytes() == CONTENT


def test_part_of_another_version_is_thrown_away(tmp_path):
    (tmp_path / "file.part").write_bytes(b"old" + CONTENT[3:1000])
    with serving(CONTENT, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", sha256=SHA256, **QUICK)
        assert server.ranges == ["bytes=1000-", None]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_part_that_leaves_nothing_to_fetch(tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    with serving(CONTENT, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", sha256=SHA256, **QUICK)
    assert path.read_bytes() == CONTENT


def test_part_is_not_trusted_without_a_checksum(tmp_path):
    (tmp_path / "file.part").write_bytes(b"old")
    with serving(CONTENT, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", **QUICK)
        assert server.ranges == [None]
    assert path.read_bytes() == CONTENT


def test_missing_file_is_asked_for_once(tmp_path):
    with serving(CONTENT, Loopback.missing) as server:
        with pytest.raises(DownloadError, match="HTTP 404 Not Found"):
            fetch(server.url, tmp_path / "file", **QUICK)
        assert len(server.ranges) == 1
    assert left_in(tmp_path) == []


def test_busy_server_is_asked_again(tmp_path):
    with serving(CONTENT, Loopback.busy, Loopback.busy, Loopback.good) as server:
        path = fetch(server.url, tmp_path / "file", **QUICK)
    assert path.read_bytes() == CONTENT


def test_pauses_double(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with serving(CONTENT, Loopback.busy) as server:  # noqa: SIM117
        with pytest.raises(DownloadError, match="failed 4 times, last: HTTP 503"):
            fetch(server.url, tmp_path / "file", retries=3, pause=0.5, timeout=5)
    assert pauses == [0.5, 1.0, 2.0]


def test_unreachable_server_is_a_download_error(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(DownloadError, match=r"failed 2 times, last: .*refused"):
        fetch(url, tmp_path / "file", retries=1, **QUICK)


def test_right_file_is_kept_and_a_wrong_one_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with serving(CONTENT, Loopback.good) as server:
        fetch(server.url, path, sha256=SHA256.upper(), **QUICK)
        assert server.ranges == []
        path.write_bytes(b"damaged")
        fetch(server.url, path, sha256=SHA256, **QUICK)
    assert path.read_bytes() == CONTENT


def test_full_disk_is_said_and_not_retried(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(CONTENT, Loopback.good) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(DownloadError, match="cannot write"):
                fetch(server.url, tmp_path / "file", **QUICK)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(server.ranges) == 1
    assert not (tmp_path / "file").exists()


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    with serving(CONTENT, Loopback.good) as server:  # noqa: SIM117
        with pytest.raises(DownloadError, match="cannot write"):
            fetch(server.url, tmp_path / "file" / "below", **QUICK)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "cora"])
def test_only_web_addresses_are_accepted(tmp_path, url):
    with pytest.raises(InvalidInputError, match="accepted: http"):
        fetch(url, tmp_path / "file")
