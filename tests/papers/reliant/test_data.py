"""Preparing graphs: what is refused, with which words, and what the baselines change."""

import jraph
import numpy as np
import pytest

from lab.data.fair_graphs import without_feature
from lab.errors import DatasetNotFoundError, InvalidInputError, NonFiniteError
from lab.papers.reliant import (
    crossed_groups,
    from_coo_folder,
    from_graphs_tuple,
    from_table,
    hide_sensitive,
    mask_correlated,
    prepare,
    preprocess,
    sensitive_columns,
    without_edges,
)
from lab.papers.reliant.features import official_features
from lab.papers.reliant.generated import biased_graph
from tests.papers.reliant.graphs import dataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensitive": np.full(12, 2)}, r"sensitive\[0\] is 2"),
        ({"sensitive": np.zeros(12, int)}, "no node of group 1"),
        ({"sensitive": None}, "no sensitive attribute"),
        ({"val_mask": None}, "no val_mask"),
        ({"test_mask": np.zeros(12, bool)}, "test_mask is empty"),
    ],
)
def test_data_that_cannot_be_compared_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        prepare(dataset(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": np.append(np.zeros(11, int), 5)}, InvalidInputError, r"labels\[11\] = 5"),
        ({"sensitive": np.zeros(11, int)}, InvalidInputError, r"shape \(11,\)"),
        ({"features": np.full((12, 4), np.nan)}, NonFiniteError, r"features\[0, 0\]"),
        ({"edge_index": np.array([[0, 12], [12, 0]])}, InvalidInputError, "12"),
        ({"edge_index": np.array([[0.5, 1], [1, 0.5]])}, InvalidInputError, "0.5"),
        ({"val_mask": np.arange(12) < 5}, InvalidInputError, "share nodes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_when_the_data_set_is_made(changes, error, message):
    with pytest.raises(error, match=message):
        dataset(**changes)


def test_an_unlabelled_node_is_in_no_split_and_no_positive():
    labels = np.arange(12) % 2
    labels[11] = -1
    kept = np.arange(12) == 11
    graph = prepare(dataset(labels=labels, unlabeled=[11], test_mask=(np.arange(12) >= 8) & ~kept))
    assert graph.labels[11] == -1
    with pytest.raises(InvalidInputError, match="without a label"):
        dataset(labels=labels, unlabeled=[11])


def test_a_third_value_needs_named_groups_and_others_become_unknown():
    sensitive = np.arange(12) % 3
    graph = prepare(dataset(sensitive=sensitive), groups=(2, 0))
    np.testing.assert_array_equal(
        graph.sensitive, np.select([sensitive == 2, sensitive == 0], [0, 1], -1)
    )
    three = prepare(dataset(sensitive=sensitive), groups=(0, 1, 2))
    assert three.num_groups == 3
    with pytest.raises(InvalidInputError, match="two or more"):
        prepare(dataset(), groups=(1,))


def test_several_attributes_are_compared_as_their_combinations():
    sex, young = np.array([0, 1, 0, 1, 1, -1]), np.array([0, 0, 1, 1, 1, 1])
    groups, names = crossed_groups(sex, young)
    assert names == ((0, 0), (0, 1), (1, 0), (1, 1))
    np.testing.assert_array_equal(groups, [0, 2, 1, 3, 3, -1])
    attributes = np.arange(12) % 2, np.arange(12) // 6
    graph = prepare(dataset(sensitive=crossed_groups(*attributes)[0]), groups=range(len(names)))
    assert graph.num_groups == 4
    with pytest.raises(InvalidInputError, match="shapes"):
        crossed_groups(sex, young[:3])


def test_partly_known_attributes():
    known = np.arange(12) < 6
    graph = prepare(dataset(), sensitive_known=known)
    assert (np.asarray(graph.sensitive)[~known] == -1).all()
    with pytest.raises(InvalidInputError, match="sensitive_known"):
        prepare(dataset(), sensitive_known=np.ones(3, bool))
    hidden = hide_sensitive(prepare(dataset()), 0.5, seed=1)
    assert 0 < int((hidden.sensitive == -1).sum()) < 12


def test_isolated_nodes_get_a_loop_or_are_refused():
    edges = np.array([[0, 1], [1, 0]])
    graph = prepare(dataset(edge_index=edges))
    assert np.isfinite(graph.aggregate).all()
    np.testing.assert_allclose(graph.aggregate[5], graph.features[5], rtol=1e-6)
    with pytest.raises(InvalidInputError, match=r"nodes \[2"):
        prepare(dataset(edge_index=edges), isolated="refuse")
    bare = prepare(dataset(edge_index=edges), self_loops=False)
    assert not np.asarray(bare.aggregate[5]).any()


def test_duplicates_and_loops_of_a_file_are_merged_and_one_loop_added():
    edges = np.array([[0, 1, 0, 1, 3], [1, 0, 1, 0, 3]])
    with pytest.warns(UserWarning, match="1 self loops and 2 duplicates"):
        graph = prepare(dataset(edge_index=edges))
    assert graph.links.senders.shape == (2 + 12,)


def test_a_class_that_train_nodes_lack_is_told():
    with pytest.warns(UserWarning, match="do not occur"):
        prepare(dataset(labels=np.append(np.zeros(4, int), np.ones(8, int))))


def test_preprocessing():
    rows = np.array([[1.0, 3.0, -2.0], [2.0, -2.0, 0.0], [4.0, 0.0, 0.0]])
    np.testing.assert_allclose(preprocess(rows, "l1"), [[0.5, 1.5, -1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(preprocess(rows, "binary"), rows != 0)
    np.testing.assert_allclose(preprocess(rows, "z").std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(preprocess(rows, "minmax").max(axis=0), 1)
    np.testing.assert_allclose(preprocess(rows, "minmax", [0])[:, 1:], rows[:, 1:])
    assert preprocess(np.ones((3, 2)), "z").sum() == 0
    with pytest.raises(InvalidInputError, match="raw, l1"):
        preprocess(rows, "log")
    with pytest.raises(InvalidInputError, match="takes no columns"):
        preprocess(rows, "l1", [0])
    with pytest.raises(InvalidInputError, match="no released loader"):
        official_features(dataset())


def test_the_sensitive_column_is_found_and_can_be_taken_out():
    data = biased_graph(num_nodes=60)
    assert sensitive_columns(data) == ("sensitive",)
    assert sensitive_columns(without_feature(data, "sensitive")) == ()


def test_edges_between_groups_are_dropped_in_both_directions():
    data = biased_graph(num_nodes=80)
    differs = data.sensitive[data.edge_index[0]] != data.sensitive[data.edge_index[1]]
    thinned = without_edges(data, 0.5, "different")
    left = thinned.sensitive[thinned.edge_index[0]] != thinned.sensitive[thinned.edge_index[1]]
    assert left.sum() == differs.sum() - 2 * round(differs.sum() / 4)
    assert (~left).sum() == (~differs).sum()
    forward = set(map(tuple, thinned.edge_index.T))
    assert forward == {(b, a) for a, b in forward}
    assert without_edges(data, 1.0, "all").num_edges == 0
    with pytest.raises(InvalidInputError, match="different, same, all"):
        without_edges(data, 0.5, "some")
    with pytest.raises(InvalidInputError, match="0 to 1"):
        without_edges(data, 2, "all")


def test_masking_begins_with_the_attribute_itself():
    data = biased_graph(num_nodes=80)
    masked = mask_correlated(data, 1)
    assert not masked.features[:, 0].any()
    np.testing.assert_array_equal(masked.features[:, 1:], data.features[:, 1:])
    with pytest.raises(InvalidInputError, match="0 to 10"):
        mask_correlated(data, 11)


def test_a_csv_table_with_and_without_edges(tmp_path):
    lines = [
        "age,income,approved,female",
        *(f"{i},{i % 3},{i % 2},{i // 2 % 2}" for i in range(16)),
    ]
    (tmp_path / "loans.csv").write_text("\n".join(lines))
    (tmp_path / "loans_edges.txt").write_text("0.0 1.0\n1 2\n")
    data = from_table(
        tmp_path / "loans.csv", label="approved", sensitive="female", edges_file="loans_edges.txt"
    )
    assert data.feature_names == ("age", "income", "female")
    assert data.num_edges == 4
    assert from_table(tmp_path / "loans.csv", label="approved", sensitive="female").num_edges == 0
    (tmp_path / "loans_edges.txt").write_text("1 16\n")
    with pytest.raises(InvalidInputError, match="16"):
        from_table(
            tmp_path / "loans.csv",
            label="approved",
            sensitive="female",
            edges_file="loans_edges.txt",
        )


def write_coo(folder, labels=None):
    (folder / "split").mkdir(parents=True)
    np.savez(
        folder / "X.npz",
        row=np.array([0, 1, 2]),
        col=np.array([1, 0, 1]),
        data=np.ones(3),
        shape=np.array([6, 2]),
    )
    (folder / "edgelist.txt").write_text("0 1\n1 2\n")
    for name in ("labels", "sens"):
        (folder / f"{name}.txt").write_text("\n".join(f"{i} {i % 2}" for i in range(6)))
    for part, ids in (("train", [0, 1]), ("val", [2, 3]), ("test", [4, 5])):
        np.save(folder / f"split/{part}.npy", np.array(ids, float))


def test_a_coo_folder(tmp_path):
    write_coo(tmp_path / "dblp")
    data = from_coo_folder(tmp_path / "dblp")
    assert (data.num_nodes, data.num_features, data.num_edges) == (6, 2, 4)
    assert data.train_mask.sum() == 2
    np.save(tmp_path / "dblp/split/test.npy", np.array([4.5]))
    with pytest.raises(InvalidInputError, match=r"4\.5"):
        from_coo_folder(tmp_path / "dblp")
    (tmp_path / "dblp/sens.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"sens\.txt"):
        from_coo_folder(tmp_path / "dblp")


def test_a_jraph_graph():
    data = dataset()
    graph = jraph.GraphsTuple(
        nodes=data.features,
        edges=None,
        senders=data.edge_index[0],
        receivers=data.edge_index[1],
        n_node=np.array([12]),
        n_edge=np.array([data.num_edges]),
        globals=None,
    )
    masks = {"train": data.train_mask, "val": data.val_mask, "test": data.test_mask}
    made = from_graphs_tuple(graph, data.labels, data.sensitive, masks)
    np.testing.assert_array_equal(made.edge_index, data.edge_index)
    with pytest.raises(InvalidInputError, match="train, val, test"):
        from_graphs_tuple(graph, data.labels, data.sensitive, {"train": data.train_mask})
