"""One epoch of RELIANT: the student's step, the proxy's, the discriminators', and a look at it.

The players alternate: the student minimises distillation + alpha * bias with every node at the mean
proxy; then the proxy alone maximises the bias with every node at its own. Each player has an optax
transformation of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lab.errors import require, require_given
from lab.metrics.fairness import equal_opportunity_gap, statistical_parity_gap
from lab.metrics.ranking import roc_auc
from lab.nn.graph import propagate
from lab.papers.reliant.config import UNRESOLVED, StudentConfig, optimizers
from lab.papers.reliant.data import FairGraph
from lab.papers.reliant.knowledge import TeacherKnowledge
from lab.papers.reliant.losses import (
    BiasGroups,
    bias,
    discriminator_terms,
    generator_terms,
    kd_loss,
    node_cross_entropy,
    soft_target_loss,
    weighted_total,
)
from lab.papers.reliant.models import PLP, SGC, View, init_discriminators, label_start, view_of
from lab.papers.reliant.objective import (
    groups_of_framework,
    initial_proxy,
    mean_proxy,
    with_proxy,
)
from lab.papers.reliant.selection import Best, SelectBy, follow, nothing_yet, score_of
from lab.train.state import check_key, step_key

Metrics = dict[str, jax.Array]


NO_EMBEDDING = (
    "GraphAKD needs the teacher's embedding, which this knowledge lacks; use CPF or export it"
)


class StudentTask(struct.PyTreeNode):
    """All that stays the same over a run.

    Attributes:
      graph, teacher; teacher_probs float [N, C], rounded for CPF; teacher_view (GraphAKD).
      student_groups, proxy_groups: what the bias compares in either step.
      val_nodes: int32 [n].
    """

    graph: FairGraph
    teacher: TeacherKnowledge
    teacher_probs: jax.Array
    teacher_view: View | None
    student_groups: BiasGroups | None
    proxy_groups: BiasGroups | None
    val_nodes: jax.Array


class StudentState(struct.PyTreeNode):
    """State of one student's run.

    Attributes: step int32; params and opt_states, by player: "student", "proxy" (None without one),
      "critics" (GraphAKD); alpha float32; initial_proxy_mean float [d]; best, the epoch to keep,
      whose value has "student", "proxy_mean" and "logits"; key, typed.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_states: dict[str, Any]
    alpha: jax.Array
    initial_proxy_mean: jax.Array | None
    best: Best
    key: jax.Array


def make_task(config: StudentConfig, graph: FairGraph, teacher: TeacherKnowledge) -> StudentTask:
    """Brings a graph and a teacher's knowledge together, on the host.

    Raises: InvalidInputError where they do not fit: other numbers of nodes or classes, no
      embedding for GraphAKD or one of another width, an empty group.
    """
    config = config.resolved()
    expected = (graph.num_nodes, graph.num_classes)
    require(
        teacher.log_probs.shape == expected,
        f"the teacher's log_probs have shape {teacher.log_probs.shape}, the graph needs {expected}",
    )
    if config.framework == "akd":
        _check_embedding(config, teacher)
    present = jnp.bincount(
        jnp.where(graph.train_mask, graph.labels, graph.num_classes), length=graph.num_classes
    )
    require(
        config.framework != "cpf" or bool((present > 0).all()),
        f"CPF spreads the train labels, and they lack a class: counts are {present.tolist()}",
    )
    framework = "kd" if config.framework == "vani" else config.framework
    groups = groups_of_framework(framework, config.fairness, graph, teacher.log_probs)
    view = None
    if config.framework == "akd":
        view = jax.jit(view_of)(teacher.log_probs, teacher.embedding, graph.pairs)
    return StudentTask(
        graph=graph,
        teacher=teacher,
        teacher_probs=teacher.probs(config.round_teacher if config.framework == "cpf" else None),
        teacher_view=view,
        student_groups=groups and groups[0],
        proxy_groups=groups and groups[1],
        val_nodes=jnp.flatnonzero(graph.val_mask),
    )


def _check_embedding(config: StudentConfig, teacher: TeacherKnowledge) -> None:
    embedding = require_given(
        teacher.embedding,
        NO_EMBEDDING,
    )
    width, own = embedding.shape[1], config.sgc.hidden_dim
    require(
        own in (None, width) or config.project_embedding,
        f"the student is {own} wide and the teacher's embedding {width}: leave sgc.hidden_dim None "
        "to take the teacher's, or set project_embedding",
    )


def student_module(config: StudentConfig, task: StudentTask) -> PLP | SGC:
    """The student of a framework; its width follows the teacher's embedding where not given."""
    num_classes = task.graph.num_classes
    if config.framework == "cpf":
        return PLP(config.plp, num_classes)
    embedding = task.teacher.embedding
    width = 64 if embedding is None else embedding.shape[1]
    sgc = dataclasses.replace(config.sgc, hidden_dim=config.sgc.hidden_dim or width)
    return SGC(sgc, num_classes, width if config.project_embedding else None)


def student_outputs(
    config: StudentConfig,
    task: StudentTask,
    params: Any,
    proxy: jax.Array | None,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """The student at given proxies.

    Args: proxy float [N, d], what each node sees; key, of dropout, or None for evaluation.
    Returns: (logits float [N, C], embedding float [N, D], None for CPF).
    """
    return _apply(config, task, student_module(config, task).apply, {"params": params}, proxy, key)


def _apply(config, task, call, first, proxy, key) -> Any:
    """`call(first, inputs of the student ...)`, for apply and init alike."""
    graph, fairness = task.graph, config.fairness
    features = with_proxy(graph.features, proxy, fairness)
    options = {"train": key is not None, "rngs": {} if key is None else {"dropout": key}}
    if isinstance(first, jax.Array):  # a key: init takes no rngs beside it
        options = {"train": False}
    if config.framework == "cpf":
        start = label_start(graph.labels, graph.train_mask, graph.num_classes)
        out = call(first, graph.links, features, start, graph.train_mask, **options)
        return out, None
    spread = None if proxy is None else propagate(graph.links, proxy)
    aggregate = with_proxy(graph.aggregate, spread, fairness)
    return call(first, graph.links, features, aggregate, **options)


def init_student(
    config: StudentConfig, task: StudentTask, key: jax.Array, alpha: jax.Array | float | None = None
) -> StudentState:
    """A fresh state; parameters, proxy and dropout all follow from the typed key.

    Args: alpha, weight of the bias, may be traced; the config's where None.
    """
    config = config.resolved()
    student_key, proxy_key, critic_key, run_key = jax.random.split(check_key(key), 4)
    proxy = initial_proxy(config.fairness, task.graph, proxy_key)
    module = student_module(config, task)
    variables, _ = _init(config, task, module, student_key, proxy)
    critics = None
    if config.framework == "akd":
        width = require_given(task.teacher.embedding, NO_EMBEDDING).shape[1]
        critics = init_discriminators(critic_key, task.graph.num_classes, width)
    params = {"student": variables["params"], "proxy": proxy, "critics": critics}
    return state_from(config, task, params, run_key, alpha)


def _init(config, task, module, key, proxy):
    out = _apply(config, task, module.init, key, proxy, None)
    return out if isinstance(out, tuple) else (out, None)


def state_from(
    config: StudentConfig,
    task: StudentTask,
    params: dict[str, Any],
    key: jax.Array,
    alpha: jax.Array | float | None = None,
) -> StudentState:
    """A fresh state around given parameters (converted ones, for example), by player."""
    config = config.resolved()
    players = optimizers(config)
    proxy = params["proxy"]
    mean = None if proxy is None else proxy.mean(axis=0)
    logits = jnp.zeros((task.graph.num_nodes, task.graph.num_classes))
    kept = {"student": params["student"], "proxy_mean": mean, "logits": logits}
    return StudentState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_states={n: None if p is None else players[n].init(p) for n, p in params.items()},
        alpha=jnp.asarray(config.alpha if alpha is None else alpha, jnp.float32),
        initial_proxy_mean=mean,
        best=nothing_yet(kept),
        key=check_key(key),
    )


def make_epoch(
    config: StudentConfig,
) -> Callable[[StudentState, StudentTask], tuple[StudentState, Metrics]]:
    """`step(state, task) -> (state, metrics)`: one epoch of all players and a look at validation.

    Metrics: loss (the student's), its parts, bias, proxy_loss (-alpha * bias at the own proxies),
    d_loss (GraphAKD), grad_norm, val_accuracy, val_loss, val_sp, val_eo, running (0 once patience
    has run out: the state then stays as it is). Undefined validation gaps stand as 1.
    """
    config = config.resolved()
    student_step = _adversarial_step if config.framework == "akd" else _distillation_step

    def epoch(state: StudentState, task: StudentTask):
        keys = jax.random.split(step_key(state), 3)
        params, opt_states, metrics = student_step(config, state, task, keys[0])
        if config.fairness.proxy_mode == "learned":
            params, opt_states, loss = _proxy_step(
                config, task, params, opt_states, state.alpha, keys[1]
            )
            metrics["proxy_loss"] = loss
        noise = keys[2] if config.noisy_eval else None
        logits, _ = student_outputs(config, task, params["student"], _mean(params["proxy"]), noise)
        metrics |= validation_metrics(config, task, logits)
        metrics["running"] = jnp.float32(1)
        select_by: SelectBy = require_given(config.select_by, UNRESOLVED)
        score = score_of(select_by, metrics, state.step, config.min_accuracy, config.min_auc)
        proxy = params["proxy"]
        mean = None if proxy is None else proxy.mean(axis=0)
        kept = {"student": params["student"], "proxy_mean": mean, "logits": logits}
        best = follow(
            state.best,
            score,
            state.step,
            kept,
            ties_win=config.select_by in ("val_accuracy", "last"),
            patience=config.patience,
        )
        state = state.replace(step=state.step + 1, params=params, opt_states=opt_states, best=best)
        return state, metrics

    return epoch if config.patience is None else unless_stopped(epoch)


def unless_stopped(epoch: Callable) -> Callable:
    """The same epoch for a run that may have stopped: then it costs nothing and changes nothing."""

    def step(state, data):
        nothing = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(epoch, state, data)[1]
        )
        stay = lambda state, _: (state.replace(step=state.step + 1), nothing)  # noqa: E731
        return jax.lax.cond(state.best.stopped, stay, epoch, state, data)

    return step


def _mean(proxy):
    return None if proxy is None else mean_proxy(proxy)


def _update(config, name, params, opt_states, grads):
    """Lets one player take its step; the others' entries stay."""
    tx = optimizers(config)[name]
    updates, opt_state = tx.update(grads, opt_states[name], params[name])
    new = optax.apply_updates(params[name], updates)
    return {**params, name: new}, {**opt_states, name: opt_state}


def _penalty(config, task, state, logits):
    """(alpha * bias, bias) of the student's step; zeros where the bias is not penalised."""
    if not config.fairness.is_penalised(config.framework):
        return jnp.float32(0), jnp.float32(0)
    fairness = config.fairness
    value = bias(
        jax.nn.softmax(logits), task.student_groups, fairness.step_approx, fairness.steepness
    )
    return state.alpha * value, value


def _distillation_step(config, state, task, key):
    """The student's step of every framework without discriminators."""

    def loss_fn(student):
        proxy = _mean(state.params["proxy"])
        logits, _ = student_outputs(config, task, student, proxy, key)
        distance = distillation_loss(config, task, logits)
        penalty, value = _penalty(config, task, state, logits)
        return distance + penalty, {"distillation": distance, "bias": value}

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, parts), grads = gradient(state.params["student"])
    params, opt_states = _update(config, "student", state.params, state.opt_states, grads)
    return params, opt_states, {"loss": loss, **parts, "grad_norm": optax.tree.norm(grads)}


def distillation_loss(config: StudentConfig, task: StudentTask, logits: jax.Array) -> jax.Array:
    """The student's loss without the bias, for CPF, plain distillation and plain supervision."""
    graph = task.graph
    if config.framework == "cpf":
        probs = jax.nn.softmax(logits)
        return kd_loss(probs, task.teacher_probs, ~graph.train_mask, config.kd_loss)
    if config.framework == "vani":
        return node_cross_entropy(logits, graph.labels, graph.train_mask)
    return soft_target_loss(
        logits,
        task.teacher.log_probs,
        graph.labels,
        graph.train_mask,
        temperature=config.temperature,
        label_weight=config.label_weight,
    )


def _adversarial_step(config, state, task, key):
    """GraphAKD: the discriminators' step, then the student's against the new discriminators."""
    graph, proxy = task.graph, _mean(state.params["proxy"])

    def forward(student):
        return student_outputs(config, task, student, proxy, key)

    # One forward pass serves both steps.
    outputs, pull_back = jax.vjp(forward, state.params["student"])
    logits, embedding = outputs[0], require_given(outputs[1], "GraphAKD's student has an embedding")
    seen = view_of(logits, embedding, graph.pairs)
    rest = (graph.labels, graph.train_mask)

    def critic_loss(critics):
        return weighted_total(
            discriminator_terms(critics, graph.links, graph.pairs, task.teacher_view, seen, *rest)
        )

    d_loss, grads = jax.value_and_grad(critic_loss)(state.params["critics"])
    params, opt_states = _every(
        config, "critics", config.d_critic, state.step, state.params, state.opt_states, grads
    )

    def student_loss(logits, embedding):
        # Products of pairs are the same numbers as in `seen`, whose gathers need not be repeated.
        view = view_of(logits, embedding, graph.pairs).replace(features=seen.features)
        terms = generator_terms(
            params["critics"],
            graph.links,
            graph.pairs,
            task.teacher_view,
            view,
            *rest,
            config.akd_g_loss,
        )
        penalty, value = _penalty(config, task, state, logits)
        return weighted_total(terms) + penalty, {**terms, "bias": value}

    gradient = jax.value_and_grad(student_loss, argnums=(0, 1), has_aux=True)
    (loss, parts), cotangents = gradient(logits, embedding)
    (grads,) = pull_back(cotangents)
    params, opt_states = _every(
        config, "student", config.g_critic, state.step, params, opt_states, grads
    )
    metrics = {"loss": loss, **parts, "d_loss": d_loss, "grad_norm": optax.tree.norm(grads)}
    return params, opt_states, metrics


def _every(config, name, period, step, params, opt_states, grads):
    """Lets a player step in every period-th epoch, the first included."""
    new = _update(config, name, params, opt_states, grads)
    if period == 1:
        return new
    turn = step % period == 0
    return jax.tree.map(lambda a, b: jnp.where(turn, a, b), new, (params, opt_states))


def _proxy_step(config, task, params, opt_states, alpha, key):
    """Maximises the bias over the proxies alone, every node seeing its own."""
    fairness = config.fairness

    def loss_fn(proxy):
        logits, _ = student_outputs(config, task, params["student"], proxy, key)
        probs = jax.nn.softmax(logits)
        value = bias(probs, task.proxy_groups, fairness.step_approx, fairness.steepness)
        return -alpha * value

    loss, grads = jax.value_and_grad(loss_fn)(params["proxy"])
    params, opt_states = _update(config, "proxy", params, opt_states, grads)
    return params, opt_states, loss


def validation_metrics(config: StudentConfig, task: StudentTask, logits: jax.Array) -> Metrics:
    """Accuracy, loss and gaps on the validation nodes; val_auc where select_by is "fair"."""
    graph = task.graph
    rows, labels = logits[task.val_nodes], graph.labels[task.val_nodes]
    predictions, sensitive = rows.argmax(axis=1), graph.sensitive[task.val_nodes]
    if config.framework == "cpf":
        loss = kd_loss(
            jax.nn.softmax(rows),
            task.teacher_probs[task.val_nodes],
            jnp.ones(labels.shape, bool),
            config.kd_loss,
        )
    else:
        loss = node_cross_entropy(rows, labels, jnp.ones(labels.shape, bool))
    groups = tuple(range(graph.num_groups))
    classes = (1,) if graph.num_classes == 2 else tuple(range(graph.num_classes))
    metrics = {
        "val_accuracy": (predictions == labels).mean(),
        "val_loss": loss,
        "val_sp": statistical_parity_gap(predictions, sensitive, groups=groups, classes=classes),
        "val_eo": equal_opportunity_gap(
            predictions, labels, sensitive, groups=groups, classes=classes
        ),
    }
    if config.select_by == "fair":
        require(graph.num_classes == 2, "select_by 'fair' needs two classes, for its AUC")
        metrics["val_auc"] = roc_auc(rows[:, 1] - rows[:, 0], labels)
    # A run stops at numbers that are not finite; a gap that is not defined must not stop it.
    gaps = {name: jnp.nan_to_num(value, nan=1.0) for name, value in metrics.items()}
    return gaps | {"val_loss": loss}


def selected_proxy(config: StudentConfig, state: StudentState, num_nodes: int) -> jax.Array | None:
    """The proxy that every node gets at test time: float [N, d]."""
    if state.params["proxy"] is None:
        return None
    mean = {
        "final": state.params["proxy"].mean(axis=0),
        "best": state.best.value["proxy_mean"],
        "mean_init": state.initial_proxy_mean,
    }[config.fairness.proxy_at_test]
    return jnp.broadcast_to(mean, (num_nodes, mean.shape[0]))


def selected_logits(config: StudentConfig, state: StudentState, task: StudentTask) -> jax.Array:
    """Logits of the selected student; float [N, C]. The noisy ones where `noisy_eval`."""
    if config.noisy_eval:
        return state.best.value["logits"]
    proxy = selected_proxy(config, state, task.graph.num_nodes)
    return student_outputs(config, task, state.best.value["student"], proxy, None)[0]


def last_logits(config: StudentConfig, state: StudentState, task: StudentTask) -> jax.Array:
    """Logits of the newest student at the mean of its proxies; float [N, C]."""
    proxy = _mean(state.params["proxy"])
    return student_outputs(config, task, state.params["student"], proxy, None)[0]
