"""The globals that the pickle of a torch checkpoint may name, and the plain data each becomes.

Nothing here imports or calls what a file names. A name is looked up in these tables, and a name
that is in none of them is refused.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np

from lab.errors import CorruptFileError, UnsafeFileError, require

MAX_DIMENSIONS = 64  # numpy's own bound
# A tensor whose strides visit elements more than once (`expand`) may not grow beyond this.
MAX_EXPANDED_BYTES = 1 << 30

TORCH_DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "float64": np.float64,
        "float32": np.float32,
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
        "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
        "int64": np.int64,
        "int32": np.int32,
        "int16": np.int16,
        "int8": np.int8,
        "uint64": np.uint64,
        "uint32": np.uint32,
        "uint16": np.uint16,
        "uint8": np.uint8,
        "bool": np.bool_,
        "complex64": np.complex64,
        "complex128": np.complex128,
    }.items()
}

_STORAGE_DTYPES: Mapping[str, np.dtype] = {
    f"torch.{storage}Storage": TORCH_DTYPES[dtype]
    for storage, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
        "Untyped": "uint8",
    }.items()
} | {"torch.storage.UntypedStorage": np.dtype(np.uint8)}


class GlobalName(str):
    """A global that the file names, such as "torch.float32", kept as inert text."""

    __slots__ = ()


class Attributes(dict):
    """The attributes of an `argparse.Namespace`, as a plain dict."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A flat run of elements in one record of the archive: its name, their dtype and count."""

    record: str
    dtype: np.dtype
    num_elements: int


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's elements lie: `offset` and `strides` count elements of `storage`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    is_conjugate: bool = False
    is_negative: bool = False


@dataclasses.dataclass
class NumpyDtype:
    """A numeric numpy dtype while its pickle is read: `code` such as "f8", `order` "<" or ">"."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclasses.dataclass
class NumpyArray:
    """A numpy array while its pickle is read; `value` is None until its contents are set."""

    value: np.ndarray | None = None


def is_count(value: Any) -> bool:
    """Whether `value` is a non-negative integer that fits 62 bits."""
    return type(value) is int and 0 <= value < 1 << 62


def _shown(value: Any) -> str:
    """A short text for a message; the repr of a hostile container could be endless."""
    if isinstance(value, str):
        return repr(value[:80])
    return str(value) if type(value) is int else f"a {type(value).__name__}"


def storage_from_persistent_id(pid: Any) -> Storage:
    """The storage named by torch's ("storage", type, record, device, number of elements)."""
    is_plain = type(pid) is tuple and len(pid) == 5 and pid[0] == "storage"
    require(is_plain, "a persistent id is not torch's storage tuple", CorruptFileError)
    _, kind, record, _, num_elements = pid
    dtype = _STORAGE_DTYPES.get(kind) if isinstance(kind, GlobalName) else None
    if dtype is None:
        raise CorruptFileError("a storage has no known element type")
    is_plain = isinstance(record, str) and is_count(num_elements)
    require(is_plain, f"a storage has size {_shown(num_elements)}", CorruptFileError)
    return Storage(record, dtype, num_elements)


def _tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> StoredTensor:
    require(isinstance(storage, Storage), "a tensor has no storage", CorruptFileError)
    is_shape = type(shape) is tuple and type(strides) is tuple and len(shape) == len(strides)
    is_shape = is_shape and len(shape) <= MAX_DIMENSIONS
    is_shape = is_shape and all(map(is_count, (offset, *shape, *strides)))
    require(is_shape, "a tensor has a malformed size, stride or offset", CorruptFileError)
    size = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size and last >= storage.num_elements:
        raise CorruptFileError(
            f"a tensor of size {shape}, stride {strides} and offset {offset} reaches beyond its "
            f"storage {storage.record!r} of {storage.num_elements} elements"
        )
    grows = size > storage.num_elements and size * storage.dtype.itemsize > MAX_EXPANDED_BYTES
    # numpy multiplies the non-zero dimensions of empty arrays too
    grows = grows or math.prod(n for n in shape if n) >= 1 << 58
    require(not grows, f"a tensor expands its storage to size {shape}", CorruptFileError)
    bits = metadata if type(metadata) is dict else {}
    is_conjugate, is_negative = bits.get("conj") is True, bits.get("neg") is True
    return StoredTensor(storage, offset, shape, strides, is_conjugate, is_negative)


def _tensor_of_dtype(
    storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None
) -> StoredTensor:
    """A tensor over an untyped storage, whose size is in bytes (torch's newer dtypes)."""
    require(isinstance(storage, Storage), "a tensor has no storage", CorruptFileError)
    name = dtype.removeprefix("torch.") if isinstance(dtype, GlobalName) else ""
    require(name in TORCH_DTYPES, f"a tensor has dtype {_shown(dtype)}", CorruptFileError)
    kind = TORCH_DTYPES[name]
    num_elements = storage.num_elements * storage.dtype.itemsize // kind.itemsize
    typed = Storage(storage.record, kind, num_elements)
    return _tensor(typed, offset, shape, strides, requires_grad, hooks, metadata)


def _tensor_itself(tensor: Any, *_: Any) -> StoredTensor:
    """A parameter's tensor, without its gradient flag, hooks and Python attributes."""
    require(isinstance(tensor, StoredTensor), "a parameter has no tensor", CorruptFileError)
    return tensor


def _tensor_with_attributes(rebuild: Any, kind: Any, args: Any, _: Any) -> StoredTensor:
    """A tensor, or a parameter, that carried Python attributes; these are dropped."""
    if kind not in _TENSOR_CLASSES or not isinstance(kind, GlobalName):
        raise UnsafeFileError(f"rebuilds a tensor as {_shown(kind)}")
    fits = rebuild in _TENSOR_CALLS and isinstance(rebuild, GlobalName) and type(args) is tuple
    require(fits, "a tensor with attributes is malformed", CorruptFileError)
    return _TENSOR_CALLS[rebuild](*args)


def _dict_of_pairs(pairs: Any = ()) -> dict:
    is_pairs = type(pairs) in (list, tuple) and all(
        type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs
    )
    require(is_pairs, "an ordered dictionary is not made of pairs", CorruptFileError)
    return {require_key(key): value for key, value in pairs}


def _counts(counts: Any = None) -> dict:
    require(counts is None or type(counts) is dict, "a counter is malformed", CorruptFileError)
    return dict(counts or {})


def _set(kind: type, items: Any = ()) -> set | frozenset:
    require(type(items) in (list, tuple), "a set is not made of a list", CorruptFileError)
    return kind(require_key(item) for item in items)


def _bytes_of_text(text: Any, encoding: Any) -> bytes:
    is_plain = isinstance(text, str) and encoding in ("latin1", "latin-1")
    require(is_plain, "a byte string is malformed", CorruptFileError)
    return text.encode("latin-1")


def _bytes(content: Any = b"", *encoding: Any) -> bytes:
    if encoding:
        return _bytes_of_text(content, *encoding)
    require(type(content) is bytes, "a byte array is malformed", CorruptFileError)
    return content


def _complex(real: Any, imag: Any) -> complex:
    is_plain = type(real) is float and type(imag) is float
    require(is_plain, "a complex number is malformed", CorruptFileError)
    return complex(real, imag)


def _shape(sizes: Any) -> tuple:
    require(type(sizes) in (list, tuple), "a torch.Size is malformed", CorruptFileError)
    return tuple(sizes)


def _device(kind: Any, *index: Any) -> str:
    is_plain = isinstance(kind, str) and all(map(is_count, index))
    require(is_plain, "a torch.device is malformed", CorruptFileError)
    return ":".join([kind, *map(str, index)])


def _numpy_dtype(code: Any, *_: Any) -> NumpyDtype:
    is_numeric = isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16", code)
    require(bool(is_numeric), f"a numpy dtype is {_shown(code)}, not a number", CorruptFileError)
    return NumpyDtype(code)


def set_numpy_dtype(holder: NumpyDtype, state: Any) -> None:
    """Takes the byte order from a dtype's pickled state; fields and sub-arrays are refused."""
    require(
        type(state) is tuple and len(state) >= 5, "a numpy dtype is malformed", CorruptFileError
    )
    order, rest = str(state[1]), state[2:5]
    is_plain = order in ("<", ">", "|", "=") and rest == (None,) * 3
    require(is_plain, "a numpy dtype is malformed", CorruptFileError)
    holder.order = order


def numpy_array(shape: Any, kind: Any, content: Any, order: Literal["C", "F"]) -> np.ndarray:
    """An array over `content`, which has to have exactly the bytes that shape and dtype ask."""
    is_plain = isinstance(kind, NumpyDtype) and type(content) is bytes and type(shape) is tuple
    is_plain = is_plain and len(shape) <= MAX_DIMENSIONS and all(map(is_count, shape))
    is_plain = is_plain and math.prod(shape) * kind.dtype.itemsize == len(content)
    require(is_plain, "a numpy array is malformed", CorruptFileError)
    stored = np.ndarray(shape, kind.dtype, buffer=content, order=order)
    return stored.astype(kind.dtype.newbyteorder("="), copy=False)


def set_numpy_array(holder: NumpyArray, state: Any) -> None:
    """Takes the contents from an array's pickled (version, shape, dtype, fortran, bytes)."""
    is_plain = type(state) is tuple and len(state) == 5
    require(is_plain, "a numpy array is malformed", CorruptFileError)
    _, shape, kind, is_fortran, content = state
    holder.value = numpy_array(shape, kind, content, "F" if is_fortran is True else "C")


def _numpy_scalar(kind: Any, content: Any) -> Any:
    return numpy_array((), kind, content, "C").item()


def require_key(key: Any) -> Any:
    """Returns `key` if it may be a dictionary key: a plain scalar, or a short tuple of them.

    Deeper keys are refused since hashing them recurses in C.
    """
    parts = key if type(key) is tuple and len(key) <= 16 else (key,)
    is_plain = all(isinstance(p, (str, int, float, bytes, type(None))) for p in parts)
    require(is_plain, f"a dictionary key is a {type(key).__name__}", CorruptFileError)
    return key


_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
_TENSOR_CALLS: Mapping[str, Callable[..., StoredTensor]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _tensor_itself,
    "torch._utils._rebuild_parameter_with_state": _tensor_itself,
}

CALLS: Mapping[str, Callable[..., Any]] = {
    **_TENSOR_CALLS,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch.Size": _shape,
    "torch.device": _device,
    "collections.OrderedDict": _dict_of_pairs,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _counts,
    "argparse.Namespace": Attributes,
    "builtins.set": lambda *items: _set(set, *items),
    "builtins.frozenset": lambda *items: _set(frozenset, *items),
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _bytes_of_text,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": lambda *_: NumpyArray(),
    "numpy._core.multiarray._reconstruct": lambda *_: NumpyArray(),
}

_NAMES = frozenset(
    {*CALLS, *_STORAGE_DTYPES, *_TENSOR_CLASSES, "numpy.ndarray"}
    | {f"torch.{name}" for name in TORCH_DTYPES}
    | {f"builtins.{name}" for name in ("list", "dict", "tuple", "int", "float", "str", "bool")}
)


def admitted(name: str) -> GlobalName:
    """The inert form of a global that a checkpoint may name.

    Raises: UnsafeFileError for every other one.
    """
    name = re.sub(r"^__builtin__\.", "builtins.", name)
    if name not in _NAMES:
        raise UnsafeFileError(
            f"names the global {name[:200]!r}, which is neither a tensor nor a plain container; "
            "nothing was run. Only if you trust the file, load it in PyTorch and save its "
            "state_dict() again, as .safetensors or with torch.save"
        )
    return GlobalName(name)
