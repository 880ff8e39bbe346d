"""A small segmenter that the tests of this folder share, so that it compiles once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.vit import ViTConfig
from lab.papers.tinymim.segmentation import SegmenterConfig, segmentation_backbone, segmenter_shapes

ENCODER = ViTConfig(image_size=4, patch_size=2, width=8, depth=4, num_heads=2, scan=True)
BACKBONE = segmentation_backbone(ENCODER, image_size=8, drop_path_rate=0.2)
SEGMENTER = SegmenterConfig(
    BACKBONE,
    num_classes=3,
    width=6,
    pool_scales=(1, 2),
    auxiliary_width=4,
    dropout_rate=0.3,
    feature_blocks=(1, 2, 3, 4),
)


@functools.cache
def segmenter_variables(seed=0):
    """Variables without a scale that is 1 or a bias that is 0, and nothing to compile."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "var":
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        center = 1.0 if path[-1].key in ("scale", "gamma_1", "gamma_2") else 0.0
        return jnp.asarray(rng.normal(center, 0.3, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, segmenter_shapes(SEGMENTER))


@functools.cache
def scenes(count=4, seed=5):
    """A batch of normalised pictures and label maps, some pixels ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (count, 8, 8))
    labels[rng.random(labels.shape) < 0.2] = 255
    return {
        "images": jnp.asarray(rng.normal(size=(count, 8, 8, 3)), jnp.float32),
        "labels": jnp.asarray(labels),
    }
