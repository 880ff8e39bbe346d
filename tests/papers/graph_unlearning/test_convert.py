import jax
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.graph_unlearning import convert, models

init_variables = jax.jit(models.init_variables, static_argnums=(0, 2))


def example(name):
    config = models.model_config(name, 3)
    variables = init_variables(config, jax.random.key(0), 5)
    # Distinct values everywhere: zero biases and unit variances would hide a mix-up.
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return config, jax.tree.unflatten(tree, leaves)


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("full_graph", [False, True])
def test_round_trip(name, full_graph):
    config, variables = example(name)
    state = convert.to_official(variables, config, full_graph=full_graph)
    jax.tree.map(np.testing.assert_array_equal, convert.from_official(state, config), variables)


def test_full_graph_names_count_from_one():
    config, variables = example("full_gin")
    names = set(convert.to_official(variables, config, full_graph=True))
    assert {"conv1.nn.0.weight", "conv5.eps", "bn5.running_var", "fc2.bias"} <= names


def test_names_of_old_pytorch_geometric():
    config, variables = example("gat")
    state = convert.to_official(variables, config)
    for source in ("lin_src", "lin_l"):
        old = {
            name.replace("lin.", f"{source}.")
            .replace("att_src", "att_l")
            .replace("att_dst", "att_r"): array
            for name, array in state.items()
        }
        loaded = convert.from_official(old, config)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)

    config, variables = example("gcn")
    old = {
        name.replace("lin.weight", "weight"): x.T if "weight" in name else x
        for name, x in convert.to_official(variables, config).items()
    }
    jax.tree.map(np.testing.assert_array_equal, convert.from_official(old, config), variables)


def test_counters_of_batch_norm_are_ignored():
    config, variables = example("gin")
    state = convert.to_official(variables, config) | {"bn.0.num_batches_tracked": np.int64(7)}
    jax.tree.map(np.testing.assert_array_equal, convert.from_official(state, config), variables)


def test_states_that_do_not_fit_are_refused():
    config, variables = example("gin")
    state = convert.to_official(variables, config)
    with pytest.raises(InvalidInputError, match=r"convs\.0\.eps is 0\.25, the config has eps = 0"):
        convert.from_official(state | {"convs.0.eps": np.full(1, 0.25)}, config)
    with pytest.raises(InvalidInputError, match=r"fc3\.weight"):
        convert.from_official(state | {"fc3.weight": np.zeros((2, 2))}, config)
    with pytest.raises(InvalidInputError, match="fc2"):
        convert.from_official({k: v for k, v in state.items() if k != "fc2.bias"}, config)
    with pytest.raises(InvalidInputError, match=r"fc2\.weight"):
        convert.from_official(state | {"fc2.weight": np.zeros((4, 32))}, config)
    with pytest.raises(InvalidInputError, match=r"no convs\.0\.lin\.weight"):
        convert.from_official(state, models.model_config("gcn", 3))
