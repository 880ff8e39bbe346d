"""Whole runs of several algorithms on the same users, data, batches and network, as one call.

`simulate` is the door: it builds the states, compiles one function for all rounds, algorithms and
copies (seeds), runs it in chunks with checkpoints, and brings the results back.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import core

from lab.errors import NonFiniteError, require
from lab.papers.dacfl import periods
from lab.papers.dacfl.algorithms import Algorithm, as_algorithm
from lab.papers.dacfl.compression import CompressionConfig
from lab.papers.dacfl.data import FederatedData
from lab.papers.dacfl.gossip import exchange_offsets
from lab.papers.dacfl.periods import Evaluate, Protocol
from lab.papers.dacfl.rounds import PLAIN_SGD, init_state
from lab.papers.dacfl.state import FederatedState
from lab.papers.dacfl.users import UserAxis
from lab.train import whole
from lab.train.checkpoints import Checkpoints
from lab.train.devices import WHOLE, ShardedFunction, compile_sharded, dividing_devices
from lab.train.steps import LossFn

USERS = "users"
_SHARED_FIELDS = ("step", "key")


class Simulated(struct.PyTreeNode):
    """What a simulation gives.

    Attributes:
      states: algorithm name to FederatedState, numpy leaves; with copies these come first.
      history: algorithm name to {metric: array}; every round's metrics ("loss", "user_loss" ...)
        are [T, ...], every period's ("accuracy_x" ...) [P, ...]; copies come first.
    """

    states: Mapping[str, FederatedState]
    history: Mapping[str, Mapping[str, np.ndarray]]


class Simulation:
    """Algorithms, loss and protocol, compiled once for all data of one shape.

    Args:
      algorithms: one, or several by name, which then meet the same batches and networks.
      loss_fn: of one user: `(params, model_state, batch, key) -> (loss, Aux)`; a batch is what
        `data.examples` holds, leaves [B, ...].
      protocol: how long and in which steps.
      evaluate: after every period, `(models [n, ...], model_state, test) -> {name: [n]}`.
      tx: local optimizer; the learning rate of `protocol` multiplies its updates.
      compression, user_map: see `rounds.make_round`.
      per_user_init: models are given one a user, leaves [N, ...].
      num_copies: independent runs (seeds) in the same call, whose arrays get a leading axis; None:
        one run without that axis.
      devices: to divide the users over; by default as many of all hosts' devices as divide N.
    """

    def __init__(
        self,
        algorithms: str | Algorithm | Mapping[str, Algorithm] | Sequence[str],
        loss_fn: LossFn,
        protocol: Protocol,
        *,
        evaluate: Evaluate | None = None,
        tx: optax.GradientTransformation = PLAIN_SGD,
        compression: CompressionConfig | None = None,
        user_map: str = "vmap",
        per_user_init: bool = False,
        num_copies: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        require(num_copies is None or num_copies >= 1, f"num_copies must be >= 1, got {num_copies}")
        self.algorithms = _named(algorithms)
        self.protocol, self.num_copies, self.devices = protocol, num_copies, devices
        self.per_user_init = per_user_init
        self._settings = periods.Settings(protocol, loss_fn, tx, compression, user_map, evaluate)
        self._begin = jax.jit(self._begin_all)
        self._chunk = jax.jit(self._run_chunk, static_argnames="bounds", donate_argnums=0)
        self._sharded: dict[Any, ShardedFunction] = {}

    def run(
        self,
        params: Any,
        data: FederatedData,
        key: jax.Array,
        *,
        model_state: Any = None,
        checkpoints: Checkpoints | None = None,
        on_chunk: Callable[[int], None] | None = None,
        stop_at_nonfinite: bool = True,
    ) -> Simulated:
        """All rounds of all algorithms.

        Args:
          params: the model that all users begin with; model_state likewise.
          data: see `data.federated_data`; with copies, of `data.stack_copies`.
          key: typed; with copies keys [num_copies].
          checkpoints: a killed run goes on from there to the same result.
          on_chunk: told how many rounds are done.
          stop_at_nonfinite: raise when a user's loss or model is not finite; False leaves that
            copy at its last good state and goes on.
        Raises: InvalidInputError; NonFiniteError that names round and users.
        """
        bounds = periods.bounds_of(data, self.protocol)
        devices = dividing_devices(data.num_users, self.devices)
        with jax.default_device(jax.local_devices()[0] if len(devices) > 1 else devices[0]):
            states = self._begin(params, model_state or {}, data, key)
            if len(devices) == 1 and jax.process_count() == 1:
                run_chunk = functools.partial(self._chunk, bounds=bounds)
            else:
                run_chunk = self._over_devices(states, data, bounds, devices)
            return self._in_chunks(
                run_chunk, states, data, checkpoints, on_chunk, stop_at_nonfinite
            )

    def _begin_all(self, params, model_state, data, key) -> dict[str, FederatedState]:
        users = UserAxis(data.num_users)

        def begin(params, model_state, data, key):
            states = {}
            for name, algorithm in self.algorithms.items():
                state = init_state(
                    algorithm,
                    params,
                    key,
                    users.num_users,
                    self._settings.tx,
                    model_state=model_state,
                    per_user=self.per_user_init,
                    compression=self._settings.compression,
                )
                states[name] = periods.start(self._settings, algorithm, state, data, users)
            return states

        if self.num_copies is None:
            return begin(params, model_state, data, key)
        return jax.vmap(begin, in_axes=(0, 0, _copy_axes(data), 0))(params, model_state, data, key)

    def _run_chunk(self, states, data, last_period, *, bounds, users=None, offsets=None):
        """One chunk of periods; `users` and `offsets` where users are divided over devices."""
        users = users or UserAxis(data.num_users)
        run = periods.make_chunk(self.algorithms, self._settings, users, offsets, bounds)
        if self.num_copies is None:
            return run(states, data, last_period)
        return jax.vmap(run, in_axes=(0, _copy_axes(data), None))(states, data, last_period)

    def _over_devices(self, states, data: FederatedData, bounds, devices) -> Callable:
        """The chunk with users in equal blocks over devices, from and to whole arrays."""
        users = UserAxis(data.num_users, len(devices), USERS)
        offsets = exchange_offsets(data.network, users)
        place = 0 if self.num_copies is None else 1
        axes = {name: _state_axes(state, place) for name, state in states.items()}
        settings = (users, offsets, bounds, tuple(devices))
        if settings not in self._sharded:
            chunk = functools.partial(self._run_chunk, bounds=bounds, users=users, offsets=offsets)
            self._sharded[settings] = compile_sharded(chunk, USERS, devices, donate_argnums=(0,))
        sharded = self._sharded[settings]
        split_data = sharded.split(data, _data_axes(data, place))

        def run_chunk(states, data, last_period):
            if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(states)):
                # Asked for shapes only, which are those of one device.
                return self._run_chunk(states, data, last_period, bounds=bounds)
            given = sharded.split(states, axes), split_data, sharded.split(last_period, WHOLE)
            new_states, history = sharded(*given)
            return sharded.join(new_states, axes), sharded.join(history, WHOLE)

        return run_chunk

    def _in_chunks(self, run_chunk, states, data, checkpoints, on_chunk, stop) -> Simulated:
        num_periods = self.protocol.num_periods

        def report(done: int, history) -> None:
            if stop:
                require_finite_users(history, self.protocol, done)
            if on_chunk is not None:
                on_chunk(done * self.protocol.log_every)

        states, history = whole.run_in_chunks(
            run_chunk,
            states,
            data,
            num_periods,
            self.protocol.periods_in_chunk,
            checkpoints=checkpoints,
            on_chunk=report,
        )
        if stop:
            require_finite_users(history, self.protocol, num_periods)
        states = jax.tree.map(lambda x: x if _is_key(x) else np.asarray(x), states)
        return Simulated(states, periods.unpack_history(history, self.num_copies is not None))


def simulate(
    algorithms: str | Algorithm | Mapping[str, Algorithm] | Sequence[str],
    loss_fn: LossFn,
    params: Any,
    data: FederatedData,
    protocol: Protocol,
    key: jax.Array,
    **settings: Any,
) -> Simulated:
    """Runs algorithms on all users: `Simulation(...).run(...)` for one use.

    Args: settings, the keywords of `Simulation` and of its `run`.
    """
    of_run = ("model_state", "checkpoints", "on_chunk", "stop_at_nonfinite")
    later = {name: settings.pop(name) for name in of_run if name in settings}
    return Simulation(algorithms, loss_fn, protocol, **settings).run(params, data, key, **later)


def require_finite_users(history: Mapping[str, np.ndarray], protocol: Protocol, done: int) -> None:
    """Raises NonFiniteError that names the algorithm, the round and the users, if any went wrong.

    Args: history of the last chunk, metrics [..., P]; done, the periods done with that chunk.
    """
    names = dict.fromkeys(key.split("/")[0] for key in history)
    bad = {name: np.argwhere(~history[f"{name}/finite"]) for name in names}
    found = {}
    for name, places in bad.items():
        if len(places):
            period = int(places[:, -1].min())
            offset, users = _first_diverged(history, name, period)
            before = done - history[f"{name}/finite"].shape[-1] + period
            found[name] = (before * protocol.log_every + offset, users.tolist()[:8])
    if not found:
        return
    name = min(found, key=lambda name: found[name][0])
    t, users = found[name]
    has_copies = bad[name].shape[1] > 1
    copies = f" (copies {np.unique(bad[name][:, 0]).tolist()})" if has_copies else ""
    raise NonFiniteError(
        f"{name}: the loss or model of users {users} became non-finite in round {t}{copies}; the "
        "state before it is kept. Lower the learning rate.",
        step=t,
    )


def _first_diverged(
    history: Mapping[str, np.ndarray], name: str, period: int
) -> tuple[int, np.ndarray]:
    """The first bad round within a period, and its users, copies merged."""
    diverged = history[f"{name}/round/diverged"]
    flags: Any = diverged.reshape(-1, *diverged.shape[-3:])[..., period].any(axis=0)
    if flags.any():
        offset = int(np.argmax(flags.any(axis=1)))
        return offset, np.flatnonzero(flags[offset])
    # Every loss was finite: it was the last update that was not.
    lost = ~history[f"{name}/finite_users"][..., period]
    return len(flags) - 1, np.flatnonzero(lost.reshape(-1, lost.shape[-1]).any(axis=0))


def _named(algorithms: Any) -> dict[str, Algorithm]:
    if isinstance(algorithms, str | Algorithm):
        algorithms = [algorithms]
    if not isinstance(algorithms, Mapping):
        made = [as_algorithm(given) for given in algorithms]
        algorithms = {algorithm.name: algorithm for algorithm in made}
        require(len(algorithms) == len(made), "name algorithms that occur twice: {name: algorithm}")
    require(len(algorithms) >= 1, "at least one algorithm is needed")
    wrong = [name for name in algorithms if "/" in name]
    require(not wrong, f"names of runs must not hold '/', got {wrong}")
    return {name: as_algorithm(given) for name, given in algorithms.items()}


def _copy_axes(data: FederatedData) -> FederatedData:
    """`vmap` axes of data made by `stack_copies`: examples and test set are shared."""
    axes = jax.tree.map(lambda _: 0, data)
    shared = {
        name: jax.tree.map(lambda _: None, getattr(data, name)) for name in ("examples", "test")
    }
    return axes.replace(**shared)


def _state_axes(state: FederatedState, place: int) -> FederatedState:
    axes = jax.tree.map(lambda _: place, state)
    return axes.replace(**dict.fromkeys(_SHARED_FIELDS, WHOLE))


def _data_axes(data: FederatedData, place: int) -> FederatedData:
    axes = jax.tree.map(lambda _: WHOLE, data)
    return axes.replace(index=place, counts=place)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
