"""What a network sees and draws: reconstructions, attention of the class token, likeness of layers.

Arrays for figures; the drawing is the report's.
"""

import jax
import jax.numpy as jnp

from lab.nn.position import grid_of
from lab.nn.vit import patchify, unpatchify
from lab.papers.tinymim.losses import patch_statistics
from lab.papers.tinymim.masking import Masking
from lab.papers.tinymim.relations import token_relations


def reconstructed(
    images: jax.Array,
    predicted: jax.Array,
    masking: Masking,
    patch_size: int,
    *,
    is_normalised: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """The masked pictures and the pictures with the removed patches as predicted.

    A network that was trained on normalised pixels predicts noise to the eye: each patch gets the
    mean and deviation of the true patch back.

    Args: images float [B, H, W, C]; predicted float [B, N, p * p * C].
    Returns: (removed patches zero, removed patches drawn), float [B, H, W, C] each.
    """
    patches, removed = patchify(images, patch_size), masking.removed[..., None]
    if is_normalised:
        mean, deviation = patch_statistics(patches)
        predicted = predicted * deviation + mean
    seen = patches * (1 - removed)
    return unpatchify(seen, patch_size), unpatchify(seen + predicted * removed, patch_size)


def class_attention(q: jax.Array, k: jax.Array, num_heads: int, num_special: int = 1) -> jax.Array:
    """Where the class token looks: float [B, M, G, G] from the q and k [B, T, D] of one block."""
    attention = jax.nn.softmax(token_relations({"q": q, "k": k}, num_heads, ("qk",))["qk"])
    row = attention[:, :, 0, num_special:]
    grid = grid_of(row.shape[-1])
    return row.reshape(*row.shape[:2], grid, grid)


def attention_rollout(attentions: list[jax.Array], num_special: int = 1) -> jax.Array:
    """Where the class token's output comes from, through all blocks (Abnar & Zuidema, 2020).

    Args: attention maps of blocks 1..L, float [B, M, T, T], rows summing to one.
    Returns: float [B, G, G], rows of (A + I) / 2 multiplied, heads averaged.
    """
    tokens = attentions[0].shape[-1]
    flow = jnp.broadcast_to(jnp.eye(tokens), (attentions[0].shape[0], tokens, tokens))
    for attention in attentions:
        flow = (attention.mean(axis=1) + jnp.eye(tokens)) / 2 @ flow
    row = flow[:, 0, num_special:]
    grid = grid_of(row.shape[-1])
    return row.reshape(-1, grid, grid)


def token_cka(a: jax.Array, b: jax.Array) -> jax.Array:
    """Linear CKA of two layers' tokens (Kornblith et al., 2019): 1 where equal up to rotation.

    Args: float [..., D] and [..., E] with the same leading axes; all tokens count as examples.
    Returns: float scalar in 0..1.
    """
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    a, b = (x - x.mean(axis=0) for x in (a, b))
    norms = jnp.linalg.norm(a.T @ a) * jnp.linalg.norm(b.T @ b)
    return jnp.sum(jnp.square(a.T @ b)) / norms
