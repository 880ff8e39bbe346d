import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.data.resident import Resident
from lab.data.streams import ArraySource, in_order, pad, stream
from lab.errors import InvalidInputError


def source(size=10):
    return ArraySource({"x": np.arange(size), "y": np.arange(size) * 2.0})


def taken(batches, num):
    return [next(batches)["x"].tolist() for _ in range(num)]


def test_an_epoch_holds_every_example_once_and_the_next_has_another_order():
    batches = stream(source(), 5)
    first, second = (sorted(x for part in taken(batches, 2) for x in part) for _ in range(2))
    assert first == second == list(range(10))
    orders = taken(stream(source(), 10), 3)
    assert len({tuple(order) for order in orders}) == 3


def test_neighbouring_seeds_do_not_share_orders():
    one, two = (taken(stream(source(), 10, seed=seed), 3) for seed in (0, 1))
    assert not {tuple(x) for x in one} & {tuple(x) for x in two}


def test_rows_of_one_example_stay_together():
    batch = next(stream(source(), 5))
    np.testing.assert_array_equal(batch["y"], batch["x"] * 2)


def test_a_ragged_last_batch_is_padded_and_masked():
    batches = list(stream(source(), 4, num_epochs=1, drop_remainder=False))
    assert [batch["x"].shape for batch in batches] == [(4,)] * 3
    assert [batch["mask"].sum() for batch in batches] == [4, 4, 2]
    real = np.concatenate([batch["x"][batch["mask"] > 0] for batch in batches])
    assert sorted(real.tolist()) == list(range(10))


def test_hosts_read_the_parts_of_one_global_batch():
    whole = stream(source(), 4, num_epochs=2, drop_remainder=False)
    parts = [
        stream(source(), 4, num_epochs=2, drop_remainder=False, process_index=host, process_count=2)
        for host in range(2)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        mask = np.concatenate([half["mask"] for half in halves])
        np.testing.assert_array_equal(mask, batch["mask"])
        rows = np.concatenate([half["x"] for half in halves])
        np.testing.assert_array_equal(rows, batch["x"])


@pytest.mark.parametrize("workers", [(0, 0), (0, 2), (2, 0)])
def test_a_saved_position_goes_on_with_the_next_batch_whatever_the_workers(workers):
    straight = taken(stream(source(), 4), 7)
    before, after = (stream(source(), 4, num_workers=n) for n in workers)
    assert taken(before, 3) == straight[:3]
    position = json.loads(json.dumps(before.get_state()))
    before.close()
    after.set_state(position)
    assert taken(after, 4) == straight[3:]
    after.close()


def test_a_finished_stream_stays_finished_after_going_on():
    batches = stream(source(), 5, num_epochs=1)
    assert len(list(batches)) == 2
    again = stream(source(), 5, num_epochs=1)
    again.set_state(batches.get_state())
    assert list(again) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [({"batch_size": 2}, "batch_size was 4 and is 2"), ({"seed": 1}, "seed was 0 and is 1")],
)
def test_the_position_of_another_stream_is_refused(other, message):
    position = stream(source(), 4).get_state()
    arguments = {"batch_size": 4} | other
    with pytest.raises(InvalidInputError, match=message):
        stream(source(), **arguments).set_state(position)


def test_evaluation_reads_in_order():
    batches = list(in_order(source(), 4))
    assert [batch["x"].tolist() for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 8, 8],
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stream(source(), 11), "larger than the source, 10"),
        (lambda: stream(source(), 5, process_index=0, process_count=2), "divide by 2 hosts"),
        (lambda: ArraySource({"x": np.zeros(3), "y": np.zeros(4)}), "must have one length"),
        (lambda: ArraySource({"mask": np.zeros(3)}), "is kept for the mask"),
        (lambda: pad({"x": np.zeros(5)}, 4), "cannot be padded to 4"),
        (lambda: stream(source(), 4).set_state({"bad": 1}), "not the position of a stream"),
        (lambda: Resident({"x": np.zeros(3)}, 4), r"must lie in 1\.\.3"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_resident_epochs_hold_every_example_once_and_differ():
    data = Resident({"x": np.arange(10)}, 4, drop_remainder=False)
    assert data.steps_per_epoch == 3
    arrays = {"x": jnp.arange(10)}
    at = jax.jit(lambda step: data.batch_at(arrays, step))
    epochs = [[at(3 * epoch + i) for i in range(3)] for epoch in range(2)]
    orders = []
    for epoch in epochs:
        assert [float(batch["mask"].sum()) for batch in epoch] == [4, 4, 2]
        orders.append([int(x) for b in epoch for x in b["x"][b["mask"] > 0]])
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]


def test_resident_devices_take_the_parts_of_one_batch():
    data, arrays = Resident({"x": np.arange(12)}, 6), jnp.arange(12)
    one = data.batch_at({"x": arrays}, jnp.int32(1))
    take = jax.vmap(
        lambda _: data.batch_at({"x": arrays}, jnp.int32(1), "batch"), axis_name="batch"
    )
    parts = take(jnp.arange(3))
    np.testing.assert_array_equal(parts["x"].reshape(-1), one["x"])
