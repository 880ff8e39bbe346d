"""Token relations: how every token of a block looks at every other (paper, sec. 3.2).

Dimension letters: B batch, T tokens, M heads, d width of a head.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from lab.errors import require
from lab.nn.attention import split_heads

RELATIONS = ("qk", "vv", "qq", "kk")
RelationLoss = Callable[[jax.Array, jax.Array], jax.Array]


def relation_logits(a: jax.Array, b: jax.Array) -> jax.Array:
    """Scaled products of all pairs of tokens, a b^T / sqrt(d).

    Args: a, b float [B, M, T, d], each network with its own d.
    Returns: float32 [B, M, T, T]; a softmax over the last axis makes them the relation R^ab (for
      queries and keys, the attention map).
    """
    product = jnp.einsum("bmqd,bmkd->bmqk", a, b, preferred_element_type=jnp.float32)
    return product * a.shape[-1] ** -0.5


def token_relations(
    tokens: Mapping[str, jax.Array],
    num_heads: int,
    kinds: Sequence[str] = ("qk", "vv"),
    *,
    include_cls: bool = True,
) -> dict[str, jax.Array]:
    """The relation logits of one block.

    Args:
      tokens: "q", "k", "v" float [B, T, M * d] as the block makes them ("block<i>/q" ...).
      kinds: of RELATIONS.
      include_cls: False leaves out the first token's row and column (before the softmax).
    Returns: kind -> float32 [B, M, T, T].
    """
    heads = {
        name: split_heads(x if include_cls else x[:, 1:], num_heads) for name, x in tokens.items()
    }
    return {kind: relation_logits(heads[kind[0]], heads[kind[1]]) for kind in kinds}


def relation_losses(
    teacher: Mapping[str, jax.Array],
    student: Mapping[str, jax.Array],
    num_heads: int,
    kinds: Sequence[str],
    loss: RelationLoss,
    *,
    include_cls: bool = True,
    heads_at_once: int | None = None,
) -> dict[str, jax.Array]:
    """Head by head, the distance of the student's relations from the teacher's.

    Args:
      teacher, student: "q", "k", "v" float [B, T, width], each of its own width.
      num_heads: of both; head m of the student is held against head m of the teacher.
      loss: (teacher logits, student logits) -> float [B, M]; see `losses.relation_kl`.
      heads_at_once: make and differentiate the T x T maps for so many heads at a time, and again
        in the backward pass, to save memory; must divide num_heads. None: all at once.
    Returns: kind -> float [B, M].
    """

    def of(teacher, student, count):
        maps = [
            token_relations(x, count, kinds, include_cls=include_cls) for x in (teacher, student)
        ]
        return {kind: loss(maps[0][kind], maps[1][kind]) for kind in kinds}

    if heads_at_once is None or heads_at_once == num_heads:
        return of(teacher, student, num_heads)
    require(
        heads_at_once >= 1 and num_heads % heads_at_once == 0,
        f"heads_at_once must divide the {num_heads} heads, got {heads_at_once}",
    )
    count = num_heads // heads_at_once
    parts = [
        # heads are consecutive channels, so consecutive channels are groups of heads
        {name: jnp.stack(jnp.split(x, count, axis=-1)) for name, x in tokens.items()}
        for tokens in (teacher, student)
    ]
    groups = jax.lax.map(
        jax.checkpoint(lambda pair: of(pair[0], pair[1], heads_at_once)), tuple(parts)
    )
    return {kind: jnp.concatenate(list(values), axis=-1) for kind, values in groups.items()}
