"""Which training examples each user holds.

Each scheme is an inner function of its random numbers and a thin wrapper that draws them from a
`numpy.random.Generator`. A partition is a list of index arrays, one a user.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from lab.errors import InvalidInputError, require
from lab.papers.dacfl.topology import require_known

SCHEMES = ("iid", "shards", "dirichlet")


@dataclasses.dataclass(frozen=True)
class PartitionConfig:
    """How the training set is divided.

    Attributes:
      scheme: `iid`; `shards`, a few one-class pieces a user; `dirichlet`, random class shares.
      shards_per_user: of `shards`; 2 gives most users two classes.
      alpha: of `dirichlet`, > 0; small is far from iid.
      balance: of `dirichlet`: users that hold n / N examples get no more.
      min_size: of `dirichlet`: drawn again until each user has so many.
      max_draws: of `dirichlet`.
    """

    scheme: str = "shards"
    shards_per_user: int = 2
    alpha: float = 0.5
    balance: bool = False
    min_size: int = 10
    max_draws: int = 1000

    def __post_init__(self) -> None:
        require_known(self.scheme, SCHEMES, "partition scheme")
        require(self.shards_per_user >= 1, f"shards_per_user: {self.shards_per_user} < 1")
        require(np.isfinite(self.alpha) and self.alpha > 0, f"alpha must be > 0, got {self.alpha}")
        require(self.min_size >= 1 and self.max_draws >= 1, "min_size and max_draws are at least 1")


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition as one array.

    Attributes: index int32 [N, M], each user's rows of the training set, padded by repeating its
    first; counts int32 [N], how many of them are real.
    """

    index: np.ndarray
    counts: np.ndarray


def iid_from(perm: np.ndarray, num_users: int) -> list[np.ndarray]:
    """User i gets perm[i m : (i + 1) m], m = floor(n / N); the remainder is dropped."""
    size = len(perm) // num_users
    _require_enough(size, num_users, len(perm), "iid")
    return [np.asarray(perm[i * size : (i + 1) * size]) for i in range(num_users)]


def shards_from(
    labels: np.ndarray, perm: np.ndarray, shard_perm: np.ndarray, num_users: int
) -> list[np.ndarray]:
    """FedAvg's split: permuted, stably sorted by label, cut into equal shards, s a user.

    User i gets shards shard_perm[i s .. i s + s - 1] in that order; a shard may straddle classes.
    """
    num_shards = len(shard_perm)
    require(
        num_shards % num_users == 0,
        f"{num_shards} shards do not divide among {num_users} users",
    )
    size = len(labels) // num_shards
    _require_enough(size, num_shards, len(labels), "shards", "shards (num_users * shards_per_user)")
    ordered = perm[np.argsort(np.asarray(labels)[perm], kind="stable")]
    shards = [ordered[k * size : (k + 1) * size] for k in range(num_shards)]
    per_user = num_shards // num_users
    return [
        np.concatenate([shards[k] for k in shard_perm[i * per_user : (i + 1) * per_user]])
        for i in range(num_users)
    ]


def dirichlet_from(
    labels: np.ndarray, perm: np.ndarray, proportions: np.ndarray, balance: bool = False
) -> list[np.ndarray]:
    """Class c is cut among the users at floor(cumsum(p_c) n_c).

    Args: proportions float64 [C, N], rows sum to 1; balance: p_i <- 0 for users that already hold
      n / N examples, then renormalised.
    """
    num_classes, num_users = proportions.shape
    labels, total = np.asarray(labels), len(labels)
    parts: list[list[np.ndarray]] = [[] for _ in range(num_users)]
    held = np.zeros(num_users, np.int64)
    for c in range(num_classes):
        members = perm[labels[perm] == c]
        share = np.asarray(proportions[c], np.float64)
        if balance:
            share = np.where(held >= total / num_users, 0.0, share)
            share = share / share.sum() if share.sum() > 0 else proportions[c]
        cuts = np.floor(np.cumsum(share) * len(members)).astype(np.int64)[:-1]
        for i, piece in enumerate(np.split(members, cuts)):
            parts[i].append(piece)
            held[i] += len(piece)
    return [np.concatenate(pieces) for pieces in parts]


def draw_partition(
    labels: np.ndarray,
    num_users: int,
    config: PartitionConfig,
    generator: np.random.Generator,
    num_classes: int | None = None,
) -> list[np.ndarray]:
    """Divides the training set; one int64 index array a user.

    Raises: InvalidInputError for labels that are not integers in 0..C-1, more pieces than
      examples, or a min_size that cannot be met (at once where n < N * min_size, else after
      max_draws draws).
    """
    labels = check_labels(labels, num_classes)
    require(num_users >= 1, f"num_users must be at least 1, got {num_users}")
    num_classes = num_classes or int(labels.max()) + 1
    n = len(labels)
    if config.scheme == "dirichlet":
        require(
            n >= num_users * config.min_size,
            f"{n} examples cannot give {num_users} users {config.min_size} each (min_size)",
        )
        return _draw_dirichlet(labels, num_users, config, generator, num_classes)
    perm = generator.permutation(n)
    if config.scheme == "iid":
        return iid_from(perm, num_users)
    shard_perm = generator.permutation(num_users * config.shards_per_user)
    return shards_from(labels, perm, shard_perm, num_users)


def _draw_dirichlet(labels, num_users, config, generator, num_classes) -> list[np.ndarray]:
    smallest = 0
    for _ in range(config.max_draws):
        perm = generator.permutation(len(labels))
        proportions = generator.dirichlet(np.full(num_users, config.alpha), size=num_classes)
        parts = dirichlet_from(labels, perm, proportions, config.balance)
        smallest = max(smallest, min(map(len, parts)))
        if min(map(len, parts)) >= config.min_size:
            return parts
    raise InvalidInputError(
        f"no draw of {config.max_draws} gave every user {config.min_size} examples (alpha = "
        f"{config.alpha}, {num_users} users; best smallest user: {smallest}); raise alpha, lower "
        "min_size or use balance"
    )


def check_labels(labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Labels as int64 [n]; warns of absent classes.

    Raises: InvalidInputError where they are not integers, negative, or at least num_classes.
    """
    labels = np.asarray(labels)
    require(
        labels.ndim == 1 and labels.size > 0 and np.issubdtype(labels.dtype, np.integer),
        f"labels must be integers [n], got {labels.dtype} of shape {labels.shape}",
    )
    limit = labels.max() + 1 if num_classes is None else num_classes
    wrong = labels[(labels < 0) | (labels >= limit)]
    require(wrong.size == 0, f"labels must be 0..{limit - 1}, got {wrong[:3].tolist()}")
    absent = sorted(set(range(limit)) - set(np.unique(labels).tolist()))
    if absent:
        warnings.warn(f"classes {absent[:8]} have no examples", stacklevel=3)
    return labels.astype(np.int64)


def check_partition(parts: Sequence, num_examples: int) -> list[np.ndarray]:
    """A partition from elsewhere as index arrays; warns where users share examples.

    Raises: InvalidInputError for a user without examples, or indices that are not integers in
      0..n-1.
    """
    require(len(parts) >= 1, "the partition has no users")
    checked = []
    for user, part in enumerate(parts):
        part = np.asarray(part)
        require(part.size > 0, f"user {user} has no examples")
        require(
            part.ndim == 1 and np.issubdtype(part.dtype, np.integer),
            f"user {user}: indices must be a list of integers, got {part.dtype} {part.shape}",
        )
        wrong = part[(part < 0) | (part >= num_examples)]
        require(
            wrong.size == 0,
            f"user {user}: indices {wrong[:3].tolist()} are out of range 0..{num_examples - 1}",
        )
        checked.append(part.astype(np.int64))
    everything = np.concatenate(checked)
    shared = len(everything) - len(np.unique(everything))
    if shared:
        warnings.warn(f"{shared} examples are given more than once", stacklevel=3)
    return checked


def pack(parts: Sequence[np.ndarray], width: int | None = None) -> Partition:
    """Index lists as one padded array; `width` M at least the largest user."""
    for user, part in enumerate(parts):
        require(len(part) > 0, f"user {user} has 0 examples; merge it or lower the number of users")
    counts = np.array([len(part) for part in parts], np.int32)
    width = width or int(counts.max())
    require(width >= counts.max(), f"width {width} is below the largest user's {counts.max()}")
    index = np.stack([np.concatenate([p, np.full(width - len(p), p[0])]) for p in parts])
    return Partition(index.astype(np.int32), counts)


def label_histogram(
    parts: Sequence[np.ndarray], labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """How many examples of each class each user has; int64 [N, C]."""
    labels = np.asarray(labels)
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts])


def _require_enough(size: int, pieces: int, total: int, scheme: str, what: str = "users") -> None:
    require(size >= 1, f"{scheme}: {total} examples cannot be divided among {pieces} {what}")
