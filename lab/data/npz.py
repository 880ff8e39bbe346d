"""Reading and writing `.npz` files: no pickles, clear messages, whole files only."""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lab.errors import CorruptFileError, DataError, DatasetNotFoundError, UnsafeFileError


def read_npz(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict:
    """The named arrays of an `.npz` file; optional ones only where present.

    Raises: DatasetNotFoundError, CorruptFileError (not a whole npz, or keys are missing: the
      message lists the expected ones), UnsafeFileError (an array of Python objects).
    """
    required, path = tuple(required), Path(path)
    expected = f"expected an npz file with keys {', '.join(required)}"
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not there; {expected}")
    if not zipfile.is_zipfile(path):
        raise CorruptFileError(f"{path} is truncated or no npz file; {expected}")
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in required if key not in file.files]
            if missing:
                raise CorruptFileError(
                    f"{path} has no key {', '.join(missing)}; {expected}; found "
                    f"{', '.join(file.files)}"
                )
            for key in (*required, *optional):
                if key in file.files:
                    arrays[key] = file[key]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UnsafeFileError(f"{path} holds pickled Python objects; {expected}") from error
        raise CorruptFileError(f"{path} is damaged ({error}); {expected}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise CorruptFileError(f"{path} is damaged ({error}); {expected}") from error
    return arrays


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Writes an uncompressed `.npz` so that readers see the whole file or none.

    Raises: DataError where the folder cannot be written or the disk is full; nothing is left then.
    """
    path, members = Path(path), dict[str, Any](arrays)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = file.name
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error}") from error
