"""Parameters of the released networks (torch `state_dict` names) to flax variables and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lab.errors import require
from lab.interop import Rule, linear, to_state_dict, to_variables

_BIAS = Rule("layers.{i}.bias", "layers_{i}/bias")
_MLP = (
    Rule("plp_layer.mlp.linears.{i}.weight", "mlp_{i}_kernel", "linear"),
    Rule("plp_layer.mlp.linears.{i}.bias", "mlp_{i}_bias"),
)
# A feature branch of one layer has a name of its own.
_LINEAR = (
    Rule("plp_layer.mlp.linear.weight", "mlp_0_kernel", "linear"),
    Rule("plp_layer.mlp.linear.bias", "mlp_0_bias"),
)
_MIXING = Rule("plp_layer.lr_alpha", "mixing")
RULES: dict[str, tuple[Rule, ...]] = {
    # DGL's GraphConv keeps its weight as [in, out].
    "gcn": (Rule("layers.{i}.weight", "layers_{i}/kernel"), _BIAS),
    "sage": (Rule("layers.{i}.fc_neigh.weight", "layers_{i}/kernel", "linear"), _BIAS),
    "plp": (Rule("plp_layer.attn_l", "attention"), _MIXING),
    "plp_tra": (Rule("plp_layer.fc_emb", "attention"), _MIXING),
    "sgc": linear("layers.{i}.fc", "layers_{i}"),
    "discriminators": (
        Rule("logits_D.lin.weight", "logits/hidden_kernel", "linear"),
        Rule("logits_D.lin.bias", "logits/hidden_bias"),
        Rule("logits_D.lin2.weight", "logits/out_kernel", "linear"),
        Rule("local_emb_D.d", "local/diagonal"),
        Rule("local_emb_D.scale", "local/scale"),
        Rule("global_emb_D.d", "global/diagonal"),
        Rule("global_emb_D.scale", "global/scale"),
    ),
}
# The released PLP holds a second per-node number that nothing reads.
IGNORED = {"plp": ("alpha",), "plp_tra": ("alpha",)}


def from_official(
    state_dict: Mapping[str, Any], network: str, *, template: Any = None
) -> dict[str, Any]:
    """Variables {"params": ...} of a released network, or the parameters of the discriminators.

    Args:
      network: a key of `RULES`.
      template: shapes that must be met (`jax.eval_shape` of the module's init).
    Raises: InvalidInputError that lists names that are missing, unknown or of another shape.
    """
    rules = _rules(network, is_linear="plp_layer.mlp.linear.weight" in state_dict)
    return to_variables(state_dict, rules, ignore=IGNORED.get(network, ()), template=template)


def to_official(variables: Mapping[str, Any], network: str) -> dict[str, np.ndarray]:
    """The inverse of `from_official`, without what the released networks do not read."""
    params = variables["params"]
    is_linear = "mlp_0_kernel" in params and "mlp_1_kernel" not in params
    return to_state_dict(variables, _rules(network, is_linear))


def _rules(network: str, is_linear: bool) -> tuple[Rule, ...]:
    require(network in RULES, f"network is {network!r}; accepted: {', '.join(RULES)}")
    branch = (_LINEAR if is_linear else _MLP) if network.startswith("plp") else ()
    return RULES[network] + branch
