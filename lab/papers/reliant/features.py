"""What becomes of the raw columns before a network sees them (the released loaders)."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from lab.data.graphs import NodeDataset
from lab.errors import require

Preprocessing = Literal["raw", "l1", "binary", "z", "minmax"]
# What the released loaders do to each data set. German rescales three columns only.
OFFICIAL = {"bail": "l1", "credit": "binary", "german": "minmax", "nba": "raw", "dblp_small": "raw"}
GERMAN_RESCALED = ("LoanAmount", "Age", "LoanDuration")


def row_l1(features: np.ndarray) -> np.ndarray:
    """Rows divided by their signed sum, not by their L1 norm; a row of sum 0 becomes zero."""
    sums = features.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.where(sums == 0, 0, features / np.where(sums == 0, 1, sums))


def binary(features: np.ndarray) -> np.ndarray:
    """1 where a value is not 0: the side effect of a loader for bags of words (Credit)."""
    return features != 0


def z_score(features: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1; constant columns become 0."""
    deviation = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(deviation == 0, 1, deviation)


def minmax(features: np.ndarray) -> np.ndarray:
    """Columns rescaled to [-1, 1]; constant columns become -1."""
    low, high = features.min(axis=0), features.max(axis=0)
    return 2 * (features - low) / np.where(high == low, 1, high - low) - 1


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda features: features,
    "l1": row_l1,
    "binary": binary,
    "z": z_score,
    "minmax": minmax,
}


def preprocess(features: np.ndarray, kind: str, columns: Sequence[int] | None = None) -> np.ndarray:
    """Features as a network sees them: float32 [N, F].

    Args: kind, a key of `KINDS`; columns, the indices of those that are changed, None for all
      ("l1" needs all).
    """
    require(kind in KINDS, f"features is {kind!r}; accepted: {', '.join(KINDS)}")
    features = np.array(features, np.float64)
    if columns is None:
        return KINDS[kind](features).astype(np.float32)
    require(kind != "l1", "features is 'l1', which divides rows and takes no columns")
    features[:, columns] = KINDS[kind](features[:, columns])
    return features.astype(np.float32)


def official_features(dataset: NodeDataset) -> np.ndarray:
    """The features of a data set of `OFFICIAL` as its released loader makes them."""
    require(
        dataset.name in OFFICIAL,
        f"there is no released loader of {dataset.name}; choose one of {', '.join(KINDS)}",
    )
    columns = None
    if dataset.name == "german":
        columns = [dataset.feature_names.index(name) for name in GERMAN_RESCALED]
    return preprocess(dataset.features, OFFICIAL[dataset.name], columns)


def sensitive_columns(dataset: NodeDataset) -> tuple[str, ...]:
    """Names of the features that tell the sensitive attribute outright.

    Those whose value is fixed by it and differs between its values; what a network is then given
    is the attribute itself. `drop_sensitive` of `lab.data.load` takes it out.
    """
    if dataset.sensitive is None:
        return ()
    groups = [dataset.features[dataset.sensitive == s] for s in np.unique(dataset.sensitive)]
    constant = np.all([(group == group[:1]).all(axis=0) for group in groups], axis=0)
    firsts = np.stack([group[0] for group in groups])
    distinct = np.array([len(np.unique(column)) == len(groups) for column in firsts.T])
    found = np.flatnonzero(constant & distinct & (len(groups) > 1))
    names = dataset.feature_names or tuple(f"column {i}" for i in range(dataset.num_features))
    return tuple(names[i] for i in found)
