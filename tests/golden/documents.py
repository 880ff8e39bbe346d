"""Golden files by content: `.npz`, `.json` and `.json.gz` become mappings from key to value."""

import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class ArrayFile(Mapping):
    """The arrays of an `.npz`, each read when first asked for and then kept."""

    def __init__(self, path: Path):
        self._file = np.load(path, allow_pickle=False)
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._read:
            self._read[key] = self._file[key]
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __len__(self) -> int:
        return len(self._file.files)


class JsonFile(Mapping):
    """Every node of a JSON document under its path: object keys and list positions joined by '/'.

    A key that itself holds a '/' keeps it, so that a path can be read without splitting it. The
    document itself is the node ''.
    """

    def __init__(self, path: Path):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            self._nodes = {"": json.load(file)}
        self._add_below("", self._nodes[""])

    def _add_below(self, path: str, node: Any) -> None:
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for name, child in children:
            child_path = f"{path}/{name}" if path else str(name)
            self._nodes[child_path] = child
            if isinstance(child, dict | list):
                self._add_below(child_path, child)

    def __getitem__(self, key: str) -> Any:
        return self._nodes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


class Renamed(Mapping):
    """A part of a mapping under other names: `names` maps each new key to the key in `source`."""

    def __init__(self, source: Mapping, names: Mapping[str, str]):
        self._source, self._names = source, names

    def __getitem__(self, key: str) -> Any:
        return self._source[self._names[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def group(source: Mapping, prefix: str) -> Renamed:
    """The keys of `source` that start with `prefix`, without it."""
    return Renamed(source, {k[len(prefix) :]: k for k in source if k.startswith(prefix)})


@functools.lru_cache(maxsize=64)
def open_document(path: Path) -> Mapping | bytes:
    """The mapping in an `.npz`, `.json` or `.json.gz` file; the bytes of any other file."""
    if path.suffix == ".npz":
        return ArrayFile(path)
    if path.name.endswith((".json", ".json.gz")):
        return JsonFile(path)
    return path.read_bytes()
