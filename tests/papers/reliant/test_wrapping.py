"""The fairness objective around a student of one's own, as the README shows it."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.papers import reliant
from lab.papers.reliant.losses import bias
from lab.papers.reliant.objective import bias_groups
from lab.papers.reliant.wrapping import init_fair_state, make_fair_step, proxied
from lab.train.whole import run
from tests.papers.reliant.graphs import small_graph, small_teacher

README = Path(reliant.__file__).with_name("README.md")


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})


def test_a_linear_student_becomes_fairer_with_the_weight():
    graph, teacher = small_graph(), small_teacher()
    everyone = np.ones(graph.num_nodes, bool)
    groups = bias_groups(graph.sensitive, everyone, "sp")
    width = graph.features.shape[1] + 2

    def apply_fn(params, rows, key):
        return rows @ params

    def distance(logits):
        return optax.losses.safe_softmax_cross_entropy(logits, teacher.probs()).mean()

    found = {}
    for alpha in (0.0, 30.0):
        step = make_fair_step(apply_fn, distance, groups, alpha=alpha, tx=optax.adam(0.05))
        state = init_fair_state(jnp.zeros((width, 2)), graph.num_nodes, step.tx, jax.random.key(0))
        state, history = jax.jit(lambda s, step=step: run(step, s, graph.features, 150))(state)
        assert np.asarray(history["finite"]).all()
        logits = apply_fn(state.params["student"], proxied(graph.features, state), None)
        found[alpha] = float(bias(jax.nn.softmax(logits), groups))
    assert found[30.0] < 0.3 * found[0.0]


def test_the_players_do_not_move_each_other():
    graph = small_graph()
    groups = bias_groups(graph.sensitive, np.ones(graph.num_nodes, bool), "sp")
    width = graph.features.shape[1] + 2
    still = make_fair_step(
        lambda params, rows, key: rows @ params,
        lambda logits: jnp.square(logits).mean(),
        groups,
        alpha=1.0,
        tx=optax.sgd(0.0),
        proxy_tx=optax.sgd(0.1),
    )
    params = jax.random.normal(jax.random.key(1), (width, 2))
    state = init_fair_state(params, graph.num_nodes, still.tx, jax.random.key(0))
    after, _ = jax.jit(still.take)(state, graph.features)
    np.testing.assert_array_equal(after.params["student"], params)
    assert not np.array_equal(after.params["proxy"], state.params["proxy"])
