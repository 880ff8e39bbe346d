"""Two clusters of a few numbers: exactly, and as scikit-learn's KMeans(2) finds them."""

import numpy as np

from lab.errors import require

NONE = (float("nan"), float("nan"))


def exact_two_means(values: np.ndarray) -> tuple[float, float]:
    """Gap of the centres and mean distance to the own centre, of the best split of sorted values.

    The split with the least squared error is taken, of equals the one with the fewest low values.
    Returns: (gap, within); (0, 0) where all are equal, NaN for fewer than two values.
    """
    values = np.sort(np.asarray(values, np.float64))
    if len(values) < 2:
        return NONE
    if values[0] == values[-1]:
        return 0.0, 0.0
    low, high = two_centres(values)
    is_low = np.abs(values - low) <= np.abs(values - high)
    return _summary(values, is_low)


def two_centres(values: np.ndarray) -> tuple[float, float]:
    """The centres of the exact split, the lower one first. Args: float [n], n >= 2."""
    values = np.sort(np.asarray(values, np.float64))
    counts = np.arange(1, len(values))
    sums, squares = np.cumsum(values), np.cumsum(values**2)
    low = sums[:-1] / counts
    high = (sums[-1] - sums[:-1]) / (len(values) - counts)
    errors = squares[-1] - counts * low**2 - (len(values) - counts) * high**2
    # Sums of squares of equal splits may differ in the last bit.
    best = int(np.argmax(errors <= errors.min() + 1e-9))
    return float(low[best]), float(high[best])


def sklearn_two_means(values: np.ndarray, num_starts: int = 1, seed: int = 0):
    """Gap and within of scikit-learn's `KMeans(2, n_init=num_starts, random_state=seed)`.

    The same k-means++ starts from the same random numbers, the same Lloyd iterations and stopping
    rules, without the library (num_starts=1 is its "auto"). Returns as `exact_two_means`.
    """
    require(num_starts >= 1, f"num_starts must be positive, got {num_starts}")
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return NONE
    if values.min() == values.max():
        return 0.0, 0.0
    rng = np.random.RandomState(seed)
    points = values - values.mean()
    tolerance = 1e-4 * points.var()
    best_error, best = None, None
    for _ in range(num_starts):
        labels, error = _lloyd(points, _plus_plus(points, rng), tolerance)
        is_new = best is None or not _same_clusters(labels, best)
        if best_error is None or (error < best_error and is_new):
            best_error, best = error, labels
    return _summary(values, best == 0)


def _plus_plus(points: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Two starting centres: a random point, and of two candidates drawn by distance the better."""
    weights = np.full(len(points), 1 / len(points))
    first = points[rng.choice(len(points), p=weights)]
    nearest = (points - first) ** 2
    thresholds = rng.uniform(size=2) * nearest.sum()
    candidates = np.minimum(np.searchsorted(np.cumsum(nearest), thresholds), len(points) - 1)
    costs = np.minimum(nearest, (points[candidates, None] - points) ** 2).sum(axis=1)
    return np.array([first, points[candidates[np.argmin(costs)]]])


def _lloyd(points, centres, tolerance, max_iterations: int = 300):
    labels = np.full(len(points), -1)
    for _ in range(max_iterations):
        new = _assigned(points, centres)
        moved = np.array(
            [points[new == k].mean() if (new == k).any() else centres[k] for k in range(2)]
        )
        shift, centres = ((moved - centres) ** 2).sum(), moved
        is_settled = np.array_equal(new, labels)
        labels = new
        if is_settled:
            break
        if shift <= tolerance:
            labels = _assigned(points, centres)
            break
    return labels, ((points - centres[labels]) ** 2).sum()


def _assigned(points, centres):
    return np.argmin(centres**2 - 2 * points[:, None] * centres, axis=1)


def _same_clusters(first, second) -> bool:
    return np.array_equal(first, second) or np.array_equal(first, 1 - second)


def _summary(values: np.ndarray, is_first: np.ndarray) -> tuple[float, float]:
    parts = [part for part in (values[is_first], values[~is_first]) if len(part)]
    centres = [part.mean() for part in parts]
    spread = sum(np.abs(part - part.mean()).sum() for part in parts) / len(values)
    return float(abs(centres[0] - centres[-1])), float(spread)
