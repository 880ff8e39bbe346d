"""GGUF files: metadata and tensors of quantised language models, through the `gguf` library.

A file of a stranger may lie about every length in it; whatever reaches beyond the file's end, is
of an unknown type or does not fit together is a CorruptFileError that names the file.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.errors import CorruptFileError, DataError, require, require_extra

MAGIC = b"GGUF"
# What this library has been compared with bit for bit; `gguf` itself knows more.
QUANTISATIONS = (
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q4_K",
    "Q5_K",
    "Q6_K",
)


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """One stored tensor, not yet dequantised.

    Attributes: kind, the quantisation's name ("Q4_1"); shape, in numpy's order, (out, in) for a
      matrix; offset, in bytes from the start of the file; data, the stored blocks.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    data: np.ndarray

    def dequantised(self) -> np.ndarray:
        """Its values, float32 of `shape`. Raises: DataError for an unsupported quantisation."""
        require(
            self.kind in QUANTISATIONS,
            f"{self.name} is quantised as {self.kind}; supported: {', '.join(QUANTISATIONS)}",
            DataError,
        )
        raw = np.ascontiguousarray(self.data).view(np.uint8)
        return dequantise(raw.reshape(*self.shape[:-1], -1), self.kind).reshape(self.shape)


class GGUFFile(Mapping[str, np.ndarray]):
    """The tensors of a file by name, dequantised to float32 when asked for; `metadata` beside them.

    Attributes: path; metadata, key -> bool, int, float, str or a list of them; tensors by name.
    """

    path: Path
    metadata: dict[str, Any]

    def __init__(self, path: Path, metadata: dict[str, Any], tensors: dict[str, GGUFTensor]):
        self.path, self.metadata, self.tensors = path, metadata, tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name].dequantised()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def required(self, key: str) -> Any:
        """The metadata of a key. Raises: CorruptFileError where the file lacks it."""
        require(key in self.metadata, f"{self.path} lacks the key {key}", CorruptFileError)
        return self.metadata[key]


def open_gguf(path: str | Path) -> GGUFFile:
    """Reads the header of a GGUF file (versions 2 and 3); tensors stay on disk until asked for.

    Raises: CorruptFileError for another magic, version, truncated or contradictory content;
      FileNotFoundError; MissingExtraError without the extra `drums`.
    """
    gguf = require_extra("gguf", extra="drums")
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(4)
    require(
        magic == MAGIC,
        f"{path} is no GGUF file: it begins with {magic!r}, not {MAGIC!r}",
        CorruptFileError,
    )
    try:
        reader = _bounded(gguf.GGUFReader)(path)
        metadata = {name: _plain(gguf, field) for name, field in reader.fields.items()}
        tensors = [_tensor(tensor) for tensor in reader.tensors]
    except CorruptFileError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise CorruptFileError(f"{path} cannot be read as GGUF: {error}") from error
    return GGUFFile(path, metadata, {tensor.name: tensor for tensor in tensors})


def dequantise(blocks: np.ndarray, kind: str) -> np.ndarray:
    """float32 [..., values] of stored blocks, uint8 [..., bytes], of a quantisation.

    Raises: DataError for an unsupported `kind`, CorruptFileError for bytes that are no whole
      blocks.
    """
    gguf = require_extra("gguf", extra="drums")
    require(
        kind in QUANTISATIONS,
        f"quantisation {kind!r}; supported: {', '.join(QUANTISATIONS)}",
        DataError,
    )
    quantisation = gguf.GGMLQuantizationType[kind]
    _, block_bytes = gguf.GGML_QUANT_SIZES[quantisation]
    require(
        blocks.shape[-1] % block_bytes == 0,
        f"{blocks.shape[-1]} bytes a row are no whole blocks of {block_bytes} ({kind})",
        CorruptFileError,
    )
    return np.asarray(gguf.quants.dequantize(blocks, quantisation), np.float32)


def _bounded(base: type) -> type:
    """The library's reader, refusing to read beyond the end of the file.

    By itself it takes what is left and goes on, for 2**60 elements if a length says so.
    """

    class BoundedReader(base):
        def _get(self, offset, dtype, count=1, override_order=None):
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            require(
                end <= len(self.data),
                f"truncated: bytes {int(offset)} to {end} of {len(self.data)}",
                CorruptFileError,
            )
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs, raw_type):
            self.depth = getattr(self, "depth", 0) + 1
            require(self.depth <= 3, "arrays nested too deeply", CorruptFileError)
            try:
                return super()._get_field_parts(orig_offs, raw_type)
            finally:
                self.depth -= 1

    return BoundedReader


def _plain(gguf: Any, field: Any) -> Any:
    """A metadata value as Python has it."""
    kinds = gguf.GGUFValueType
    if not field.types:
        return None
    if field.types[0] != kinds.ARRAY:
        return _element(field.parts[field.data[0]], field.types[0] == kinds.STRING)
    is_text = len(field.types) > 1 and field.types[1] == kinds.STRING
    return [_element(field.parts[i], is_text) for i in field.data]


def _element(part: np.ndarray, is_text: bool) -> Any:
    return part.tobytes().decode("utf-8") if is_text else part[0].item()


def _tensor(tensor: Any) -> GGUFTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    name, kind = tensor.name, tensor.tensor_type.name
    return GGUFTensor(name, kind, shape, int(tensor.data_offset), tensor.data)
