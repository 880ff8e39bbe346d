"""Low-rank adapters (Hu et al., 2022): only small factors of chosen matrices are trained."""

import dataclasses

import jax
import jax.numpy as jnp

from lab.errors import require
from lab.nn.decoder import DecoderConfig, Params

PARTS = ("q", "k", "v", "proj")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """W' = W + (alpha / rank) A B, A [in, rank] random, B [rank, out] zero at first.

    Attributes: parts, of the attention that get adapters: "q", "k", "v", "proj".
    """

    rank: int = 8
    alpha: float = 16.0
    parts: tuple[str, ...] = ("q", "v")

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rank must be at least 1, got {self.rank}")
        unknown = set(self.parts) - set(PARTS)
        require(not unknown and bool(self.parts), f"parts are {self.parts}; accepted: {PARTS}")


def init_lora(config: DecoderConfig, lora: LoraConfig, key: jax.Array) -> Params:
    """The adapters, stacked over the blocks: {part: {"a" [L, in, rank], "b" [L, rank, out]}}."""
    widths = _widths(config)
    adapters = {}
    for part, part_key in zip(lora.parts, jax.random.split(key, len(lora.parts)), strict=True):
        fan_in, fan_out = widths[part]
        shape = (config.num_layers, fan_in, lora.rank)
        a = jax.random.normal(part_key, shape, jnp.float32) / jnp.sqrt(fan_in)
        adapters[part] = {"a": a, "b": jnp.zeros((config.num_layers, lora.rank, fan_out))}
    return adapters


def with_lora(config: DecoderConfig, lora: LoraConfig, params: Params, adapters: Params) -> Params:
    """The parameters with the adapters added in; no gradient reaches the parameters themselves.

    Args: params with stacked blocks. The result serves training, and export, alike.
    """
    params = jax.lax.stop_gradient(params)
    deltas = {
        part: lora.alpha / lora.rank * jnp.einsum("lir,lro->lio", factors["a"], factors["b"])
        for part, factors in adapters.items()
    }
    blocks = dict(params["blocks"])
    if "proj" in deltas:
        blocks["proj"] = _plus(blocks["proj"], deltas["proj"])
    columns = dict(zip(("q", "k", "v"), config.qkv_widths, strict=True))
    if set(columns) & set(deltas):
        shape = blocks["qkv"]["kernel"].shape[:2]
        delta = [deltas.get(part, jnp.zeros((*shape, n))) for part, n in columns.items()]
        blocks["qkv"] = _plus(blocks["qkv"], jnp.concatenate(delta, axis=-1))
    return params | {"blocks": blocks}


def _plus(layer: Params, delta: jax.Array) -> Params:
    return layer | {"kernel": layer["kernel"] + delta}


def _widths(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    queries, keys, values = config.qkv_widths
    parts = {"q": queries, "k": keys, "v": values}
    return {p: (config.width, n) for p, n in parts.items()} | {"proj": (queries, config.width)}
