"""Losses of RELIANT and of the two distillation frameworks it sits on; pure functions of arrays.

CPF has one distance to the teacher, GraphAKD the terms of its discriminators and of its student
(He et al., 2022), which come by name and are summed by `weighted_total`.

N nodes, C classes, G groups, T terms of the bias (parity, opportunity), P pairs of neighbours.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from numpy.polynomial import legendre

from lab.errors import require
from lab.nn.graph import Pairs, SymmetricLinks
from lab.papers.reliant.models import View, judge_logits, judge_nodes, judge_pairs
from lab.train.steps import mean_over

StepApproximation = Literal["official", "legendre", "identity", "sigmoid"]
KDLoss = Literal["l2", "bce", "kl"]
GeneratorLoss = Literal["official", "fixed"]
# The released code's expansion; the factor (4 n + 3) / 2 of a Legendre series is missing in it.
OFFICIAL_COEFFICIENTS = (0.5, 0.5, 0.0, -1 / 8, 0.0, 1 / 16, 0.0, -5 / 128, 0.0, 7 / 256)
# The unit step's true Legendre series, truncated at degree 9.
LEGENDRE_COEFFICIENTS = (0.5, 3 / 4, 0.0, -7 / 16, 0.0, 11 / 32, 0.0, -75 / 256, 0.0, 133 / 512)


def step_approximation(
    probs: jax.Array, kind: StepApproximation = "official", steepness: float = 10.0
) -> jax.Array:
    """A differentiable stand-in for 1[p > 1/2] (spec of the paper's polynomial phi).

    Args:
      probs: float, any shape, in [0, 1].
      kind: "official" polynomial of degree 9, the true "legendre" series, "identity" (p itself),
        or "sigmoid" of steepness * (p - 1/2).
    """
    if kind == "identity":
        return probs
    if kind == "sigmoid":
        return jax.nn.sigmoid(steepness * (probs - 0.5))
    accepted = {"official": OFFICIAL_COEFFICIENTS, "legendre": LEGENDRE_COEFFICIENTS}
    require(
        kind in accepted,
        f"step_approx is {kind!r}; accepted: official, legendre, identity, sigmoid",
    )
    # Every even coefficient but the constant is 0: a polynomial in x^2, times x, by Horner's rule.
    powers = legendre.leg2poly(np.array(accepted[kind]))
    x = 2 * probs - 1
    square, odd = x * x, jnp.zeros_like(x)
    for coefficient in powers[1::2][::-1]:
        odd = odd * square + coefficient
    return powers[0] + x * odd


class BiasGroups(struct.PyTreeNode):
    """Which nodes are compared with which: float32 [T, G, N], each row summing to 1.

    A term is a notion of fairness: statistical parity compares the groups' members, equal
    opportunity their positives. Built by `lab.papers.reliant.objective.bias_groups`.
    """

    weights: jax.Array


def bias(
    probs: jax.Array,
    groups: BiasGroups,
    kind: StepApproximation = "official",
    steepness: float = 10.0,
) -> jax.Array:
    """Squared difference between the groups' mean soft predictions, summed over classes and terms.

    With more than two groups: the mean over pairs of groups. Both columns of two classes count, as
    in the released code, though they mirror each other.

    Args: probs float [N, C].
    Returns: float scalar.
    """
    means = jnp.einsum("tgn,nc->tgc", groups.weights, step_approximation(probs, kind, steepness))
    num_groups = means.shape[1]
    first, second = np.triu_indices(num_groups, k=1)
    gaps = jnp.square(means[:, first] - means[:, second])
    return gaps.sum() / len(first)


def kd_loss(
    probs: jax.Array, teacher_probs: jax.Array, mask: jax.Array, kind: KDLoss = "l2"
) -> jax.Array:
    """Distance of the student's probabilities from the teacher's over the masked nodes (CPF).

    Args:
      probs, teacher_probs: float [N, C]; no gradient reaches the teacher.
      mask: bool [N].
      kind: "l2", one Frobenius norm over everything, no mean (the default of the released code);
        "bce" and "kl", means over nodes and classes, 0 log 0 being 0.
    Returns: float scalar.
    """
    teacher_probs = jax.lax.stop_gradient(teacher_probs)
    weights = mask[:, None]
    if kind == "l2":
        total = jnp.sum(jnp.where(weights, jnp.square(probs - teacher_probs), 0))
        # The square root has no gradient at 0, where nothing is left to learn.
        return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)
    require(kind in ("bce", "kl"), f"kd_loss is {kind!r}; accepted: l2, bce, kl")
    if kind == "bce":
        terms = -(teacher_probs * clamped_log(probs) + (1 - teacher_probs) * clamped_log(1 - probs))
    else:
        safe = jnp.where(teacher_probs > 0, teacher_probs, 1)
        terms = teacher_probs * (jnp.log(safe) - clamped_log(probs))
    return mean_over(terms, weights)


def clamped_log(x: jax.Array) -> jax.Array:
    """log(x), at least -100 as in PyTorch, with gradient 0 where it is clamped."""
    inside = x > np.exp(-87.0)
    return jnp.where(inside, jnp.log(jnp.where(inside, x, 1)), -100.0)


def soft_target_loss(
    logits: jax.Array,
    teacher_log_probs: jax.Array,
    labels: jax.Array,
    train_mask: jax.Array,
    *,
    temperature: float = 10.0,
    label_weight: float = 0.5,
) -> jax.Array:
    """Plain logit distillation: a CE(train nodes) + (1 - a) KL(teacher || student) (all nodes).

    The KL is that of Hinton et al. (2015): both sides at the temperature, times its square.

    Args: logits, teacher_log_probs float [N, C]; labels int [N].
    Returns: float scalar.
    """
    cross_entropy = node_cross_entropy(logits, labels, train_mask)
    teacher = jax.nn.softmax(jax.lax.stop_gradient(teacher_log_probs) / temperature)
    student = jax.nn.log_softmax(logits / temperature)
    soft = temperature**2 * optax.losses.kl_divergence(student, teacher).mean()
    return label_weight * cross_entropy + (1 - label_weight) * soft


def node_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy over the masked nodes; labels elsewhere may be -1."""
    safe = jnp.maximum(labels, 0)
    return mean_over(optax.losses.softmax_cross_entropy_with_integer_labels(logits, safe), mask)


def real_fake_loss(scores: jax.Array, is_real: bool, weights: jax.Array | None = None) -> jax.Array:
    """Mean BCE of sigmoid(scores) against all real or all fake, each term at most 100.

    From the scores and not from rounded sigmoids, so that there is a gradient where those are 0 or
    1; PyTorch's clamp at 100 is kept.

    Args: scores float, any shape; weights broadcastable to it.
    """
    terms = jnp.minimum(jax.nn.softplus(-scores if is_real else scores), 100.0)
    return mean_over(terms, weights)


def discriminator_terms(
    params: dict[str, Any],
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
    with_teacher = {n: _agreement(params, v, teacher) for n, v in _both(teacher, student)}
    with_student = {n: _agreement(params, v, student) for n, v in _both(teacher, student)}
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
    params: dict[str, Any],
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
        "teacher_summary": real_fake_loss(_agreement(params, student, teacher), True),
        "student_summary": real_fake_loss(_agreement(params, student, student), not fooled)
        + real_fake_loss(_agreement(params, teacher, student), fooled),
    }


def weighted_total(terms: dict[str, jax.Array], logit_weight: float = 0.5) -> jax.Array:
    """Sum of the parts of L_D or L_G, those of the logit discriminator weighted."""
    halved = ("logit_adversarial", "logit_class")
    first, *others = (logit_weight * x if n in halved else x for n, x in terms.items())
    return sum(others, start=first)


def _both(teacher: View, student: View):
    return ("teacher", teacher), ("student", student)


def _agreement(params: dict[str, Any], view: View, of: View) -> jax.Array:
    return judge_nodes(params["global"], view.rows, of.summary)
