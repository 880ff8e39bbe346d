"""Models as flat named arrays: one user's, everybody's, or the mean model, for other programs.

There is no official code of the paper; names are `dense0/kernel`, `conv1/bias`, ... joined by '/'.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from lab.data.npz import read_npz, write_npz
from lab.errors import InvalidInputError, require
from lab.papers.dacfl.state import mean_model


def to_flat(tree: Any) -> dict[str, np.ndarray]:
    """A nested dict of arrays as {"layer/name": array}."""
    return {name: np.asarray(x) for name, x in traverse_util.flatten_dict(tree, sep="/").items()}


def from_flat(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_flat`."""
    return traverse_util.unflatten_dict(dict(arrays), sep="/")


def user_model(models: Any, user: int) -> Any:
    """One user's model of a pytree of all users' [N, ...]."""
    num_users = jax.tree.leaves(models)[0].shape[0]
    require(0 <= user < num_users, f"there is no user {user}; users are 0..{num_users - 1}")
    return jax.tree.map(lambda x: x[user], models)


def export_models(path: str | Path, models: Any) -> None:
    """Writes everybody's models to an npz: `users/<name>` [N, ...] and `mean/<name>` [...]."""
    everyone = {f"users/{name}": x for name, x in to_flat(models).items()}
    mean = {f"mean/{name}": x for name, x in to_flat(mean_model(models)).items()}
    write_npz(Path(path), **everyone, **mean)


def import_models(path: str | Path, like: Any) -> Any:
    """Reads all users' models that `export_models` wrote.

    Args: like, a pytree of the expected structure and shapes, [N, ...] leaves.
    Raises: DatasetNotFoundError, CorruptFileError, InvalidInputError for a leaf of another shape.
    """
    expected = {name: np.shape(x) for name, x in to_flat(like).items()}
    arrays = read_npz(Path(path), [f"users/{name}" for name in expected])
    for name, shape in expected.items():
        found = arrays[f"users/{name}"].shape
        if found != shape:
            raise InvalidInputError(f"{path}: {name} has shape {found}, expected {shape}")
    return from_flat({name: arrays[f"users/{name}"] for name in expected})
