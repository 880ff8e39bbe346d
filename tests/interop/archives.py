"""Builds archives in torch's layout from pickles written by hand."""

import pathlib
import pickle
import zipfile
from collections.abc import Mapping

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def write_archive(
    path: pathlib.Path,
    pickled: bytes,
    records: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> pathlib.Path:
    """Writes `a/data.pkl` and `a/<name>` for each record."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, content in (records or {}).items():
            archive.writestr(f"a/{name}", content)
    return path


def text(value: str) -> bytes:
    """The instruction that pushes a string."""
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def number(value: int) -> bytes:
    """The instruction that pushes an integer of up to 64 bits."""
    content = value.to_bytes(9, "little", signed=True)
    return pickle.LONG1 + bytes([9]) + content


def name(dotted: str) -> bytes:
    """The instruction that names a global."""
    module, _, attribute = dotted.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def tuple_of(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def call(dotted: str, *args: bytes) -> bytes:
    return name(dotted) + tuple_of(*args) + pickle.REDUCE


def program(*instructions: bytes) -> bytes:
    return pickle.PROTO + b"\x02" + b"".join(instructions) + pickle.STOP


def storage(num_elements: int, kind: str = "torch.FloatStorage", record: str = "0") -> bytes:
    parts = (text("storage"), name(kind), text(record), text("cpu"), number(num_elements))
    return tuple_of(*parts) + pickle.BINPERSID


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        *(stored, number(offset)),
        *(tuple_of(*map(number, sizes)) for sizes in (shape, strides)),
        *(pickle.NEWFALSE, pickle.EMPTY_DICT),
    )


def dict_of(**items: bytes) -> bytes:
    pairs = b"".join(text(key) + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS
