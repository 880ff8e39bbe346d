"""Random erasing (Zhong et al., 2020), in its "pixel" mode."""

import jax
import jax.numpy as jnp

from lab.errors import require

ATTEMPTS = 10


def random_erasing(
    keys: jax.Array,
    images: jax.Array,
    rate: float = 0.25,
    *,
    area: tuple[float, float] = (0.02, 1 / 3),
    min_aspect: float = 0.3,
) -> jax.Array:
    """Puts N(0, 1) noise into a random box of each normalised image, with probability `rate`.

    Args:
      images: float [N, H, W, C], normalised.
      area: bounds of the box's share of the image.
      min_aspect: height / width is log-uniform between it and its inverse.
    Returns: the images; one in which none of ten draws of a box fits stays whole.
    """
    require(0 <= rate <= 1, f"rate must lie in 0..1, got {rate}")
    require(0 < min_aspect <= 1, f"min_aspect must lie in (0, 1], got {min_aspect}")
    return jax.vmap(lambda key, image: _erase(key, image, rate, area, min_aspect))(keys, images)


def _erase(key, image, rate, area, min_aspect):
    height, width = image.shape[:2]
    chance, area_key, aspect_key, top_key, left_key, noise_key = jax.random.split(key, 6)
    target = (
        height * width * jax.random.uniform(area_key, (ATTEMPTS,), minval=area[0], maxval=area[1])
    )
    bound = -jnp.log(min_aspect)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (ATTEMPTS,), minval=-bound, maxval=bound))
    heights = jnp.round(jnp.sqrt(target * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(target / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, jnp.maximum(height - h, 0) + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(width - w, 0) + 1)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    is_inside = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)
    is_erased = is_inside & fits.any() & jax.random.bernoulli(chance, rate)
    noise = jax.random.normal(noise_key, image.shape, image.dtype)
    return jnp.where(is_erased[..., None], noise, image)
