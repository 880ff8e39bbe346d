"""One graph with features and labels on its nodes: checking, cutting out, padding.

Everything is numpy on the host; `to_graphs_tuple` and `pad_graph` hand it to jraph. Edges stand in
one order everywhere: by target, then by source, so that segment sums over the targets may be told
`indices_are_sorted=True`.
"""

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lab.errors import InvalidInputError, NonFiniteError, require

if TYPE_CHECKING:
    import jraph

OneDirectional = Literal["refuse", "symmetrise"]


@dataclasses.dataclass(frozen=True)
class EdgeReport:
    """What cleaning changed in a list of directed edges; counts of directed edges."""

    self_loops: int = 0
    duplicates: int = 0
    added_reverses: int = 0

    def __str__(self) -> str:
        return (
            f"{self.self_loops} self loops and {self.duplicates} duplicates removed, "
            f"{self.added_reverses} missing reverse edges added"
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NodeDataset:
    """A graph for node classification. Build it with `from_arrays`, which checks.

    N nodes, F features, M directed edges.
    """

    name: str
    features: np.ndarray
    """float32 [N, F], finite, as stored: not normalised."""
    labels: np.ndarray
    """int32 [N] in [0, num_classes); nodes in `unlabeled` hold 0 or -1."""
    edge_index: np.ndarray
    """int32 [2, M], rows (source, target), both directions of every edge, no self loops, no
    duplicates, sorted by target and then source."""
    num_classes: int
    train_mask: np.ndarray | None = None
    """bool [N], the split published with the data; likewise val_mask and test_mask."""
    val_mask: np.ndarray | None = None
    test_mask: np.ndarray | None = None
    sensitive: np.ndarray | None = None
    """int32 [N], the sensitive attribute's value of each node."""
    unlabeled: np.ndarray | None = None
    """int32 [k], nodes without a true label."""
    feature_names: tuple[str, ...] = ()
    """Names of the F columns, where the source has them."""
    edge_report: EdgeReport = EdgeReport()
    """What was removed or added when the edges were checked."""

    def __repr__(self) -> str:
        return (
            f"NodeDataset({self.name}: {self.num_nodes} nodes, {self.num_edges} directed edges, "
            f"{self.num_features} features, {self.num_classes} classes)"
        )

    @property
    def num_nodes(self) -> int:
        return self.features.shape[0]

    @property
    def num_features(self) -> int:
        return self.features.shape[1]

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return self.edge_index.shape[1]

    def subgraph(self, nodes: Any) -> "NodeDataset":
        """The graph induced on `nodes`, numbered by their position in it.

        Args:
          nodes: int [k], distinct node ids, in the order that the new graph shall have.
        Raises: InvalidInputError, naming ids that are unknown or listed twice.
        """
        nodes = as_node_ids(nodes, self.num_nodes, "nodes")
        values, counts = np.unique(nodes, return_counts=True)
        require(
            bool((counts == 1).all()), f"nodes lists {preview(values[counts > 1])} more than once"
        )

        def rows(array):
            return None if array is None else array[nodes]

        position = np.full(self.num_nodes, -1, np.int32)
        position[nodes] = np.arange(len(nodes), dtype=np.int32)
        unlabeled = self.unlabeled
        if unlabeled is not None:
            unlabeled = np.sort(position[unlabeled][position[unlabeled] >= 0])
        return dataclasses.replace(
            self,
            features=self.features[nodes],
            labels=self.labels[nodes],
            edge_index=induced_edges(self.edge_index, nodes, self.num_nodes),
            train_mask=rows(self.train_mask),
            val_mask=rows(self.val_mask),
            test_mask=rows(self.test_mask),
            sensitive=rows(self.sensitive),
            unlabeled=unlabeled,
        )

    def without_nodes(self, nodes: Any) -> "NodeDataset":
        """The same graph as if some nodes had never been in it; ids stay.

        A deleted node keeps its row, with features of zero, no edge, and in no split.

        Args: nodes int [k]. Raises: InvalidInputError for unknown ids.
        """
        gone = np.zeros(self.num_nodes, bool)
        gone[as_node_ids(nodes, self.num_nodes, "nodes")] = True

        def still(mask):
            return None if mask is None else mask & ~gone

        return dataclasses.replace(
            self,
            features=np.where(gone[:, None], np.float32(0), self.features),
            edge_index=self.edge_index[:, ~gone[self.edge_index].any(axis=0)],
            train_mask=still(self.train_mask),
            val_mask=still(self.val_mask),
            test_mask=still(self.test_mask),
        )


class PaddedGraph(NamedTuple):
    """A jraph graph padded to a fixed shape, and which of its rows are real."""

    graph: "jraph.GraphsTuple"
    node_mask: np.ndarray
    """bool [num_nodes], False on padding nodes."""
    edge_mask: np.ndarray
    """bool [num_edges], False on padding edges."""


def from_arrays(
    name: str,
    features: Any,
    labels: Any,
    edge_index: Any,
    *,
    num_classes: int | None = None,
    train_mask: Any = None,
    val_mask: Any = None,
    test_mask: Any = None,
    sensitive: Any = None,
    unlabeled: Any = None,
    feature_names: tuple[str, ...] = (),
    one_directional: OneDirectional = "refuse",
) -> NodeDataset:
    """A checked `NodeDataset`.

    Args:
      name: what messages call the data set.
      features: [N, F] array or scipy sparse matrix of finite numbers; made dense float32.
      labels: whole numbers [N] in [0, num_classes); nodes of `unlabeled` may hold -1.
      edge_index: whole numbers [2, M], rows (source, target).
      num_classes: largest label + 1 where None.
      train_mask, val_mask, test_mask: bool [N], pairwise disjoint, no unlabelled (-1) node in one.
      sensitive: whole numbers [N], not negative.
      unlabeled: ids of nodes without a true label.
      feature_names: F names, or none.
      one_directional: what to do with an edge whose reverse is missing: "refuse" it, or add the
        reverse with a warning ("symmetrise").
    Self loops and duplicate edges are removed with a warning; `edge_report` counts them.
    Raises: InvalidInputError, or NonFiniteError for NaN and infinity in the features.
    """
    features = _dense_features(features, name)
    num_nodes = features.shape[0]
    ids = np.zeros(0, np.int32) if unlabeled is None else unlabeled
    ids = as_node_ids(ids, num_nodes, f"{name}: unlabeled")
    labels, num_classes = _checked_labels(labels, num_nodes, num_classes, ids, name)
    masks = _checked_masks(
        {"train_mask": train_mask, "val_mask": val_mask, "test_mask": test_mask}, labels, name
    )
    sensitive = _checked_sensitive(sensitive, num_nodes, name)
    require(
        len(feature_names) in (0, features.shape[1]),
        f"{name}: {len(feature_names)} feature_names for {features.shape[1]} features",
    )
    edges, report = clean_edges(edge_index, num_nodes, one_directional=one_directional, name=name)
    if report != EdgeReport():
        warnings.warn(f"{name}: {report}", stacklevel=2)
    return NodeDataset(
        name=name,
        features=features,
        labels=labels,
        edge_index=edges,
        num_classes=num_classes,
        **masks,
        sensitive=sensitive,
        unlabeled=None if unlabeled is None else ids,
        feature_names=tuple(feature_names),
        edge_report=report,
    )


def clean_edges(
    edge_index: Any,
    num_nodes: int,
    *,
    one_directional: OneDirectional = "refuse",
    name: str = "graph",
) -> tuple[np.ndarray, EdgeReport]:
    """Checks directed edges and brings them into the order of `NodeDataset.edge_index`.

    Args: see `from_arrays`.
    Returns: (int32 [2, M], what was changed).
    Raises: InvalidInputError: wrong shape, ids that are not whole or not in [0, num_nodes), or an
      edge without its reverse where one_directional is "refuse".
    """
    require(
        one_directional in ("refuse", "symmetrise"),
        f"one_directional is {one_directional!r}; accepted: 'refuse', 'symmetrise'",
    )
    edges = _integers(edge_index, f"{name}: edge_index", np.int64)
    require(
        edges.ndim == 2 and edges.shape[0] == 2,
        f"{name}: edge_index has shape {edges.shape}; accepted: [2, number of edges], "
        "rows (source, target)",
    )
    _require_range(edges, 0, num_nodes, f"{name}: edge_index")
    proper = edges[:, edges[0] != edges[1]]
    # One number an edge: target major, so that sorting the numbers sorts by target, then source.
    codes = np.unique(proper[1] * num_nodes + proper[0])
    both = np.union1d(codes, (codes % num_nodes) * num_nodes + codes // num_nodes)
    missing = np.setdiff1d(both, codes, assume_unique=True)
    if missing.size and one_directional == "refuse":
        pairs = [(int(c // num_nodes), int(c % num_nodes)) for c in missing[:3]]
        raise InvalidInputError(
            f"{name}: {missing.size} edges have no reverse edge, first {pairs}; give both "
            "directions, or one_directional='symmetrise' to add the reverses"
        )
    report = EdgeReport(
        self_loops=edges.shape[1] - proper.shape[1],
        duplicates=proper.shape[1] - codes.size,
        added_reverses=int(missing.size),
    )
    return np.stack([both % num_nodes, both // num_nodes]).astype(np.int32), report


def induced_edges(edge_index: np.ndarray, nodes: np.ndarray, num_nodes: int) -> np.ndarray:
    """Edges with both ends in `nodes`, renumbered by position in `nodes`, sorted as usual.

    Args:
      edge_index: int [2, M] over num_nodes nodes.
      nodes: int [k], distinct.
    Returns: int32 [2, M'].
    """
    position = np.full(num_nodes, -1, np.int32)
    position[nodes] = np.arange(len(nodes), dtype=np.int32)
    edges = position[edge_index]
    return sort_edges(edges[:, (edges >= 0).all(axis=0)])


def sort_edges(edge_index: np.ndarray) -> np.ndarray:
    """The same directed edges int [2, M], sorted by target and then source."""
    return edge_index[:, np.lexsort(edge_index)]


def row_normalise(features: np.ndarray) -> np.ndarray:
    """Rows divided by max(row sum, 1); rows of zeros stay zero.

    Graph unlearning, features of the citation graphs (official code). float32 [N, F] to the same.
    """
    sums = features.sum(axis=1, keepdims=True)
    return (features / np.maximum(sums, 1.0)).astype(np.float32)


def to_graphs_tuple(
    dataset: NodeDataset, features: np.ndarray | None = None
) -> "jraph.GraphsTuple":
    """The data set as one jraph graph: nodes float32 [N, F], senders and receivers int32 [M].

    Receivers are ascending. `features` [N, F'], if given, stands in for the stored ones.
    """
    import jraph

    nodes = dataset.features if features is None else features
    require(
        len(nodes) == dataset.num_nodes,
        f"{dataset.name}: {len(nodes)} rows of features for {dataset.num_nodes} nodes",
    )
    n_node: Any = np.array([dataset.num_nodes], np.int32)  # jraph's types know no numpy
    n_edge: Any = np.array([dataset.num_edges], np.int32)
    return jraph.GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=dataset.edge_index[0],
        receivers=dataset.edge_index[1],
        n_node=n_node,
        n_edge=n_edge,
        globals=None,
    )


def bucket_size(size: int, steps_per_doubling: int = 8) -> int:
    """The smallest bucket that holds `size`: buckets grow by at most 1 part in steps_per_doubling.

    Sizes up to 2 * steps_per_doubling are their own bucket. Number of shapes, and so of
    compilations, grows with the logarithm of the size only.
    """
    require(size >= 0, f"size is {size}; accepted: 0 and above")
    require(
        steps_per_doubling >= 1,
        f"steps_per_doubling is {steps_per_doubling}; accepted: 1 and above",
    )
    step = 1
    while step * 2 * steps_per_doubling < size:
        step *= 2
    return -(-size // step) * step


def pad_graph(
    graph: "jraph.GraphsTuple", num_nodes: int | None = None, num_edges: int | None = None
) -> PaddedGraph:
    """Pads one graph to num_nodes and num_edges, in jraph's way: a second graph of dummies.

    Padding edges run from the first padding node to itself, so they touch no real node and the
    receivers stay ascending. Sizes default to `bucket_size` (with one node more than the graph
    has, for the dummy).

    Raises: InvalidInputError where the graph does not fit.
    """
    import jraph

    real_nodes, real_edges = int(np.sum(graph.n_node)), int(np.sum(graph.n_edge))
    num_nodes = bucket_size(real_nodes + 1) if num_nodes is None else num_nodes
    num_edges = bucket_size(real_edges) if num_edges is None else num_edges
    require(
        num_nodes > real_nodes and num_edges >= real_edges,
        f"a graph of {real_nodes} nodes and {real_edges} edges does not fit into num_nodes="
        f"{num_nodes}, num_edges={num_edges}: needs at least {real_nodes + 1} and {real_edges}",
    )
    padded: Any = jraph.pad_with_graphs(graph, num_nodes, num_edges, n_graph=len(graph.n_node) + 1)
    return PaddedGraph(
        graph=padded._replace(
            senders=padded.senders.astype(np.int32), receivers=padded.receivers.astype(np.int32)
        ),
        node_mask=np.arange(num_nodes) < real_nodes,
        edge_mask=np.arange(num_edges) < real_edges,
    )


def as_node_ids(ids: Any, num_nodes: int, what: str) -> np.ndarray:
    """`ids` as int32 [k], whole numbers in [0, num_nodes).

    Raises: InvalidInputError, which begins with `what` and lists the ids that are out of range.
    """
    ids = _integers(ids, what, np.int64)
    require(ids.ndim == 1, f"{what} has shape {ids.shape}; accepted: one dimension")
    _require_range(ids, 0, num_nodes, what)
    return ids.astype(np.int32)


def preview(values: np.ndarray, limit: int = 5) -> str:
    """The first few values of an array, for a message."""
    text = ", ".join(str(value) for value in np.ravel(values)[:limit].tolist())
    return f"[{text}, ...]" if np.size(values) > limit else f"[{text}]"


def _dense_features(features, name: str) -> np.ndarray:
    if hasattr(features, "toarray"):
        features = features.toarray()
    features = np.asarray(features)
    require(
        features.dtype.kind in "fiub",
        f"{name}: features are of type {features.dtype}; accepted: numbers",
    )
    require(
        features.ndim == 2 and features.shape[0] > 0,
        f"{name}: features have shape {features.shape}; accepted: [nodes, features], nodes > 0",
    )
    features = np.ascontiguousarray(features, np.float32)
    # A sum is finite unless a value is not (or the sum overflows): looks at each value only then.
    if not np.isfinite(features.sum(dtype=np.float64)) and not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0].tolist()
        value = features[row, column]
        raise NonFiniteError(f"{name}: features[{row}, {column}] is {value}; accepted: finite")
    return features


def _checked_labels(labels, num_nodes, num_classes, unlabeled, name) -> tuple[np.ndarray, int]:
    labels = _integers(labels, f"{name}: labels", np.int32)
    require(labels.shape == (num_nodes,), _length_message(name, "labels", labels, num_nodes))
    known = np.ones(num_nodes, bool)
    known[unlabeled] = False
    if num_classes is None:
        num_classes = int(labels.max()) + 1
    require(num_classes >= 1, f"{name}: num_classes is {num_classes}; accepted: 1 and above")
    lowest = np.where(known, 0, -1)
    bad = np.flatnonzero((labels < lowest) | (labels >= num_classes))
    if bad.size:
        node, label = int(bad[0]), int(labels[bad[0]])
        hint = "; list nodes without a label in unlabeled" if label == -1 else ""
        raise InvalidInputError(
            f"{name}: {bad.size} labels outside [0, {num_classes}), first labels[{node}] = "
            f"{label}{hint}"
        )
    return labels, num_classes


def _checked_sensitive(sensitive, num_nodes: int, name: str) -> np.ndarray | None:
    if sensitive is None:
        return None
    values = _integers(sensitive, f"{name}: sensitive", np.int32)
    require(values.shape == (num_nodes,), _length_message(name, "sensitive", values, num_nodes))
    _require_range(values, 0, None, f"{name}: sensitive")
    return values


def _checked_masks(masks: dict, labels: np.ndarray, name: str) -> dict:
    checked = {}
    for key, mask in masks.items():
        if mask is None:
            checked[key] = None
            continue
        mask = np.asarray(mask)
        require(
            mask.dtype == bool, f"{name}: {key} is of type {mask.dtype}; accepted: bool [nodes]"
        )
        require(mask.shape == labels.shape, _length_message(name, key, mask, len(labels)))
        bad = np.flatnonzero(mask & (labels < 0))
        require(bad.size == 0, f"{name}: {key} holds nodes without a label: {preview(bad)}")
        for other, taken in checked.items():
            both = np.flatnonzero(mask & taken) if taken is not None else np.zeros(0)
            require(both.size == 0, f"{name}: {key} and {other} share nodes {preview(both)}")
        checked[key] = mask
    return checked


def _integers(values, what: str, dtype) -> np.ndarray:
    """Whole numbers of any numeric type (also 3.0) as `dtype`."""
    values = np.asarray(values)
    if values.size == 0:
        return values.astype(dtype)
    require(
        values.dtype.kind in "iuf", f"{what} is of type {values.dtype}; accepted: whole numbers"
    )
    if values.dtype.kind == "f":
        bad = values[~np.isfinite(values) | (values != np.floor(values))]
        require(bad.size == 0, f"{what} holds {preview(bad)}; accepted: whole numbers")
    return values.astype(dtype)


def _require_range(values: np.ndarray, low: int, high: int | None, what: str) -> None:
    bad = values < low if high is None else (values < low) | (values >= high)
    if bad.any():
        accepted = f"at least {low}" if high is None else f"in [{low}, {high})"
        raise InvalidInputError(
            f"{what} holds {int(bad.sum())} values that are not {accepted}: "
            f"{preview(np.unique(values[bad]))}"
        )


def _length_message(name: str, key: str, array: np.ndarray, num_nodes: int) -> str:
    return f"{name}: {key} has shape {array.shape}; accepted: [{num_nodes}], one value a node"
