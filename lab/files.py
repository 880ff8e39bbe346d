"""Writing files so that a reader, or the next start after a kill, never meets half of one."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.errors import StorageError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_FULL[errno.EFBIG] = "the file would pass the size limit"
_FORBIDDEN = {errno.EROFS: "it is on a read-only disk"}
_FORBIDDEN |= dict.fromkeys((errno.EACCES, errno.EPERM), "its folder is read-only for this user")
_MISPLACED = {errno.ENOTDIR: "a part of the path is a file", errno.ENOENT: "its folder is missing"}
_REASONS = _FULL | _FORBIDDEN | _MISPLACED


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError of the block into a StorageError that names `path` and the reason."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        if error.errno in _FULL:
            mend = "make room or choose another folder; what was there before is unchanged"
        else:
            mend = "choose a folder that can be written"
        raise StorageError(f"cannot write {path}: {reason}; {mend}") from error


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Replaces `path` by `content` (text as UTF-8) in one step; makes missing parent folders.

    The bytes go to a temporary file of the same folder, reach the disk, and are then renamed, so
    that `path` holds either all of the old content or all of the new.

    Raises: StorageError; the old content then stands unchanged.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    return path


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Appends one line to a text file in a single write.

    Raises: StorageError; a half-written line is then cut off again.
    """
    data = f"{line}\n".encode()
    with storage_errors(path), open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = file.write(data)
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


@contextlib.contextmanager
def held_alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock file `path` for the block; a kill frees it too.

    Raises: StorageError where another process holds it, or it cannot be made. Systems without
    POSIX locks get no protection.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115, the lock lives as long as the file is open
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StorageError(f"another process is at work here: it holds {path}") from error
        yield


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes the renames within a folder durable, where the system allows folders to be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
