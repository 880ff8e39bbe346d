"""Claims that need no training: FODAC on moving signals (C5), what noise becomes (C8)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab.papers import dacfl

SIGNALS = ("random_walk", "saturating", "sinusoids", "sinusoids_varying")
MUS = (0.0, 0.9)
NUM_USERS, NUM_STEPS, NUM_ENTRIES = 10, 200, 3


def measure(run: Any) -> dict[str, Any]:
    """The numbers behind C5 and C8.

    Returns: "late_error", {signal: {method: mean tracking error over t >= T / 2}}; "noise",
      {mu: measured var x / var omega}; "offset", {mu: (omega, x)} under a constant disagreement,
      in units of lr.
    """
    with run.progress("consensus without training", len(SIGNALS) + 2 * len(MUS)) as task:
        late_error, noise, offset = {}, {}, {}
        for name in SIGNALS:
            late_error[name] = tracking_errors(name)
            task.advance(1)
        for mu in MUS:
            noise[mu] = noise_ratio(mu)
            task.advance(1)
            offset[mu] = constant_offset(mu)
            task.advance(1)
    return {"late_error": late_error, "noise": noise, "offset": offset}


def moving_signals(name: str, generator: np.random.Generator) -> np.ndarray:
    """Signals float32 [T + 1, N, d] that differ between users and move."""
    t = np.arange(NUM_STEPS + 1)[:, None, None]
    level = generator.normal(size=(1, NUM_USERS, NUM_ENTRIES))
    match name:
        case "random_walk":
            steps = generator.normal(size=(NUM_STEPS + 1, NUM_USERS, NUM_ENTRIES))
            signals = level + 0.1 * np.cumsum(steps, axis=0)
        case "saturating":
            signals = level * (1 - np.exp(-t / 15)) + 3 * level
        case _:
            phase = generator.uniform(0, 2 * np.pi, (1, NUM_USERS, NUM_ENTRIES))
            signals = level + np.sin(0.05 * t + phase)
    return signals.astype(np.float32)


def tracking_errors(name: str) -> dict[str, float]:
    """Mean tracking error over t >= T / 2 of FODAC, neighbourhood averages, static consensus."""
    generator = np.random.Generator(np.random.PCG64([5, SIGNALS.index(name)]))
    signals = moving_signals(name, generator)
    config = dacfl.NetworkConfig(
        dacfl.TopologyConfig("ring"),
        change_every=10 if name.endswith("varying") else 0,
    )
    if name.endswith("varying"):
        config = dacfl.NetworkConfig(dacfl.TopologyConfig("density", psi=0.3), change_every=10)
    weights = np.stack([dacfl.matrix_at(config, NUM_USERS, 0, t) for t in range(NUM_STEPS)])
    methods = {
        "FODAC": dacfl.fodac,
        "neighbourhood average": dacfl.neighbour_average,
        "static consensus": dacfl.static_consensus,
    }
    return {
        method: float(
            dacfl.tracking_error(estimate(signals, weights), signals)[NUM_STEPS // 2 :].mean()
        )
        for method, estimate in methods.items()
    }


def noise_ratio(mu: float, num_steps: int = 400, num_repeats: int = 4000) -> np.ndarray:
    """var x / var omega under white gradient noise, after the transient; float [10] groups."""
    noise = jax.random.normal(jax.random.key(8), (num_steps, num_repeats))
    omega, x = dacfl.mode_response(mu, noise)
    late = slice(num_steps // 2, None)
    groups = [np.asarray(v[late]).reshape(-1, 10, num_repeats // 10) for v in (omega, x)]
    omega_var, x_var = (np.square(group).mean(axis=(0, 2)) for group in groups)
    return x_var / omega_var


def constant_offset(mu: float, num_steps: int = 400) -> tuple[float, float]:
    """What a persistent disagreement of size 1 leaves in omega and in x, in units of lr."""
    omega, x = dacfl.mode_response(mu, jnp.ones(num_steps))
    return abs(float(omega[-1])), abs(float(x[-1]))
