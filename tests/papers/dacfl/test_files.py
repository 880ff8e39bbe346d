"""Networks and partitions that users bring, and models that they take away."""

import json

import jax
import numpy as np
import pytest

from lab.errors import CorruptFileError, DatasetNotFoundError, InvalidInputError
from lab.papers import dacfl
from lab.papers.dacfl import convert, topology
from tests.papers.dacfl import tiny

RING = topology.ring(4)


def test_a_mixing_matrix_comes_from_csv_or_npz(tmp_path):
    matrix = dacfl.draw_matrix(RING, dacfl.MixingConfig(), None)
    np.savetxt(tmp_path / "w.csv", matrix, delimiter=",")
    np.savez(tmp_path / "w.npz", W=np.stack([matrix, matrix]))
    np.testing.assert_allclose(dacfl.read_mixing(tmp_path / "w.csv", 4)[0], matrix, atol=1e-7)
    assert dacfl.read_mixing(tmp_path / "w.npz").shape == (2, 4, 4)


def test_a_graph_comes_from_a_matrix_or_an_edge_list(tmp_path):
    np.savetxt(tmp_path / "a.csv", RING, delimiter=",", fmt="%d")
    (tmp_path / "edges.csv").write_text("0,1\n1,2\n2,3\n3,0\n")
    np.savez(tmp_path / "a.npz", adjacency=RING)
    np.savez(tmp_path / "e.npz", edges=np.array([[0, 1], [1, 2], [2, 3], [3, 0]]))
    for name in ("a.csv", "edges.csv", "a.npz", "e.npz"):
        np.testing.assert_array_equal(dacfl.read_adjacency(tmp_path / name), RING)
    (tmp_path / "pair.csv").write_text("0,1\n1,0\n")
    np.testing.assert_array_equal(dacfl.read_adjacency(tmp_path / "pair.csv"), topology.ring(2))


def test_a_graph_comes_from_networkx():
    networkx = pytest.importorskip("networkx")
    np.testing.assert_array_equal(dacfl.graph_to_adjacency(networkx.cycle_graph(4)), RING)
    with pytest.raises(InvalidInputError, match="push-sum"):
        dacfl.graph_to_adjacency(networkx.DiGraph([(0, 1)]))


class AGraph:
    """As much of networkx as is used."""

    nodes = ("a", "b", "c")

    def is_directed(self):
        return False

    def edges(self):
        return [("a", "b"), ("c", "b")]


def test_nodes_keep_their_order():
    assert dacfl.graph_to_adjacency(AGraph()).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_a_partition_comes_from_json_or_npz(tmp_path):
    parts = [[0, 2, 4], [1, 3]]
    (tmp_path / "list.json").write_text(json.dumps(parts))
    (tmp_path / "object.json").write_text(json.dumps({"10": parts[1], "9": parts[0]}))
    np.savez(tmp_path / "p.npz", user0=parts[0], user1=parts[1])
    for name in ("list.json", "object.json", "p.npz"):
        read = dacfl.read_partition(tmp_path / name, 5)
        assert [part.tolist() for part in read] == parts


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not json"), ('"abc"', "list of index lists"), ("[[0], [9]]", "user 1: indices")],
)
def test_bad_partitions_are_refused(tmp_path, content, message):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises((CorruptFileError, InvalidInputError), match=message):
        dacfl.read_partition(tmp_path / "p.json", 5)


def test_bad_network_files_are_refused(tmp_path):
    (tmp_path / "text.csv").write_text("a,b\n")
    (tmp_path / "far.csv").write_text("0,9\n1,2\n2,3\n")
    np.savez(tmp_path / "other.npz", matrix=RING)
    with pytest.raises(CorruptFileError, match="no table of numbers"):
        dacfl.read_mixing(tmp_path / "text.csv")
    with pytest.raises(InvalidInputError, match=r"\[\[0, 9\]\] name users outside 0..3"):
        dacfl.read_adjacency(tmp_path / "far.csv", 4)
    with pytest.raises(CorruptFileError, match="neither key adjacency nor edges"):
        dacfl.read_adjacency(tmp_path / "other.npz")
    with pytest.raises(InvalidInputError, match="whole numbers"):
        dacfl.edges_to_adjacency([[0.5, 1]])
    for read in (dacfl.read_mixing, dacfl.read_adjacency):
        with pytest.raises(DatasetNotFoundError):
            read(tmp_path / "absent.csv")
    with pytest.raises(DatasetNotFoundError):
        dacfl.read_partition(tmp_path / "absent.json", 5)


def test_models_go_out_and_come_back(tmp_path):
    models = tiny.different_params()
    dacfl.export_models(tmp_path / "models.npz", models)
    with np.load(tmp_path / "models.npz") as file:
        np.testing.assert_allclose(
            file["mean/dense0/kernel"], np.mean(models["dense0"]["kernel"], axis=0), atol=1e-6
        )
    back = dacfl.import_models(tmp_path / "models.npz", models)
    for a, b in zip(jax.tree.leaves(models), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)
    one = dacfl.user_model(models, 2)
    np.testing.assert_array_equal(one["dense1"]["bias"], models["dense1"]["bias"][2])
    assert convert.from_flat(convert.to_flat(one)).keys() == one.keys()
    with pytest.raises(InvalidInputError, match="no user 6"):
        dacfl.user_model(models, 6)
    larger = jax.tree.map(lambda x: np.concatenate([x, x]), models)
    with pytest.raises(InvalidInputError, match="dense0/bias has shape"):
        dacfl.import_models(tmp_path / "models.npz", larger)
