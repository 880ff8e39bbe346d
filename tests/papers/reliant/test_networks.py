"""Teachers and students: sizes at full scale, invariances, isolated nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.graph import symmetric_links
from lab.papers.reliant import PLPConfig, SGCConfig, TeacherConfig
from lab.papers.reliant.metrics import parameter_count
from lab.papers.reliant.models import PLP, SGC, for_new_nodes, label_start
from lab.papers.reliant.teachers import DEFAULTS, build_teacher
from tests.papers.reliant.graphs import small_graph

RECIDIVISM = (18_876, 18)


def lonely_links(num_nodes):
    return jax.tree.map(jnp.asarray, symmetric_links(np.zeros((2, 0), int), num_nodes)).normalised()


def shapes_of(module, num_features, *, num_nodes=4):
    links = lonely_links(num_nodes)
    rows = jax.ShapeDtypeStruct((num_nodes, num_features), jnp.float32)
    init = lambda rows: module.init(jax.random.key(0), links, rows, train=False)  # noqa: E731
    return jax.eval_shape(init, rows)["params"]


def count(shapes):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("architecture", "expected"), [("gcn", 5_506), ("sage", 35_714)])
def test_parameters_of_the_papers_teachers(architecture, expected):
    assert count(shapes_of(build_teacher(TeacherConfig(architecture), 2), 18)) == expected


def test_parameters_of_the_students_on_the_whole_recidivism_graph():
    assert count(shapes_of(SGC(SGCConfig(64), 2), 20)) == 5_634
    num_nodes, num_features = RECIDIVISM
    module, links = PLP(PLPConfig(), 2), lonely_links(num_nodes)
    rows = jax.ShapeDtypeStruct((num_nodes, num_features), jnp.float32)
    start = jax.ShapeDtypeStruct((num_nodes, 2), jnp.float32)
    mask = jax.ShapeDtypeStruct((num_nodes,), bool)
    init = lambda *args: module.init(jax.random.key(0), links, *args, train=False)  # noqa: E731
    assert count(jax.eval_shape(init, rows, start, mask)["params"]) == 18_876 + 18 + 1_346


@pytest.mark.parametrize("architecture", sorted(DEFAULTS))
def test_every_teacher_is_deterministic_in_evaluation_and_blind_to_the_order_of_nodes(architecture):
    graph = small_graph()
    module = build_teacher(TeacherConfig(architecture, hidden_dim=8), 2)
    order = np.random.default_rng(0).permutation(graph.num_nodes)
    place = np.argsort(order)
    pairs = np.stack([place[graph.links.senders], place[graph.links.receivers]])
    pairs = pairs[:, pairs[0] != pairs[1]]
    moved = jax.tree.map(jnp.asarray, symmetric_links(pairs, graph.num_nodes)).normalised()
    variables = jax.jit(
        lambda: module.init(jax.random.key(0), graph.links, graph.features, train=False)
    )()
    call = jax.jit(lambda links, rows: module.apply(variables, links, rows, train=False))
    logits, embedding = call(graph.links, graph.features)
    assert logits.shape == (graph.num_nodes, 2)
    assert len(embedding) == graph.num_nodes
    found, _ = call(moved, graph.features[order])
    np.testing.assert_allclose(found, logits[order], rtol=1e-4, atol=1e-5)


def test_an_unknown_teacher_is_refused():
    with pytest.raises(InvalidInputError, match="gcn, sage"):
        build_teacher(TeacherConfig("mlp"), 2)


def plp(config, links, features, start, mask, key=None, params=None):
    """(logits, parameters) of label propagation, in train mode where there is a key."""
    module, args = PLP(config, 2), (links, features, start, mask)
    if params is None:
        params = jax.jit(lambda: module.init(jax.random.key(0), *args, train=False))()["params"]
    train = key is not None
    rngs = {"dropout": key} if train else {}
    call = jax.jit(lambda p: module.apply({"params": p}, *args, train=train, rngs=rngs))
    return call(params), params


def test_label_propagation_leaves_train_rows_at_their_label_and_isolated_nodes_finite():
    graph = small_graph()
    alone = jax.tree.map(
        jnp.asarray, symmetric_links(np.zeros((2, 0), int), graph.num_nodes, self_loops=False)
    )
    start = label_start(graph.labels, graph.train_mask, 2)
    for links in (graph.links, alone):
        for key in (None, jax.random.key(1)):
            logits, _ = plp(PLPConfig(4), links, graph.features, start, graph.train_mask, key)
            assert np.isfinite(logits).all()
            assert (np.asarray(logits) >= 0).all()
            train = np.asarray(graph.train_mask)
            np.testing.assert_array_equal(np.asarray(logits)[train], np.asarray(start)[train])


def test_without_dropout_training_and_evaluation_agree():
    graph = small_graph()
    config = PLPConfig(4, feat_drop=0.0, attn_drop=0.0)
    start = label_start(graph.labels, graph.train_mask, 2)
    args = (graph.links, graph.features, start, graph.train_mask)
    evaluated, params = plp(config, *args)
    trained, _ = plp(config, *args, jax.random.key(3), params)
    np.testing.assert_allclose(trained, evaluated, atol=1e-6)


def test_attention_is_the_softmax_over_neighbours_of_what_sources_say():
    graph = small_graph()
    start = label_start(graph.labels, graph.train_mask, 2)
    config = PLPConfig(2, mlp_layers=0)
    logits, params = plp(config, graph.links, graph.features, start, graph.train_mask)
    scores = np.exp(np.asarray(graph.features) @ np.asarray(params["attention"])[0])
    node = int(np.flatnonzero(~np.asarray(graph.train_mask))[0])
    sources = np.asarray(graph.links.senders)[np.asarray(graph.links.receivers) == node]
    weights = scores[sources] / scores[sources].sum()
    np.testing.assert_allclose(logits[node], weights @ np.asarray(start)[sources], rtol=1e-4)


def test_the_transductive_variant_scores_nodes_by_a_number_of_their_own():
    graph = small_graph()
    start = label_start(graph.labels, graph.train_mask, 2)
    args = (graph.links, graph.features, start, graph.train_mask)
    _, params = plp(PLPConfig(3, ptype="tra"), *args)
    assert params["attention"].shape == (graph.num_nodes, 1)


def test_new_nodes_mix_half_and_half():
    params = {"mixing": jnp.array([[2.0], [-1.0]])}
    np.testing.assert_array_equal(for_new_nodes(params, 4)["mixing"][:, 0], [2, -1, 0, 0])
    with pytest.raises(InvalidInputError, match="more than 1"):
        for_new_nodes(params, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 1},
        {"mlp_layers": -1},
        {"ptype": "x"},
        {"feat_drop": 1.0},
        {"attn_drop": -0.1},
    ],
)
def test_shapes_of_label_propagation_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        PLPConfig(**options)


@pytest.mark.parametrize("options", [{"powers": (1, -1, 1)}, {"dropout_rate": 1.0}])
def test_shapes_of_sgc_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        SGCConfig(**options)


def test_a_projection_brings_the_embedding_to_the_teachers_width():
    graph = small_graph()
    module = SGC(SGCConfig(4), 2, projection_dim=7)
    args = (graph.links, graph.features, graph.aggregate)
    variables = module.init(jax.random.key(0), *args, train=False)
    _, embedding = module.apply(variables, *args, train=False)
    assert embedding.shape == (graph.num_nodes, 7)
    assert parameter_count(variables["params"]["projection"]) == 4 * 7 + 7
