"""The three discriminators of GraphAKD and the losses of both sides (He et al., 2022).

They tell the teacher's logits, the agreement of its neighbours' embeddings and that of its nodes
with a summary of the graph from the student's.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from lab.nn.graph import Pairs, SymmetricLinks, pair_features, pair_products
from lab.nn.linear import symmetric_uniform
from lab.papers.reliant.losses import node_cross_entropy, real_fake_loss

Params = dict[str, Any]
GeneratorLoss = Literal["official", "fixed"]


def init_discriminators(key: jax.Array, num_classes: int, embedding_dim: int) -> Params:
    """Parameters of all three, as PyTorch initialises them.

    Returns: {"logits": {"hidden_kernel" [C, C], "hidden_bias" [C], "out_kernel" [C, C + 1]},
      "local", "global": {"diagonal" [D], "scale" [1]}}.
    """
    uniform = symmetric_uniform(num_classes**-0.5)
    first, second, third = jax.random.split(key, 3)
    metric = {"diagonal": jnp.ones(embedding_dim), "scale": jnp.full(1, 0.5)}
    return {
        "logits": {
            "hidden_kernel": uniform(first, (num_classes, num_classes)),
            "hidden_bias": uniform(second, (num_classes,)),
            "out_kernel": uniform(third, (num_classes, num_classes + 1)),
        },
        "local": metric,
        "global": dict(metric),
    }


def judge_logits(params: Params, logits: jax.Array) -> jax.Array:
    """C class scores and one real/fake score of each row: float [N, C] -> [N, C + 1]."""
    hidden = logits + logits @ params["hidden_kernel"] + params["hidden_bias"]
    return jax.nn.relu(hidden) @ params["out_kernel"]


def unit_rows(embedding: jax.Array) -> jax.Array:
    """Rows of length 1; a zero row stays zero, with gradient 0. float [N, D]."""
    squares = jnp.sum(jnp.square(embedding), axis=1, keepdims=True)
    is_zero = squares == 0
    norm = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1, squares)), 1e-12)
    return jnp.where(is_zero, 0, embedding / norm)


def summary(embedding: jax.Array) -> jax.Array:
    """sigmoid of the mean node embedding: float [N, D] -> [D]."""
    return jax.nn.sigmoid(embedding.mean(axis=0))


def judge_nodes(params: Params, rows: jax.Array, graph_summary: jax.Array) -> jax.Array:
    """How well each node agrees with a summary: unit rows float [N, D] -> [N]."""
    return params["scale"][0] * (rows @ (params["diagonal"] * graph_summary))


class View(struct.PyTreeNode):
    """What the discriminators see of one network.

    Attributes: logits float [N, C]; rows float [N, D], unit embeddings; features float [P, D], the
    `pair_features` of the rows; summary float [D].
    """

    logits: jax.Array
    rows: jax.Array
    features: jax.Array
    summary: jax.Array


def view_of(logits: jax.Array, embedding: jax.Array, pairs: Pairs) -> View:
    """Both sides of a network's output; constant over training for a teacher: made once."""
    rows = unit_rows(embedding)
    return View(logits, rows, pair_features(pairs, rows), summary(embedding))


def judge_pairs(params: Params, links: SymmetricLinks, pairs: Pairs, view: View) -> jax.Array:
    """How well neighbours agree, one score a pair (both directions have the same): float [P]."""
    scores = pair_products(links, pairs, view.rows, view.features, params["diagonal"])
    return params["scale"][0] * scores


def discriminator_terms(
    params: Params,
    links: SymmetricLinks,
    pairs: Pairs,
    teacher: View,
    student: View,
    labels: jax.Array,
    train_mask: jax.Array,
) -> dict[str, jax.Array]:
    """The parts of L_D; no gradient reaches the student.

    Returns: logit_adversarial and logit_class (each counts half in the sum), local,
      teacher_summary, student_summary.
    """
    student = jax.lax.stop_gradient(student)
    judged = {name: judge_logits(params["logits"], v.logits) for name, v in _both(teacher, student)}
    local = {n: judge_pairs(params["local"], links, pairs, v) for n, v in _both(teacher, student)}
    with_teacher = {n: _global(params, v, teacher) for n, v in _both(teacher, student)}
    with_student = {n: _global(params, v, student) for n, v in _both(teacher, student)}
    return {
        "logit_adversarial": real_fake_loss(judged["teacher"][:, -1], True)
        + real_fake_loss(judged["student"][:, -1], False),
        "logit_class": node_cross_entropy(judged["teacher"][:, :-1], labels, train_mask)
        + node_cross_entropy(judged["student"][:, :-1], labels, train_mask),
        "local": real_fake_loss(local["teacher"], True, pairs.counts)
        + real_fake_loss(local["student"], False, pairs.counts),
        "teacher_summary": real_fake_loss(with_teacher["teacher"], True)
        + real_fake_loss(with_teacher["student"], False),
        "student_summary": real_fake_loss(with_student["student"], True)
        + real_fake_loss(with_student["teacher"], False),
    }


def generator_terms(
    params: Params,
    links: SymmetricLinks,
    pairs: Pairs,
    teacher: View,
    student: View,
    labels: jax.Array,
    train_mask: jax.Array,
    kind: GeneratorLoss = "official",
) -> dict[str, jax.Array]:
    """The parts of L_G without the bias.

    Args: kind, "official": the last pair helps the discriminator, as in the released code; "fixed":
      it fools it, as GraphAKD was mended later.
    Returns: label, logit_class and logit_adversarial (each counts half in the sum), l1, local,
      teacher_summary, student_summary.
    """
    judged = judge_logits(params["logits"], student.logits)
    local = judge_pairs(params["local"], links, pairs, student)
    fooled = kind == "fixed"
    return {
        "label": node_cross_entropy(student.logits, labels, train_mask),
        "logit_class": node_cross_entropy(judged[:, :-1], labels, train_mask),
        "logit_adversarial": real_fake_loss(judged[:, -1], True),
        # The teacher's are log-probabilities: this also pulls the student's normaliser.
        "l1": jnp.abs(student.logits - teacher.logits).sum() / len(student.logits),
        "local": real_fake_loss(local, True, pairs.counts),
        "teacher_summary": real_fake_loss(_global(params, student, teacher), True),
        "student_summary": real_fake_loss(_global(params, student, student), not fooled)
        + real_fake_loss(_global(params, teacher, student), fooled),
    }


def total(terms: dict[str, jax.Array], logit_weight: float = 0.5) -> jax.Array:
    """Sum of the parts of L_D or L_G, those of the logit discriminator weighted."""
    halved = ("logit_adversarial", "logit_class")
    return sum(logit_weight * term if n in halved else term for n, term in terms.items())


def _both(teacher: View, student: View):
    return ("teacher", teacher), ("student", student)


def _global(params: Params, view: View, of: View) -> jax.Array:
    return judge_nodes(params["global"], view.rows, of.summary)
