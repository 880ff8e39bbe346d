"""Public checkpoints of GPT-2 and Llama, and GGUF files, to decoder parameters and back."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from lab.errors import CorruptFileError, DataError, require
from lab.interop import Rule, Transform, to_state_dict, to_variables
from lab.interop.gguf_files import GGUFFile
from lab.nn.decoder import DecoderConfig, Params

GPT2_IGNORED = ("*.attn.bias", "*.attn.masked_bias", "lm_head.weight")
_PREFIXES = ("transformer.", "model.")
# GGUF's name of each tensor -> the checkpoint's.
GGUF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """The names of a checkpoint (without a prefix) <-> those of `lab.nn.decoder`."""
    return _gpt2_rules() if config.architecture == "gpt2" else _llama_rules(config)


def _gpt2_rules() -> tuple[Rule, ...]:
    layers = {
        "ln_1": "norm1",
        "attn.c_attn": "qkv",
        "attn.c_proj": "proj",
        "ln_2": "norm2",
        "mlp.c_fc": "fc1",
        "mlp.c_proj": "fc2",
    }
    found = [Rule("wte.weight", "embed"), Rule("wpe.weight", "positions")]
    for official, ours in layers.items():
        weight = "scale" if ours.startswith("norm") else "kernel"  # GPT-2 stores [in, out]
        for theirs, name in (("weight", weight), ("bias", "bias")):
            source, target = f"h.{{i}}.{official}.{theirs}", f"blocks/{ours}/{name}"
            found.append(Rule(source, target, stack="i"))
    found += [Rule("ln_f.weight", "norm/scale"), Rule("ln_f.bias", "norm/bias")]
    return tuple(found)


def _llama_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    def layer(names, target, widths=None):
        sources = [f"layers.{{i}}.{name}.weight" for name in names]
        transform = "linear" if widths is None else _side_by_side(widths)
        source = tuple(sources) if len(sources) > 1 else sources[0]
        return Rule(source, target, transform, stack="i")

    attention = [f"self_attn.{x}_proj" for x in "qkv"]
    found = [
        Rule("embed_tokens.weight", "embed"),
        Rule("layers.{i}.input_layernorm.weight", "blocks/norm1/scale", stack="i"),
        layer(attention, "blocks/qkv/kernel", config.qkv_widths),
        layer(["self_attn.o_proj"], "blocks/proj/kernel"),
        Rule("layers.{i}.post_attention_layernorm.weight", "blocks/norm2/scale", stack="i"),
        layer(["mlp.gate_proj", "mlp.up_proj"], "blocks/gate_up/kernel", (config.mlp_width,) * 2),
        layer(["mlp.down_proj"], "blocks/down/kernel"),
        Rule("norm.weight", "norm/scale"),
    ]
    if not config.is_tied:
        found.append(Rule("lm_head.weight", "head/kernel", "linear"))
    return tuple(found)


def _side_by_side(widths: tuple[int, ...]) -> Transform:
    """Several [out, in] matrices <-> one [in, outs], side by side."""
    cuts = np.cumsum(widths)[:-1]

    def join(*matrices):
        return np.concatenate([matrix.T for matrix in matrices], axis=1)

    def split(kernel):
        return tuple(part.T for part in np.split(kernel, cuts, axis=1))

    return Transform(join, split)


def from_official(state_dict: Mapping[str, Any], config: DecoderConfig) -> Params:
    """Decoder parameters, float32, blocks stacked, of a checkpoint with the public names.

    Names may begin with `transformer.` (GPT-2) or `model.` (Llama); causal masks are skipped, and
    so is `lm_head.weight` where the output is tied.

    Raises: InvalidInputError listing names that are missing, unknown or of another shape.
    """
    bare = {_bare(name): name for name in state_dict}
    named = {name: np.asarray(state_dict[original], np.float32) for name, original in bare.items()}
    ignored = GPT2_IGNORED if config.architecture == "gpt2" else ("*.rotary_emb.inv_freq",)
    if config.is_tied:
        ignored = (*ignored, "lm_head.weight")
    template = {"params": _shapes(config)}
    return to_variables(named, rules(config), ignore=ignored, template=template)["params"]


def to_official(params: Params, config: DecoderConfig, *, prefix: str = "") -> dict[str, Any]:
    """The checkpoint of parameters with stacked blocks; inverse of `from_official`.

    Args: prefix, put before every name but `lm_head.weight` ("model." as Llama's files have it).
    """
    state = to_state_dict({"params": params}, rules(config))
    return {name if name.startswith("lm_head") else prefix + name: x for name, x in state.items()}


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


@functools.cache
def _shapes(config: DecoderConfig):
    import jax

    from lab.nn.decoder import init_params

    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


def config_of_gguf(file: GGUFFile) -> DecoderConfig:
    """The configuration that a GGUF file of a Llama describes.

    Raises: DataError for another architecture, CorruptFileError for a missing key.
    """
    architecture = file.required("general.architecture")
    is_llama = architecture == "llama"
    require(is_llama, f"{file.path} is a {architecture!r}; supported: 'llama'", DataError)

    def value(name, default=None):
        key = f"llama.{name}"
        return file.required(key) if default is None else file.metadata.get(key, default)

    width, num_heads = int(value("embedding_length")), int(value("attention.head_count"))
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    vocab_size = value("vocab_size", len(tokens) if tokens else 0)
    require(vocab_size > 0, f"{file.path} lacks the key llama.vocab_size", CorruptFileError)
    require(num_heads > 0, f"{file.path} has {num_heads} heads", CorruptFileError)
    return DecoderConfig(
        architecture="llama",
        vocab_size=int(vocab_size),
        context=int(value("context_length")),
        width=width,
        num_layers=int(value("block_count")),
        num_heads=num_heads,
        num_kv_heads=int(value("attention.head_count_kv", num_heads)),
        head_dim=int(value("rope.dimension_count", width // num_heads)),
        ffn_width=int(value("feed_forward_length")),
        norm_epsilon=float(value("attention.layer_norm_rms_epsilon")),
        rope_theta=float(value("rope.freq_base", 10000.0)),
        is_tied="output.weight" not in file,
    )


def state_dict_of_gguf(file: GGUFFile, config: DecoderConfig) -> dict[str, np.ndarray]:
    """Dequantised tensors under the checkpoint's names, q and k rows in half-split order.

    Raises: CorruptFileError for missing tensors or other shapes than the configuration's.
    """
    expected = _gguf_shapes(config)
    missing = sorted(set(expected) - set(file))
    require(not missing, f"{file.path} lacks the tensors {missing[:4]}", CorruptFileError)
    state = {}
    for name, shape in expected.items():
        found = file.tensors[name].shape
        require(
            found == shape,
            f"{file.path}: {name} has shape {found}, its metadata says {shape}",
            CorruptFileError,
        )
        array = file[name]
        if ".attn_q." in name:
            array = half_split_rows(array, config.num_heads)
        elif ".attn_k." in name:
            array = half_split_rows(array, config.kv_heads)
        state[_official_name(name)] = array
    return state


def from_gguf(file: GGUFFile) -> tuple[DecoderConfig, Params]:
    """Configuration and parameters (float32, blocks stacked) of a Llama in a GGUF file.

    Raises: as `config_of_gguf` and `state_dict_of_gguf`.
    """
    config = config_of_gguf(file)
    return config, from_official(state_dict_of_gguf(file, config), config)


def half_split_rows(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows [out, in] ordered for rotary pairs (2j, 2j + 1), as GGUF has them, to (j, j + d / 2)."""
    out, fan_in = rows.shape
    pairs = rows.reshape(num_heads, out // num_heads // 2, 2, fan_in)
    return pairs.swapaxes(1, 2).reshape(out, fan_in)


def _official_name(name: str) -> str:
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, block, kind, rest = name.split(".")
    return f"model.layers.{block}.{GGUF_NAMES[kind]}.{rest}"


def _gguf_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    width, hidden = config.width, config.mlp_width
    queries, keys, _ = config.qkv_widths
    block = {
        "attn_norm": (width,),
        "attn_q": (queries, width),
        "attn_k": (keys, width),
        "attn_v": (keys, width),
        "attn_output": (width, queries),
        "ffn_norm": (width,),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    shapes = {"token_embd.weight": (config.vocab_size, width), "output_norm.weight": (width,)}
    if not config.is_tied:
        shapes["output.weight"] = (config.vocab_size, width)
    for i in range(config.num_layers):
        shapes |= {f"blk.{i}.{kind}.weight": shape for kind, shape in block.items()}
    return shapes


def with_dtype(config: DecoderConfig, params: Params, dtype: str) -> tuple[DecoderConfig, Params]:
    """Configuration and parameters for decoding in another precision ("bfloat16")."""
    import jax

    cast = jax.tree.map(lambda x: x.astype(dtype), params)
    return dataclasses.replace(config, dtype=dtype), cast
