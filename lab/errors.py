"""Errors that users of the library meet: what was wrong, the value, and what is accepted."""

import importlib
from types import ModuleType
from typing import TypeVar

_T = TypeVar("_T")


class LabError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidInputError(LabError, ValueError):
    """An argument has the wrong value, shape, type or range."""


class NonFiniteError(LabError, FloatingPointError, ValueError):
    """NaN or infinity in data, or in a loss during training.

    Attributes: step, the first bad step, or None where the error is about data.
    """

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message)
        self.step = step


class DataError(LabError):
    """A data set or file cannot be used."""


class DatasetNotFoundError(DataError, FileNotFoundError):
    """A data set is not on this machine; says where it was looked for and how to get it."""


class CorruptFileError(DataError):
    """A file is truncated, has a wrong checksum or is not in its format."""


class UnsafeFileError(DataError):
    """A file asks for code to be run while it is read, and is refused."""


class DownloadError(DataError, OSError):
    """Fetching a public file failed."""


class CheckpointError(LabError, ValueError):
    """Saved state is missing, damaged, does not fit the program, or cannot be written."""


class StoppedError(LabError):
    """A run was asked to stop (SIGTERM, SIGINT) and did so after saving what it had.

    Attributes: step, how many steps were taken.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class StorageError(LabError, OSError):
    """A file cannot be written: the disk is full, the folder read-only or not there."""


class MissingExtraError(LabError, ImportError):
    """An optional dependency is not installed; names the command that installs it."""


def require(condition: bool, message: str, error: type[LabError] = InvalidInputError) -> None:
    """Raises `error(message)` unless `condition` holds."""
    if not condition:
        raise error(message)


def require_given(value: _T | None, message: str) -> _T:
    """Returns `value`; raises InvalidInputError(message) where it is None."""
    if value is None:
        raise InvalidInputError(message)
    return value


def require_extra(module: str, *, extra: str) -> ModuleType:
    """Imports an optional module, or says how to install the extra that brings it.

    Raises: MissingExtraError.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is needed for this and is not installed: pip install 'tenfold[{extra}]'"
        ) from error
