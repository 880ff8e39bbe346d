"""The whole method on a generated graph; above all, that what is unlearned is gone."""

import dataclasses

import jax
import numpy as np
import pytest

from lab.data.embedded import generated_citations
from lab.errors import InvalidInputError
from lab.papers.graph_unlearning.config import EnsembleConfig, prepare_features
from lab.papers.graph_unlearning.embeddings import node_embeddings
from lab.papers.graph_unlearning.ensemble import (
    aggregate,
    as_request,
    fit,
    predict,
    test_posteriors,
    unlearn,
)
from lab.papers.graph_unlearning.shards import stack_shards
from lab.papers.graph_unlearning.training import shard_keys, train_shards, variables_of

test_posteriors.__test__ = False

DATASET = generated_citations(num_nodes=240, num_words=60)
CONFIG = EnsembleConfig(num_shards=4, num_epochs=8, lbaggr_nodes=100)


@pytest.fixture(scope="module")
def ensemble():
    return fit(DATASET, CONFIG)


def parameters(ensemble, shard):
    return jax.tree.map(lambda x: np.asarray(x[shard]), ensemble.variables)


def trained_without(ensemble, shard, gone=(), gone_edges=(), copies=1):
    """A shard's model from a run that never saw some nodes and edges, built from the raw arrays."""
    source, target = DATASET.edge_index
    is_gone = np.isin(source, gone) | np.isin(target, gone)
    for u, v in gone_edges:
        is_gone |= ((source == u) & (target == v)) | ((source == v) & (target == u))
    labels = ensemble.graph.labels.copy()
    labels[list(gone)] = -1
    features = prepare_features(DATASET, CONFIG.features)
    features[list(gone)] = 1e9  # if anything looked at them, it would show
    stack = stack_shards(
        DATASET.edge_index[:, ~is_gone],
        labels,
        ensemble.graph.test_ids,
        [shard] * copies,
        train_shape=ensemble.train_shape,
        inference_shape=ensemble.inference_shape,
    ).train
    states, _ = train_shards(
        ensemble.training,
        features,
        DATASET.labels,
        stack,
        shard_keys(CONFIG.seed, [shard] * copies),
        num_columns=ensemble.num_columns,
    )
    return jax.tree.map(lambda x: np.asarray(x[0]), variables_of(states))


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_unlearning_a_node_leaves_the_model_of_a_run_that_never_saw_it(ensemble):
    node = int(ensemble.graph.train_ids[5])
    shard = int(ensemble.graph.labels[node])
    after, receipt = unlearn(ensemble, nodes=[node])
    assert receipt.effect.retrained_shards.tolist() == [shard]
    assert_same_bits(parameters(after, shard), trained_without(ensemble, shard, gone=[node]))
    for other in set(range(4)) - {shard}:
        assert_same_bits(parameters(after, other), parameters(ensemble, other))
    changed = parameters(after, shard)["params"]["conv0"]["kernel"]
    assert not np.array_equal(changed, parameters(ensemble, shard)["params"]["conv0"]["kernel"])


def test_on_a_cpu_the_number_of_copies_in_the_call_changes_no_bit(ensemble):
    alone = trained_without(ensemble, 1)
    assert_same_bits(alone, trained_without(ensemble, 1, copies=3))
    assert_same_bits(alone, parameters(ensemble, 1))


def test_the_deleted_node_is_in_no_array_of_the_ensemble(ensemble):
    node = int(ensemble.graph.train_ids[7])
    after, _ = unlearn(ensemble, nodes=[node])
    graph = after.graph
    assert node not in graph.edge_index
    assert node not in graph.train_ids
    assert graph.labels[node] == -1
    assert not after.features[node].any()
    batch = stack_shards(graph.edge_index, graph.labels, graph.test_ids, range(4))
    assert node not in batch.train.node_ids
    assert node not in batch.inference.node_ids


def same_shard_edge(graph):
    source, target = graph.edge_index
    inside = (graph.labels[source] >= 0) & (graph.labels[source] == graph.labels[target])
    return int(source[inside][0]), int(target[inside][0])


def test_unlearning_an_edge_leaves_the_model_of_a_run_that_never_saw_it(ensemble):
    u, v = same_shard_edge(ensemble.graph)
    shard = int(ensemble.graph.labels[u])
    after, receipt = unlearn(ensemble, edges=[(u, v)])
    assert receipt.effect.retrained_shards.tolist() == [shard]
    reference = trained_without(ensemble, shard, gone_edges=[(u, v)])
    assert_same_bits(parameters(after, shard), reference)


def test_an_edge_across_shards_retrains_nothing(ensemble):
    graph = ensemble.graph
    source, target = graph.labels[graph.edge_index]
    across = np.flatnonzero((source >= 0) & (target >= 0) & (source != target))[0]
    after, receipt = unlearn(ensemble, edges=[tuple(graph.edge_index[:, across])])
    assert receipt.effect.retrained_shards.size == 0
    assert receipt.train_seconds == 0
    jax.tree.map(np.testing.assert_array_equal, after.variables, ensemble.variables)


def test_a_stream_of_requests_ends_where_one_request_for_all_does(ensemble):
    nodes = ensemble.graph.train_ids[:3].tolist()
    one_by_one = ensemble
    for node in nodes:
        one_by_one, _ = unlearn(one_by_one, nodes=[node])
    at_once, _ = unlearn(ensemble, nodes=nodes)
    np.testing.assert_array_equal(one_by_one.graph.labels, at_once.graph.labels)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        one_by_one.variables,
        at_once.variables,
    )
    assert predict(at_once).shape == predict(one_by_one).shape


def test_deleting_features_retrains_the_shard_on_zeros(ensemble):
    node = int(ensemble.graph.train_ids[2])
    after, receipt = unlearn(ensemble, features=[node])
    assert receipt.effect.retrained_shards.tolist() == [ensemble.graph.labels[node]]
    assert not after.features[node].any()
    assert node in after.graph.train_ids


def test_a_new_partition_retrains_every_shard_without_the_node(ensemble):
    node = int(ensemble.graph.train_ids[0])
    after, receipt = unlearn(ensemble, nodes=[node], repartition=True)
    assert receipt.effect.retrained_shards.tolist() == [0, 1, 2, 3]
    assert node not in after.graph.train_ids
    assert (after.graph.labels[after.graph.train_ids] >= 0).all()


def test_a_refused_request_changes_nothing(ensemble):
    before = ensemble.graph.labels.copy()
    test_node = int(ensemble.graph.test_ids[0])
    with pytest.raises(InvalidInputError, match="are test nodes"):
        unlearn(ensemble, nodes=[int(ensemble.graph.train_ids[0]), test_node])
    with pytest.raises(InvalidInputError, match="one of nodes, edges, features; got nodes, edges"):
        unlearn(ensemble, nodes=[1], edges=[(1, 2)])
    with pytest.raises(InvalidInputError, match="got none"):
        unlearn(ensemble)
    np.testing.assert_array_equal(ensemble.graph.labels, before)


def test_an_emptied_shard_is_dropped_from_the_vote(ensemble):
    members = ensemble.graph.members()[2]
    with pytest.warns(UserWarning, match="shard 2 has no train node left"):
        after, receipt = unlearn(ensemble, nodes=members)
    assert receipt.effect.emptied_shards.tolist() == [2]
    assert test_posteriors(after).shape[0] == 3
    assert after.weights[2] == 0
    assert predict(after).shape == (len(after.graph.test_ids),)


@pytest.mark.parametrize("name", ["mean", "mean_probs", "majority"])
def test_aggregators_follow_their_definition(ensemble, name):
    other = dataclasses.replace(
        ensemble, config=dataclasses.replace(ensemble.config, aggregator=name)
    )
    log_probs = test_posteriors(ensemble)
    expected = {
        "mean": log_probs.mean(0),
        "mean_probs": np.exp(log_probs).mean(0),
        "majority": np.stack([(log_probs.argmax(-1) == c).sum(0) for c in range(5)], axis=1),
    }[name]
    np.testing.assert_allclose(aggregate(other, log_probs), expected, rtol=1e-5)


def test_one_shard_is_training_from_scratch():
    scratch = fit(
        DATASET, EnsembleConfig(num_shards=1, method="random", aggregator="mean", num_epochs=60)
    )
    truth = DATASET.labels[np.sort(scratch.graph.test_ids)]
    assert (predict(scratch) == truth).mean() > 0.6


def test_the_same_seed_gives_the_same_ensemble(ensemble):
    jax.tree.map(np.testing.assert_array_equal, fit(DATASET, CONFIG).variables, ensemble.variables)


@pytest.mark.parametrize("kind", ["sage_hidden", "untrained_sage", "features"])
def test_embeddings_have_a_row_a_train_node(ensemble, kind):
    graph = ensemble.graph.training_graph()
    training = dataclasses.replace(EnsembleConfig(model="sage").training(5), num_epochs=1)
    rows = node_embeddings(kind, ensemble.features, DATASET.labels, graph, 5, 0, training)
    widths = {"sage_hidden": 256, "untrained_sage": 5, "features": 60}
    assert rows.shape == (graph.num_nodes, widths[kind])
    assert np.isfinite(rows).all()


def test_embeddings_do_not_depend_on_the_order_of_training_nodes(ensemble):
    graph = ensemble.graph.training_graph()
    shuffled = np.random.default_rng(0).permutation(graph.num_nodes)
    inverse = np.argsort(shuffled).astype(np.int32)
    other = dataclasses.replace(
        graph, node_ids=graph.node_ids[shuffled], edge_index=inverse[graph.edge_index]
    )
    args = (ensemble.features, DATASET.labels)
    one = node_embeddings("untrained_sage", *args, graph, 5, 0)
    two = node_embeddings("untrained_sage", *args, other, 5, 0)
    np.testing.assert_allclose(two, one[shuffled], atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aggregator", "best"),
        ("features", "words"),
        ("model", "cnn"),
        ("method", "cut"),
        ("embedding", "x"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(field, value):
    with pytest.raises(InvalidInputError, match=f"{field} is '{value}'; accepted: "):
        EnsembleConfig(**{field: value})


def test_edges_may_come_as_pairs_or_as_two_rows():
    assert as_request(edges=[(1, 2), (3, 4)]).items.tolist() == [[1, 3], [2, 4]]
    assert as_request(edges=np.array([[1, 3], [2, 4]])).items.tolist() == [[1, 3], [2, 4]]
    assert as_request(edges=[(1, 2), (3, 4), (5, 6)]).items.tolist() == [[1, 3, 5], [2, 4, 6]]
    assert as_request(edges=[(7, 8)]).items.tolist() == [[7], [8]]
