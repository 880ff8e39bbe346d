"""Scores of label maps: areas summed over a whole set, then intersection over union."""

from typing import Any, NamedTuple

import numpy as np

from lab.errors import require
from lab.metrics.classification import confusion_matrix

IGNORED = 255


class Areas(NamedTuple):
    """Pixel counts by class, int64 [num_classes] each; `add_areas` sums them over pictures.

    Attributes: intersect, where label and prediction agree; predicted, labelled, of each.
    """

    intersect: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray

    @property
    def union(self) -> np.ndarray:
        return self.predicted + self.labelled - self.intersect


def segmentation_areas(
    predictions: Any, labels: Any, num_classes: int, ignored: int = IGNORED
) -> Areas:
    """The areas of one or more maps; ignored pixels count in none, not in the predicted one either.

    Args:
      predictions, labels: int, of one shape, classes 0..num_classes - 1.
      ignored: the label of pixels that do not count.
    Raises: InvalidInputError for other values or shapes.
    """
    predictions, labels = np.asarray(predictions).ravel(), np.asarray(labels).ravel()
    require(
        predictions.shape == labels.shape,
        f"predictions and labels must have one shape, got {predictions.size} and {labels.size}",
    )
    counts = labels != ignored
    predictions, labels = predictions[counts], labels[counts]
    for name, values in (("predictions", predictions), ("labels", labels)):
        wrong = values[(values < 0) | (values >= num_classes)]
        require(
            wrong.size == 0,
            f"{name} must be in 0..{num_classes - 1}, got {np.unique(wrong)[:8].tolist()}",
        )
    matrix = confusion_matrix(predictions, labels, num_classes)
    return Areas(np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1))


def add_areas(*areas: Areas) -> Areas:
    """The areas of several sets of pictures together."""
    return Areas(*(np.sum(parts, axis=0) for parts in zip(*areas, strict=True)))


def segmentation_scores(areas: Areas) -> dict[str, Any]:
    """The scores of a whole set, as shares of one.

    A class that is neither labelled nor predicted has IoU NaN and is left out of the mean; one that
    is predicted only has IoU 0 and accuracy NaN.

    Returns: "iou" and "accuracy" float [num_classes] by class; "miou", "macc", their means; "aacc",
      the share of pixels that are right. NaN where nothing counts.
    """
    iou = _ratio(areas.intersect, areas.union)
    accuracy = _ratio(areas.intersect, areas.labelled)
    return {
        "iou": iou,
        "accuracy": accuracy,
        "miou": _mean(iou),
        "macc": _mean(accuracy),
        "aacc": float(_ratio(areas.intersect.sum(), areas.labelled.sum())),
    }


def _ratio(part, whole) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
