"""Parameters of the official networks (torch `state_dict` names) to flax variables and back."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lab.errors import InvalidInputError, require
from lab.interop.mapping import (
    Rule,
    Transform,
    batch_norm,
    linear,
    to_state_dict,
    to_variables,
)
from lab.papers.graph_unlearning.models import (
    GATConfig,
    GCNConfig,
    GINConfig,
    MLPConfig,
    ModelConfig,
    SAGEConfig,
    init_variables,
)

# Attention vectors are kept as [1, heads, head_dim]; before PyTorch Geometric 2.0 too.
ATTENTION = Transform(lambda array: array.reshape(array.shape[-2:]), lambda array: array[None])
CLASSIFIER = (*linear("fc1", "fc1"), *linear("fc2", "fc2"))
RULES = {
    GCNConfig: (
        Rule("convs.{i}.lin.weight", "conv{i}/kernel", "linear"),
        Rule("convs.{i}.bias", "conv{i}/bias"),
    ),
    GATConfig: (
        Rule("convs.{i}.lin.weight", "conv{i}/kernel", "linear"),
        Rule("convs.{i}.att_src", "conv{i}/source_attention", ATTENTION),
        Rule("convs.{i}.att_dst", "conv{i}/target_attention", ATTENTION),
        Rule("convs.{i}.bias", "conv{i}/bias"),
    ),
    SAGEConfig: (
        Rule("convs.{i}.lin_l.weight", "conv{i}/neighbour_kernel", "linear"),
        Rule("convs.{i}.lin_l.bias", "conv{i}/neighbour_bias"),
        Rule("convs.{i}.lin_r.weight", "conv{i}/root/kernel", "linear"),
    ),
    GINConfig: (
        *linear("convs.{i}.nn.0", "conv{i}"),
        *linear("convs.{i}.nn.2", "conv{i}/out"),
        *batch_norm("bn.{i}", "norm{i}"),
        *CLASSIFIER,
    ),
    MLPConfig: linear("layers.{i}", "linear{i}"),
}
FIRST_WEIGHTS = {
    GCNConfig: "convs.0.lin.weight",
    GATConfig: "convs.0.lin.weight",
    SAGEConfig: "convs.0.lin_l.weight",
    GINConfig: "convs.0.nn.0.weight",
    MLPConfig: "layers.0.weight",
}


def from_official(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """flax variables of the module of `config` from an official `state_dict`.

    Reads the batch networks' names, the full-graph networks' (`conv1`, `bn1` ...) and those of
    PyTorch Geometric before 2.0: GAT's `lin_src.weight` or `lin_l.weight`, `att_l`, `att_r`, and
    GCN's `weight`, which is the transpose of today's `lin.weight`.

    Args: state_dict, name -> array.
    Returns: `{"params": ..., "batch_stats": ...}` of numpy float32 arrays.
    Raises: InvalidInputError that lists missing, unknown and mis-shaped names, or names an `eps`
      that is not the config's.
    """
    state = dict(_modern(name, np.asarray(x), config) for name, x in state_dict.items())
    if isinstance(config, GINConfig):
        for name in [name for name in state if name.endswith(".eps")]:
            eps = float(state.pop(name).reshape(()))
            require(eps == config.eps, f"{name} is {eps}, the config has eps = {config.eps}")
    first = state.get(FIRST_WEIGHTS[type(config)])
    if first is None or first.ndim != 2:
        raise InvalidInputError(
            f"the state_dict has no {FIRST_WEIGHTS[type(config)]} [out, in], which "
            f"{type(config).__name__} starts with; it has {sorted(state)[:8]}"
        )
    shapes = jax.eval_shape(
        functools.partial(init_variables, config, num_features=first.shape[1]), jax.random.key(0)
    )
    rules, ignored = RULES[type(config)], ("*.num_batches_tracked",)
    return to_variables(state, rules, ignore=ignored, template=shapes)


def to_official(
    variables: Mapping[str, Any], config: ModelConfig, *, full_graph: bool = False
) -> dict[str, np.ndarray]:
    """The official `state_dict` (numpy arrays) of flax variables; inverse of `from_official`.

    Args: full_graph, name the layers as the full-graph networks do.
    Raises: InvalidInputError for variables that the network of `config` does not have.
    """
    state = to_state_dict(variables, RULES[type(config)])
    if isinstance(config, GINConfig):
        layers = range(config.num_layers + config.unused_layers)
        state |= {f"convs.{layer}.eps": np.full(1, config.eps, np.float32) for layer in layers}
    return {_full_graph_name(name): x for name, x in state.items()} if full_graph else state


def _modern(name: str, array: np.ndarray, config: ModelConfig) -> tuple[str, np.ndarray]:
    """A name of any generation as the batch networks have it, with the array in their layout."""
    name = re.sub(r"^conv(\d+)\.", lambda match: f"convs.{int(match[1]) - 1}.", name)
    name = re.sub(r"^bn(\d+)\.", lambda match: f"bn.{int(match[1]) - 1}.", name)
    if isinstance(config, GCNConfig) and re.fullmatch(r"convs\.\d+\.weight", name):
        return name.replace(".weight", ".lin.weight"), array.T
    if isinstance(config, GATConfig):
        name = re.sub(r"\.lin_(?:src|l)\.weight$", ".lin.weight", name)
        name = re.sub(r"\.att_l$", ".att_src", re.sub(r"\.att_r$", ".att_dst", name))
    return name, array


def _full_graph_name(name: str) -> str:
    def counted_from_one(match):
        return f"{match['kind']}{int(match['layer']) + 1}"

    return re.sub(r"^(?P<kind>conv(?=s)|bn)s?\.(?P<layer>\d+)", counted_from_one, name)
