"""The losses of the study; each returns one number an example, so that a batch may hold padding.

No gradient reaches a teacher. Dimension letters: B batch, T tokens, M heads, D channels.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from lab.errors import require
from lab.nn.vit import patchify

Distance = Literal["smooth_l1", "mse", "l1"]


def relation_kl(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """KL(R_teacher || R_student) of the softmaxed relations, mean over query rows (eq. 5 and 6).

    The released code takes log(softmax(x)), which is -inf where a probability underflows; from
    logits it is finite, with gradient (softmax(student) - softmax(teacher)) / rows.

    Args: float [B, M, T, T].
    Returns: float [B, M].
    """
    return softmax_kl(teacher_logits, student_logits).mean(axis=-1)


def relation_distance(
    teacher_logits: jax.Array,
    student_logits: jax.Array,
    distance: Distance = "smooth_l1",
    beta: float = 2.0,
) -> jax.Array:
    """Relations without softmax: distance of the scaled logits, mean over a head's map.

    The paper names no loss for this ablation (table 7).

    Args: float [B, M, T, T].
    Returns: float [B, M].
    """
    error = student_logits - jax.lax.stop_gradient(teacher_logits)
    return elementwise(error, distance, beta).mean(axis=(-2, -1))


def elementwise(error: jax.Array, distance: Distance, beta: float = 2.0) -> jax.Array:
    """Smooth-L1 (e^2 / (2 beta) up to beta, |e| - beta / 2 beyond), squared or absolute error."""
    if distance == "smooth_l1":
        # optax's Huber loss is beta times this
        return optax.losses.huber_loss(error, delta=beta) / beta
    require(distance in ("mse", "l1"), f"distance is smooth_l1, mse or l1, got {distance!r}")
    return jnp.square(error) if distance == "mse" else jnp.abs(error)


def whiten(features: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Zero mean and unit variance over the channels, without learned scale; float [..., D]."""
    features = features.astype(jnp.float32)
    mean = features.mean(axis=-1, keepdims=True)
    variance = jnp.square(features - mean).mean(axis=-1, keepdims=True)
    return (features - mean) * jax.lax.rsqrt(variance + epsilon)


def feature_loss(
    teacher_feature: jax.Array, prediction: jax.Array, beta: float = 2.0, epsilon: float = 1e-5
) -> jax.Array:
    """Smooth-L1 of the projected student feature and the whitened teacher's (sec. 3.2, features).

    Args: float [B, T, D]; or [B, D] for class tokens.
    Returns: float [B], mean over tokens and channels.
    """
    target = whiten(jax.lax.stop_gradient(teacher_feature), epsilon)
    error = elementwise(prediction.astype(jnp.float32) - target, "smooth_l1", beta)
    return error.mean(axis=tuple(range(1, error.ndim)))


def softmax_kl(teacher: jax.Array, student: jax.Array, temperature: float = 1.0) -> jax.Array:
    """tau^2 KL(softmax(teacher / tau) || softmax(student / tau)), summed over the last axis.

    Of relations, of class tokens (sec. 3.2; there the softmax over channels is ours) and of logits.

    Args: float [..., D] each; no gradient reaches the teacher. Returns: float [...].
    """
    target = jax.nn.log_softmax(jax.lax.stop_gradient(teacher).astype(jnp.float32) / temperature)
    prediction = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(target) * (target - prediction), axis=-1)


def pixel_targets(
    images: jax.Array, patch_size: int, *, normalise: bool = True, epsilon: float = 1e-6
) -> jax.Array:
    """What MAE's decoder predicts: patches, each standardised by its own unbiased variance.

    Args: images float [B, H, W, C]. Returns: float [B, N, p * p * C].
    """
    patches = patchify(images, patch_size)
    if not normalise:
        return patches
    mean, deviation = patch_statistics(patches, epsilon)
    return (patches - mean) / deviation


def patch_statistics(patches: jax.Array, epsilon: float = 1e-6) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each patch, float [B, N, 1]; `predicted * std + mean` are
    pixels again."""
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return patches.mean(axis=-1, keepdims=True), jnp.sqrt(variance + epsilon)


def reconstruction_loss(predicted: jax.Array, targets: jax.Array, removed: jax.Array) -> jax.Array:
    """Mean squared error over the removed patches (MAE, sec. 3).

    Args: predicted, targets float [B, N, p * p * C]; removed float [B, N], 1 where removed.
    Returns: float [B]; 0 for a picture of which nothing was removed.
    """
    error = jnp.square(predicted.astype(jnp.float32) - targets).mean(axis=-1)
    return jnp.sum(error * removed, axis=-1) / jnp.maximum(removed.sum(axis=-1), 1)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with a distribution over the classes; float [B, C] each -> [B]."""
    return optax.losses.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def smoothed_targets(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """One-hot rows with 1 - s + s / C on the label and s / C elsewhere; int [B] -> float [B, C].

    Raises: InvalidInputError for smoothing outside [0, 1).
    """
    require(0 <= smoothing < 1, f"label smoothing must be in [0, 1), got {smoothing}")
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), smoothing)


def soft_distillation(
    student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """tau^2 KL(teacher_tau || student_tau) / C (DeiT, eq. 2); float [B, C] each -> [B].

    DeiT divides by the number of classes as well as by the batch.
    """
    return softmax_kl(teacher_logits, student_logits, temperature) / student_logits.shape[-1]


def hard_distillation(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Cross-entropy with the teacher's decision (DeiT, eq. 3); float [B, C] each -> [B]."""
    decisions = jax.lax.stop_gradient(teacher_logits).argmax(axis=-1)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        student_logits.astype(jnp.float32), decisions
    )
