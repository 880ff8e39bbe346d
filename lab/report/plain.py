"""Configurations and results as plain JSON values."""

import dataclasses
import enum
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lab.errors import InvalidInputError


def plain(value: Any) -> Any:
    """Nested dataclasses, mappings, sequences, arrays and paths as JSON values.

    A number that is not finite becomes "nan", "inf" or "-inf", which `float` reads back: JSON has
    no such numbers.

    Raises: InvalidInputError for a value that has no plain form, a function say.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple | list | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    raise InvalidInputError(f"{value!r} of type {type(value).__name__} cannot be kept as JSON")


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a nested plain mapping by dotted name: ("train.steps", 500)."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
