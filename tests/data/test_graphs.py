import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data import graphs
from lab.data.embedded import generated_citations
from lab.errors import InvalidInputError, NonFiniteError

TRIANGLE = np.array([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])


def triangle(**changes):
    arguments = {
        "name": "triangle",
        "features": np.eye(4),
        "labels": [0, 1, 1, 0],
        "edge_index": TRIANGLE,
    }
    return graphs.from_arrays(**{**arguments, **changes})


def pairs(edge_index):
    return list(map(tuple, np.asarray(edge_index).T.tolist()))


@st.composite
def undirected_graphs(draw, max_nodes=12):
    """(number of nodes, both directions of random edges, in random order, without repeats)."""
    num_nodes = draw(st.integers(1, max_nodes))
    possible = [(a, b) for a in range(num_nodes) for b in range(a)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    both = draw(st.permutations([*chosen, *((b, a) for a, b in chosen)]))
    return num_nodes, np.array(both, np.int64).reshape(-1, 2).T


def test_dataset_has_contract_types_and_sorted_edges():
    dataset = triangle(train_mask=np.array([True, False, False, False]))
    assert dataset.features.dtype == np.float32
    assert dataset.labels.dtype == np.int32
    assert dataset.edge_index.dtype == np.int32
    assert pairs(dataset.edge_index) == [(1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2)]
    assert (dataset.num_nodes, dataset.num_edges, dataset.num_classes) == (4, 6, 2)


@given(undirected_graphs())
def test_cleaning_keeps_every_edge_and_sorts_by_target(graph):
    num_nodes, edges = graph
    cleaned, report = graphs.clean_edges(edges, num_nodes)
    assert sorted(pairs(cleaned)) == sorted(pairs(edges))
    assert pairs(cleaned) == sorted(pairs(cleaned), key=lambda pair: pair[::-1])
    assert report == graphs.EdgeReport()


@given(undirected_graphs(), st.integers(0, 3), st.integers(0, 3))
def test_cleaning_counts_what_it_removes(graph, num_loops, num_repeats):
    num_nodes, edges = graph
    num_repeats = min(num_repeats, edges.shape[1])
    loops = np.zeros((2, num_loops), np.int64)
    dirty = np.concatenate([edges[:, :num_repeats], loops, edges], axis=1)
    cleaned, report = graphs.clean_edges(dirty, num_nodes)
    assert sorted(pairs(cleaned)) == sorted(pairs(edges))
    assert report == graphs.EdgeReport(self_loops=num_loops, duplicates=num_repeats)


def test_removed_edges_are_counted_and_warned_of():
    loop_and_repeat = np.concatenate([TRIANGLE, [[3, 0], [3, 1]]], axis=1)
    with pytest.warns(UserWarning, match="1 self loops and 1 duplicates removed"):
        dataset = triangle(edge_index=loop_and_repeat)
    assert dataset.edge_report == graphs.EdgeReport(self_loops=1, duplicates=1)
    assert dataset.num_edges == 6


def test_one_directional_edge_is_refused_by_name():
    with pytest.raises(
        InvalidInputError, match=r"1 edges have no reverse edge, first \[\(3, 0\)\]"
    ):
        triangle(edge_index=np.concatenate([TRIANGLE, [[3], [0]]], axis=1))


def test_one_directional_edge_is_symmetrised_with_a_warning():
    with pytest.warns(UserWarning, match="1 missing reverse edges added"):
        dataset = triangle(
            edge_index=np.concatenate([TRIANGLE, [[3], [0]]], axis=1), one_directional="symmetrise"
        )
    assert {(0, 3), (3, 0)} <= set(pairs(dataset.edge_index))
    assert dataset.edge_report.added_reverses == 1


def test_graph_without_edges_and_isolated_nodes_are_accepted():
    assert triangle(edge_index=np.zeros((2, 0), int)).num_edges == 0


def test_integral_float_ids_and_sparse_features_are_accepted():
    dense = triangle()
    other = triangle(
        features=scipy.sparse.csr_matrix(np.eye(4)), edge_index=TRIANGLE.astype(np.float64)
    )
    np.testing.assert_array_equal(other.edge_index, dense.edge_index)
    np.testing.assert_array_equal(other.features, dense.features)


BAD_ARGUMENTS = {
    "edge id too large": ({"edge_index": [[0, 4], [4, 0]]}, r"not in \[0, 4\): \[4\]"),
    "negative edge id": ({"edge_index": [[0, -1], [-1, 0]]}, r"not in \[0, 4\): \[-1\]"),
    "fractional edge id": ({"edge_index": [[0, 1.5], [1.5, 0]]}, r"holds \[1.5, 1.5\]"),
    "NaN edge id": ({"edge_index": [[0, np.nan], [np.nan, 0]]}, "nan"),
    "edges as rows": ({"edge_index": TRIANGLE.T}, r"shape \(6, 2\); accepted: \[2, "),
    "text edges": ({"edge_index": [["0"], ["1"]]}, "accepted: whole numbers"),
    "features of one dimension": ({"features": np.ones(4)}, r"shape \(4,\); accepted: \[nodes"),
    "no nodes": ({"features": np.ones((0, 3))}, "nodes > 0"),
    "text features": ({"features": np.array([["a"]] * 4)}, "accepted: numbers"),
    "labels of wrong length": ({"labels": [0, 1]}, r"labels has shape \(2,\); accepted: \[4\]"),
    "label too large": ({"num_classes": 1}, r"labels outside \[0, 1\), first labels\[1\] = 1"),
    "negative label": ({"labels": [0, -1, 0, 1]}, r"labels\[1\] = -1; list nodes without a label"),
    "very negative label": ({"labels": [0, -2, 0, 1], "unlabeled": [1]}, r"labels\[1\] = -2"),
    "fractional label": ({"labels": [0, 0.5, 0, 1]}, r"labels holds \[0.5\]"),
    "no classes": ({"num_classes": 0}, "num_classes is 0"),
    "mask of wrong length": ({"train_mask": np.ones(3, bool)}, r"train_mask has shape \(3,\)"),
    "mask of numbers": ({"train_mask": np.ones(4)}, "float64; accepted: bool"),
    "overlapping masks": (
        {"train_mask": np.eye(4, dtype=bool)[1], "test_mask": np.eye(4, dtype=bool)[1]},
        r"test_mask and train_mask share nodes \[1\]",
    ),
    "unlabelled node in a split": (
        {"labels": [0, -1, 0, 1], "unlabeled": [1], "val_mask": np.eye(4, dtype=bool)[1]},
        r"val_mask holds nodes without a label: \[1\]",
    ),
    "unlabelled node unknown": ({"unlabeled": [7]}, r"unlabeled holds 1 values .* \[7\]"),
    "sensitive of wrong length": ({"sensitive": [0, 1]}, r"sensitive has shape \(2,\)"),
    "negative sensitive value": ({"sensitive": [0, -1, 1, 0]}, "not at least 0"),
    "names for other features": ({"feature_names": ("a",)}, "1 feature_names for 4 features"),
    "unknown rule": ({"one_directional": "ignore"}, "accepted: 'refuse', 'symmetrise'"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_argument_is_refused_with_the_value(case):
    changes, message = BAD_ARGUMENTS[case]
    with pytest.raises(InvalidInputError, match=message):
        triangle(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_feature_is_refused_by_position(value):
    features = np.eye(4)
    features[2, 1] = value
    with pytest.raises(NonFiniteError, match=r"features\[2, 1\] is"):
        triangle(features=features)


@given(undirected_graphs(), st.data())
def test_subgraph_keeps_exactly_the_edges_inside(graph, data):
    num_nodes, edges = graph
    dataset = graphs.from_arrays(
        "drawn",
        np.arange(num_nodes)[:, None],
        np.zeros(num_nodes, int),
        edges,
        sensitive=np.arange(num_nodes),
        unlabeled=np.arange(0, num_nodes, 2),
    )
    order = data.draw(st.permutations(range(num_nodes)))
    nodes = order[: data.draw(st.integers(1, num_nodes))]
    part = dataset.subgraph(nodes)
    assert part.features[:, 0].tolist() == nodes
    assert part.sensitive.tolist() == nodes
    expected = {(a, b) for a, b in pairs(edges) if a in nodes and b in nodes}
    assert {(nodes[a], nodes[b]) for a, b in pairs(part.edge_index)} == expected
    assert part.num_edges == len(expected)
    assert (np.diff(part.edge_index[1]) >= 0).all()
    assert {nodes[i] for i in part.unlabeled} == {node for node in nodes if node % 2 == 0}


def test_subgraph_refuses_unknown_and_repeated_nodes():
    with pytest.raises(InvalidInputError, match=r"nodes holds .* \[9\]"):
        triangle().subgraph([0, 9])
    with pytest.raises(InvalidInputError, match=r"nodes lists \[2\] more than once"):
        triangle().subgraph([2, 0, 2])


def test_row_normalise_leaves_zero_and_small_rows_as_they_are():
    rows = np.array([[0, 0], [1, 3], [0.25, 0.25]], np.float32)
    expected = [[0, 0], [0.25, 0.75], [0.25, 0.25]]
    np.testing.assert_array_equal(graphs.row_normalise(rows), np.array(expected, np.float32))


@given(st.integers(0, 100_000), st.integers(1, 16))
def test_bucket_holds_the_size_and_wastes_little(size, steps):
    bucket = graphs.bucket_size(size, steps)
    assert size <= bucket <= size + max(size // steps, 0)
    assert graphs.bucket_size(bucket, steps) == bucket


def test_buckets_are_few():
    assert len({graphs.bucket_size(size) for size in range(1, 10_000)}) < 100


@settings(deadline=None, max_examples=30)
@given(undirected_graphs(), st.integers(1, 4), st.integers(0, 5))
def test_padding_leaves_neighbour_sums_of_real_nodes(graph, more_nodes, more_edges):
    num_nodes, edges = graph
    features = np.arange(1.0, num_nodes + 1)[:, None]
    dataset = graphs.from_arrays("drawn", features, np.zeros(num_nodes, int), edges)
    padded = graphs.pad_graph(
        graphs.to_graphs_tuple(dataset), num_nodes + more_nodes, edges.shape[1] + more_edges
    )
    nodes, senders, receivers = padded.graph.nodes, padded.graph.senders, padded.graph.receivers
    assert (np.diff(receivers) >= 0).all()
    assert padded.node_mask.sum() == num_nodes
    assert padded.edge_mask.sum() == edges.shape[1]
    assert (receivers[~padded.edge_mask] >= num_nodes).all()
    sums = np.zeros_like(nodes)
    np.add.at(sums, receivers, nodes[senders])
    adjacency = np.zeros((num_nodes, num_nodes))
    adjacency[edges[1], edges[0]] = 1
    np.testing.assert_array_equal(sums[padded.node_mask], adjacency @ features)


def test_padded_graph_sums_with_sorted_segments():
    padded = graphs.pad_graph(graphs.to_graphs_tuple(triangle()))
    assert padded.graph.nodes.shape[0] == graphs.bucket_size(5)
    messages = jnp.asarray(padded.graph.nodes)[padded.graph.senders]
    sums = jax.ops.segment_sum(
        messages, padded.graph.receivers, len(padded.graph.nodes), indices_are_sorted=True
    )
    expected = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(sums[:4], expected)


def test_padding_refuses_a_shape_that_is_too_small():
    graph = graphs.to_graphs_tuple(triangle())
    with pytest.raises(InvalidInputError, match="needs at least 5 and 6"):
        graphs.pad_graph(graph, 4, 6)


def test_graphs_tuple_takes_other_features_of_the_same_nodes():
    graph = graphs.to_graphs_tuple(triangle(), np.ones((4, 2), np.float32))
    assert graph.nodes.shape == (4, 2)
    assert (int(graph.n_node[0]), int(graph.n_edge[0])) == (4, 6)
    with pytest.raises(InvalidInputError, match="3 rows of features for 4 nodes"):
        graphs.to_graphs_tuple(triangle(), np.ones((3, 2)))


def test_deleted_nodes_leave_features_edges_and_splits_and_keep_the_ids_of_others():
    whole = generated_citations(num_nodes=200)
    gone = np.flatnonzero(whole.train_mask)[:7]
    left = whole.without_nodes(gone)
    kept = np.setdiff1d(np.arange(200), gone)
    assert not np.isin(left.edge_index, gone).any()
    assert not left.features[gone].any()
    assert not left.train_mask[gone].any()
    np.testing.assert_array_equal(left.features[kept], whole.features[kept])
    np.testing.assert_array_equal(left.labels, whole.labels)
    np.testing.assert_array_equal(left.subgraph(kept).edge_index, whole.subgraph(kept).edge_index)
    with pytest.raises(InvalidInputError, match="nodes"):
        whole.without_nodes([200])
