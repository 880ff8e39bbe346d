"""Graphs: sizes and shapes that are known in closed form, random ones by their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.dacfl import topology
from lab.papers.dacfl.topology import TopologyConfig, check_adjacency, draw_adjacency


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("name", "n", "num_edges"),
    [
        ("ring", 7, 7),
        ("ring", 2, 1),
        ("ring", 1, 0),
        ("path", 5, 4),
        ("star", 6, 5),
        ("complete", 6, 15),
        ("torus", 12, 24),
        ("hypercube", 16, 32),
        ("exponential", 8, 20),
    ],
)
def test_graphs_have_as_many_edges_as_their_definition_says(name, n, num_edges):
    adjacency = draw_adjacency(n, TopologyConfig(name), generator())
    assert adjacency.sum() == 2 * num_edges
    assert topology.num_components(adjacency) == 1


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 15), psi=st.floats(0.01, 1.0), seed=st.integers(0, 99))
@pytest.mark.filterwarnings("ignore:psi")
def test_density_graphs_are_connected_with_the_wanted_number_of_edges(n, psi, seed):
    adjacency = topology.density(n, psi, generator(seed))
    wanted = max(n - 1, int(np.floor(psi * n * (n - 1) / 2 + 0.5)))
    assert adjacency.sum() == 2 * wanted
    assert topology.num_components(adjacency) == 1
    check_adjacency(adjacency)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(5, 20), p=st.floats(0, 1), seed=st.integers(0, 99))
def test_rewiring_keeps_the_number_of_edges(n, p, seed):
    adjacency = topology.watts_strogatz(n, 4, p, generator(seed))
    assert adjacency.sum() == 4 * n
    check_adjacency(adjacency, allow_isolated=True)


def test_too_small_a_density_is_raised_to_a_tree_with_a_warning():
    with pytest.warns(UserWarning, match="a tree of 9 edges"):
        assert topology.density(10, 0.01, generator()).sum() == 18


def test_components_are_named():
    adjacency = np.zeros((5, 5), int)
    adjacency[0, 3] = adjacency[3, 0] = adjacency[1, 4] = adjacency[4, 1] = 1
    assert topology.components(adjacency) == [[0, 3], [1, 4], [2]]


@pytest.mark.parametrize(
    ("name", "n", "changes", "message"),
    [
        ("torus", 10, {"rows": 3}, "rows \\* columns must be N"),
        ("hypercube", 6, {}, "power of two, got N = 6"),
        ("watts_strogatz", 8, {"degree": 3}, "even degree"),
        ("watts_strogatz", 4, {"degree": 4}, "below N = 4"),
        ("density", 5, {"psi": 0.0}, "psi must be in \\(0, 1\\], got 0"),
        ("density", 5, {"psi": 1.5}, "got 1.5"),
        ("erdos_renyi", 5, {"probability": -1}, "got -1"),
        ("rign", 5, {}, "did you mean 'ring'"),
        ("ring", 0, {}, "at least 1"),
    ],
)
def test_impossible_graphs_are_refused(name, n, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        draw_adjacency(n, TopologyConfig(name, **changes), generator())


@pytest.mark.parametrize(
    ("adjacency", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.array([[0, 2], [2, 0]]), "0 and 1 only, got"),
        (np.eye(3), "self loops"),
        (np.array([[0, 1], [0, 0]]), "push-sum"),
        (np.zeros((3, 3)), "no neighbour"),
    ],
)
def test_bad_adjacencies_are_refused(adjacency, message):
    with pytest.raises(InvalidInputError, match=message):
        check_adjacency(adjacency)


def test_a_lonely_user_is_allowed_on_request_and_alone():
    assert check_adjacency(np.zeros((3, 3)), allow_isolated=True).sum() == 0
    assert check_adjacency(np.zeros((1, 1))).shape == (1, 1)
