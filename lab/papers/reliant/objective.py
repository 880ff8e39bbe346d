"""The fairness objective and the proxy of bias: what is compared, over which nodes, with what.

Works with any student: `bias_groups` needs labels and groups, `bias` probabilities.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import InvalidInputError, require
from lab.papers.reliant.data import FairGraph
from lab.papers.reliant.losses import BiasGroups, StepApproximation

Metric = Literal["none", "sp", "eo", "both"]
ProxyMode = Literal["none", "sensitive", "learned"]
EOLabels = Literal["official", "train_only", "teacher_pseudo"]
FairnessNodes = Literal["official", "train", "non_train", "all"]
# The released code's choice of nodes: of the student's step and of the proxy's.
OFFICIAL_NODES = {
    "cpf": ("non_train", "non_train"),
    "akd": ("train", "all"),
    "kd": ("train", "all"),
}


@dataclasses.dataclass(frozen=True)
class FairnessConfig:
    """What RELIANT adds to a distillation.

    Attributes:
      metric: the notion of fairness; "none" leaves the penalty out.
      proxy_mode: "learned" (RELIANT), "sensitive" (the true attribute, one column a group, fixed),
        "none". Vanilla distillation is metric "none" and proxy_mode "none"; a penalty without a
        proxy is the ablation "reg only".
      proxy_dim: width of a learned proxy.
      proxy_input: "append" the proxy to the features or "replace_last_two" of them, which loses
        whatever stands there: the released CPF code does so.
      proxy_at_test: whose mean is every node's proxy at test time: of the "final" proxy (released
        code, though the student is that of the best epoch), of the "best" epoch's, or of the
        initial one ("mean_init").
      penalise_sensitive: whether the penalty is applied with proxy_mode "sensitive"; None: as in
        the released code, with CPF but not with GraphAKD.
      step_approx, steepness: see `losses.step_approximation`.
      eo_labels: whose labels say who is positive. "official" uses the true labels of validation and
        test nodes, which nobody has in real use; "teacher_pseudo" takes the teacher's prediction
        there; "train_only" restricts to train nodes.
      fairness_nodes: over which nodes the groups are compared; "official" as the released code of
        the framework.
    """

    metric: Metric = "sp"
    proxy_mode: ProxyMode = "learned"
    proxy_dim: int = 2
    proxy_input: Literal["append", "replace_last_two"] = "append"
    proxy_at_test: Literal["final", "best", "mean_init"] = "final"
    penalise_sensitive: bool | None = None
    step_approx: StepApproximation = "official"
    steepness: float = 10.0
    eo_labels: EOLabels = "official"
    fairness_nodes: FairnessNodes = "official"

    def __post_init__(self) -> None:
        choices = {
            "metric": ("none", "sp", "eo", "both"),
            "proxy_mode": ("none", "sensitive", "learned"),
            "proxy_input": ("append", "replace_last_two"),
            "proxy_at_test": ("final", "best", "mean_init"),
            "step_approx": ("official", "legendre", "identity", "sigmoid"),
            "eo_labels": ("official", "train_only", "teacher_pseudo"),
            "fairness_nodes": ("official", "train", "non_train", "all"),
        }
        for name, accepted in choices.items():
            value = getattr(self, name)
            require(value in accepted, f"{name} is {value!r}; accepted: {', '.join(accepted)}")
        require(self.proxy_dim >= 1, f"proxy_dim is {self.proxy_dim}; accepted: 1 and above")
        require(
            self.proxy_mode != "learned" or self.metric != "none",
            "a learned proxy is trained by the bias: metric must not be 'none'",
        )

    def is_penalised(self, framework: str) -> bool:
        """Whether the student's loss holds the bias."""
        if self.metric == "none":
            return False
        if self.proxy_mode == "sensitive":
            given = self.penalise_sensitive
            return framework == "cpf" if given is None else given
        return True


RELIANT = FairnessConfig()
REG_ONLY = FairnessConfig(proxy_mode="none")
VANILLA = FairnessConfig(metric="none", proxy_mode="none")


def bias_groups(
    sensitive: np.ndarray,
    mask: np.ndarray,
    metric: Metric,
    *,
    labels: np.ndarray | None = None,
    num_groups: int = 2,
    positive_classes: tuple[int, ...] = (1,),
) -> BiasGroups:
    """Whose mean predictions the bias compares.

    Args:
      sensitive: int [N], the group; -1 (unknown) is in none.
      mask: bool [N], the nodes that count.
      metric: "sp" all of them, "eo" those of a positive class, "both".
      labels: int [N], for "eo" and "both"; -1 is unlabelled.
      positive_classes: one term of equal opportunity each. Two classes have one, 1; give all
        classes where there are more.
    Raises: InvalidInputError where a group that is compared is empty.
    """
    sensitive, mask = np.asarray(sensitive), np.asarray(mask)
    require(
        sensitive.shape == mask.shape,
        f"sensitive has shape {sensitive.shape}, the mask {mask.shape}",
    )
    restrictions = [("parity", mask)] if metric in ("sp", "both") else []
    if metric in ("eo", "both"):
        require(labels is not None, f"metric {metric!r} needs labels")
        labels = np.asarray(labels)
        restrictions += [(f"class {c}", mask & (labels == c)) for c in positive_classes]
    require(bool(restrictions), f"metric is {metric!r}; accepted: sp, eo, both")
    weights = np.zeros((len(restrictions), num_groups, len(mask)), np.float32)
    for term, (name, members) in enumerate(restrictions):
        for group in range(num_groups):
            chosen = members & (sensitive == group)
            if not chosen.any():
                raise InvalidInputError(
                    f"the bias ({name}) compares groups over {int(mask.sum())} nodes, of which "
                    f"none is in group {group}; choose other fairness_nodes or metric"
                )
            weights[term, group, chosen] = 1 / chosen.sum()
    return BiasGroups(jnp.asarray(weights))


def groups_of_framework(
    framework: str, config: FairnessConfig, graph: FairGraph, teacher_log_probs: jax.Array
) -> tuple[BiasGroups, BiasGroups] | None:
    """The groups of the student's step and of the proxy's; None where there is no bias.

    Args: framework, "cpf", "akd" or "kd"; teacher_log_probs float [N, C], for pseudo labels.
    Raises: InvalidInputError, also where CPF would penalise only train nodes, whose outputs are
      clamped to their labels.
    """
    if config.metric == "none":
        return None
    train = np.asarray(graph.train_mask)
    nodes = {"train": train, "non_train": ~train, "all": np.ones_like(train)}
    chosen = OFFICIAL_NODES[framework]
    if config.fairness_nodes != "official":
        chosen = (config.fairness_nodes, config.fairness_nodes)
    labels = np.asarray(graph.labels)
    is_eo = config.metric in ("eo", "both")
    if config.eo_labels == "teacher_pseudo":
        labels = np.where(train, labels, np.asarray(teacher_log_probs).argmax(axis=1))
    elif config.eo_labels == "train_only" and is_eo:
        chosen = ("train", "train")
    require(
        framework != "cpf" or "train" not in chosen,
        "CPF clamps its train nodes to their labels, so a bias over train nodes alone teaches it "
        "nothing: choose other fairness_nodes or eo_labels",
    )
    positive = (1,) if graph.num_classes == 2 else tuple(range(graph.num_classes))
    groups_over = functools.partial(
        bias_groups,
        np.asarray(graph.sensitive),
        metric=config.metric,
        labels=labels,
        num_groups=graph.num_groups,
        positive_classes=positive,
    )
    of_student, of_proxy = chosen
    return groups_over(nodes[of_student]), groups_over(nodes[of_proxy])


def initial_proxy(config: FairnessConfig, graph: FairGraph, key: jax.Array) -> jax.Array | None:
    """The proxy of bias at the start: float [N, d], U[0, 1) where learned; None without one."""
    if config.proxy_mode == "none":
        return None
    if config.proxy_mode == "learned":
        return jax.random.uniform(key, (graph.num_nodes, config.proxy_dim))
    # Unknown attributes stand at the mean, so they move nothing. Two groups give [s, 1 - s].
    order = jnp.arange(graph.num_groups)[::-1]
    one_hot = (graph.sensitive[:, None] == order).astype(jnp.float32)
    known = graph.sensitive >= 0
    mean = one_hot.sum(axis=0) / jnp.maximum(known.sum(), 1)
    return jnp.where(known[:, None], one_hot, mean)


def mean_proxy(proxy: jax.Array) -> jax.Array:
    """Mean mode: every node gets the mean of the proxies; float [N, d] to the same."""
    return jnp.broadcast_to(proxy.mean(axis=0), proxy.shape)


def with_proxy(features: jax.Array, proxy: jax.Array | None, config: FairnessConfig) -> jax.Array:
    """The student's input: features with the proxy beside them, or in place of the last two.

    Raises: InvalidInputError for two features or fewer with "replace_last_two".
    """
    if proxy is None:
        return features
    if config.proxy_input == "replace_last_two":
        require(
            features.shape[1] > 2,
            f"proxy_input 'replace_last_two' of {features.shape[1]} features leaves none; use "
            "'append'",
        )
        features = features[:, :-2]
    return jnp.concatenate([features, proxy], axis=1)
