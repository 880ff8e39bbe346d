"""What travels, counted by hand on small networks."""

import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers import dacfl
from lab.papers.dacfl import communication, topology

D, STAR = 100, topology.star(4)


def moved(name, rounds=5):
    degrees = communication.degrees_of(STAR[None], rounds, rounds)
    return dacfl.numbers_moved(dacfl.algorithm(name), D, degrees)[0]


def test_dacfl_and_gradient_tracking_send_twice_what_cdsgd_sends():
    np.testing.assert_array_equal(moved("cdsgd"), 5 * D * np.array([3, 1, 1, 1]))
    np.testing.assert_array_equal(moved("dacfl"), 2 * moved("cdsgd"))
    np.testing.assert_array_equal(moved("dsgt"), moved("dacfl"))


def test_dpsgd_ends_with_an_all_reduce():
    np.testing.assert_allclose(moved("dpsgd") - moved("cdsgd"), 2 * D * 3 / 4)


def test_a_server_is_sent_one_model_a_round_and_local_training_nothing():
    np.testing.assert_array_equal(moved("fedavg"), np.full(4, 5 * D))
    assert not moved("local").any()
    np.testing.assert_allclose(moved("centralised"), 5 * 2 * D * 3 / 4)


def test_links_that_are_down_carry_nothing():
    failures = dacfl.FailureConfig(outages=((0, 2, 3),))
    config = dacfl.NetworkConfig(dacfl.TopologyConfig("star"), failures=failures)
    net = dacfl.draw_network(config, 4, 0, 6)
    degrees = dacfl.links_in_use(dacfl.repaired_matrices(net, 6))
    assert degrees[:, 0].tolist() == [3, 3, 0, 0, 0, 3]
    assert degrees[:, 1].tolist() == [1, 1, 0, 0, 0, 1]


def test_rounds_and_changes_are_at_least_one():
    with pytest.raises(InvalidInputError, match="rounds must be at least 1"):
        communication.degrees_of(STAR[None], 0, 1)
    with pytest.raises(InvalidInputError, match="change_every must be at least 1"):
        communication.degrees_of(STAR[None], 3, 0)
