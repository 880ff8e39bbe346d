"""The zip archive in which torch (since 1.6) keeps a checkpoint: a pickle and raw storages.

Layout: `<name>/data.pkl`, `<name>/data/<record>` with the elements of each storage, and
`<name>/byteorder`. Torch never compresses these records, so a compressed one is refused, and no
record can be larger than the file.
"""

import os
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lab.errors import CorruptFileError, UnsafeFileError, require
from lab.interop.torch_globals import Storage, StoredTensor
from lab.interop.torch_pickle import read_plain_pickle

# What a damaged archive makes `zipfile` raise.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,  # an "encrypted" record; NotImplementedError, an unknown format version
    ValueError,
    LookupError,
    ArithmeticError,
    MemoryError,
)


class TorchArchive:
    """One checkpoint in torch's zip form, with `contents`, its pickle as plain data.

    Raises: UnsafeFileError, CorruptFileError, with the path in front.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._storages: dict[Storage, bytes] = {}
        self._shared = frozenset[Storage]()
        try:
            self._num_bytes = self.path.stat().st_size
            self._zip = zipfile.ZipFile(self.path)
            self._sizes = {info.filename: info.file_size for info in self._zip.infolist()}
        except ZIP_ERRORS as error:
            raise self._corrupt(f"not a whole zip archive ({error})") from error
        self._root = self._find_root()
        self._is_big_endian = self._read_byte_order()
        try:
            self.contents: Any = read_plain_pickle(self._read(self._root + "data.pkl"))
        except (UnsafeFileError, CorruptFileError) as error:
            raise type(error)(f"{self.path}: {error}") from error

    def keep_shared(self, tensors: list[StoredTensor]) -> None:
        """Notes which storages several of `tensors` view, so that each of them is read once."""
        seen: set[Storage] = set()
        self._shared = frozenset(
            t.storage for t in tensors if t.storage in seen or seen.add(t.storage)
        )

    def read_tensor(self, tensor: StoredTensor) -> np.ndarray:
        """The elements of `tensor` in its dtype and shape; usually read-only."""
        storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
        content = self._storages.get(storage)
        if content is None:
            content = self._read_storage(storage)
            if storage in self._shared:
                self._storages[storage] = content
        if 0 in tensor.shape:
            return np.empty(tensor.shape, storage.dtype)
        # a dimension of one element may come with any stride, which numpy need not be able to hold
        steps = [step if n > 1 else 0 for n, step in zip(tensor.shape, tensor.strides, strict=True)]
        view = np.ndarray(
            tensor.shape,
            storage.dtype,
            buffer=content,
            offset=tensor.offset * itemsize,
            strides=[step * itemsize for step in steps],
        )
        view = np.conj(view) if tensor.is_conjugate else view
        return np.negative(view) if tensor.is_negative else view

    def _read_storage(self, storage: Storage) -> bytes:
        """The storage's bytes in this machine's order."""
        content = self._read(f"{self._root}data/{storage.record}")
        wanted = storage.num_elements * storage.dtype.itemsize
        # an untyped storage need not be a whole number of elements long
        if not wanted <= len(content) < wanted + storage.dtype.itemsize:
            raise self._corrupt(
                f"storage {storage.record!r} has {len(content)} bytes, its tensors want {wanted}"
            )
        if storage.dtype.kind == "b":  # a bool has to be 0 or 1 in numpy
            return (np.frombuffer(content, np.uint8) != 0).tobytes()
        unit = storage.dtype.itemsize // (2 if storage.dtype.kind == "c" else 1)
        if unit > 1 and self._is_big_endian != (sys.byteorder == "big"):
            order = ">" if self._is_big_endian else "<"
            numbers = np.frombuffer(content, f"{order}u{unit}", wanted // unit)
            return numbers.astype(f"=u{unit}").tobytes()
        return content

    def _find_root(self) -> str:
        names = [name for name in self._sizes if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(names) != 1:
            raise self._corrupt(
                f"a zip archive with {len(names)} records data.pkl; torch.save writes one"
            )
        root = names[0].removesuffix("data.pkl")
        if any(name.startswith(root + "code/") for name in self._sizes):
            raise UnsafeFileError(
                f"{self.path}: a TorchScript archive, which is a program. In PyTorch, save the "
                "state_dict() of the loaded module instead"
            )
        return root

    def _read_byte_order(self) -> bool:
        name = self._root + "byteorder"
        if name not in self._sizes:  # before torch 2.1 there was none; or its name is damaged
            for other in self._sizes:
                self._check_name(other)
            return False
        order = self._read(name)
        if order not in (b"little", b"big"):
            raise self._corrupt(f"unknown byte order {order[:20]!r}")
        return order == b"big"

    def _check_name(self, name: str) -> None:
        """Compares the name in the archive's directory with the one in front of the record."""
        try:
            self._zip.open(self._located(name)).close()
        except ZIP_ERRORS as error:
            raise self._corrupt(f"record {name[:200]!r} cannot be read: {error}") from error

    def _read(self, name: str) -> bytes:
        try:
            info = self._located(name)
            content = self._zip.read(info)
            require(len(content) == info.file_size, "it is cut short")
            return content
        except ZIP_ERRORS as error:
            raise self._corrupt(f"record {name[:200]!r} cannot be read: {error}") from error

    def _located(self, name: str) -> zipfile.ZipInfo:
        info = self._zip.getinfo(name)
        is_stored = info.compress_type == zipfile.ZIP_STORED
        require(is_stored, "it is compressed; torch.save stores its records as they are")
        require(info.compress_size == info.file_size, "its two sizes differ")
        last = info.header_offset + info.file_size
        is_inside = info.header_offset >= 0 and last <= self._num_bytes
        require(is_inside, "it lies outside the file")
        return info

    def _corrupt(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.path}: {what}")
