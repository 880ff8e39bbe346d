"""How good and how fair a student is, on the nodes of a mask."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lab.metrics.classification import binary_f1, confusion_matrix, macro_f1
from lab.metrics.fairness import equal_opportunity_gap, share_changed, statistical_parity_gap
from lab.metrics.ranking import roc_auc
from lab.papers.reliant.data import FairGraph


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one classifier, as fractions.

    Attributes:
      accuracy; f1, of class 1 (macro for more classes); auc, of score 1 - score 0.
      delta_sp, delta_eo: gaps between groups.
      positive_share: predictions of class 1. majority: accuracy of always saying the most frequent
        label.
      undefined: names of scores that are NaN because a group or a class is empty.
      collapsed: whether all predictions are alike, which looks perfectly fair.
      dead_share: nodes whose class scores are all 0: label propagation that has died out.
    """

    accuracy: float
    f1: float
    auc: float
    delta_sp: float
    delta_eo: float
    positive_share: float
    majority: float
    undefined: tuple[str, ...]
    collapsed: bool
    dead_share: float


SCORES = ("accuracy", "f1", "auc", "delta_sp", "delta_eo", "positive_share")
GROUP_SCORES = ("accuracy", "f1", "auc", "base_rate", "positive_share")


def evaluate(logits: Any, graph: FairGraph, mask: Any = None, *, warn: bool = True) -> Evaluation:
    """Scores of logits [N, C] on the masked nodes (the test nodes by default).

    Ties go to the lower class. Warns of constant predictions and of dead outputs.
    """
    rows = np.asarray(mask if mask is not None else graph.test_mask)
    scores = np.asarray(logits, np.float64)[rows]
    labels, sensitive = np.asarray(graph.labels)[rows], np.asarray(graph.sensitive)[rows]
    predictions = scores.argmax(axis=1)
    is_binary = graph.num_classes == 2
    classes = (1,) if is_binary else tuple(range(graph.num_classes))
    compared = {"groups": tuple(range(graph.num_groups)), "classes": classes}
    values = {
        "accuracy": (predictions == labels).mean(),
        "f1": binary_f1(predictions, labels)
        if is_binary
        else macro_f1(predictions, labels, graph.num_classes),
        "auc": roc_auc(scores[:, 1] - scores[:, 0], labels == 1) if is_binary else np.nan,
        "delta_sp": statistical_parity_gap(predictions, sensitive, **compared),
        "delta_eo": equal_opportunity_gap(predictions, labels, sensitive, **compared),
        "positive_share": (predictions == 1).mean(),
        "majority": np.bincount(labels[labels >= 0]).max() / len(labels),
    }
    result = Evaluation(
        **{name: float(value) for name, value in values.items()},
        undefined=tuple(name for name, value in values.items() if np.isnan(value)),
        collapsed=len(np.unique(predictions)) == 1,
        dead_share=float((scores == 0).all(axis=1).mean()),
    )
    if warn and result.collapsed:
        warnings.warn(
            "collapsed: all predictions are alike, so every gap is 0 and says nothing", stacklevel=2
        )
    if warn and result.dead_share > 0.5:
        warnings.warn(
            f"dead outputs: {result.dead_share:.0%} of the rows are all zero; lower feat_drop or "
            "the learning rate",
            stacklevel=2,
        )
    return result


def evaluate_copies(logits: Any, graph: FairGraph, mask: Any = None) -> dict[str, np.ndarray]:
    """Scores of many copies: logits [..., N, C] -> each name of `SCORES` float [...]."""
    logits = np.asarray(logits)
    flat = logits.reshape(-1, *logits.shape[-2:])
    found = [evaluate(x, graph, mask, warn=False) for x in flat]
    names = (*SCORES, "majority", "collapsed", "dead_share")
    return {
        name: np.array([getattr(e, name) for e in found]).reshape(logits.shape[:-2])
        for name in names
    }


def by_group(logits: Any, graph: FairGraph, mask: Any = None) -> list[dict[str, Any]]:
    """One row a group: number of nodes, accuracy, F1, AUC, base and positive rate, confusion.

    Returns: dicts with "group", "nodes", those of `GROUP_SCORES` (NaN where undefined) and
      "confusion" int [C, C], row label, column prediction.
    """
    rows = np.asarray(mask if mask is not None else graph.test_mask)
    scores, labels = np.asarray(logits, np.float64), np.asarray(graph.labels)
    found = []
    for group in range(graph.num_groups):
        chosen = rows & (np.asarray(graph.sensitive) == group)
        if not chosen.any():
            found.append({"group": group, "nodes": 0, **dict.fromkeys(GROUP_SCORES, np.nan)})
            found[-1]["confusion"] = np.zeros((graph.num_classes, graph.num_classes), int)
            continue
        e = evaluate(scores, graph, chosen, warn=False)
        predictions = scores[chosen].argmax(axis=1)
        found.append(
            {
                "group": group,
                "nodes": int(chosen.sum()),
                "accuracy": e.accuracy,
                "f1": e.f1,
                "auc": e.auc,
                "base_rate": float((labels[chosen] == 1).mean()),
                "positive_share": e.positive_share,
                "confusion": confusion_matrix(predictions, labels[chosen], graph.num_classes),
            }
        )
    return found


def changed_predictions(before: Any, after: Any, graph: FairGraph) -> float:
    """Share of test predictions that differ between two sets of logits [N, C].

    Counterfactual unfairness where `after` is of the sensitive attribute flipped, instability where
    it is of noisy features (NIFTY): see `training.predict` and `data.with_features`.
    """
    old, new = (np.asarray(logits).argmax(axis=1) for logits in (before, after))
    return float(share_changed(old, new, np.asarray(graph.test_mask)))


def parameter_count(params: Mapping[str, Any]) -> int:
    """Number of parameters: the student is not always the smaller one."""
    return sum(int(np.size(x)) for x in jax.tree.leaves(params))
