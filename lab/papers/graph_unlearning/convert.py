"""Parameters of the official networks (torch `state_dict` names) to flax variables and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lab.errors import require
from lab.papers.graph_unlearning.models import (
    GATConfig,
    GCNConfig,
    GINConfig,
    MLPConfig,
    ModelConfig,
    SAGEConfig,
)

# flax name -> (official name, whether the array is stored transposed); {l} is the layer.
LINEAR = {"kernel": ("weight", True), "bias": ("bias", False)}
CONVOLUTIONS = {
    GCNConfig: {"kernel": ("lin.weight", True), "bias": ("bias", False)},
    GATConfig: {
        "kernel": ("lin.weight", True),
        "bias": ("bias", False),
        "source_attention": ("att_src", False),
        "target_attention": ("att_dst", False),
    },
    SAGEConfig: {
        "neighbour_kernel": ("lin_l.weight", True),
        "neighbour_bias": ("lin_l.bias", False),
        "root/kernel": ("lin_r.weight", True),
    },
    GINConfig: {
        "kernel": ("nn.0.weight", True),
        "bias": ("nn.0.bias", False),
        "out/kernel": ("nn.2.weight", True),
        "out/bias": ("nn.2.bias", False),
    },
}
NORM = {
    "params/norm{l}/scale": "bn.{l}.weight",
    "params/norm{l}/bias": "bn.{l}.bias",
    "batch_stats/norm{l}/mean": "bn.{l}.running_mean",
    "batch_stats/norm{l}/var": "bn.{l}.running_var",
}
IGNORED = re.compile(r".*\.num_batches_tracked$")


def official_names(config: ModelConfig) -> dict[str, tuple[str, bool]]:
    """flax path ("params/conv0/kernel") -> (name in the batch networks, stored transposed)."""
    if isinstance(config, MLPConfig):
        layers = range(len(config.hidden) + 1)
        return _with_prefix({f"params/linear{l}": f"layers.{l}" for l in layers}, LINEAR)
    unused = config.unused_layers if isinstance(config, GINConfig) else 0
    layers = range(config.num_layers + unused)
    convs = {f"params/conv{l}": f"convs.{l}" for l in layers}
    names = _with_prefix(convs, CONVOLUTIONS[type(config)])
    if isinstance(config, GINConfig):
        for l in layers:
            names |= {path.format(l=l): (name.format(l=l), False) for path, name in NORM.items()}
        names |= _with_prefix({"params/fc1": "fc1", "params/fc2": "fc2"}, LINEAR)
    return names


def _with_prefix(prefixes, names):
    return {
        f"{ours}/{path}": (f"{official}.{name}", transposed)
        for ours, official in prefixes.items()
        for path, (name, transposed) in names.items()
    }


def from_official(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """flax variables of the module of `config` from an official `state_dict`.

    Reads the batch networks' names, the full-graph networks' (`conv1`, `bn1` ...) and those of
    PyTorch Geometric before 2.0.

    Args: state_dict, name -> array.
    Returns: `{"params": ..., "batch_stats": ...}` of numpy float32 arrays.
    Raises: InvalidInputError that lists missing and unknown names, or names an array of the wrong
      shape or an `eps` that differs from the config's.
    """
    state = dict(
        _modern(name, np.asarray(array), config)
        for name, array in state_dict.items()
        if not IGNORED.match(name)
    )
    for name in [name for name in state if name.endswith(".eps")]:
        eps = float(state.pop(name).reshape(()))
        expected = getattr(config, "eps", None)
        require(eps == expected, f"{name} is {eps}, the config has eps = {expected}")
    names = official_names(config)
    wanted = {official for official, _ in names.values()}
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    require(
        not missing and not unknown,
        f"the state_dict does not fit {type(config).__name__}: "
        f"missing {missing[:5] or 'nothing'}, unknown {unknown[:5] or 'nothing'}",
    )
    return unflatten_dict(
        {
            path: _to_flax(state[name], path, transposed)
            for path, (name, transposed) in names.items()
        },
        sep="/",
    )


def to_official(
    variables: Mapping[str, Any], config: ModelConfig, *, full_graph: bool = False
) -> dict[str, np.ndarray]:
    """The official `state_dict` (numpy arrays) of flax variables; inverse of `from_official`.

    Args: full_graph, name the layers as the full-graph networks do.
    """
    flat = flatten_dict(dict(variables), sep="/")
    names = official_names(config)
    require(
        set(flat) == set(names), f"these are no variables of {type(config).__name__}: {set(flat)}"
    )
    state = {name: _to_torch(flat[path], path, t) for path, (name, t) in names.items()}
    if isinstance(config, GINConfig):
        layers = range(config.num_layers + config.unused_layers)
        state |= {f"convs.{l}.eps": np.full(1, config.eps, np.float32) for l in layers}
    return {_full_graph_name(name): x for name, x in state.items()} if full_graph else state


def _to_flax(array, path, transposed):
    array = array.astype(np.float32)
    if path.endswith("attention"):
        return array.reshape(array.shape[-2:])
    return array.T if transposed else array


def _to_torch(array, path, transposed):
    array = np.asarray(array)
    if path.endswith("attention"):
        return array[None]
    return array.T if transposed else array


def _modern(name: str, array: np.ndarray, config: ModelConfig) -> tuple[str, np.ndarray]:
    """A name of any generation as the batch networks have it, with the array in their layout."""
    name = re.sub(r"^conv(\d+)\.", lambda m: f"convs.{int(m[1]) - 1}.", name)
    name = re.sub(r"^bn(\d+)\.", lambda m: f"bn.{int(m[1]) - 1}.", name)
    if isinstance(config, GCNConfig) and re.match(r"^convs\.\d+\.weight$", name):
        return name.replace(".weight", ".lin.weight"), array.T
    if isinstance(config, GATConfig):
        name = re.sub(r"\.lin_(?:src|l)\.weight$", ".lin.weight", name)
        name = re.sub(r"\.att_l$", ".att_src", re.sub(r"\.att_r$", ".att_dst", name))
    return name, array


def _full_graph_name(name: str) -> str:
    return re.sub(
        r"^(conv)s\.(\d+)|^(bn)\.(\d+)", lambda m: f"{m[1] or m[3]}{int(m[2] or m[4]) + 1}", name
    )
