"""Scores of students, and warnings of those that look better than they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.papers.reliant import by_group, changed_predictions, evaluate, evaluate_copies
from tests.papers.reliant.graphs import small_graph, small_teacher


def test_scores_of_the_true_labels():
    graph = small_graph()
    scores = evaluate(jax.nn.one_hot(graph.labels, 2), graph)
    assert (scores.accuracy, scores.f1, scores.auc, scores.delta_eo) == (1, 1, 1, 0)
    test = np.asarray(graph.test_mask)
    labels, sensitive = np.asarray(graph.labels)[test], np.asarray(graph.sensitive)[test]
    gap = abs(labels[sensitive == 0].mean() - labels[sensitive == 1].mean())
    assert scores.delta_sp == pytest.approx(gap)
    assert scores.undefined == ()


def test_constant_predictions_are_called_collapsed():
    graph = small_graph()
    with pytest.warns(UserWarning, match="collapsed"):
        scores = evaluate(jnp.tile(jnp.array([1.0, 0.0]), (graph.num_nodes, 1)), graph)
    assert (scores.delta_sp, scores.f1) == (0, 0)
    assert scores.collapsed


def test_dead_outputs_are_called_dead():
    graph = small_graph()
    logits = jnp.zeros((graph.num_nodes, 2)).at[:5].set(jax.nn.one_hot(graph.labels[:5], 2))
    with pytest.warns(UserWarning, match="dead"):
        evaluate(logits, graph, jnp.ones(graph.num_nodes, bool))


def test_what_is_undefined_is_nan_and_named():
    graph = small_graph()
    mask = np.asarray(graph.test_mask & (graph.labels == 1) & (graph.sensitive == 0))
    scores = evaluate(small_teacher().log_probs, graph, mask, warn=False)
    assert set(scores.undefined) == {"auc", "delta_sp", "delta_eo"}
    assert np.isnan(scores.auc)


def test_copies_are_scored_one_by_one():
    graph, logits = small_graph(), small_teacher().log_probs
    several = evaluate_copies(jnp.stack([logits, logits[:, ::-1]])[None], graph)
    assert several["accuracy"].shape == (1, 2)
    assert several["accuracy"][0, 0] == evaluate(logits, graph).accuracy
    np.testing.assert_allclose(several["accuracy"].sum(), 1)


def test_groups_and_their_confusion_add_up():
    graph = small_graph()
    rows = by_group(small_teacher().log_probs, graph)
    assert sum(row["nodes"] for row in rows) == int(graph.test_mask.sum())
    assert sum(row["confusion"].sum() for row in rows) == int(graph.test_mask.sum())
    whole = evaluate(small_teacher().log_probs, graph)
    correct = sum(np.trace(row["confusion"]) for row in rows)
    assert correct / int(graph.test_mask.sum()) == pytest.approx(whole.accuracy)


def test_a_group_without_nodes_has_a_row_of_undefined_scores():
    graph = small_graph()
    rows = by_group(small_teacher().log_probs, graph, graph.test_mask & (graph.sensitive == 1))
    assert (rows[0]["nodes"], rows[0]["confusion"].sum()) == (0, 0)
    assert rows[0].keys() == rows[1].keys()
    assert np.isnan(rows[0]["accuracy"])


def test_predictions_that_change_are_counted_on_test_nodes():
    graph = small_graph()
    labels = jax.nn.one_hot(graph.labels, 2)
    test = int(graph.test_mask.sum())
    assert changed_predictions(labels, labels, graph) == 0
    node = int(np.flatnonzero(graph.test_mask)[0])
    flipped = labels.at[node].set(1 - labels[node])
    assert changed_predictions(labels, flipped, graph) == pytest.approx(1 / test)
    other = int(np.flatnonzero(graph.train_mask)[0])
    assert changed_predictions(labels, labels.at[other].set(1 - labels[other]), graph) == 0
