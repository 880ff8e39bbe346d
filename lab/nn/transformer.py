"""A stack of pre-norm transformer blocks that hands out what is inside, by name.

In block i = 1..L, with x the tokens that enter it:

    q, k, v = qkv(norm1(x))     "q", "k", "v"; heads are consecutive channels
    H       = proj(attention)   "attn"
    H_res   = x + H             "attn_res"
    F       = mlp(norm2(H_res)) "ffn"
    x'      = H_res + F         "block"

The value of kind `attn` in block 4 is called "block4/attn". Only what the wanted names need is run:
no block after the last of them, and in that block nothing after the last kind.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lab.errors import require
from lab.nn import drop_path
from lab.nn.attention import Implementation, attend, check_heads
from lab.nn.linear import dot_rows

KINDS = ("q", "k", "v", "attn", "attn_res", "ffn", "block")
Wanted = Mapping[int, frozenset[str]]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the blocks, and how they are run.

    Attributes:
      block_heads: heads of each block where they differ (an adaptive last block); no parameter
        changes its shape with them. None: `num_heads` everywhere.
      layer_scale: initial value of a learned factor a channel on both branches; None: no factor.
      activation: "gelu" is the exact one (erf), "quick_gelu" x * sigmoid(1.702 x) (CLIP).
      drop_path_rate, drop_path_schedule: see `lab.nn.drop_path.drop_path_rates`.
      dtype: of activations; parameters and softmaxes are float32.
      scan: keep the blocks' parameters stacked along a leading axis and run equal blocks as one
        `lax.scan`: compiles in a fraction of the time. `stack_blocks` converts between layouts.
      remat: recompute a block's activations in the backward pass instead of keeping them.
      attention: "cudnn" for flash attention on an NVIDIA GPU; None leaves it to JAX.
    """

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    block_heads: tuple[int, ...] | None = None
    mlp_ratio: float = 4.0
    norm_epsilon: float = 1e-6
    layer_scale: float | None = None
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    drop_path_rate: float = 0.0
    drop_path_schedule: drop_path.Schedule = "linear"
    dtype: str = "float32"
    scan: bool = False
    remat: bool = False
    attention: Implementation | None = None

    def __post_init__(self) -> None:
        require(self.width >= 1 and self.depth >= 1, f"width and depth must be positive: {self}")
        require(
            len(self.heads) == self.depth,
            f"block_heads needs one number for each of {self.depth} blocks, got {self.block_heads}",
        )
        for num_heads in self.heads:
            check_heads(self.width, num_heads)
        drop_path.drop_path_rates(self.drop_path_rate, self.depth, self.drop_path_schedule)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of heads of each block."""
        return self.block_heads or (self.num_heads,) * self.depth

    @property
    def relative_rows(self) -> int:
        """Rows of each block's relative position table; 0 for none."""
        return 0

    def with_last_block_heads(self, num_heads: int) -> Self:
        """The same network whose last block has `num_heads` heads."""
        return dataclasses.replace(self, block_heads=(*self.heads[:-1], num_heads))


class Block(nn.Module):
    """One pre-norm block; see the top of the file."""

    config: TransformerConfig
    num_heads: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        kinds: frozenset[str] = frozenset({"block"}),
        noise: jax.Array | None = None,
        rate: jax.Array | float = 0.0,
        position_index: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Runs as far as `kinds` needs and returns the values of those kinds.

        Args:
          x: float [B, T, width]; noise, uniform float [2, B] of drop path, or None for none.
          position_index: int [T, T], rows of the relative position table.
        """
        config, width = self.config, self.config.width
        dtype = jnp.dtype(config.dtype)
        dense = functools.partial(
            nn.Dense,
            dtype=dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            dot_general=dot_rows,
        )
        norm = functools.partial(
            nn.LayerNorm, epsilon=config.norm_epsilon, dtype=dtype, use_fast_variance=False
        )
        found = {}

        def done(**values) -> bool:
            found.update(values)
            return kinds <= found.keys()

        def branch(y, order):
            if config.layer_scale is not None:
                init = nn.initializers.constant(config.layer_scale)
                y = y * self.param(f"gamma_{order + 1}", init, (width,)).astype(dtype)
            return y

        noises = (None, None) if noise is None else noise
        q, k, v = jnp.split(dense(3 * width, name="qkv")(norm(name="norm1")(x)), 3, axis=-1)
        if done(q=q, k=k, v=v):
            return {kind: found[kind] for kind in kinds}
        bias = self._relative_bias(position_index)
        mixed = attend(q, k, v, self.num_heads, bias=bias, implementation=config.attention)
        attn = branch(dense(width, name="proj")(mixed), 0)
        x = x + drop_path.drop_path(attn, noises[0], rate)
        if done(attn=attn, attn_res=x):
            return {kind: found[kind] for kind in kinds}
        hidden = dense(round(width * config.mlp_ratio), name="fc1")(norm(name="norm2")(x))
        ffn = branch(dense(width, name="fc2")(activate(hidden, config.activation)), 1)
        done(ffn=ffn, block=x + drop_path.drop_path(ffn, noises[1], rate))
        return {kind: found[kind] for kind in kinds}

    def _relative_bias(self, position_index):
        rows = self.config.relative_rows
        if rows == 0:
            return None
        table = self.param(
            "relative_position_bias_table", nn.initializers.zeros, (rows, self.num_heads)
        )
        return jnp.moveaxis(table[position_index], -1, 0)[None]


def activate(x: jax.Array, name: str) -> jax.Array:
    """The activation of the MLP: the exact GELU, or CLIP's approximation."""
    return jax.nn.gelu(x, approximate=False) if name == "gelu" else x * jax.nn.sigmoid(1.702 * x)


class Transformer(nn.Module):
    """A stack of blocks. Parameters: `0`, `1`, ... a block each, or with `scan` one `stacked`."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        wanted: Wanted,
        noise: jax.Array | None = None,
        position_index: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Runs the blocks that `wanted` needs.

        Args:
          x: float [B, T, width].
          wanted: kinds of values for each block that is asked, 1-based; see `parse_names`.
          noise: uniform float [L, 2, B] of drop path (`drop_path_noise`); None: none is dropped.
          position_index: int [T, T] where there are relative position tables.
        Returns: the values by name, "block<i>/<kind>".
        """
        config, found = self.config, {}
        params = self._parameters(position_index)
        if noise is not None and config.drop_path_rate == 0:
            noise = None
        rates = drop_path.drop_path_rates(
            config.drop_path_rate, config.depth, config.drop_path_schedule
        )
        for first, past in equal_runs(config, wanted):
            kinds = wanted.get(past, frozenset({"block"}))
            follows = past < max(wanted)
            run = self._block_fn(first, kinds | {"block"} if follows else kinds, position_index)
            noises = None if noise is None else noise[first:past]
            if past == first + 1:
                noises = None if noises is None or rates[first] == 0 else noises[0]
                out = run(self._pick(params, first), x, noises, float(rates[first]))
            else:
                layers = jax.tree.map(operator.itemgetter(slice(first, past)), params)
                rate = jnp.asarray(rates[first:past], jnp.float32)
                out = {"block": scan_blocks(run, x, (layers, noises, rate))}
            found |= {f"block{past}/{kind}": out[kind] for kind in wanted.get(past, ())}
            x = out.get("block", x)
        return found

    def _parameters(self, position_index) -> Any:
        """The stacked parameters, or a list of one tree a block."""
        config = self.config
        example = jnp.zeros((1, 1 if position_index is None else len(position_index), config.width))

        def init_block(key, num_heads):
            block = Block(config, num_heads, parent=None)
            return block.init(key, example, position_index=position_index)["params"]

        def init_stacked(key):
            keys = jax.random.split(key, config.depth)
            return jax.vmap(lambda k: init_block(k, config.num_heads))(keys)

        if config.scan:
            return self._declared("stacked", init_stacked)
        return [
            self._declared(str(i), functools.partial(init_block, num_heads=num_heads))
            for i, num_heads in enumerate(config.heads)
        ]

    def _declared(self, name: str, init) -> Any:
        # `param` alone would trace the initialiser again at every application.
        if self.has_variable("params", name):
            return self.get_variable("params", name)
        return self.param(name, init)

    def _pick(self, params: Any, block: int) -> Any:
        if self.config.scan:
            return jax.tree.map(operator.itemgetter(block), params)
        return params[block]

    def _block_fn(self, index: int, kinds: frozenset[str], position_index):
        block = Block(self.config, self.config.heads[index], parent=None)

        def run(params, x, noise, rate) -> Any:
            return block.apply({"params": params}, x, kinds, noise, rate, position_index)

        return jax.checkpoint(run) if self.config.remat else run


def scan_blocks(run: Any, x: jax.Array, layers: Any) -> jax.Array:
    """Runs blocks one after the other as one loop; `layers` has their inputs stacked."""

    def body(x, layer):
        params, noise, rate = layer
        return run(params, x, noise, rate)["block"], None

    return jax.lax.scan(body, x, layers)[0]


def equal_runs(config: TransformerConfig, wanted: Wanted) -> list[tuple[int, int]]:
    """The blocks to run, cut into [first, past) ranges, 0-based, that may run as one scan.

    A range ends where heads change, where a block's output is wanted, and around blocks of which
    more than the output is.
    """
    runs, last, plain = [], max(wanted), frozenset({"block"})
    for block in range(last):
        joins = (
            config.scan
            and block > 0
            and config.heads[block] == config.heads[block - 1]
            and not wanted.get(block)
            and wanted.get(block + 1, plain) == plain
        )
        if joins:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return runs


def parse_names(names: tuple[str, ...], depth: int) -> dict[int, frozenset[str]]:
    """The kinds wanted of each block, 1-based, from names such as "block4/q".

    Raises: InvalidInputError for an unknown name or a block outside 1..depth.
    """
    wanted: dict[int, frozenset[str]] = {}
    for name in names:
        block, _, kind = name.partition("/")
        number = block.removeprefix("block")
        known = block.startswith("block") and number.isdigit() and kind in KINDS
        require(known, f"unknown name {name!r}: expected block<i>/<kind>, kind in {KINDS}")
        require(1 <= int(number) <= depth, f"{name!r}: the network has blocks 1..{depth}")
        wanted[int(number)] = wanted.get(int(number), frozenset()) | {kind}
    return wanted


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters `{"0": ..., "1": ...}` -> `{"stacked": ...}`, the layout of `scan=True`."""
    layers = [params[str(i)] for i in range(len(params))]
    return {"stacked": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def unstack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_blocks`."""
    stacked = params["stacked"]
    depth = len(jax.tree.leaves(stacked)[0])
    return {str(i): jax.tree.map(operator.itemgetter(i), stacked) for i in range(depth)}
