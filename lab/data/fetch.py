"""Fetching public files: whole or not at all, checked, resumable. Standard library only."""

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from lab.errors import CorruptFileError, DownloadError, require

Progress = Callable[[int, int | None], None]
"""Called with (bytes on disk, bytes in all or None where the server does not say)."""

CHUNK_BYTES = 1 << 18


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress | None = None,
    retries: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Downloads `url` to `path`, which appears only when the file is whole and its checksum right.

    Bytes go to `<path>.part`. After a break the transfer goes on from there with an HTTP Range
    request; a `.part` left by an earlier call is continued only where sha256 is given, since
    otherwise nothing would tell that the file has changed in between. A `path` that is there and
    right is kept.

    Args:
      sha256: expected checksum, hexadecimal; size: expected bytes.
      progress: called after each chunk.
      retries: further attempts after a failure that may pass (network, stall, 5xx, 429).
      timeout: seconds without a byte that count as a stall.
      pause: seconds before the first retry; doubles each time.
    Returns: `path`.
    Raises: DownloadError (says what happened last and how often it was tried), CorruptFileError
      (the whole answer has the wrong size or checksum; nothing is kept).
    """
    require(
        url.startswith(("http://", "https://")), f"url is {url!r}; accepted: http:// and https://"
    )
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists() and (sha256 is None or _sha256(path) == sha256.lower()):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sha256 is None:
            part.unlink(missing_ok=True)
        _transfer_with_retries(url, part, size, progress, retries, timeout, pause, sha256)
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"cannot write {path}: {error}") from error
    return path


class _WorthRetryingError(Exception):
    """A failure that may pass."""


def _transfer_with_retries(url, part, size, progress, retries, timeout, pause, sha256) -> None:
    failure: Exception | None = None
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _transfer(url, part, size, progress, timeout)
            _require_whole(url, part, size, sha256)
            return
        except CorruptFileError as error:
            part.unlink(missing_ok=True)
            # A continued file may be stitched from two versions: try once from the start.
            if not resumed or attempt == retries:
                raise
            failure = error
        except _WorthRetryingError as error:
            failure = error
    raise DownloadError(f"fetching {url} failed {retries + 1} times, last: {failure}") from failure


def _transfer(url: str, part: Path, size: int | None, progress, timeout: float) -> None:
    """One request, from the end of `part` on where the server allows."""
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "tenfold", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            _receive(response, part, offset, size, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _WorthRetryingError("the server has nothing after what is here") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _WorthRetryingError(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(f"fetching {url} failed: HTTP {error.code} {error.reason}") from error
    except DownloadError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _WorthRetryingError(_describe(error, timeout)) from error


def _receive(response, part: Path, offset: int, size: int | None, progress) -> None:
    """Writes the body of an answer to `part`, and checks that all announced bytes came."""
    continues = response.status == 206 and _range_start(response) == offset
    if response.status == 206 and not continues:
        part.unlink(missing_ok=True)
        raise _WorthRetryingError("the server answered with another range than asked for")
    done = offset if continues else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length is not None and length.isdigit() else size
    with _opened(part, "ab" if continues else "wb") as file:
        while chunk := response.read1(CHUNK_BYTES):
            _write(file, chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise _WorthRetryingError(f"the connection ended after {done} of {total} bytes")


def _opened(part: Path, mode: str):
    try:
        return part.open(mode)
    except OSError as error:
        raise DownloadError(f"cannot write {part}: {error}") from error


def _write(file, chunk: bytes) -> None:
    # Told apart from the network's own OSErrors, which are worth a retry.
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise DownloadError(f"cannot write {file.name}: {reason}") from error


def _require_whole(url: str, part: Path, size: int | None, sha256: str | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        raise CorruptFileError(f"{url} gave {found} bytes, expected {size}; nothing was kept")
    if sha256 is not None:
        digest = _sha256(part)
        if digest != sha256.lower():
            raise CorruptFileError(
                f"{url} gave a file with sha256 {digest}, expected {sha256}; nothing was kept"
            )


def _range_start(response) -> int | None:
    """First byte of a `Content-Range: bytes 5-9/10` header."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _describe(error: Exception, timeout: float) -> str:
    error = getattr(error, "reason", error)  # urllib wraps what happened while connecting.
    if isinstance(error, TimeoutError):
        return f"no byte for {timeout:g} seconds"
    return str(error) or type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
