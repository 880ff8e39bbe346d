"""Checks of a batch on the host, before anything is compiled."""

import numpy as np

from lab.errors import NonFiniteError, require


def check_pixels(images: np.ndarray) -> None:
    """Raises NonFiniteError for NaN or infinite pixels, InvalidInputError for grey levels."""
    images = np.asarray(images)
    require(
        np.issubdtype(images.dtype, np.floating),
        f"images must be normalised floats, got {images.dtype}: divide by 255 and standardise",
    )
    bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    require(
        not bad.any(),
        f"images {np.flatnonzero(bad)[:8].tolist()} hold NaN or infinite pixels",
        NonFiniteError,
    )


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises InvalidInputError for labels outside 0..num_classes - 1."""
    labels = np.asarray(labels)
    require(np.issubdtype(labels.dtype, np.integer), f"labels must be integers, got {labels.dtype}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    require(
        outside.size == 0,
        f"labels must be in 0..{num_classes - 1}, got {np.unique(outside)[:8].tolist()}",
    )


def check_soft_targets(targets: np.ndarray, num_classes: int) -> None:
    """Raises InvalidInputError unless rows of float [B, num_classes] are distributions."""
    targets = np.asarray(targets)
    shape = (len(targets), num_classes)
    require(
        targets.shape == shape, f"soft targets must be [batch, {num_classes}], got {targets.shape}"
    )
    sums = targets.sum(axis=1)
    wrong = (np.abs(sums - 1) > 1e-3) | (targets < 0).any(axis=1)
    require(
        not wrong.any(),
        f"rows of soft targets must be non-negative and sum to one, row {int(wrong.argmax())} "
        f"sums to {sums[wrong.argmax()]:.4g}",
    )
