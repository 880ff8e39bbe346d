"""Weights from elsewhere as a mapping of numpy arrays, and back to a file.

`load_checkpoint` reads `.safetensors`, `.npz` and torch's `.pth`, `.pt`, `.bin`, `.pth.tar` without
torch and without running anything that the file holds.
"""

import argparse
import functools
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # also makes numpy know "bfloat16", which safetensors asks for by name
import numpy as np
import safetensors
import safetensors.numpy

from lab.errors import (
    CheckpointError,
    CorruptFileError,
    DataError,
    InvalidInputError,
    UnsafeFileError,
    require,
    require_extra,
)
from lab.interop.torch_globals import NumpyArray, StoredTensor
from lab.interop.torch_zip import ZIP_ERRORS, TorchArchive

# Where training scripts put the weights beside the optimizer, the epoch and the arguments.
PAYLOAD_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "net")
# What DistributedDataParallel and torch.compile put in front of every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")

_MAX_DEPTH = 32
_MAX_NAME_CHARACTERS = 1 << 25  # of all names together: a container can hold others many times
_MAX_NAME_LENGTH = 1000
_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f920")  # torch before 1.6: a pickled magic number


class Checkpoint(Mapping[str, np.ndarray]):
    """The arrays of one file by dotted name; each is read when it is asked for.

    Attributes: path; extras, the file's other plain values (epoch, training arguments ...) by
    dotted name. Arrays may be read-only. An access raises CorruptFileError where the array's bytes
    are damaged.
    """

    path: Path
    extras: dict[str, Any]

    def __init__(
        self,
        path: str | os.PathLike[str],
        readers: Mapping[str, Callable[[], np.ndarray]],
        extras: Mapping[str, Any],
    ):
        self.path = Path(path)
        self.extras = dict(extras)
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} arrays)"

    def under(self, prefix: str) -> "Checkpoint":
        """The part whose names start with `prefix`, such as "backbone.", without that prefix.

        Raises: InvalidInputError if there is none.
        """
        readers = {n.removeprefix(prefix): r for n, r in self._readers.items() if _in(n, prefix)}
        require(
            bool(readers),
            f"{self.path}: no array's name starts with {prefix!r}; the names start like "
            f"{', '.join(map(repr, list(self)[:3]))}",
        )
        return Checkpoint(self.path, readers, self.extras)


def _in(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def load_checkpoint(
    path: str | os.PathLike[str], *, payload: str | None = None, unwrap: bool = True
) -> Checkpoint:
    """Opens a checkpoint file by its contents, whatever its suffix.

    Args:
      payload: dotted name of the part that holds the weights, such as "state_dict" or "ema.model";
        "" for the whole file. By default the one of PAYLOAD_KEYS that holds tensors, else the whole
        file. Nested dictionaries, lists and tuples become dotted names ("blocks.0.weight"); a file
        that is one bare tensor has the name "tensor".
      unwrap: drop "module." and "_orig_mod." where every name starts with them.
    Raises:
      FileNotFoundError, PermissionError.
      UnsafeFileError: the file asks for anything but tensors and plain containers; nothing was run.
      CorruptFileError: it is truncated, damaged or in no known format.
      MissingExtraError: it is in a form older than torch 1.6, which only torch itself reads (with
        weights_only=True).
      InvalidInputError: `payload` is not in the file, or several parts could be it.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(64 * 1024)
    if head.startswith(b"PK\x03\x04") or zipfile.is_zipfile(path):
        open_zip = _open_npz if _is_npz(path) else _open_torch_zip
        checkpoint = open_zip(path, payload)
    elif path.suffix == ".safetensors" or head[8:9] == b"{":
        checkpoint = _open_safetensors(path, payload)
    elif head.startswith(_LEGACY_MAGIC) or head[257:262] == b"ustar":
        checkpoint = _open_legacy(path, payload)
    else:
        raise CorruptFileError(
            f"{path}: neither safetensors, npz nor a torch checkpoint (it starts with {head[:8]!r})"
        )
    return _unwrapped(checkpoint) if unwrap else checkpoint


def _open_torch_zip(path: Path, payload: str | None) -> Checkpoint:
    archive = TorchArchive(path)
    leaves = _payload_leaves(path, archive.contents, payload, (StoredTensor, NumpyArray))
    archive.keep_shared([leaf for leaf in leaves.arrays.values() if type(leaf) is StoredTensor])

    def reader(leaf: StoredTensor | NumpyArray) -> Callable[[], np.ndarray]:
        if isinstance(leaf, StoredTensor):
            return functools.partial(archive.read_tensor, leaf)
        value = leaf.value
        if value is None:
            raise CorruptFileError(f"{path}: a numpy array has no contents")
        return lambda: value

    readers = {name: reader(leaf) for name, leaf in leaves.arrays.items()}
    return Checkpoint(path, readers, leaves.extras)


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS as error:
        raise CorruptFileError(f"{path}: not a whole zip archive ({error})") from error
    return bool(names) and all(name.endswith(".npy") for name in names)


def _open_npz(path: Path, payload: str | None) -> Checkpoint:
    file = np.load(path, allow_pickle=False)

    def read(name: str) -> np.ndarray:
        try:
            return file[name]
        except ZIP_ERRORS as error:
            kind = UnsafeFileError if "allow_pickle" in str(error) else CorruptFileError
            raise kind(f"{path}: {name!r} cannot be read ({error})") from error

    return _flat_checkpoint(path, file.files, read, {}, payload)


def _flat_checkpoint(
    path: Path,
    names: list[str],
    read: Callable[[str], np.ndarray],
    extras: Mapping[str, Any],
    payload: str | None,
) -> Checkpoint:
    """A checkpoint in a format without nesting, where a payload is a prefix."""
    checkpoint = Checkpoint(path, {name: functools.partial(read, name) for name in names}, extras)
    return checkpoint.under(f"{payload}.") if payload else checkpoint


def _open_safetensors(path: Path, payload: str | None) -> Checkpoint:
    try:
        file = safetensors.safe_open(path, framework="np")
        names = list(file.keys())
        extras = file.metadata() or {}
    except (safetensors.SafetensorError, ValueError, MemoryError) as error:
        raise CorruptFileError(f"{path}: not a whole safetensors file ({error})") from error

    def read(name: str) -> np.ndarray:
        try:
            return file.get_tensor(name)
        except (AttributeError, TypeError) as error:
            kind = file.get_slice(name).get_dtype()
            raise DataError(f"{path}: {name!r} has the type {kind}, unknown to numpy") from error
        except safetensors.SafetensorError as error:
            raise CorruptFileError(f"{path}: {name!r} cannot be read ({error})") from error

    return _flat_checkpoint(path, names, read, extras, payload)


def _open_legacy(path: Path, payload: str | None) -> Checkpoint:
    """Torch's forms before 1.6, through torch's own restricted reader."""
    torch = require_extra("torch", extra="torch")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a bad file
        if "weights_only" not in str(error).lower():
            raise CorruptFileError(f"{path}: torch cannot read it: {str(error)[:300]}") from error
        raise UnsafeFileError(
            f"{path}: holds more than tensors and plain containers, so torch refuses it with "
            "weights_only=True. Only if you trust the file, load it in PyTorch and save its "
            "state_dict() as .safetensors"
        ) from error
    leaves = _payload_leaves(path, tree, payload, (torch.Tensor,))

    def read(tensor: Any) -> np.ndarray:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    readers = {name: functools.partial(read, leaf) for name, leaf in leaves.arrays.items()}
    return Checkpoint(path, readers, leaves.extras)


def _unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    for prefix in WRAPPER_PREFIXES:
        while len(checkpoint) and all(_in(name, prefix) for name in checkpoint):
            checkpoint = checkpoint.under(prefix)
    return checkpoint


class _Leaves:
    """The leaves of nested containers by dotted name: `arrays` and, of other types, `extras`."""

    def __init__(self, path: Path, array_types: tuple[type, ...]):
        self.path, self.array_types = path, array_types
        self.arrays: dict[str, Any] = {}
        self.extras: dict[str, Any] = {}
        self._num_characters = 0

    def collect(self, tree: Any, prefix: str = "", depth: int = 0, *, plain: bool = True) -> None:
        """Adds the leaves under `tree`; without `plain`, only its arrays."""
        is_shallow = depth <= _MAX_DEPTH
        require(is_shallow, f"{self.path}: nested too deeply, or in itself", CorruptFileError)
        for key, value in _children(tree):
            name = f"{prefix}{key}"
            self._count(name)
            if isinstance(value, self.array_types):
                is_new = name not in self.arrays
                require(is_new, f"{self.path}: two arrays named {name[:200]!r}", CorruptFileError)
                self.arrays[name] = value
            elif isinstance(value, (Mapping, list, tuple, argparse.Namespace)):
                self.collect(value, f"{name}.", depth + 1, plain=plain)
            elif plain:
                self.extras[name] = value

    def _count(self, name: str) -> None:
        is_short = len(name) <= _MAX_NAME_LENGTH
        require(is_short, f"{self.path}: the name {name[:60]!r}... is too long", CorruptFileError)
        self._num_characters += len(name) + 1
        is_bounded = self._num_characters <= _MAX_NAME_CHARACTERS
        require(is_bounded, f"{self.path}: expands to far too many names", CorruptFileError)


def _children(tree: Any) -> Iterator[tuple[str, Any]]:
    tree = vars(tree) if isinstance(tree, argparse.Namespace) else tree
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return ((str(key), value) for key, value in pairs)


def _payload_leaves(
    path: Path, tree: Any, payload: str | None, array_types: tuple[type, ...]
) -> _Leaves:
    """The arrays of the payload, and the plain values of the whole file."""
    if isinstance(tree, array_types):
        tree = {"tensor": tree}
    is_container = isinstance(tree, (Mapping, list, tuple))
    require(is_container, f"{path}: holds a {type(tree).__name__}, no arrays", CorruptFileError)
    if payload is None:
        payload = _find_payload(path, tree, array_types)
    whole = _Leaves(path, array_types)
    whole.collect(tree)
    if not payload:
        return whole
    part = _Leaves(path, array_types)
    part.collect(_descend(path, tree, payload), plain=False)
    require(bool(part.arrays), f"{path}: there is no array under {payload!r}")
    part.extras = whole.extras
    return part


def _find_payload(path: Path, tree: Any, array_types: tuple[type, ...]) -> str:
    found = []
    for key in PAYLOAD_KEYS:
        value = tree.get(key) if isinstance(tree, Mapping) else None
        if isinstance(value, Mapping):
            part = _Leaves(path, array_types)
            part.collect(value, plain=False)
            found += [key] if part.arrays else []
    if len(found) > 1:
        raise InvalidInputError(
            f"{path}: weights lie under {' and '.join(map(repr, found))}; choose one with payload="
        )
    return found[0] if found else ""


def _descend(path: Path, tree: Any, payload: str) -> Mapping:
    keys = [payload] if payload in tree else payload.split(".")
    node = tree
    for key in keys:
        children = dict(_children(node)) if isinstance(node, (Mapping, list, tuple)) else {}
        if key not in children:
            raise InvalidInputError(
                f"{path}: no payload {payload!r}: {key!r} is not among "
                f"{', '.join(map(repr, list(children)[:10])) or 'its (no) parts'}"
            )
        node = children[key]
    is_container = isinstance(node, (Mapping, list, tuple))
    require(is_container, f"{path}: payload {payload!r} is a {type(node).__name__}, no mapping")
    return node


def save_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays by name as one safetensors file, whole or not at all.

    Args:
      arrays: numpy or JAX arrays. safetensors has no complex128 and no objects.
      metadata: short texts to keep beside them.
    Raises:
      InvalidInputError: a type that the format does not have.
      CheckpointError: the file cannot be written; one that was there before is untouched.
    """
    path = Path(path)
    contiguous = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    for name, value in contiguous.items():
        is_kept = value.dtype.kind in "biuf" or value.dtype == np.complex64
        is_kept = is_kept or value.dtype.name in ("bfloat16", *_FLOAT8)
        require(is_kept, f"{name!r} is {value.dtype}, a type that safetensors cannot hold")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        safetensors.numpy.save_file(contiguous, partial, dict(metadata) if metadata else None)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
