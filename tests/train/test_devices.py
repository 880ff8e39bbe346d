import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.train import Checkpoints, compile, compile_copies
from tests.train.toy import toy_step


def run_on(num_devices, folder):
    """Runs the device program on forced host devices; returns its arrays and checkpoint folder."""
    out, checkpoint = folder / f"{num_devices}.npz", folder / f"saved{num_devices}"
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    subprocess.run(
        [sys.executable, "-m", "tests.train.device_program", str(out), str(checkpoint)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=300,
    )
    return dict(np.load(out)), checkpoint


@pytest.fixture(scope="module")
def one_and_eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return run_on(1, folder), run_on(8, folder)


def test_eight_devices_train_as_one_with_dropout_batchnorm_and_a_ragged_batch(one_and_eight):
    (one, _), (eight, _) = one_and_eight
    assert (one["devices"], eight["devices"]) == (1, 8)
    for name in set(one) - {"devices"}:
        np.testing.assert_allclose(eight[name], one[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_a_state_saved_on_eight_devices_is_read_on_one(one_and_eight):
    (one, _), (_, checkpoint) = one_and_eight
    state = Checkpoints(checkpoint).restore(toy_step()[0])
    assert int(state.step) == 5
    kernel = state.params["Dense_0"]["kernel"]
    np.testing.assert_allclose(kernel, one["['Dense_0']['kernel']"], rtol=2e-5, atol=2e-6)


def test_copies_that_do_not_divide_by_the_devices_are_padded_and_cut(one_and_eight):
    for arrays, _ in one_and_eight:
        np.testing.assert_array_equal(arrays["doubled"], 2 * np.arange(30.0).reshape(10, 3))
        # ... and the results of one call are fit to be those of the next.
        np.testing.assert_array_equal(arrays["in_turn"], 4 * np.arange(15.0).reshape(5, 3))
        assert arrays["sums"].shape == (10,)


def test_copies_of_different_lengths_are_refused():
    two = [jax.devices()[0]] * 2
    call = compile_copies(lambda x, y: x + y, (0, 0), devices=two)
    with pytest.raises(InvalidInputError, match="one length"):
        call(np.zeros(4), np.zeros(5))


def test_no_devices_are_refused():
    with pytest.raises(InvalidInputError, match="at least one device"):
        compile(lambda state, batch: (state, {}), [])


def test_the_step_does_not_retrace_for_a_second_batch():
    traces = []

    def step(state, batch):
        traces.append(1)
        return state + batch.sum(), {}

    compiled = compile(step)
    state = compiled.place(np.float32(0))
    for value in range(3):
        state, _ = compiled(state, np.full(4, value, np.float32))
    assert len(traces) == 1
    assert float(compiled.fetch(state)) == 12
