"""Networks over rounds: any round can be looked at again, tables mix as matrices do."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers import dacfl
from lab.papers.dacfl import gossip, mixing, network, topology
from lab.papers.dacfl.failures import FailureConfig
from lab.papers.dacfl.mixing import MixingConfig
from lab.papers.dacfl.network import NetworkConfig, draw_network
from lab.papers.dacfl.topology import TopologyConfig
from lab.papers.dacfl.users import UserAxis

CHANGING = NetworkConfig(TopologyConfig("erdos_renyi", probability=0.4), change_every=3)


def test_weights_of_a_round_belong_to_the_graph_of_that_round():
    config = dataclasses.replace(CHANGING, mixing=MixingConfig("random_symmetric"))
    net = draw_network(config, 8, 5, 10)
    assert net.weights.shape == (4, 8, 8)
    matrices = network.repaired_matrices(net, 10)
    for t in (9, 0, 4):  # in any order: nothing is hidden in a state
        again = network.matrix_at(config, 8, 5, t)
        np.testing.assert_array_equal(matrices[t], again)
        adjacency = network.adjacency_at(config, 8, 5, t)
        np.testing.assert_array_equal((again != 0) & ~np.eye(8, dtype=bool), adjacency == 1)
    assert (network.matrix_at(config, 8, 5, 0) != network.matrix_at(config, 8, 5, 3)).any()
    assert (network.matrix_at(config, 8, 6, 0) != network.matrix_at(config, 8, 5, 0)).any()


def test_every_slot_is_connected_when_that_is_ensured():
    for t in range(0, 30, 3):
        assert topology.num_components(network.adjacency_at(CHANGING, 8, 1, t)) == 1


@pytest.mark.filterwarnings("ignore:slot")
def test_only_the_union_is_connected_when_that_is_ensured():
    config = dataclasses.replace(
        CHANGING,
        topology=TopologyConfig("erdos_renyi", probability=0.12),
        change_every=1,
        ensure="union",
        union_slots=8,
    )
    graphs = [network.adjacency_at(config, 8, 2, t) for t in range(8)]
    assert topology.num_components(np.any(graphs, axis=0)) == 1
    assert max(topology.num_components(g) for g in graphs) > 1


def test_graphs_that_never_connect_are_refused():
    config = NetworkConfig(TopologyConfig("erdos_renyi", probability=0.01))
    with pytest.raises(InvalidInputError, match=r"no connected graph .* in 100 draws"):
        draw_network(config, 12, 0, 5)
    with pytest.warns(UserWarning, match="does not mix"):
        draw_network(dataclasses.replace(config, ensure="none"), 12, 0, 5)


def test_one_peer_exponential_alternates_every_round():
    net = draw_network(NetworkConfig(TopologyConfig("one_peer_exponential")), 8, 0, 7)
    matrices = network.repaired_matrices(net, 6)
    np.testing.assert_allclose(matrices[2] @ matrices[1] @ matrices[0], 1 / 8, atol=1e-7)
    np.testing.assert_array_equal(matrices[3], matrices[0])
    np.testing.assert_array_equal(
        network.matrix_at(NetworkConfig(TopologyConfig("one_peer_exponential")), 8, 0, 4),
        matrices[4],
    )


def test_graphs_and_weights_of_ones_own_take_the_place_of_drawn_ones():
    adjacency = topology.path(5)
    config = NetworkConfig(
        mixing=MixingConfig("max_degree"), failures=FailureConfig(arrivals=((4, 2),))
    )
    net = draw_network(config, 5, 0, 3, adjacency=adjacency)
    np.testing.assert_allclose(np.asarray(net.weights[0]), mixing.max_degree(adjacency), atol=1e-7)
    assert network.repaired_matrices(net, 3)[1, 4, 4] == 1  # not there yet
    sequence = np.stack([mixing.metropolis(adjacency), np.full((5, 5), 0.2)])
    every = dataclasses.replace(config, change_every=2)
    net = draw_network(every, 5, 0, 4, matrices=sequence)
    np.testing.assert_allclose(network.repaired_matrices(net, 4)[3], 0.2, atol=1e-7)
    with pytest.raises(InvalidInputError, match="the graph is for 5 users, but there are 6"):
        draw_network(config, 6, 0, 3, adjacency=adjacency)
    with pytest.raises(InvalidInputError, match="not both"):
        draw_network(config, 5, 0, 3, adjacency=adjacency, matrices=sequence)


def large(**failing):
    config = NetworkConfig(
        TopologyConfig("watts_strogatz", degree=4),
        change_every=5,
        failures=FailureConfig(**failing),
    )
    return [draw_network(config, 70, 0, 12, sparse=sparse) for sparse in (None, False)]


def test_large_sparse_networks_become_neighbour_tables():
    table, matrix = large()
    assert isinstance(table.weights, network.NeighbourTable)
    np.testing.assert_allclose(network.dense(table.weights), matrix.weights, atol=1e-7)


@pytest.mark.parametrize(
    "failing",
    [
        {"link_loss": 0.3, "outages": ((3, 0, 20),), "user_loss": 0.1},
        {"link_loss": 0.3, "repair": "row_only", "link_outages": ((0, 1, 0, 20),)},
    ],
)
def test_tables_mix_as_matrices_do_under_the_same_failures(failing):
    table, matrix = large(**failing)
    users = UserAxis(70)
    tree = {"a": jnp.asarray(np.random.default_rng(0).normal(size=(70, 3, 2)), jnp.float32)}
    for t in (0, 7):
        mixed = []
        for net in (table, matrix):
            weights, _ = network.round_network(net, jnp.int32(t))
            mixed.append(gossip.choose_mix(net, users)(weights, tree)["a"])
        np.testing.assert_allclose(*mixed, atol=2e-6)


def test_circulant_graphs_are_recognised_and_mix_as_matrices_do():
    matrix = dacfl.matrix_at(NetworkConfig(TopologyConfig("exponential")), 8, 0, 0)
    offsets = gossip.circulant_offsets(matrix[None])
    assert offsets == (1, 2, 4, 6, 7)
    weights = np.array(matrix)
    weights[0, 1] = weights[1, 0] = 0  # a lost link is no exception
    tree = {"a": jnp.arange(24.0).reshape(8, 3)}
    users = UserAxis(8)
    np.testing.assert_allclose(
        gossip.mix_circulant(jnp.asarray(weights), tree, users, offsets)["a"],
        gossip.mix_dense(jnp.asarray(weights), tree, users)["a"],
        atol=1e-5,
    )
    assert gossip.circulant_offsets(network.matrix_at(CHANGING, 8, 0, 0)[None]) is None


def test_mixing_is_exact_for_low_precision_leaves():
    """Float32 products at the highest precision; only the result is rounded."""
    users = UserAxis(4)
    weights = jnp.full((4, 4), 0.25)
    tree = jnp.asarray([[1.0], [2.0], [3.0], [5.0]], jnp.bfloat16)
    mixed = gossip.mix_dense(weights, tree, users)
    assert mixed.dtype == jnp.bfloat16
    assert mixed.astype(jnp.float32).ravel().tolist() == [2.75] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change_every": -1}, "change_every must be at least 1, or 0"),
        ({"ensure": "conected"}, "did you mean 'connected'"),
        ({"union_slots": 0}, "union_slots"),
    ],
)
def test_bad_configurations_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        NetworkConfig(**changes)


def test_bad_requests_are_refused():
    with pytest.raises(InvalidInputError, match="at least 1 round, got 0"):
        draw_network(NetworkConfig(), 4, 0, 0)
    with pytest.raises(InvalidInputError, match="change_every must be at least 1, got 0"):
        network.network_of(np.ones((1, 1)), change_every=0)
    with pytest.raises(InvalidInputError, match="6 users, the run 5"):
        gossip.choose_mix(network.network_of(np.full((6, 6), 1 / 6)), UserAxis(5))
    with pytest.raises(InvalidInputError, match="6 components"):
        network.network_of(np.eye(6))
    with pytest.raises(InvalidInputError, match=r"row 0 sums to 1\.5"):
        network.network_of(np.full((2, 2), 0.75))
    with pytest.raises(InvalidInputError, match="did you mean 'ring'"):
        draw_network(NetworkConfig(TopologyConfig("rings")), 4, 0, 3)


def test_users_that_do_not_divide_over_devices_are_refused():
    with pytest.raises(InvalidInputError, match="10 users do not divide over 4"):
        UserAxis(10, 4, "users")
