"""Mixing matrices: doubly stochastic whatever the graph, errors that name the row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.dacfl import mixing, topology
from lab.papers.dacfl.mixing import MixingConfig, check_mixing, draw_matrix, spectrum


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    psi=st.floats(0.3, 1.0),
    method=st.sampled_from(mixing.METHODS),
    seed=st.integers(0, 99),
)
@pytest.mark.filterwarnings("ignore")
def test_every_method_gives_symmetric_doubly_stochastic_matrices(n, psi, method, seed):
    generator = np.random.default_rng(seed)
    adjacency = topology.density(n, psi, generator)
    matrix = mixing.to_float32(draw_matrix(adjacency, MixingConfig(method), generator))
    exact = matrix.astype(np.float64)
    np.testing.assert_array_equal(matrix, matrix.T)
    # The residue of rounding stands on the diagonal: sums are right to half a unit of it.
    np.testing.assert_allclose(exact.sum(axis=1), 1, atol=7e-8)
    if method != "birkhoff":
        assert not matrix[(adjacency == 0) & ~np.eye(n, dtype=bool)].any()


def test_sigma_of_a_ring_is_its_closed_form():
    n = 9
    found = spectrum(mixing.metropolis(topology.ring(n)))
    assert found.sigma == pytest.approx((1 + 2 * np.cos(2 * np.pi / n)) / 3)
    assert found.spectral_gap == pytest.approx(1 - found.sigma)
    assert found.density == pytest.approx(2 / (n - 1))


def test_one_user_mixes_with_nobody():
    found = spectrum(mixing.metropolis(topology.ring(1)))
    assert (found.sigma, found.density, found.num_components) == (0, 0, 1)
    assert check_mixing(np.ones((1, 1)), 1).tolist() == [[[1.0]]]


def test_best_constant_is_at_least_as_fast_as_any_other_constant():
    adjacency = topology.path(6)
    best = spectrum(mixing.best_constant(adjacency)).sigma
    for eps in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert best <= spectrum(mixing.laplacian(adjacency, eps)).sigma + 1e-12


@pytest.mark.parametrize("n", [2, 4, 16])
def test_the_product_of_one_peer_matrices_is_the_mean(n):
    product = np.eye(n)
    for matrix in mixing.one_peer_exponential(n):
        product = matrix @ product
    np.testing.assert_allclose(product, 1 / n, atol=1e-12)


@pytest.mark.parametrize("shape", ["ring", "path"])
def test_rings_and_lines_reach_consensus(shape):
    matrix = mixing.to_float32(mixing.metropolis(getattr(topology, shape)(8)))
    values = np.random.default_rng(0).normal(size=8)
    mixed = np.linalg.matrix_power(matrix.astype(np.float64), 500) @ values
    np.testing.assert_allclose(mixed, values.mean(), atol=1e-5)


def test_eps_beyond_divergence_is_refused():
    adjacency = topology.star(5)
    for eps in (-0.1, 0.0, 0.4, np.nan):
        with pytest.raises(InvalidInputError, match=r"\(0, 0.4\)"):
            mixing.laplacian(adjacency, eps)
    with pytest.warns(UserWarning, match="negative diagonal"):
        mixing.laplacian(adjacency, 0.35)


def test_best_constant_refuses_a_disconnected_graph_and_names_its_pieces():
    adjacency = np.zeros((4, 4), int)
    adjacency[0, 1] = adjacency[1, 0] = adjacency[2, 3] = adjacency[3, 2] = 1
    with pytest.raises(InvalidInputError, match=r"2 components: \{0, 1\} \{2, 3\}"):
        mixing.best_constant(adjacency)


def altered(**entries):
    matrix = mixing.metropolis(topology.ring(4))
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] = value
    return matrix


def two_pairs():
    return np.kron(np.eye(2), np.full((2, 2), 0.5))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "must be"),
        (np.ones(3), "must be"),
        (altered(w33=np.nan), "NaN"),
        (altered(w33=0.26), "row 3 sums to 0.92"),
        (np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]), "push-sum"),
        (np.array([[1.2, -0.2], [-0.2, 1.2]]), "negative"),
        (two_pairs(), r"2 components: \{0, 1\} \{2, 3\}"),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), "back and forth"),
    ],
)
def test_bad_matrices_are_refused(matrix, message):
    with pytest.raises(InvalidInputError, match=message):
        check_mixing(matrix)


def test_a_single_slot_that_does_not_mix_is_only_warned_about():
    good = mixing.metropolis(topology.complete(4))
    with pytest.warns(UserWarning, match="slot 1 of the sequence"):
        assert check_mixing(np.stack([good, two_pairs()])).shape == (2, 4, 4)


def test_what_is_allowed_explicitly_is_warned_about():
    with pytest.warns(UserWarning, match="negative"):
        check_mixing(
            np.array([[0.7, 0.35, -0.05], [0.35, 0.4, 0.25], [-0.05, 0.25, 0.8]]),
            allow_negative=True,
        )
    with pytest.warns(UserWarning, match="does not mix"):
        check_mixing(two_pairs(), allow_disconnected=True)


def test_another_number_of_users_is_refused():
    with pytest.raises(InvalidInputError, match="for 4 users, but there are 5"):
        check_mixing(altered(), 5)


def test_unknown_methods_are_refused_with_the_nearest():
    with pytest.raises(InvalidInputError, match="did you mean 'metropolis'"):
        draw_matrix(topology.ring(4), MixingConfig("metropolys"), np.random.default_rng(0))
    with pytest.raises(InvalidInputError, match="sum to 1"):
        mixing.birkhoff(np.array([[0, 1]]), np.array([0.5]))
