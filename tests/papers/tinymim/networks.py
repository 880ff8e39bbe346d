"""Small networks that the tests of this folder share, so that they compile once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.vit import ViTConfig
from lab.papers.tinymim import variable_shapes

STUDENT = ViTConfig(image_size=8, patch_size=2, width=12, depth=2, num_heads=2)
TEACHER = ViTConfig(image_size=8, patch_size=2, width=16, depth=3, num_heads=4)


# Each test runs its program once, so that compiling it is what costs.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def random_variables(config, seed=0):
    """Variables without a scale that is 1 or a bias that is 0, and nothing to compile."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(center, 0.3, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(config))


@functools.cache
def pictures(count=4, seed=5):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(count, 8, 8, 3)), jnp.float32)


def scanned(config):
    return dataclasses.replace(config, scan=True)
