"""One epoch: who moves, in which direction, and how often."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.reliant import (
    REG_ONLY,
    RELIANT,
    VANILLA,
    FairnessConfig,
    PLPConfig,
    SGCConfig,
    StudentConfig,
    init_student,
    knowledge,
    make_epoch,
    make_task,
)
from lab.papers.reliant.losses import bias
from lab.papers.reliant.steps import selected_logits, selected_proxy, student_outputs
from tests.papers.reliant.graphs import small_graph, small_teacher

CPF = StudentConfig("cpf", RELIANT, plp=PLPConfig(3, emb_dim=4, feat_drop=0.1), patience=5)
# Discriminators step in every second epoch, the student in every third, both in the first.
AKD = StudentConfig("akd", RELIANT, alpha=10.0, d_critic=2, g_critic=3, noisy_eval=True)


@functools.cache
def compiled(config):
    """(task, jitted step) of a config."""
    return make_task(config, small_graph(), small_teacher()), jax.jit(make_epoch(config))


@functools.cache
def epoch_of(config):
    """(task, state before, state after, metrics) of one epoch."""
    task, step = compiled(config)
    state = init_student(config, task, jax.random.key(0))
    after, metrics = step(state, task)
    return task, state, after, metrics


def moved(before, after):
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("config", [CPF, AKD], ids=["cpf", "akd"])
def test_every_player_moves_and_what_is_fixed_stays(config):
    _, before, after, metrics = epoch_of(config)
    for player, params in before.params.items():
        assert params is None or moved(params, after.params[player]), player
    assert after.step == 1
    assert all(np.isfinite(value) for value in metrics.values())
    np.testing.assert_array_equal(before.initial_proxy_mean, before.params["proxy"].mean(axis=0))


@pytest.mark.parametrize("config", [CPF, AKD], ids=["cpf", "akd"])
def test_the_proxys_step_raises_the_bias_that_it_is_trained_on(config):
    task, before, after, metrics = epoch_of(config)

    def own_bias(proxy):
        logits, _ = student_outputs(config, task, after.params["student"], proxy, None)
        return float(bias(jax.nn.softmax(logits), task.proxy_groups))

    assert metrics["proxy_loss"] <= 0
    assert own_bias(after.params["proxy"]) > own_bias(before.params["proxy"])


def test_the_loss_is_the_distillation_and_the_weighted_bias():
    _, state, _, metrics = epoch_of(CPF)
    expected = metrics["distillation"] + state.alpha * metrics["bias"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_with_weight_zero_the_penalty_alone_is_vanilla():
    plain = StudentConfig("kd", VANILLA, sgc=SGCConfig(4))
    alone = dataclasses.replace(plain, fairness=REG_ONLY, alpha=0.0)
    first, second = epoch_of(plain)[2], epoch_of(alone)[2]
    assert not moved(first.params["student"], second.params["student"])


@pytest.mark.parametrize(
    ("framework", "given", "expected"),
    [("cpf", None, True), ("akd", None, False), ("akd", True, True), ("cpf", False, False)],
)
def test_the_penalty_with_the_true_attribute_is_a_switch(framework, given, expected):
    fairness = FairnessConfig(proxy_mode="sensitive", penalise_sensitive=given)
    assert fairness.is_penalised(framework) == expected


def test_players_of_graphakd_take_turns():
    task, step = compiled(AKD)
    state, seen = init_student(AKD, task, jax.random.key(0)), []
    for _ in range(4):
        new, _ = step(state, task)
        seen.append([moved(state.params[p], new.params[p]) for p in ("critics", "student")])
        state = new
    assert seen == [[True, True], [False, False], [True, False], [False, True]]


def test_noisy_evaluation_keeps_what_dropout_said_and_clean_does_not():
    task, _, state, _ = epoch_of(AKD)
    kept = state.best.value["logits"]
    np.testing.assert_array_equal(selected_logits(AKD, state, task), kept)
    clean = dataclasses.replace(AKD, noisy_eval=False)
    assert moved(kept, selected_logits(clean, state, task))


def test_whose_proxy_is_taken_at_test_time():
    _, before, after, _ = epoch_of(CPF)
    later = after.replace(params={**after.params, "proxy": after.params["proxy"] + 1})
    means = {}
    for name in ("final", "best", "mean_init"):
        fairness = dataclasses.replace(RELIANT, proxy_at_test=name)
        config = dataclasses.replace(CPF, fairness=fairness)
        means[name] = selected_proxy(config, later, small_graph().num_nodes)[0]
    np.testing.assert_allclose(means["final"], after.params["proxy"].mean(axis=0) + 1, rtol=1e-5)
    np.testing.assert_allclose(means["best"], after.params["proxy"].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(means["mean_init"], before.params["proxy"].mean(axis=0), rtol=1e-5)


def test_the_student_takes_the_teachers_width_or_says_what_does_not_fit():
    _, state, _, _ = epoch_of(AKD)
    assert state.params["student"]["layers_1"]["kernel"].shape == (8, 8)
    narrow = dataclasses.replace(AKD, sgc=SGCConfig(hidden_dim=4))
    with pytest.raises(InvalidInputError, match="project_embedding"):
        make_task(narrow, small_graph(), small_teacher())
    projected = dataclasses.replace(narrow, project_embedding=True)
    task = make_task(projected, small_graph(), small_teacher())
    params = jax.eval_shape(lambda: init_student(projected, task, jax.random.key(0))).params
    assert params["student"]["projection"]["kernel"].shape == (4, 8)
    with pytest.raises(InvalidInputError, match="embedding"):
        make_task(AKD, small_graph(), knowledge(log_probs=small_teacher().log_probs))


def test_a_teacher_of_another_graph_is_refused():
    with pytest.raises(InvalidInputError, match=r"\(3, 2\)"):
        make_task(CPF, small_graph(), knowledge(logits=np.zeros((3, 2))))


def test_label_propagation_refuses_a_class_without_a_train_label():
    graph = small_graph()
    graph = graph.replace(train_mask=graph.train_mask & (graph.labels == 0))
    with pytest.raises(InvalidInputError, match="lack a class"):
        make_task(CPF, graph, small_teacher())


@pytest.mark.parametrize(
    "options",
    [
        {"framework": "fitnet"},
        {"kd_loss": "l1"},
        {"akd_g_loss": "x"},
        {"select_by": "test"},
        {"d_critic": 0},
        {"max_epochs": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        StudentConfig(**options)
