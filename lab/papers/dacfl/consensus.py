"""First-order dynamic average consensus (FODAC; Zhu & Martinez, 2010) and what can be proved of it.

Einsum letters: t rounds; i, j users; d entries of a signal. J is the matrix of 1/N.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import require

HIGHEST = jax.lax.Precision.HIGHEST


def fodac(signals: jax.Array, weights: jax.Array, reset_every: int = 0) -> jax.Array:
    """Every user's running estimate of the mean of moving signals (paper, section 3).

    x^0 = r^0, x^{t+1} = W_t x^t + r^{t+1} - r^t. With reset_every = k, x^t = r^t whenever t is a
    positive multiple of k.

    Args: signals float [T + 1, N, d]; weights float [T, N, N].
    Returns: float [T + 1, N, d].
    """
    _check(signals, weights)
    signals = jnp.asarray(signals)

    def body(x, inputs):
        weight, old, new, t = inputs
        x = _apply(weight, x) + new - old
        if reset_every:
            x = jnp.where(t % reset_every == 0, new, x)
        return x, x

    times = jnp.arange(1, len(signals))
    inputs = (jnp.asarray(weights), signals[:-1], signals[1:], times)
    _, estimates = jax.lax.scan(body, signals[0], inputs)
    return jnp.concatenate([signals[:1], estimates])


def neighbour_average(signals: jax.Array, weights: jax.Array) -> jax.Array:
    """Plain averaging of what the neighbours see: W_{t-1} r^t (r^0 at t = 0); [T + 1, N, d]."""
    _check(signals, weights)
    signals = jnp.asarray(signals)
    mixed = jnp.einsum("tij,tjd->tid", jnp.asarray(weights), signals[1:], precision=HIGHEST)
    return jnp.concatenate([signals[:1], mixed])


def static_consensus(signals: jax.Array, weights: jax.Array) -> jax.Array:
    """Consensus started once and never fed again: z^0 = r^0, z^{t+1} = W_t z^t; [T + 1, N, d]."""
    _check(signals, weights)
    start = jnp.asarray(signals)[0]

    def body(z, weight):
        z = _apply(weight, z)
        return z, z

    _, estimates = jax.lax.scan(body, start, jnp.asarray(weights))
    return jnp.concatenate([start[None], estimates])


def tracking_error(estimates: jax.Array, signals: jax.Array) -> jax.Array:
    """|x^t - 1 mean(r^t)|_F; float [T + 1]."""
    average = jnp.mean(jnp.asarray(signals), axis=1, keepdims=True)
    return jnp.sqrt(jnp.sum(jnp.square(jnp.asarray(estimates) - average), axis=(1, 2)))


def increments_of(signals: jax.Array) -> jax.Array:
    """|(I - J)(r^{t+1} - r^t)|_F; float [T]."""
    steps = jnp.diff(jnp.asarray(signals), axis=0)
    centred = steps - steps.mean(axis=1, keepdims=True)
    return jnp.sqrt(jnp.sum(jnp.square(centred), axis=(1, 2)))


def tracking_bound(increments: np.ndarray, sigmas: np.ndarray, start: float = 0.0) -> np.ndarray:
    """The bound C7 on the tracking error: b^0 = start, b^{t+1} = sigma_t b^t + increment_t.

    Args: increments float [T], |(I - J)(omega^{t+1} - omega^t)|_F; sigmas float [T], |W_t - J|_2;
      start, |(I - J) x^0|_F, 0 where all begin alike.
    Returns: float64 [T + 1].
    """
    increments, sigmas = np.asarray(increments, np.float64), np.asarray(sigmas, np.float64)
    require(
        increments.ndim == 1 and increments.shape == sigmas.shape,
        f"increments {increments.shape} and sigmas {sigmas.shape} must be [T] both",
    )
    bound = np.empty(len(increments) + 1)
    bound[0] = start
    for t, (sigma, increment) in enumerate(zip(sigmas, increments, strict=True)):
        bound[t + 1] = sigma * bound[t] + increment
    return bound


def noise_gain(mu: np.ndarray) -> dict[str, np.ndarray]:
    """What white gradient noise of unit variance becomes in the direction of eigenvalue mu (C8).

    Returns: var_omega = 1 / (1 - mu^2), var_x = 2 / ((1 - mu)(1 + mu)^3) and their ratio
      2 / (1 + mu)^2, in units of lr^2 s^2; above 1 (x noisier than omega) for mu < sqrt(2) - 1.
    """
    mu = np.asarray(mu, np.float64)
    require(bool((np.abs(mu) < 1).all()), f"mu must be in (-1, 1), got {mu}")
    var_omega = 1 / (1 - mu**2)
    var_x = 2 / ((1 - mu) * (1 + mu) ** 3)
    return {"var_omega": var_omega, "var_x": var_x, "ratio": 2 / (1 + mu) ** 2}


def mode_response(
    mu: float, gradients: jax.Array, learning_rate: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """DACFL along one eigenvector of W: how omega and x answer to gradients in its direction.

    omega^{t+1} = mu omega^t - lr g^t and x^{t+1} = mu x^t + omega^{t+1} - omega^t, the transfer
    functions -lr / (z - mu) and -lr (z - 1) / (z - mu)^2 of C8. A constant g leaves
    -lr g / (1 - mu) in omega and nothing in x.

    Args: gradients float [T, ...].
    Returns: (omega, x), float [T + 1, ...] each, from 0.
    """
    gradients = jnp.asarray(gradients)

    def body(carry, gradient):
        omega, x = carry
        new = mu * omega - learning_rate * gradient
        x = mu * x + new - omega
        return (new, x), (new, x)

    zero = jnp.zeros_like(gradients[0])
    _, (omega, x) = jax.lax.scan(body, (zero, zero), gradients)
    return jnp.concatenate([zero[None], omega]), jnp.concatenate([zero[None], x])


def _apply(weight: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.einsum("ij,jd->id", weight, values, precision=HIGHEST)


def _check(signals, weights) -> None:
    shape, matrices = np.shape(signals), np.shape(weights)
    require(
        len(shape) == 3 and shape[0] >= 1 and matrices == (shape[0] - 1, shape[1], shape[1]),
        f"signals must be [T + 1, N, d] and weights [T, N, N]; got {shape} and {matrices}",
    )
