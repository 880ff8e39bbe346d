"""What a teacher passes on: log-probabilities and embeddings of all nodes, and files of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lab.data.npz import read_npz, write_npz
from lab.errors import CorruptFileError, NonFiniteError, require
from lab.interop import load_checkpoint

# Probabilities rounded to four decimals, as the released text files hold them, sum to 1 within it.
SUM_TOLERANCE = 1e-3


class TeacherKnowledge(struct.PyTreeNode):
    """Attributes: log_probs float32 [N, C]; embedding float32 [N, D], or None (CPF needs none)."""

    log_probs: jax.Array
    embedding: jax.Array | None = None

    def probs(self, decimals: int | None = None) -> jax.Array:
        """Probabilities float32 [N, C], rounded if asked: CPF's text file holds four decimals."""
        probs = jnp.exp(self.log_probs)
        return probs if decimals is None else jnp.round(probs, decimals)


def knowledge(
    *,
    log_probs: Any = None,
    probs: Any = None,
    logits: Any = None,
    embedding: Any = None,
) -> TeacherKnowledge:
    """Checked knowledge from exactly one of the three forms.

    Args: float [N, C]; embedding float [N, D].
    Raises: InvalidInputError for rows that are no distributions (log-probabilities passed as
      probabilities, for instance); NonFiniteError.
    """
    given = {"log_probs": log_probs, "probs": probs, "logits": logits}
    named = {name: np.asarray(x) for name, x in given.items() if x is not None}
    require(len(named) == 1, f"give one of log_probs, probs, logits; got {sorted(named)}")
    ((name, array),) = named.items()
    require(array.ndim == 2, f"{name} has shape {array.shape}; accepted: [nodes, classes]")
    array = array.astype(np.float32)
    require(bool(np.isfinite(array).all()), f"{name} holds NaN or infinity", NonFiniteError)
    if name == "logits":
        array = np.asarray(jax.nn.log_softmax(array))
    else:
        _check_distributions(name, array if name == "probs" else np.exp(array))
    if name == "probs":
        array = np.log(np.maximum(array, np.finfo(np.float32).tiny))
    if embedding is not None:
        embedding = np.asarray(embedding, np.float32)
        require(
            embedding.ndim == 2 and len(embedding) == len(array),
            f"embedding has shape {embedding.shape} beside {name} of {array.shape}",
        )
        is_finite = bool(np.isfinite(embedding).all())
        require(is_finite, "embedding holds NaN or infinity", NonFiniteError)
        embedding = jnp.asarray(embedding)
    return TeacherKnowledge(jnp.asarray(array), embedding)


def _check_distributions(name: str, probs: np.ndarray) -> None:
    sums = probs.sum(axis=1)
    bad = np.flatnonzero((np.abs(sums - 1) > SUM_TOLERANCE) | (probs < 0).any(axis=1))
    if bad.size:
        row = int(bad[0])
        raise_text = (
            f"{name}: {bad.size} rows are no distributions, first row {row} = "
            f"{np.round(probs[row], 4).tolist()} with sum {sums[row]:.4g}; accepted: sums of 1 "
            f"within {SUM_TOLERANCE}. Are these logits, or log-probabilities passed as probs?"
        )
        require(False, raise_text)


def save_knowledge(
    path: str | Path, teacher: TeacherKnowledge, metrics: Mapping[str, float] | None = None
) -> Path:
    """Writes `log_probs`, `embedding` and `metrics/<name>` to an .npz. Raises: StorageError."""
    arrays = {"log_probs": np.asarray(teacher.log_probs)}
    if teacher.embedding is not None:
        arrays["embedding"] = np.asarray(teacher.embedding)
    for name, value in (metrics or {}).items():
        arrays[f"metrics/{name}"] = np.asarray(value, np.float32)
    write_npz(Path(path), **arrays)
    return Path(path)


def load_knowledge(path: str | Path) -> TeacherKnowledge:
    """Reads knowledge that this project or the released code saved.

    Accepted: `.npz` of `save_knowledge`; the released GraphAKD `.pth.tar` (keys logits, embedding,
    parity, equality); the released CPF text file of probabilities, one node a line.
    Raises: InvalidInputError, CorruptFileError.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = read_npz(path, ("log_probs",), ("embedding",))
        return knowledge(log_probs=arrays["log_probs"], embedding=arrays.get("embedding"))
    if path.suffix in (".tar", ".pth", ".pt"):
        return _from_checkpoint(path)
    try:
        return knowledge(probs=np.loadtxt(path, ndmin=2))
    except ValueError as error:
        raise CorruptFileError(f"{path} is not a table of probabilities: {error}") from error


def _from_checkpoint(path: Path) -> TeacherKnowledge:
    state = load_checkpoint(path)
    missing = {"logits", "embedding"} - set(state)
    require(
        not missing,
        f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(state))}",
        CorruptFileError,
    )
    # The released file's "logits" are log-probabilities; log_softmax leaves those alone.
    return knowledge(logits=state["logits"], embedding=state["embedding"])
