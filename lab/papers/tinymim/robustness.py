"""ImageNet-A, -R and -C from folders: accuracy over a subset of the classes, corruption errors.

A classifier is `logits_fn(images) -> logits`: pictures as a source reads them (uint8 canvas and
sizes, `lab.data.folders`), any transform inside, so any paper's network can be scored.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.folders import image_folder
from lab.data.streams import Source, in_order
from lab.errors import DatasetNotFoundError, require
from lab.papers.tinymim.metrics import (
    ALEXNET_ERRORS,
    class_indices,
    corruption_errors,
    subset_accuracy,
    topk_accuracy,
)

LogitsFn = Callable[[np.ndarray, np.ndarray], Any]
SEVERITIES = (1, 2, 3, 4, 5)


def collect_logits(
    logits_fn: LogitsFn, source: Source, batch_size: int = 64, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The logits of all pictures of a source, in its order.

    Args:
      logits_fn: (images uint8 [B, canvas, canvas, 3], sizes int [B, 2]) -> float [B, C]; always
        called with whole batches, so it compiles once.
      options: of `lab.data.streams.in_order` (num_workers, ...).
    Returns: (float32 [N, C], labels int [N]).
    """
    logits, labels = [], []
    for batch in in_order(source, batch_size, **options):
        real = batch["mask"] > 0
        require("label" in batch, "the pictures have no labels: put them in class folders")
        logits.append(np.asarray(logits_fn(batch["image"], batch["size"]), np.float32)[real])
        labels.append(batch["label"][real])
    return np.concatenate(logits), np.concatenate(labels)


def evaluate_subset(
    logits_fn: LogitsFn,
    root: str | Path,
    classes: Sequence[str],
    *,
    canvas: int = 256,
    **options: Any,
) -> float:
    """Accuracy on ImageNet-A or -R, decisions among the folder's own classes.

    Args: root, `<class>/*` folders of a subset of the network's `classes` (names in the order of
      its logits); options as of `collect_logits`.
    """
    folder = image_folder(root, canvas=canvas)
    chosen = class_indices(folder.classes, classes)
    logits, labels = collect_logits(logits_fn, folder, **options)
    return subset_accuracy(logits, chosen[labels], chosen)


def corruption_folders(
    root: str | Path,
    corruptions: Sequence[str] = tuple(ALEXNET_ERRORS),
    severities: Sequence[int] = SEVERITIES,
) -> dict[str, list[Path]]:
    """The folders `root/<corruption>/<severity>` of ImageNet-C, by corruption.

    Also found one folder deeper, as the archives unpack (`blur/defocus_blur/1`).
    Raises: DatasetNotFoundError naming what is missing.
    """
    root, found, missing = Path(root).expanduser(), {}, []
    for name in corruptions:
        parents = [p for p in (root / name, *sorted(root.glob(f"*/{name}"))) if p.is_dir()]
        parent = parents[0] if parents else root / name
        found[name] = [parent / str(severity) for severity in severities]
        missing += [path for path in found[name] if not path.is_dir()]
    if missing:
        names = ", ".join(path.relative_to(root).as_posix() for path in missing[:5])
        raise DatasetNotFoundError(
            f"{root} lacks {len(missing)} folders of corrupted pictures ({names}, ...); expected "
            "<corruption>/<severity>/<class>/*"
        )
    return found


def evaluate_corruptions(
    logits_fn: LogitsFn,
    root: str | Path,
    classes: Sequence[str],
    *,
    corruptions: Sequence[str] = tuple(ALEXNET_ERRORS),
    canvas: int = 256,
    **options: Any,
) -> dict[str, Any]:
    """Mean error and mCE on ImageNet-C (`metrics.corruption_errors`), with "errors" as measured.

    Args: root, `<corruption>/<severity>/<class>/*`; the others as of `evaluate_subset`.
    """
    errors = {}
    for name, folders in corruption_folders(root, corruptions).items():
        errors[name] = [
            error_of(logits_fn, path, classes, canvas=canvas, **options) for path in folders
        ]
    return corruption_errors(errors) | {"errors": errors}


def error_of(
    logits_fn: LogitsFn,
    root: str | Path,
    classes: Sequence[str],
    *,
    canvas: int = 256,
    **options: Any,
) -> float:
    """The top-1 error, over all classes, on the pictures of class folders."""
    folder = image_folder(root, canvas=canvas)
    chosen = class_indices(folder.classes, classes)
    logits, labels = collect_logits(logits_fn, folder, **options)
    return 1.0 - topk_accuracy(logits, chosen[labels])
