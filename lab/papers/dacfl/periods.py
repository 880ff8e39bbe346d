"""The compiled part of a simulation: rounds between two evaluations, chunks of such periods.

A period is `log_every` rounds and one evaluation; it is the step that `lab.train.whole.run` scans.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.errors import require
from lab.papers.dacfl.algorithms import Algorithm
from lab.papers.dacfl.batches import batch_rows, epochs_spanned
from lab.papers.dacfl.compression import CompressionConfig
from lab.papers.dacfl.data import FederatedData
from lab.papers.dacfl.failures import welcome
from lab.papers.dacfl.gossip import choose_mix
from lab.papers.dacfl.metrics import disagreement, finite_users, user_accuracy
from lab.papers.dacfl.network import Network, own_weights, round_network
from lab.papers.dacfl.rounds import RoundInputs, make_round, start_tracking
from lab.papers.dacfl.schedules import LearningRate, learning_rate_at
from lab.papers.dacfl.state import FederatedState
from lab.papers.dacfl.users import UserAxis
from lab.train import whole
from lab.train.steps import LossFn

Evaluate = Callable[[Any, Any, Any], dict[str, jax.Array]]
ROUND = "round/"
_BATCHES = 0xBA7C  # folded into the key of a run for its batches; rounds fold in small numbers


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How long and in which steps users train.

    Attributes:
      num_rounds: T, a multiple of log_every.
      batch_size: B.
      local_steps: E, local optimizer steps a round.
      local_epochs: instead of E: each user takes local_epochs * ceil(n_i / B) steps; 0: E.
      learning_rate: over rounds.
      log_every: rounds between evaluations.
      chunk_periods: evaluations between two checkpoints; 0: the whole run is one chunk.
      diagnose: record consensus distances and the increments of the bound C7 every round.
    """

    num_rounds: int = 200
    batch_size: int = 100
    local_steps: int = 1
    local_epochs: int = 0
    learning_rate: LearningRate = dataclasses.field(default_factory=LearningRate)
    log_every: int = 10
    chunk_periods: int = 0
    diagnose: bool = True

    def __post_init__(self) -> None:
        for name in ("num_rounds", "batch_size", "local_steps", "log_every"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("local_epochs", "chunk_periods"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {value}")
        require(
            self.num_rounds % self.log_every == 0,
            f"num_rounds = {self.num_rounds} must be a multiple of log_every = {self.log_every}",
        )

    @property
    def num_periods(self) -> int:
        """Evaluations in the run."""
        return self.num_rounds // self.log_every

    @property
    def periods_in_chunk(self) -> int:
        """Evaluations between two checkpoints."""
        return self.chunk_periods or self.num_periods


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all algorithms of a simulation share."""

    protocol: Protocol
    loss_fn: LossFn
    tx: optax.GradientTransformation
    compression: CompressionConfig | None
    user_map: str
    evaluate: Evaluate | None


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Sizes that must be known before compiling.

    Attributes: num_steps E, the most local steps of a user in a round; num_epochs, the most epochs
    that the batches of one chunk touch; has_small_users, whether a user has less than a batch.
    """

    num_steps: int
    num_epochs: int
    has_small_users: bool


def bounds_of(data: FederatedData, protocol: Protocol) -> Bounds:
    """Reads the users' sizes; data with or without copies."""
    counts = np.asarray(data.counts)
    steps = protocol.local_steps
    if protocol.local_epochs:
        steps = protocol.local_epochs * -(-int(counts.max()) // protocol.batch_size)
    chunk_steps = (protocol.periods_in_chunk * protocol.log_every + 1) * steps
    epochs = epochs_spanned(counts, protocol.batch_size, chunk_steps)
    return Bounds(steps, epochs, bool((counts < protocol.batch_size).any()))


def accuracy_evaluation(apply_fn: Callable[[Any, jax.Array], jax.Array]) -> Evaluate:
    """Per-user accuracy on a test set {"inputs": [n, ...], "labels": int [n]}.

    Args: apply_fn, `(variables, inputs) -> logits [n, C]`.
    """

    def evaluate(models, model_state, test):
        def of_user(params, state):
            return apply_fn({"params": params, **state}, test["inputs"])

        logits = jax.vmap(of_user)(models, model_state)
        return {"accuracy": user_accuracy(logits, test["labels"])}

    return evaluate


def loss_evaluation(loss_fn: LossFn) -> Evaluate:
    """Per-user loss on a test batch, and whatever else the loss measures.

    Args: loss_fn, `(params, model_state, batch, key) -> (loss, Aux)` in evaluation mode: its key is
      always the same.
    """

    def evaluate(models, model_state, test):
        def of_user(params, state):
            loss, aux = loss_fn(params, state, test, jax.random.key(0))
            return {"loss": loss, **aux.metrics}

        return jax.vmap(of_user)(models, model_state)

    return evaluate


def start(
    settings: Settings,
    algorithm: Algorithm,
    state: FederatedState,
    data: FederatedData,
    users: UserAxis,
) -> FederatedState:
    """The state before round 0: gradient tracking takes its first gradient on batch 0."""
    if not algorithm.tracks_gradients:
        return state
    require(
        settings.protocol.local_steps == 1 and settings.protocol.local_epochs == 0,
        f"dsgt takes one local step a round, got local_steps={settings.protocol.local_steps}, "
        f"local_epochs={settings.protocol.local_epochs}",
    )
    first_only = Bounds(num_steps=1, num_epochs=1, has_small_users=True)
    rows = _rows(state.key, data, users, settings.protocol, first_only, 1, jnp.int32(0))
    batches = _batches(data, rows)
    return start_tracking(state, settings.loss_fn, batches, settings.user_map)[0]


def make_chunk(
    algorithms: Mapping[str, Algorithm],
    settings: Settings,
    users: UserAxis,
    offsets: tuple[int, ...] | None,
    bounds: Bounds,
) -> Callable:
    """Makes `run_chunk(states, data, last_period) -> (states, history)` for `run_in_chunks`.

    Args: offsets, of `gossip.exchange_offsets`. The history's metrics have the periods last.
    """
    protocol = settings.protocol
    num_rows = (protocol.periods_in_chunk * protocol.log_every + 1) * bounds.num_steps

    def run_chunk(states, data, last_period):
        # A frozen state lags behind; the clock of the others counts.
        first_round = jnp.max(jnp.stack([state.step for state in states.values()]))
        key = next(iter(states.values())).key
        rows = _rows(key, data, users, protocol, bounds, num_rows, first_round * bounds.num_steps)
        last_round = last_period * protocol.log_every
        new_states, history = {}, {}
        for name, algorithm in algorithms.items():
            step = _make_period(algorithm, settings, users, offsets, bounds, data.network)
            new_states[name], metrics = whole.run(
                step,
                states[name],
                (data, rows, first_round),
                protocol.periods_in_chunk,
                last_round,
            )
            history |= {f"{name}/{m}": jnp.moveaxis(x, 0, -1) for m, x in metrics.items()}
        return new_states, history

    return run_chunk


def _make_period(
    algorithm: Algorithm,
    settings: Settings,
    users: UserAxis,
    offsets: tuple[int, ...] | None,
    bounds: Bounds,
    network: Network,
) -> Callable:
    protocol = settings.protocol
    mix = choose_mix(network, users, offsets)
    round_fn = make_round(
        algorithm,
        settings.loss_fn,
        settings.tx,
        users=users,
        mix=mix,
        drop_mode=network.mode,
        compression=settings.compression,
        user_map=settings.user_map,
        diagnose=protocol.diagnose,
    )
    offset = int(algorithm.tracks_gradients)

    def one_round(data, rows, first_round, state):
        t = state.step
        start = (t - first_round + offset) * bounds.num_steps
        taken = jax.lax.dynamic_slice_in_dim(rows, start, bounds.num_steps)
        weights, active = round_network(data.network, t)
        before = state
        if data.network.arriving is not None and algorithm.gossips:
            arriving, own = users.take((data.network.arriving[t], own_weights(weights)))
            state = welcome(state, arriving, own, mix(weights, state.omega))
        num_steps = None
        if protocol.local_epochs:
            num_steps = protocol.local_epochs * (-(-data.counts // protocol.batch_size))
        inputs = RoundInputs(
            batches=_batches(data, taken),
            weights=weights,
            learning_rate=data.lr_scale * learning_rate_at(protocol.learning_rate, t),
            active=active,
            counts=data.counts.astype(jnp.float32),
            num_steps=num_steps,
        )
        new, metrics = round_fn(state, inputs)
        if state is not before and "consensus_x" in metrics:
            # The bound C7 must know that a newcomer's x has jumped.
            jump = jax.tree.map(jnp.subtract, state.tracker, before.tracker)
            metrics["increment"] += disagreement(jump, users)
        return new, metrics

    def period(state: FederatedState, given):
        data, rows, first_round = given
        is_lost = state.step < first_round
        state, metrics = jax.lax.scan(
            lambda state, _: one_round(data, rows, first_round, state),
            state,
            length=protocol.log_every,
        )
        loss = jnp.where(is_lost, jnp.nan, metrics["loss"].mean())
        found = {ROUND + name: values for name, values in metrics.items()}
        found |= {"loss": loss, "finite_users": users.gather(finite_users(state.omega))}
        return state, found | _evaluated(algorithm, settings, users, state, data)

    return period


def _evaluated(
    algorithm: Algorithm,
    settings: Settings,
    users: UserAxis,
    state: FederatedState,
    data: FederatedData,
) -> dict[str, jax.Array]:
    """Every read-out's metrics: `<metric>_omega` and `_x` [N], `_mean` (of omega) scalar."""
    if settings.evaluate is None or data.test is None:
        return {}
    mean = jax.tree.map(lambda x: x[None], users.mean((state.omega, state.model_state)))
    of_mean = settings.evaluate(mean[0], mean[1], data.test)
    found = {f"{k}_mean": v[0] for k, v in of_mean.items()}
    if algorithm.name in ("fedavg", "centralised"):  # all users hold the same model
        same = {f"{k.removesuffix('_mean')}_omega": v for k, v in found.items()}
        everyone = users.num_users
        return found | {k: jnp.broadcast_to(v, (everyone, *v.shape)) for k, v in same.items()}
    readouts = {"omega": state.omega}
    if state.tracker is not None:
        readouts["x"] = state.tracker
    for name, models in readouts.items():
        metrics = settings.evaluate(models, state.model_state, data.test)
        found |= {f"{k}_{name}": users.gather(v) for k, v in metrics.items()}
    return found


def _rows(
    key: jax.Array,
    data: FederatedData,
    users: UserAxis,
    protocol: Protocol,
    bounds: Bounds,
    num_rows: int,
    first_step: jax.Array,
) -> jax.Array:
    """Positions of consecutive local steps within each user's examples; int32 [rows, n, B]."""
    return batch_rows(
        jax.random.fold_in(key, _BATCHES),
        users.indices(),
        data.counts,
        first_step,
        num_steps=num_rows,
        batch_size=protocol.batch_size,
        width=data.index.shape[-1],
        num_epochs=bounds.num_epochs,
        has_small_users=bounds.has_small_users,
    )


def _batches(data: FederatedData, rows: jax.Array) -> Any:
    """Examples of rows int32 [E, n, B], as leaves [n, E, B, ...], or [n, E, ...] of one each."""
    num_steps, n, _ = rows.shape
    if data.holds_one:
        chosen = jnp.broadcast_to(data.index[:, :1], (n, num_steps))
        return jax.tree.map(lambda x: x[chosen], data.examples)
    chosen = data.index[jnp.arange(n)[None, :, None], rows]
    chosen = jnp.swapaxes(chosen, 0, 1)
    return jax.tree.map(lambda x: x[chosen], data.examples)


def unpack_history(
    history: Mapping[str, np.ndarray], has_copies: bool
) -> dict[str, dict[str, np.ndarray]]:
    """From `run_in_chunks`' flat history to {algorithm: {metric: [..., T or P, ...]}}."""
    lead = int(has_copies)
    unpacked: dict[str, dict[str, np.ndarray]] = {}
    for key, values in history.items():
        name, _, metric = key.partition("/")
        values = np.moveaxis(np.asarray(values), -1, lead)
        if metric.startswith(ROUND):
            shape = values.shape
            merged = (*shape[:lead], shape[lead] * shape[lead + 1], *shape[lead + 2 :])
            metric, values = metric.removeprefix(ROUND), values.reshape(merged)
        elif metric == "loss":
            continue  # the mean of the rounds' own, which are here
        unpacked.setdefault(name, {})[metric] = values
    return unpacked
