"""A whole training run as one compiled function: scan over steps, vmap over copies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lab.errors import NonFiniteError, require
from lab.train.checkpoints import Checkpoints
from lab.train.steps import Step

History = dict[str, jax.Array]
HostHistory = dict[str, np.ndarray]


def run(
    step: Step,
    state: Any,
    data: Any,
    num_steps: int,
    last_step: jax.Array | None = None,
    *,
    freeze: bool = True,
) -> tuple[Any, History]:
    """Applies `step` to the whole of `data` num_steps times, inside one scan.

    A step that would make the loss or a parameter non-finite is not taken: the state stays at the
    last good one, so under `vmap` the other copies go on undisturbed.

    Args:
      step: `(state, data) -> (state, metrics)`, pure; state has `step`, metrics has "loss".
      num_steps: static length of the scan.
      last_step: steps from this count on leave the state alone, so that a last, shorter chunk
        needs no second compilation. None: take all.
      freeze: False only marks: steps are taken whatever they give, which spares a step that is
        bound by memory the look at every parameter (a third of its time). A copy that turned
        non-finite is then lost from the first marked step on, and is still marked; the others are
        undisturbed.
    Returns: the state, and each metric of every step with a leading axis [num_steps], with
      "finite" bool: whether the step was taken in good order.
    """

    def body(state, _):
        new_state, metrics = step(state, data)
        finite = jnp.isfinite(metrics["loss"])
        taken = None if last_step is None else state.step < last_step
        if freeze:
            finite &= all_finite(new_state)
            taken = finite if taken is None else finite & taken
        if taken is not None:
            new_state = jax.tree.map(lambda new, old: jnp.where(taken, new, old), new_state, state)
        return new_state, metrics | {"finite": finite}

    state, history = jax.lax.scan(body, state, length=num_steps)
    if not freeze and num_steps > 0:
        # The last step has no next loss to show what it did to the parameters.
        history["finite"] = history["finite"].at[-1].min(all_finite(state))
    return state, history


def all_finite(tree: Any) -> jax.Array:
    """Whether every float leaf of the pytree is free of NaN and infinity; bool scalar."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in leaves] or [True]))


def first_bad_step(history: Mapping[str, ArrayLike]) -> np.ndarray:
    """The index of the first step that was not finite, per copy; -1 where all were.

    Args: history of `run`, with "finite" bool [..., num_steps].
    Returns: int64 [...].
    """
    finite = np.asarray(history["finite"])
    return np.where(finite.all(axis=-1), -1, np.argmin(finite, axis=-1))


def require_finite(history: Mapping[str, ArrayLike], what: str = "the loss") -> None:
    """Raises NonFiniteError naming the first bad step (and the copies) unless all were finite."""
    bad = np.atleast_1d(first_bad_step(history))
    if (bad < 0).all():
        return
    copies = np.flatnonzero(bad.ravel() >= 0)
    first = int(bad[bad >= 0].min())
    of_copies = f" in copies {copies.tolist()[:8]} of {bad.size}" if bad.size > 1 else ""
    raise NonFiniteError(
        f"{what} became non-finite at step {first}{of_copies}; the state before it is kept. "
        "Lower the learning rate or look for extreme inputs.",
        step=first,
    )


def run_in_chunks(
    run_chunk: Callable[[Any, Any, jax.Array], tuple[Any, History]],
    state: Any,
    data: Any,
    num_steps: int,
    chunk_steps: int,
    *,
    checkpoints: Checkpoints | None = None,
    on_chunk: Callable[[int, HostHistory], None] | None = None,
) -> tuple[Any, HostHistory]:
    """Cuts a whole run into chunks, for progress and checkpoints, with the same result.

    Args:
      run_chunk: compiled `(state, data, last_step) -> (state, history)` that takes `chunk_steps`
        steps at most and none from `last_step` on (see `run`); made once, so it compiles once.
      state: the initial state; its leading axes, if any, are copies.
      checkpoints: where a killed run goes on from; saved after every chunk.
      on_chunk: called with the steps done and the history of the last chunk.
    Returns: the state and the history of all steps, as numpy arrays [..., num_steps].
    """
    require(num_steps >= 0, f"num_steps must not be negative, got {num_steps}")
    require(chunk_steps >= 1, f"chunk_steps must be at least 1, got {chunk_steps}")
    done, history = 0, []
    latest = None if checkpoints is None else checkpoints.latest()
    if checkpoints is not None and latest is not None:
        done = latest
        shapes = jax.eval_shape(run_chunk, state, data, jnp.int32(num_steps))[1]
        past = jax.tree.map(lambda x: np.zeros((*x.shape[:-1], done), x.dtype), shapes)
        saved = checkpoints.restore({"state": state, "history": past})
        state, history = saved["state"], [saved["history"]]
    while done < num_steps:
        state, chunk = run_chunk(state, data, jnp.int32(num_steps))
        taken = min(chunk_steps, num_steps - done)
        history.append({name: np.asarray(x)[..., :taken] for name, x in chunk.items()})
        done += taken
        if checkpoints is not None:
            checkpoints.save(done, {"state": state, "history": join_history(history)})
        if on_chunk is not None:
            on_chunk(done, history[-1])
    return state, join_history(history)


def join_history(chunks: Sequence[Mapping[str, ArrayLike]]) -> HostHistory:
    """Joins the histories of consecutive chunks along their last axis, that of steps."""
    if not chunks:
        return {}
    return {name: np.concatenate([c[name] for c in chunks], axis=-1) for name in chunks[0]}
