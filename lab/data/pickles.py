"""Pickles of numpy arrays and plain containers, read without running anything.

Old data sets come as Python pickles (Planetoid's `ind.*` files, CIFAR's batches). A pickle names
classes and functions to call; here only those in the table below are admitted and every other
name is refused, so a hostile file cannot do more than waste memory.
"""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

from lab.errors import CorruptFileError, DatasetNotFoundError, UnsafeFileError


class PickledMatrix:
    """What a pickled `scipy.sparse.csr_matrix` holds: its attributes, not yet checked."""

    def __init__(self):
        raise TypeError("made by unpickling only")


def read_pickle(path: Path) -> Any:
    """The arrays, sparse matrices and plain containers in a pickle, Python 2 ones included.

    Sparse CSR matrices come back as `scipy.sparse.csr_matrix`; strings of Python 2 as latin-1 text.
    Only a matrix that is the whole file is converted, as in the files of Planetoid.

    Raises: DatasetNotFoundError, UnsafeFileError (the pickle names anything else; says what),
      CorruptFileError.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is not there")
    try:
        with path.open("rb") as file:
            value = _ArrayUnpickler(file, encoding="latin1").load()
        return _sparse_matrix(value) if isinstance(value, PickledMatrix) else value
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    except Exception as error:  # A damaged pickle may raise almost anything.
        raise CorruptFileError(f"{path} is truncated or no pickle of arrays ({error})") from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ADMITTED:
            raise UnsafeFileError(
                f"refused to read a pickle that names {module}.{name}; accepted: numpy arrays, "
                "scipy CSR matrices and plain containers"
            )
        return _ADMITTED[module, name]


def _new_object(cls: type, base: type = object, state: object = None) -> object:
    """Stands in for `copyreg._reconstructor`, which protocols 0 and 1 use."""
    if (cls, base) != (PickledMatrix, object):
        raise UnsafeFileError(f"refused to make a {cls!r} from a {base!r}")
    return PickledMatrix.__new__(PickledMatrix)


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes into old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafeFileError(f"refused the text encoding {encoding!r}")
    return text.encode("latin1")


def _sparse_matrix(matrix: PickledMatrix):
    import scipy.sparse

    state = vars(matrix)
    parts = (state["data"], state["indices"], state["indptr"])
    result = scipy.sparse.csr_matrix(parts, shape=state["_shape"])
    result.check_format(full_check=True)
    return result


_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1_bytes,
    **{
        (module, "csr_matrix"): PickledMatrix
        for module in ("scipy.sparse", "scipy.sparse.csr", "scipy.sparse._csr")
    },
    **{
        (module, name): getattr(multiarray, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    },
    **{
        (module, name): getattr(numeric, name)
        for module in ("numpy.core.numeric", "numpy._core.numeric")
        for name in ("_frombuffer",)
    },
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{
        (module, kind.__name__): kind
        for module in ("__builtin__", "builtins")
        for kind in (object, list, dict, set, tuple)
    },
}
