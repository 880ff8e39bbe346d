import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.errors import InvalidInputError, NonFiniteError
from lab.train import (
    Aux,
    Checkpoints,
    compile_copies,
    first_bad_step,
    make_train_step,
    require_finite,
    run,
    run_in_chunks,
    state_of,
)

TX = optax.sgd(0.1, momentum=0.9)


def quadratic(params, model_state, target, key):
    """Loss (w - target)^2 with a little noise from the step's key."""
    noise = 0.01 * jax.random.normal(key)
    return jnp.square(params["w"] - target + noise), Aux({}, model_state)


STEP = make_train_step(quadratic, TX)


def copies(n):
    def init(w, key):
        return state_of({"params": {"w": w}}, TX, key)

    return jax.vmap(init)(jnp.arange(float(n)), jax.random.split(jax.random.key(1), n))


RUN_ALL = compile_copies(lambda state, target: run(STEP, state, target, 10), (0, None))
RUN_CHUNK = compile_copies(lambda s, target, last: run(STEP, s, target, 4, last), (0, None, None))


def test_a_run_in_chunks_equals_the_run_in_one(tmp_path):
    whole, history = RUN_ALL(copies(3), jnp.float32(2))
    parts, joined = run_in_chunks(RUN_CHUNK, copies(3), jnp.float32(2), 10, 4)
    np.testing.assert_array_equal(parts.params["w"], whole.params["w"])
    np.testing.assert_array_equal(joined["loss"], history["loss"])
    assert parts.step.tolist() == [10, 10, 10]


def test_a_run_cut_off_after_a_chunk_goes_on_to_the_same_result(tmp_path):
    whole, history = RUN_ALL(copies(3), jnp.float32(2))

    def cut_off(done, _):
        if done == 8:
            raise KeyboardInterrupt

    args = (RUN_CHUNK, copies(3), jnp.float32(2), 10, 4)
    with pytest.raises(KeyboardInterrupt):
        run_in_chunks(*args, checkpoints=Checkpoints(tmp_path), on_chunk=cut_off)
    seen = []
    resumed, joined = run_in_chunks(
        *args, checkpoints=Checkpoints(tmp_path), on_chunk=lambda done, _: seen.append(done)
    )
    assert seen == [10]
    np.testing.assert_array_equal(resumed.params["w"], whole.params["w"])
    np.testing.assert_array_equal(joined["loss"], history["loss"])


def test_a_copy_that_turns_non_finite_is_marked_and_leaves_the_others_running():
    def explode(params, model_state, limit, key):
        bad = (params["w"] > limit) & (params["w"] < limit + 1)
        return jnp.where(bad, jnp.nan, jnp.square(params["w"])), Aux({}, model_state)

    step = make_train_step(explode, optax.sgd(0.1))

    def init(w):
        return state_of({"params": {"w": w}}, optax.sgd(0.1), jax.random.key(0))

    states, history = compile_copies(lambda s: run(step, s, 3.0, 6))(
        jax.vmap(init)(jnp.array([1.0, 6.0]))
    )
    # 6 shrinks by 0.8 a step: 6, 4.8, 3.84, where the loss of step 2 is NaN.
    assert first_bad_step(history).tolist() == [-1, 2]
    assert states.step.tolist() == [6, 2]
    np.testing.assert_allclose(states.params["w"], [0.8**6, 6 * 0.64], rtol=1e-6)
    with pytest.raises(NonFiniteError, match=r"at step 2 in copies \[1\] of 2") as caught:
        require_finite(history)
    assert caught.value.step == 2


def test_the_history_of_a_good_run_passes():
    _, history = RUN_ALL(copies(2), jnp.float32(0))
    require_finite(history)
    assert first_bad_step(history).tolist() == [-1, -1]


@pytest.mark.parametrize(("num_steps", "chunk"), [(-1, 2), (3, 0)])
def test_impossible_lengths_are_refused(num_steps, chunk):
    with pytest.raises(InvalidInputError, match="must"):
        run_in_chunks(RUN_CHUNK, copies(1), jnp.float32(0), num_steps, chunk)
