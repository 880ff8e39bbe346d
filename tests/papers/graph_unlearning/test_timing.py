"""Time statistics of unlearning."""

import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.graph_unlearning.timing import batched_seconds, draw_timed_nodes, unlearning_time


def test_single_requests_cost_their_shard_and_a_batch_each_shard_once():
    seconds = [1.0, 2.0, 4.0]
    shards = np.array([0, 2, 2, 0])
    time = unlearning_time(seconds, shards)
    np.testing.assert_array_equal(time.per_request_seconds, [1, 4, 4, 1])
    assert (time.mean_seconds, time.std_seconds) == (2.5, 1.5)
    assert batched_seconds(seconds, shards) == 5.0


def test_one_shard_gives_its_own_time():
    time = unlearning_time([3.0], np.zeros(4, int))
    assert (time.mean_seconds, time.std_seconds) == (3.0, 0.0)


def test_a_twentieth_is_drawn_with_replacement():
    drawn = draw_timed_nodes(np.arange(100, 200), np.random.RandomState(1))
    assert drawn.shape == (5,)
    assert np.isin(drawn, np.arange(100, 200)).all()
    many = draw_timed_nodes(np.arange(10), np.random.default_rng(1), share=1.0)
    assert len(np.unique(many)) < 10


@pytest.mark.parametrize("shards", [[3], [-1], []])
def test_shards_without_a_time_are_refused(shards):
    with pytest.raises(InvalidInputError):
        unlearning_time([1.0, 2.0, 3.0], np.array(shards, int))
