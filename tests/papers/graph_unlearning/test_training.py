"""Training and inference of all shards in one call, on a small random graph."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError, NonFiniteError
from lab.nn.graph import Blocks, EdgeLinks, symmetric_weights, whole_graph
from lab.papers.graph_unlearning import minibatches, models, training
from lab.papers.graph_unlearning.shards import stack_shards
from lab.papers.graph_unlearning.training import TrainingConfig, train_shards
from lab.train.whole import first_bad_step, require_finite
from tests.papers.graph_unlearning.graphs import random_edges

NUM_NODES, NUM_FEATURES, NUM_CLASSES, NUM_SHARDS = 40, 24, 3, 3
EDGES = random_edges(NUM_NODES, 90, seed=0)
TEST_IDS = np.arange(34, NUM_NODES)
SHARD_OF = np.where(np.arange(NUM_NODES) < 34, np.arange(NUM_NODES) % NUM_SHARDS, -1)
LABELS = (np.arange(NUM_NODES) % NUM_CLASSES).astype(np.int32)
# A bag of words: half of the columns occur in no given shard.
_RNG = np.random.default_rng(1)
FEATURES = (_RNG.random((NUM_NODES, NUM_FEATURES)) * (_RNG.random((NUM_NODES, 24)) < 0.06)).astype(
    np.float32
)
BATCH = stack_shards(EDGES, SHARD_OF, TEST_IDS, range(NUM_SHARDS))
KEYS = training.shard_keys(0, range(NUM_SHARDS))


@pytest.fixture(autouse=True)
def _light_compilation(request):
    """Most of these tests' time is compilation: optimise only where the bits are looked at."""
    looks_at_bits = "bits" in request.node.name
    jax.config.update("jax_disable_most_optimizations", not looks_at_bits)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def small(name="gin", **overrides) -> TrainingConfig:
    config = training.training_config(name, NUM_CLASSES, **{"num_epochs": 4} | overrides)
    if name == "sage":
        config = dataclasses.replace(config, model=models.SAGEConfig(NUM_CLASSES, hidden=(8,)))
    return config


def train(config, stack=BATCH.train, keys=KEYS, features=FEATURES, **options):
    return train_shards(config, features, LABELS, stack, keys, **options)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, training.variables_of(a), training.variables_of(b))


def assert_close(a, b, atol=1e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=atol),
        training.variables_of(a),
        training.variables_of(b),
    )


def test_the_key_of_a_shard_depends_on_seed_and_number_alone():
    alone, typed = training.shard_keys(0, [2]), training.shard_keys(jax.random.key(0), [2, 0])
    assert alone[0] == KEYS[2]
    assert (typed == KEYS[jnp.array([2, 0])]).all()
    assert (training.shard_keys(1, [2]) != alone).all()


@pytest.mark.parametrize(("name", "copies"), [("gin", "together"), ("gcn", "in_turn")])
def test_unlearning_a_node_gives_the_bits_of_a_run_that_never_saw_it(name, copies):
    config, node, shard = small(name, copies=copies, num_epochs=5), 4, 1
    # The world in which the node never was: no label, no edges, zero features.
    without = np.where(np.arange(NUM_NODES) == node, -1, SHARD_OF)
    edges = EDGES[:, (node != EDGES).all(axis=0)]
    features = np.where(np.arange(NUM_NODES)[:, None] == node, 0, FEATURES).astype(np.float32)
    never = stack_shards(
        edges, without, TEST_IDS, range(NUM_SHARDS), train_shape=BATCH.train.shape
    ).train
    reference, _ = train(config, never, features=features)
    # The retraining: the shard alone, in a call of as many copies, from the data with the node.
    affected = stack_shards(
        EDGES, without, TEST_IDS, [shard] * NUM_SHARDS, train_shape=BATCH.train.shape
    ).train
    assert node not in affected.node_ids
    retrained, _ = train(config, affected, training.shard_keys(0, [shard] * NUM_SHARDS))
    assert_same(
        jax.tree.map(lambda x: x[0], retrained), jax.tree.map(lambda x: x[shard], reference)
    )
    original, _ = train(config)
    others = [k for k in range(NUM_SHARDS) if k != shard]
    for kept in others:
        assert_same(*(jax.tree.map(lambda x, k=kept: x[k], s) for s in (original, reference)))
    changed = jax.tree.map(
        lambda a, b: np.any(np.asarray(a[shard]) != b[shard]), original.params, reference.params
    )
    assert any(jax.tree.leaves(changed))


@pytest.mark.parametrize("copies", ["together", "in_turn"])
def test_a_shard_trained_alone_is_the_shard_trained_with_others(copies):
    config = small("gcn", copies=copies)
    states, _ = train(config)
    alone, _ = train(config, BATCH.train.select(np.array([1])), KEYS[1:2])
    compare = assert_same if copies == "in_turn" else assert_close
    compare(jax.tree.map(lambda x: x[1:2], states), alone)


def test_matrix_and_lists_train_the_same_model():
    # Without dropout: attention draws one mask value a pair or one a link.
    model = models.GATConfig(NUM_CLASSES, dropout_rate=0.0, attention_dropout_rate=0.0)
    config = dataclasses.replace(small("gat"), model=model)
    lists, _ = train(dataclasses.replace(config, propagation="segments"))
    matrix, _ = train(dataclasses.replace(config, propagation="dense"))
    assert_close(lists, matrix, atol=1e-4)


def test_more_padding_changes_nothing():
    # Without dropout, whose masks have the padded shape.
    config = dataclasses.replace(small("gcn"), model=models.GCNConfig(3, dropout_rate=0.0))
    shape = BATCH.train.shape._replace(num_nodes=19, num_edges=70)
    wide = stack_shards(EDGES, SHARD_OF, TEST_IDS, range(NUM_SHARDS), train_shape=shape).train
    assert wide.shape != BATCH.train.shape
    (states, history), (padded, padded_history) = train(config), train(config, wide)
    np.testing.assert_allclose(padded_history["loss"], history["loss"], rtol=1e-5)
    assert_close(states, padded)


def test_multiplying_by_occurring_features_only_gives_the_same_model():
    config = small("sage", copies="in_turn")
    num_columns = training.used_columns(FEATURES, BATCH.train)
    most = max((FEATURES[ids[ids < NUM_NODES]] != 0).any(0).sum() for ids in BATCH.train.node_ids)
    assert most <= num_columns < NUM_FEATURES
    (whole, _), (trimmed, _) = train(config), train(config, num_columns=num_columns)
    assert_close(whole, trimmed, atol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4), whole.opt_state, trimmed.opt_state
    )
    with pytest.raises(InvalidInputError, match=f"a graph has {most} features, num_columns is 2"):
        train(config, num_columns=2)


def test_dense_features_are_not_worth_trimming():
    assert training.used_columns(np.ones((NUM_NODES, 24)), BATCH.train) is None


def test_training_goes_on_where_it_stopped():
    config = small("gcn", batch_size=5)
    once, history = train(config)
    half = dataclasses.replace(config, num_epochs=2)
    states, first = train(half)
    states, second = train(half, states=states)
    assert_close(states, once, atol=1e-6)
    losses = np.concatenate([first["loss"], second["loss"]], axis=1)
    np.testing.assert_allclose(losses, history["loss"], rtol=1e-4)


def test_every_epoch_takes_every_train_node_once_in_a_new_order():
    mask = np.arange(13) % 4 != 0
    key = jax.random.key(0)
    steps = int(minibatches.num_batches(jnp.asarray(mask), 4))
    assert steps == 3
    batches = jax.jit(
        jax.vmap(lambda step: minibatches.epoch_batch(jnp.asarray(mask), 4, key, step))
    )(jnp.arange(2 * steps))
    epochs = np.asarray(batches).reshape(2, -1)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch)[: mask.sum()], np.flatnonzero(mask))
        assert (np.sort(epoch)[mask.sum() :] == 13).all()
    assert (epochs[0] != epochs[1]).any()


def test_shards_take_as_many_steps_as_they_have_batches():
    sizes = [12, 8, 3]
    shard_of = np.repeat([0, 1, 2, -1], [*sizes, NUM_NODES - sum(sizes)])
    stack = stack_shards(EDGES, shard_of, TEST_IDS, range(3), train_shape=BATCH.train.shape).train
    states, _ = train(small("gcn", batch_size=5), stack)
    assert states.step.tolist() == [12, 8, 4]


def cut_out_blocks(edges, features, batch, num_layers):
    """The blocks of a mini-batch with all neighbours, cut out on the host: (blocks, node ids)."""
    links, rows, nodes = [], [], list(batch)
    for _ in range(num_layers):
        rows.append(np.array(nodes))
        inside = [(s, t) for s, t in edges.T if t in nodes]
        sources = nodes + sorted({s for s, _ in inside} - set(nodes))
        senders = [sources.index(s) for s, _ in inside]
        receivers = [nodes.index(t) for _, t in inside]
        links.insert(
            0,
            EdgeLinks(
                jnp.array(senders, jnp.int32), jnp.array(receivers, jnp.int32), None, len(nodes)
            ),
        )
        nodes = sources
    return Blocks(jnp.asarray(features[nodes]), tuple(links))


def one_shard(number=0):
    """A graph of the training stack, its real edges and features."""
    graph = jax.tree.map(lambda x: np.asarray(x)[number], BATCH.train)
    real = graph.receivers < graph.node_ids.shape[0]
    edges = np.stack([graph.senders[real], graph.receivers[real]])
    return graph, edges, np.asarray(graph.rows(FEATURES))


@pytest.mark.parametrize(("name", "sampled"), [("gin", False), ("gin", True), ("gcn", True)])
def test_a_mini_batch_gives_the_numbers_of_cut_out_blocks(name, sampled):
    """Loss, gradient and batch statistics; sampling more neighbours than there are takes all."""
    model = dataclasses.replace(small(name).model, dropout_rate=0.0)
    graph, edges, features = one_shard()
    key, step = jax.random.key(3), jnp.int32(1)

    @jax.jit
    def take_batch(graph):
        inputs = minibatches.shard_inputs(model, FEATURES, LABELS, graph, sampled=sampled)
        if sampled:
            return minibatches.sampled_batch(model, inputs, (20, 20), 5, key, step)
        return minibatches.all_neighbours_batch(model, inputs, 5, key, step)

    batch = take_batch(graph)
    nodes = np.asarray(minibatches.epoch_batch(jnp.asarray(graph.train_mask), 5, key, step))
    assert (nodes < len(features)).all()
    blocks = cut_out_blocks(edges, features, nodes, model.num_layers)
    if name == "gcn":
        degree = np.maximum(np.bincount(edges[1], minlength=len(features)), 1)
        whole = symmetric_weights(EdgeLinks(*jnp.asarray(edges, jnp.int32), None, len(features)))
        weight = {tuple(e): w for e, w in zip(edges.T, np.asarray(whole.weights), strict=True)}
        assert np.isclose(weight[tuple(edges.T[0])] ** -2, degree[edges.T[0]].prod())
        blocks = reweighted(blocks, edges, nodes, weight)
    expected = minibatches.NodeBatch(
        blocks, jnp.asarray(graph.rows(LABELS)[nodes]), jnp.ones(5, bool)
    )
    init = jax.jit(models.init_variables, static_argnums=(0, 2))
    variables = init(model, jax.random.key(0), NUM_FEATURES)
    loss_fn = training.make_loss(models.build(model))

    @jax.jit
    def loss_and_gradient(batch):
        state = {k: v for k, v in variables.items() if k != "params"}
        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            variables["params"], state, batch, key
        )
        return loss, grads, aux.model_state

    found, wanted = loss_and_gradient(batch), loss_and_gradient(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, wanted)


def reweighted(blocks, edges, nodes, weight):
    """Gives the cut-out links the weights of the whole graph."""
    targets, links = [list(nodes)], []
    for _ in blocks.links:
        nodes = targets[-1]
        found = {s for s, t in edges.T if t in nodes}
        targets.append(nodes + sorted(found - set(nodes)))
    for layer, (sources, rows) in zip(
        blocks.links[::-1], zip(targets[1:], targets[:-1], strict=True), strict=True
    ):
        pairs = [
            (sources[s], rows[t])
            for s, t in zip(layer.senders.tolist(), layer.receivers.tolist(), strict=True)
        ]
        links.insert(0, layer.replace(weights=jnp.array([weight[p] for p in pairs], jnp.float32)))
    return blocks.replace(links=tuple(links))


def test_sampled_training_learns():
    states, history = train(small("sage", num_neighbours=(2, 2), batch_size=8, num_epochs=15))
    require_finite(history)
    losses = np.asarray(history["loss"])
    assert losses[:, -6:].mean() < losses[:, :2].mean()
    assert (states.step == 15 * 2).all()


def test_dropout_in_the_first_epoch_only():
    config = small("gin", dropout_first_epoch_only=True)
    states, history = train(config)
    first, _ = train(small("gin", num_epochs=1))
    # Evaluation mode from then on: the running statistics stay as the first epoch left them.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        states.model_state,
        first.model_state,
    )
    assert history["loss"].shape == (NUM_SHARDS, 4)
    assert (states.step == 4).all()


def test_a_shard_that_turns_non_finite_is_marked_and_leaves_the_others():
    config = small("gcn")
    features = FEATURES.copy()
    features[np.flatnonzero(SHARD_OF == 2)[0]] = np.inf
    states, history = train(config, features=features)
    assert first_bad_step(history).tolist() == [-1, -1, 0]
    with pytest.raises(NonFiniteError, match=r"step 0 in copies \[2\] of 3"):
        require_finite(history)
    good, _ = train(config)
    assert_same(*(jax.tree.map(lambda x: x[:2], s) for s in (states, good)))


def fresh_variables(config):
    return training.variables_of(
        jax.jit(jax.vmap(lambda key: training.init_shard(config, key, NUM_FEATURES)))(KEYS)
    )


def test_inference_is_that_of_each_shards_own_graph():
    config = small("gat")
    variables = fresh_variables(config)
    logits = training.shard_logits(config, variables, FEATURES, BATCH.inference)
    found = training.posteriors(logits, BATCH.inference.test_mask)
    assert found.shape == (NUM_SHARDS, len(TEST_IDS), NUM_CLASSES)
    apply = jax.jit(functools.partial(models.build(config.model).apply, train=False))
    for shard in (0, 2):
        ids = np.flatnonzero((shard == SHARD_OF) | (SHARD_OF == -1))
        inside = np.isin(EDGES, ids).all(axis=0)
        edges = jnp.asarray(np.searchsorted(ids, EDGES[:, inside]), jnp.int32)
        blocks = whole_graph(jnp.asarray(FEATURES[ids]), EdgeLinks(*edges, None, len(ids)), 2)
        expected = apply(jax.tree.map(lambda x, k=shard: x[k], variables), blocks)
        expected = jax.nn.log_softmax(expected)[np.isin(ids, TEST_IDS)]
        np.testing.assert_allclose(found[shard], expected, atol=1e-5)


def test_hidden_rows_of_sage_are_its_embedding():
    config = small("sage")
    variables = fresh_variables(config)
    hidden = training.shard_logits(config, variables, FEATURES, BATCH.train, output="hidden")
    assert hidden.shape == (NUM_SHARDS, BATCH.train.shape.num_nodes, 8)
    own = jax.tree.map(lambda x: np.asarray(x[1]), variables["params"]["conv0"])
    graph, edges, features = one_shard(1)
    sums = [features[edges[0][edges[1] == t]].sum(0) for t in range(len(features))]
    degrees = np.maximum(np.bincount(edges[1], minlength=len(features)), 1)
    rows = (sums / degrees[:, None]) @ own["neighbour_kernel"] + own["neighbour_bias"]
    rows = rows + features @ own["root"]["kernel"]
    real = graph.train_mask
    np.testing.assert_allclose(hidden[1][real], np.maximum(rows, 0)[real], atol=1e-5)


def test_posteriors_need_as_many_rows_everywhere():
    rows = np.array([[True, False], [True, True]])
    with pytest.raises(InvalidInputError, match=r"as many rows, got \[1, 2\]"):
        training.posteriors(jnp.zeros((2, 2, 3)), rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_neighbours": (5,)}, r"each of the 2 layers, got \(5,\)"),
        ({"num_neighbours": (5, 0)}, r"positive number for each of the 2 layers, got \(5, 0\)"),
        ({"propagation": "csr"}, "propagation is 'csr'; accepted: auto, segments, dense"),
        ({"copies": "all"}, "copies is 'all'; accepted: auto, together, in_turn"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        small("gcn", **change)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match=r"3 graphs need as many keys, got \(2,\)"):
        train(small(), keys=KEYS[:2])
    with pytest.raises(InvalidInputError, match="features have 39 rows, labels"):
        train(small(), features=FEATURES[:39])
    with pytest.raises(InvalidInputError, match="typed key"):
        train(small(), keys=jnp.zeros((3, 2), jnp.uint32))
    two = {"params": {"w": jnp.zeros((2, 4))}}
    with pytest.raises(InvalidInputError, match=r"3 graphs need as many models, got \[2\]"):
        training.shard_logits(small(), two, FEATURES, BATCH.train)
