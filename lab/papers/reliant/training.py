"""Whole runs: a teacher or a student, all seeds and all weights of the bias in one compiled call.

A copy is one seed with one weight:

    graph = prepare(lab.data.load("bail", mini=True), features="official")
    teacher = teach(TeacherConfig("gcn"), graph, jax.random.key(42)).knowledge
    config = StudentConfig("akd", RELIANT)
    runs = train_students(config, graph, teacher, seed_keys(range(5)), alphas=[1, 10, 100])

`runs.logits` is float [3, 5, N, C]. Copies never mix.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from lab.errors import require, require_given
from lab.papers.reliant.config import UNRESOLVED, StudentConfig, coupled_adam
from lab.papers.reliant.data import FairGraph
from lab.papers.reliant.knowledge import TeacherKnowledge
from lab.papers.reliant.losses import node_cross_entropy
from lab.papers.reliant.selection import Best, follow, nothing_yet, score_of
from lab.papers.reliant.steps import (
    StudentState,
    init_student,
    last_logits,
    make_epoch,
    make_task,
    selected_logits,
    unless_stopped,
)
from lab.papers.reliant.teachers import Teacher, TeacherConfig, build_teacher
from lab.train.checkpoints import Checkpoints
from lab.train.devices import compile_copies
from lab.train.state import Aux, TrainState, check_key, init_state
from lab.train.steps import make_train_step
from lab.train.whole import History, HostHistory, run, run_in_chunks


class TeacherState(TrainState):
    """A training state with the best epoch's {"params"} in `best`."""

    best: Best


class TaughtTeacher(struct.PyTreeNode):
    """Trained teachers.

    Attributes: knowledge of the kept weights; variables, flax; best_epoch int32; history. All have
    a leading axis where several were trained.
    """

    knowledge: TeacherKnowledge
    variables: dict[str, Any]
    best_epoch: jax.Array
    history: History


def teach(
    config: TeacherConfig,
    graph: FairGraph,
    keys: jax.Array,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> TaughtTeacher:
    """Trains one teacher (a key), or one a key (keys [n]), each in one scan, in one compiled call.

    Raises: InvalidInputError for a raw key.
    """
    check_key(keys)
    several = keys.ndim == 1
    call = _compiled_teacher(config.resolved(), tuple(devices) if devices else None)
    taught = call(keys if several else keys[None], graph)
    return taught if several else jax.tree.map(lambda x: x[0], taught)


@functools.cache
def _compiled_teacher(config: TeacherConfig, devices) -> Callable:
    def train(key, graph):
        module = build_teacher(config, graph.num_classes)
        state = init_teacher(config, module, graph, key)
        step = make_teacher_epoch(config, module)
        state, history = run(step, state, graph, config.max_epochs)
        variables = {"params": state.best.value["params"]}
        output: Any = module.apply(
            variables, graph.links, graph.features, graph.aggregate, train=False
        )
        logits, embedding = output
        kept = TeacherKnowledge(jax.nn.log_softmax(logits), embedding)
        return TaughtTeacher(kept, variables, state.best.epoch, history)

    return compile_copies(train, (0, None), devices, in_turn=_on_cpu())


def _optimizer(config: TeacherConfig) -> optax.GradientTransformation:
    return coupled_adam(config.learning_rate, require_given(config.weight_decay, UNRESOLVED))


def init_teacher(
    config: TeacherConfig, module: Teacher, graph: FairGraph, key: jax.Array
) -> TeacherState:
    """A fresh state of a teacher."""
    tx = _optimizer(config)
    state = init_state(module, tx, key, graph.links, graph.features, graph.aggregate, train=False)
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return TeacherState(**fields, best=nothing_yet({"params": state.params}))


def make_teacher_epoch(config: TeacherConfig, module: Teacher) -> Callable:
    """`step(state, graph) -> (state, metrics)`: a step, then a look at the validation nodes."""

    def loss_fn(params, model_state, graph, key):
        logits, _ = module.apply(
            {"params": params},
            graph.links,
            graph.features,
            graph.aggregate,
            train=True,
            rngs={"dropout": key},
        )
        loss = node_cross_entropy(logits, graph.labels, graph.train_mask)
        return loss, Aux({}, model_state)

    take = make_train_step(loss_fn, _optimizer(config))

    def epoch(state, graph):
        number = state.step
        state, metrics = take(state, graph)
        logits, _ = module.apply(
            {"params": state.params}, graph.links, graph.features, graph.aggregate, train=False
        )
        correct = (logits.argmax(axis=1) == graph.labels) & graph.val_mask
        accuracy = correct.sum() / graph.val_mask.sum()
        metrics |= {"val_accuracy": accuracy, "running": jnp.float32(1)}
        if config.select_by == "val_loss":
            metrics["val_loss"] = node_cross_entropy(logits, graph.labels, graph.val_mask)
        best = follow(
            state.best,
            score_of(config.select_by, metrics, number),
            number,
            {"params": state.params},
            ties_win=True,
            patience=config.patience,
        )
        return state.replace(best=best), metrics

    return unless_stopped(epoch)


@dataclasses.dataclass(frozen=True)
class StudentRuns:
    """Trained students, with leading axes [weights, seeds], or [seeds] without a sweep.

    Attributes:
      logits: float [..., N, C] of the selected students at test time.
      last_logits: float [..., N, C] of the students of the last epoch, in evaluation mode.
      best_epoch: int [...]; -1 where no epoch was finite.
      history: each metric [..., epochs]; `lab.train.whole.first_bad_step` tells of bad ones.
      states: the final states, the selected parameters in `states.best.value`.
    """

    logits: jax.Array
    last_logits: jax.Array
    best_epoch: np.ndarray
    history: HostHistory
    states: StudentState


def train_students(
    config: StudentConfig,
    graph: FairGraph,
    teacher: TeacherKnowledge,
    keys: jax.Array,
    alphas: Sequence[float] | None = None,
    *,
    copies: str = "auto",
    devices: Sequence[jax.Device] | None = None,
    checkpoints: Checkpoints | None = None,
    chunk_epochs: int | None = None,
    on_chunk: Callable[[int, HostHistory], None] | None = None,
) -> StudentRuns:
    """Trains a student for every weight and seed: one scan each, all in one compiled call.

    Args:
      keys: typed keys [seeds].
      alphas: weights of the bias; None: the config's alone.
      copies: "together" maps the copies over one axis, "in_turn" runs one after another inside the
        call, "auto" takes the faster.
      checkpoints, chunk_epochs, on_chunk: cut the run into chunks, with the same result, as
        `lab.train.whole.run_in_chunks`.
    Raises: InvalidInputError where config, graph and teacher do not fit (`make_task`).
    """
    config, keys = config.resolved(), check_key(keys)
    require(keys.ndim == 1, f"keys have shape {keys.shape}; accepted: [seeds]")
    require(
        copies in ("auto", "together", "in_turn"),
        f"copies is {copies!r}; accepted: auto, together, in_turn",
    )
    task = make_task(config, graph, teacher)
    weights = [require_given(config.alpha, UNRESOLVED)] if alphas is None else list(alphas)
    max_epochs = require_given(config.max_epochs, UNRESOLVED)
    require(min(weights) >= 0, f"alphas are {weights}; accepted: not negative")
    spread = jnp.repeat(jnp.asarray(weights, jnp.float32), len(keys))
    many = jnp.tile(keys, len(weights))
    in_turn = copies == "in_turn" or (copies == "auto" and _on_cpu())
    chunk = chunk_epochs or max_epochs
    begin, run_chunk, finish, whole = _compiled_student(
        _program_of(config), chunk, in_turn, tuple(devices) if devices else None
    )
    if checkpoints is None and chunk_epochs is None and on_chunk is None:
        state, history, outputs = whole(many, spread, task)
    else:
        state, history = run_in_chunks(
            run_chunk,
            begin(many, spread, task),
            task,
            max_epochs,
            chunk,
            checkpoints=checkpoints,
            on_chunk=on_chunk,
        )
        outputs = finish(state, task)
    if alphas is not None:
        shape = (len(weights), len(keys))
        state, history, outputs = jax.tree.map(
            lambda x: x.reshape(*shape, *x.shape[1:]), (state, history, outputs)
        )
    history = {name: np.asarray(values) for name, values in history.items()}
    logits, last = outputs
    return StudentRuns(logits, last, np.asarray(state.best.epoch), history, state)


def predict(
    config: StudentConfig, graph: FairGraph, teacher: TeacherKnowledge, states: StudentState
) -> tuple[jax.Array, jax.Array]:
    """What trained students say of a graph that has changed, with the same nodes.

    Args: graph, with other features or edges (`prepare`); states, of `StudentRuns`.
    Returns: logits float [..., N, C] of the selected students and of those of the last epoch.
    """
    config = config.resolved()
    leading = states.step.shape
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(leading) :]), states)
    *_, finish, _ = _compiled_student(_program_of(config), config.max_epochs, _on_cpu(), None)
    outputs = finish(flat, make_task(config, graph, teacher))
    return tuple(x.reshape(*leading, *x.shape[1:]) for x in outputs)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _program_of(config: StudentConfig) -> StudentConfig:
    """The config without what only changes the data, so that variants share a compiled program.

    Which nodes and labels the bias compares stands in the task; the weight is an argument.
    """
    same = {"eo_labels": "official", "fairness_nodes": "official"}
    if config.fairness.metric != "none":
        same["metric"] = "sp"
    fairness = dataclasses.replace(config.fairness, **same)
    return dataclasses.replace(config, fairness=fairness, alpha=0.0)


@functools.cache
def _compiled_student(config: StudentConfig, chunk_epochs: int, in_turn: bool, devices):
    step, max_epochs = make_epoch(config), require_given(config.max_epochs, UNRESOLVED)

    def begin(key, alpha, task):
        return init_student(config, task, key, alpha)

    def run_chunk(state, task, last_step):
        return run(step, state, task, chunk_epochs, last_step)

    def finish(state, task):
        return selected_logits(config, state, task), last_logits(config, state, task)

    def whole(key, alpha, task):
        state, history = run(step, begin(key, alpha, task), task, max_epochs)
        return state, history, finish(state, task)

    copied = functools.partial(compile_copies, devices=devices, in_turn=in_turn)
    return (
        copied(begin, (0, 0, None)),
        copied(run_chunk, (0, None, None)),
        copied(finish, (0, None)),
        copied(whole, (0, 0, None)),
    )
