"""Measures of classifiers: top-k, over a subset of the classes, under corruptions.

All are shares of one; multiply by 100 for the paper's tables.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lab.errors import require

# Top-1 errors of AlexNet, mean over five severities (Hendrycks & Dietterich, 2019).
ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.92264,
    "defocus_blur": 0.81988,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.79836,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.71784,
    "jpeg_compression": 0.6065,
}


def topk_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """The share of rows whose label is among the k largest logits.

    Args: logits float [N, C]; labels int [N].
    Raises: InvalidInputError for a k outside 1..C, labels outside 0..C - 1, or no rows.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    check_rows(logits, labels)
    num_classes = logits.shape[1]
    require(1 <= k <= num_classes, f"k must be in 1..{num_classes}, got {k}")
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    require(
        wrong.size == 0,
        f"labels must be in 0..{num_classes - 1}, got {np.unique(wrong)[:8].tolist()}",
    )
    # a stable order, so that equal logits are ranked the same everywhere
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((order == labels[:, None]).any(axis=1).mean())


def subset_accuracy(logits: np.ndarray, labels: np.ndarray, class_indices: ArrayLike) -> float:
    """Top-1 accuracy with decisions among a subset of the classes (ImageNet-A and -R).

    Args:
      logits: float [N, C] over all classes; labels int [N], numbers of the original classes.
      class_indices: the classes that may be decided for.
    Raises: InvalidInputError for classes outside 0..C - 1 or twice, or labels not among them.
    """
    logits, labels, chosen = np.asarray(logits), np.asarray(labels), np.asarray(class_indices)
    check_rows(logits, labels)
    require(
        chosen.size > 0
        and len(np.unique(chosen)) == len(chosen)
        and chosen.min() >= 0
        and chosen.max() < logits.shape[1],
        f"class_indices must be different numbers in 0..{logits.shape[1] - 1}, got "
        f"{chosen.tolist()[:8]}",
    )
    wrong = np.setdiff1d(labels, chosen)
    require(wrong.size == 0, f"labels must be among class_indices, got {wrong[:8].tolist()}")
    decided = chosen[logits[:, chosen].argmax(axis=1)]
    return float((decided == labels).mean())


def class_indices(subset: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The number of each class of a subset among all classes; int [len(subset)].

    Args: subset, classes, names of folders (wnids): those of ImageNet-A among the 1,000.
    Raises: InvalidInputError for a name that is not among all.
    """
    place = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in subset if name not in place]
    require(not unknown, f"classes {unknown[:5]} are not among the {len(place)} of the network")
    return np.array([place[name] for name in subset])


def corruption_errors(
    errors: Mapping[str, Sequence[float]], reference: Mapping[str, float] = ALEXNET_ERRORS
) -> dict[str, Any]:
    """Mean error and mCE over corruptions (ImageNet-C).

    Args:
      errors: corruption -> top-1 error as a share at each severity.
      reference: corruption -> the error, mean over severities, that mCE divides by.
    Returns: "mean_error"; "mce", the mean of the ratios, 1 being as bad as the reference; "ce", the
      ratio of each corruption.
    Raises: InvalidInputError for an error outside 0..1, or a corruption without reference.
    """
    require(len(errors) > 0, "there are no corruptions")
    unknown = sorted(set(errors) - set(reference))
    require(not unknown, f"no reference error of {unknown}; known are {sorted(reference)}")
    means = {}
    for name, values in errors.items():
        values = np.asarray(values, np.float64)
        require(
            values.size > 0 and bool(np.all((values >= 0) & (values <= 1))),
            f"errors of {name} must be shares in 0..1, got {values.tolist()}",
        )
        means[name] = values.mean()
    ratios = {name: float(mean / reference[name]) for name, mean in means.items()}
    return {
        "mean_error": float(np.mean(list(means.values()))),
        "mce": float(np.mean(list(ratios.values()))),
        "ce": ratios,
    }


def check_rows(logits: np.ndarray, labels: np.ndarray) -> None:
    """Raises InvalidInputError unless logits are [N, C] with a label a row."""
    require(
        logits.ndim == 2 and labels.shape == logits.shape[:1] and len(labels) > 0,
        f"logits must be [N, classes] and labels [N], got {logits.shape} and {labels.shape}",
    )
