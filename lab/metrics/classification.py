"""Scores of predicted classes. Arrays are numpy or jax, and so is the result."""

from typing import Any

import numpy as np

Array = Any


def micro_f1(predictions: Array, labels: Array, mask: Array | None = None) -> Array:
    """Micro-averaged F1; with one label an example this is the accuracy.

    Args: predictions, labels int [n] of classes; mask bool [n], the examples that count.
    Returns: float scalar; NaN where nothing counts.
    """
    xp = labels.__array_namespace__()
    counts = xp.ones(labels.shape, bool) if mask is None else mask
    counted = counts.sum()
    correct = ((predictions == labels) & counts).sum()
    return xp.where(counted > 0, correct / xp.maximum(counted, 1), xp.nan)


def macro_f1(
    predictions: Array, labels: Array, num_classes: int, mask: Array | None = None
) -> Array:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); classes that occur nowhere do not count.

    Args: as `micro_f1`; num_classes, classes are 0 to num_classes - 1.
    Returns: float scalar; NaN where no class occurs.
    """
    xp = labels.__array_namespace__()
    counts = xp.ones(labels.shape, bool) if mask is None else mask
    classes = xp.arange(num_classes)
    predicted = (predictions[:, None] == classes) & counts[:, None]
    actual = (labels[:, None] == classes) & counts[:, None]
    hits = (predicted & actual).sum(axis=0)
    total = predicted.sum(axis=0) + actual.sum(axis=0)
    scores = 2 * hits / xp.maximum(total, 1)
    occurring = (total > 0).sum()
    return xp.where(occurring > 0, scores.sum() / xp.maximum(occurring, 1), xp.nan)


def binary_f1(predictions: Array, labels: Array, mask: Array | None = None) -> Array:
    """F1 of class 1, 2 TP / (2 TP + FP + FN); 0 where class 1 occurs nowhere.

    Args: as `micro_f1`, classes 0 and 1.
    """
    xp = labels.__array_namespace__()
    counts = xp.ones(labels.shape, bool) if mask is None else mask
    predicted, actual = (predictions == 1) & counts, (labels == 1) & counts
    total = predicted.sum() + actual.sum()
    return xp.where(total > 0, 2 * (predicted & actual).sum() / xp.maximum(total, 1), 0.0)


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [num_classes, num_classes]; row: label, column: prediction. Host only."""
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)
