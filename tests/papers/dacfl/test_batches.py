"""Batches: a function of (key, user, step), each epoch without replacement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.dacfl.batches import batch_rows, epochs_spanned

COUNTS, WIDTH, BATCH = np.array([12, 9, 3], np.int32), 12, 4


drawn_rows = jax.jit(
    batch_rows,
    static_argnames=("num_steps", "batch_size", "width", "num_epochs", "has_small_users"),
)


def rows(first, num_steps, users=(0, 1, 2), has_small_users=True, counts=COUNTS):
    users = np.array(users, np.int32)
    return np.asarray(
        drawn_rows(
            jax.random.key(3),
            jnp.asarray(users),
            jnp.asarray(counts[users]),
            jnp.int32(first),
            num_steps=num_steps,
            batch_size=BATCH,
            width=WIDTH,
            num_epochs=epochs_spanned(counts, BATCH, num_steps),
            has_small_users=has_small_users,
        )
    )


def test_an_epoch_visits_no_example_twice_and_the_next_has_another_order():
    drawn = rows(0, 12)
    first, second = drawn[:3, 0].ravel(), drawn[3:6, 0].ravel()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first.tolist() != second.tolist()
    epoch = drawn[:2, 1].ravel()  # 9 examples, batch 4: the last one is dropped
    assert len(set(epoch)) == 8
    assert epoch.max() < 9


def test_small_users_draw_with_replacement_from_their_own():
    drawn = rows(0, 30)[:, 2]
    assert set(drawn.ravel()) == {0, 1, 2}
    assert any(len(set(batch)) < 3 for batch in drawn)


@pytest.mark.parametrize(("first", "num_steps"), [(0, 5), (2, 4), (7, 5), (11, 1)])
def test_a_run_cut_anywhere_draws_the_same(first, num_steps):
    whole = rows(0, 12)
    np.testing.assert_array_equal(rows(first, num_steps), whole[first : first + num_steps])


def test_a_user_draws_the_same_wherever_it_lives():
    np.testing.assert_array_equal(rows(0, 6, users=(2, 1))[:, 1], rows(0, 6)[:, 1])


def test_epochs_are_counted_for_windows_that_begin_in_the_middle():
    assert epochs_spanned(np.array([12]), 4, 3) == 2
    assert epochs_spanned(np.array([12]), 4, 1) == 1
    assert epochs_spanned(np.array([2]), 4, 50) == 1


def test_an_empty_batch_is_refused():
    with pytest.raises(InvalidInputError, match="batch size must be at least 1, got 0"):
        batch_rows(
            jax.random.key(0),
            jnp.arange(1),
            jnp.ones(1, jnp.int32),
            jnp.int32(0),
            num_steps=1,
            batch_size=0,
            width=1,
            num_epochs=1,
            has_small_users=False,
        )
