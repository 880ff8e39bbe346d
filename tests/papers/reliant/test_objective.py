"""Which nodes are compared, with which labels, and what the proxies are."""

import dataclasses

import jax
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.reliant import RELIANT, VANILLA, FairnessConfig
from lab.papers.reliant.objective import (
    groups_of_framework,
    initial_proxy,
    mean_proxy,
    with_proxy,
)
from tests.papers.reliant.graphs import small_graph, small_teacher


def compared(framework, **options):
    """Nodes that the student's step and the proxy's compare, bool [N] each."""
    config = dataclasses.replace(RELIANT, **options)
    groups = groups_of_framework(framework, config, small_graph(), small_teacher().log_probs)
    return [np.asarray(g.weights).any(axis=(0, 1)) for g in groups]


def test_official_nodes_of_both_frameworks():
    train = np.asarray(small_graph().train_mask)
    student, proxy = compared("cpf")
    np.testing.assert_array_equal(student, ~train)
    np.testing.assert_array_equal(proxy, ~train)
    student, proxy = compared("akd")
    np.testing.assert_array_equal(student, train)
    assert proxy.all()


def test_other_nodes_on_request():
    assert compared("cpf", fairness_nodes="all")[0].all()
    train = np.asarray(small_graph().train_mask)
    np.testing.assert_array_equal(compared("akd", fairness_nodes="train")[1], train)
    with pytest.raises(InvalidInputError, match="clamps its train nodes"):
        compared("cpf", fairness_nodes="train")


def test_labels_of_equal_opportunity():
    graph, teacher = small_graph(), small_teacher()
    labels, train = np.asarray(graph.labels), np.asarray(graph.train_mask)
    guessed = np.asarray(teacher.log_probs).argmax(axis=1)
    assert (guessed != labels)[~train].any()
    np.testing.assert_array_equal(compared("cpf", metric="eo")[0], ~train & (labels == 1))
    pseudo = compared("cpf", metric="eo", eo_labels="teacher_pseudo")[0]
    np.testing.assert_array_equal(pseudo, ~train & (guessed == 1))
    known = compared("akd", metric="eo", eo_labels="train_only")[1]
    np.testing.assert_array_equal(known, train & (labels == 1))
    with pytest.raises(InvalidInputError, match="eo_labels"):
        compared("cpf", metric="eo", eo_labels="train_only")


def test_vanilla_has_no_groups():
    teacher = small_teacher().log_probs
    assert groups_of_framework("cpf", VANILLA, small_graph(), teacher) is None


def test_a_learned_proxy_is_uniform_and_of_the_width_asked_for():
    config = dataclasses.replace(RELIANT, proxy_dim=3)
    proxy = initial_proxy(config, small_graph(), jax.random.key(0))
    assert proxy.shape == (small_graph().num_nodes, 3)
    assert 0 <= float(proxy.min()) < 0.1
    assert 0.9 < float(proxy.max()) < 1


def test_a_sensitive_proxy_is_one_hot_and_unknown_stands_at_the_mean():
    config = FairnessConfig(proxy_mode="sensitive")
    graph = small_graph()
    s = np.asarray(graph.sensitive, np.float32)
    proxy = initial_proxy(config, graph, jax.random.key(0))
    np.testing.assert_array_equal(proxy, np.stack([s, 1 - s], axis=1))
    graph = graph.replace(sensitive=graph.sensitive.at[0].set(-1))
    proxy = initial_proxy(config, graph, jax.random.key(0))
    np.testing.assert_allclose(proxy[0], [s[1:].mean(), 1 - s[1:].mean()], rtol=1e-5)


def test_where_the_proxy_goes():
    graph = small_graph()
    proxy = initial_proxy(RELIANT, graph, jax.random.key(0))
    beside = with_proxy(graph.features, proxy, RELIANT)
    assert beside.shape[1] == graph.features.shape[1] + 2
    replacing = dataclasses.replace(RELIANT, proxy_input="replace_last_two")
    instead = with_proxy(graph.features, mean_proxy(proxy), replacing)
    np.testing.assert_array_equal(instead[:, :-2], graph.features[:, :-2])
    np.testing.assert_allclose(instead[5, -2:], proxy.mean(axis=0), rtol=1e-6)
    with pytest.raises(InvalidInputError, match="append"):
        with_proxy(graph.features[:, :2], proxy, replacing)


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "dp"},
        {"proxy_mode": "yes"},
        {"proxy_input": "prepend"},
        {"proxy_at_test": "first"},
        {"step_approx": "tanh"},
        {"eo_labels": "none"},
        {"fairness_nodes": "val"},
        {"proxy_dim": 0},
        {"metric": "none"},
    ],
)
def test_unknown_options_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        dataclasses.replace(RELIANT, **options)
