"""From a node data set to the arrays that training reads, checked."""

import dataclasses
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lab.data.graphs import NodeDataset, preview
from lab.errors import InvalidInputError, require, require_given
from lab.nn.graph import Pairs, SymmetricLinks, neighbour_sum, pairs_of, symmetric_links
from lab.papers.reliant.features import Preprocessing, official_features, preprocess

UNKNOWN = -1


class FairGraph(struct.PyTreeNode):
    """One graph of N nodes as the training functions take it.

    Attributes:
      features: float32 [N, F].
      aggregate: float32 [N, F], `links` times the features, computed once.
      links: both directions of every edge and one loop a node, normalised.
      pairs: the undirected edges, for GraphAKD.
      labels: int32 [N]; -1 is unlabelled.
      sensitive: int32 [N], index of the node's group; -1 is unknown.
      train_mask, val_mask, test_mask: bool [N].
      num_classes, num_groups: static.
    """

    features: jax.Array
    aggregate: jax.Array
    links: SymmetricLinks
    pairs: Pairs
    labels: jax.Array
    sensitive: jax.Array
    train_mask: jax.Array
    val_mask: jax.Array
    test_mask: jax.Array
    num_classes: int = struct.field(pytree_node=False)
    num_groups: int = struct.field(pytree_node=False)

    @property
    def num_nodes(self) -> int:
        return self.labels.shape[0]


def prepare(
    dataset: NodeDataset,
    *,
    features: Preprocessing | str = "raw",
    groups: Sequence[int] | None = None,
    sensitive_known: np.ndarray | None = None,
    isolated: str = "loop",
    self_loops: bool = True,
) -> FairGraph:
    """Checks a data set and brings it to the device.

    Args:
      features: a kind of `lab.papers.reliant.features`, or "official" for what the released loader
        of this data set does.
      groups: values of the sensitive attribute that are compared, in order; others count as
        unknown. None: 0 and 1, and a third value is refused.
      sensitive_known: bool [N]; elsewhere the attribute is unknown: such nodes are trained on but
        are in no group.
      isolated: what to do with nodes without an edge: keep them with their loop ("loop") or
        "refuse".
      self_loops: add one loop a node, as the released code does.
    Raises: InvalidInputError.
    """
    _check_splits(dataset)
    labels = np.array(dataset.labels)
    if dataset.unlabeled is not None:
        labels[dataset.unlabeled] = -1
    _check_isolated(dataset, isolated)
    rows = (
        official_features(dataset)
        if features == "official"
        else preprocess(dataset.features, features)
    )
    sensitive, num_groups = _groups_of(dataset, groups, sensitive_known)
    links = symmetric_links(dataset.edge_index, dataset.num_nodes, self_loops=self_loops)
    pairs = pairs_of(links)
    links = jax.tree.map(jnp.asarray, links).normalised()
    rows = jnp.asarray(rows)
    return FairGraph(
        features=rows,
        aggregate=jax.jit(neighbour_sum)(links, rows),
        links=links,
        pairs=jax.tree.map(jnp.asarray, pairs),
        labels=jnp.asarray(labels),
        sensitive=jnp.asarray(sensitive),
        train_mask=jnp.asarray(dataset.train_mask),
        val_mask=jnp.asarray(dataset.val_mask),
        test_mask=jnp.asarray(dataset.test_mask),
        num_classes=dataset.num_classes,
        num_groups=num_groups,
    )


def with_features(graph: FairGraph, features: jax.Array) -> FairGraph:
    """The same graph with other features, float [N, F]."""
    require(
        features.shape == graph.features.shape,
        f"features have shape {features.shape}; accepted: {graph.features.shape}",
    )
    rows = jnp.asarray(features, jnp.float32)
    return graph.replace(features=rows, aggregate=jax.jit(neighbour_sum)(graph.links, rows))


def hide_sensitive(graph: FairGraph, share_known: float, seed: int = 0) -> FairGraph:
    """The same graph where only a random share of the nodes has a known sensitive attribute.

    Evaluation wants the attribute of all: keep the whole graph for it.
    """
    require(0 < share_known <= 1, f"share_known is {share_known}; accepted: above 0, at most 1")
    known = np.random.default_rng(seed).random(graph.num_nodes) < share_known
    return graph.replace(sensitive=jnp.where(known, graph.sensitive, UNKNOWN))


def _check_splits(dataset: NodeDataset) -> None:
    require(dataset.sensitive is not None, f"{dataset.name} has no sensitive attribute")
    for name in ("train_mask", "val_mask", "test_mask"):
        mask = getattr(dataset, name)
        require(mask is not None, f"{dataset.name} has no {name}; RELIANT needs all three splits")
        require(bool(mask.any()), f"{dataset.name}: {name} is empty")
    if dataset.unlabeled is not None:
        for name in ("train_mask", "val_mask", "test_mask"):
            bad = dataset.unlabeled[getattr(dataset, name)[dataset.unlabeled]]
            require(bad.size == 0, f"{dataset.name}: {name} holds unlabelled nodes {preview(bad)}")
    present = np.unique(dataset.labels[dataset.train_mask])
    absent = np.setdiff1d(np.arange(dataset.num_classes), present)
    if absent.size:
        warnings.warn(
            f"{dataset.name}: classes {preview(absent)} do not occur among the train nodes",
            stacklevel=3,
        )


def _check_isolated(dataset: NodeDataset, isolated: str) -> None:
    require(isolated in ("loop", "refuse"), f"isolated is {isolated!r}; accepted: loop, refuse")
    if isolated == "refuse":
        alone = np.setdiff1d(np.arange(dataset.num_nodes), dataset.edge_index[1])
        require(alone.size == 0, f"{dataset.name}: nodes {preview(alone)} have no edge")


def _groups_of(dataset, groups, known) -> tuple[np.ndarray, int]:
    values = dataset.sensitive
    if known is not None:
        known = np.asarray(known)
        require(
            known.shape == values.shape and known.dtype == bool,
            f"sensitive_known has shape {known.shape}, type {known.dtype}; accepted: bool "
            f"[{len(values)}]",
        )
    if groups is None:
        bad = np.flatnonzero((values != 0) & (values != 1))
        if bad.size:
            raise InvalidInputError(
                f"{dataset.name}: sensitive[{bad[0]}] is {values[bad[0]]}, not 0 or 1; name the "
                "values to compare with groups=(...), or make the attribute binary"
            )
        groups = (0, 1)
    require(
        len(groups) >= 2 and len(set(groups)) == len(groups),
        f"groups is {groups}; accepted: two or more different values",
    )
    index = np.full(len(values), UNKNOWN, np.int32)
    for position, value in enumerate(groups):
        index[values == value] = position
    if known is not None:
        index[~known] = UNKNOWN
    for position, value in enumerate(groups):
        require(
            bool((index == position).any()),
            f"{dataset.name}: no node of group {value} has a known sensitive attribute",
        )
    return index, len(groups)


def _sensitive_of(dataset: NodeDataset) -> np.ndarray:
    return require_given(dataset.sensitive, f"{dataset.name} has no sensitive attribute")


def crossed_groups(*attributes: np.ndarray) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
    """One attribute made of several: every combination of their values that occurs is a group.

    Args: attributes, int [N] each; -1 is unknown.
    Returns: int32 [N], the group, -1 where one of the attributes is unknown, to be a data set's
      `sensitive`; and what each group is, so that `groups=range(len(...))` compares all of them.
    """
    shapes = {np.shape(values) for values in attributes}
    require(
        len(shapes) == 1 and len(next(iter(shapes))) == 1,
        f"attributes have shapes {sorted(shapes)}; accepted: one or more, all [nodes]",
    )
    table = np.stack([np.asarray(values) for values in attributes], axis=1)
    known = (table != UNKNOWN).all(axis=1)
    combinations, index = np.unique(table[known], axis=0, return_inverse=True)
    crossed = np.full(len(table), UNKNOWN, np.int32)
    crossed[known] = index.ravel()
    return crossed, tuple(tuple(row) for row in combinations.tolist())


def without_edges(dataset: NodeDataset, rate: float, which: str, seed: int = 0) -> NodeDataset:
    """Pre-processing baseline: drops a share of the edges within or between groups.

    Args:
      rate: share of such undirected edges that goes, 0 to 1.
      which: "different" (ends in different groups), "same", or "all".
    """
    require(0 <= rate <= 1, f"rate is {rate}; accepted: 0 to 1")
    source, target = dataset.edge_index.astype(np.int64)
    sensitive = _sensitive_of(dataset)
    differs = sensitive[source] != sensitive[target]
    chosen = {"different": differs, "same": ~differs, "all": np.ones(len(source), bool)}
    require(which in chosen, f"which is {which!r}; accepted: {', '.join(chosen)}")
    low, high = np.minimum(source, target), np.maximum(source, target)
    codes = low * dataset.num_nodes + high
    candidates = np.unique(codes[chosen[which]])
    generator = np.random.default_rng(seed)
    gone = generator.choice(candidates, round(rate * len(candidates)), replace=False)
    kept = ~np.isin(codes, gone)
    return dataclasses.replace(dataset, edge_index=dataset.edge_index[:, kept])


def mask_correlated(dataset: NodeDataset, num_columns: int) -> NodeDataset:
    """Pre-processing baseline: zeros the columns most correlated with the sensitive attribute.

    By |Pearson correlation|; constant columns count as uncorrelated. The attribute's own column is
    the first to go.
    """
    require(
        0 <= num_columns <= dataset.num_features,
        f"num_columns is {num_columns}; accepted: 0 to {dataset.num_features}",
    )
    centred = dataset.features - dataset.features.mean(axis=0)
    sensitive = _sensitive_of(dataset) - _sensitive_of(dataset).mean()
    norms = np.linalg.norm(centred, axis=0) * np.linalg.norm(sensitive)
    correlation = np.abs(sensitive @ centred) / np.where(norms == 0, np.inf, norms)
    features = dataset.features.copy()
    features[:, np.argsort(-correlation, kind="stable")[:num_columns]] = 0
    return dataclasses.replace(dataset, features=features)
