"""Drums: tokenizers, decoders, GGUF files, sampling, and SmolLM2's real weights."""

import functools
import gzip
import hashlib
import json
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lab.data import catalogue
from lab.errors import DatasetNotFoundError
from lab.interop import gguf_files
from lab.nn import decoder, sampling
from lab.nn.decoder import DecoderConfig
from lab.nn.generation import NEVER, generate
from lab.papers.drums import convert, losses, tokenizers
from lab.papers.drums.rows import read_rows
from lab.papers.drums.steps import optimizer

F32 = np.float32


def bpe_tokenizer(entry):
    config = entry.config
    with gzip.open(entry.other_file("merges"), "rt", encoding="utf-8") as file:
        merges = [tuple(line.rstrip("\n").split(" ")) for line in file]
    assert len(merges) == config["num_merges"]
    if config["special_ids_first"]:
        known = json.loads(entry.other_file("specials_and_singles").read_text(encoding="utf-8"))
        assert known["specials"] == config["special_tokens"]
        assert config["unknown_bytes"] == "drop"
        tokenizer = tokenizers.smollm2_tokenizer(merges, known["specials"], known["singles"])
    else:
        tokenizer = tokenizers.gpt2_tokenizer(merges)
    assert tokenizer.vocab_size == config["vocab_size"]
    found = {}
    for i, row in enumerate(entry.arrays[""]):
        found[f"{i}/ids"] = tokenizer.encode(row["text"])
        found[f"{i}/decoded"] = tokenizer.decode(row["ids"])
    return found


def bpe_training(entry):
    config = entry.config
    rows = {row.name: row for row in _rows(entry)}
    texts = [rows[name].prompt + rows[name].completion for name in entry.other("names")]
    texts += entry.other("extra")
    learned = tokenizers.train_bpe(texts, config["num_merges"], min_count=config["min_count"])
    tokenizer = learned.tokenizer()
    checks = {key: entry.arrays[key] for key in entry.arrays if key.endswith("/text")}
    ids = {key[: -len("text")] + "ids": tokenizer.encode(text) for key, text in checks.items()}
    return {"merges": [list(merge) for merge in learned.merges], **ids}


def decoder_config(config) -> DecoderConfig:
    names = ("architecture", "vocab_size", "context", "width")
    return DecoderConfig(
        **{name: config[name] for name in names},
        num_layers=config["layers"],
        num_heads=config["heads"],
        num_kv_heads=config["kv_heads"],
        head_dim=config["head_dim"],
        ffn_width=config["ffn"],
        norm_epsilon=config["norm_eps"],
        rope_theta=config.get("rope_theta") or 10000.0,
        is_tied=config["tied"],
    )


def _prefixed(arrays, prefix):
    return {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}


def _params(entry, config):
    return convert.from_official(_prefixed(entry.arrays, "param/"), config)


@functools.partial(jax.jit, static_argnames="config")
def _states(config, params, ids, segments, positions):
    options = {"segments": segments, "positions": positions, "every_block": True}
    states = decoder.hidden_states(config, params, ids, **options)
    return states, decoder.logits_of(params, states[-1])


def decoder_forward(entry):
    config = decoder_config(entry.config)
    assert decoder.num_parameters(config) == entry.config["num_parameters"]
    params, arrays = _params(entry, config), entry.arrays
    ids = arrays["input/ids"]
    run = functools.partial(_states, config, params)
    states, logits = run(ids, np.ones_like(ids), np.arange(ids.shape[1])[None])
    found = {f"output/hidden_{i}": np.asarray(x) for i, x in enumerate(states)}
    found["output/logits"] = np.asarray(logits)
    for side in ("right", "left"):
        mask = arrays[f"input/mask_{side}"]
        positions = arrays.get(f"input/position_ids_{side}", np.arange(mask.shape[1])[None])
        if side == "left":
            assert np.array_equal(positions, decoder.positions_of(jnp.asarray(mask)))
        _, logits = run(arrays[f"input/ids_{side}"], mask, positions)
        found[f"output/logits_{side}"] = np.asarray(logits) * mask[..., None]
    return found


def _right_padded(arrays):
    ids = arrays["input/ids_right"]
    lengths = [jnp.asarray(arrays[f"input/{name}"]) for name in ("prompt_len", "length")]
    return {
        "ids": jnp.asarray(ids),
        "segments": jnp.asarray(arrays["input/mask_right"]),
        "positions": jnp.arange(ids.shape[1])[None],
        **losses.target_masks(*lengths, ids.shape[1]),
    }


@functools.partial(jax.jit, static_argnames="config")
def _loss_and_gradient(config, params, batch, prompt_weight):
    def loss(params):
        options = {"prompt_weight": prompt_weight}
        return losses.prompt_weighted_loss(config, params, {}, batch, **options)[0]

    return jax.value_and_grad(loss)(params)


def prompt_weighted_loss(entry):
    config, arrays = decoder_config(entry.config), entry.arrays
    params, batch = _params(entry, config), _right_padded(arrays)
    found = {}
    for weight in entry.config["prompt_weights"]:
        loss, gradient = _loss_and_gradient(config, params, batch, weight)
        found[f"output/loss_prompt_weight_{weight}"] = np.asarray(loss)
        if weight == entry.config["grad_prompt_weight"]:
            named = convert.to_official(gradient, config)
            found |= _as_in_file(entry, "grad/", named)
    nll = jax.jit(losses.completion_nll, static_argnums=0)(config, params, batch)
    weights = batch["completion"] + entry.config["nll_prompt_weight"] * batch["prompt"]
    found["output/nll"] = np.asarray(nll * weights[:, 1:])
    return found


def _as_in_file(entry, prefix, named):
    """Our names (without a prefix) under the file's, which may have one."""
    bare = {convert._bare(key.removeprefix(prefix)): key for key in _keys(entry, prefix)}
    return {bare[name]: value for name, value in named.items()}


def _keys(entry, prefix):
    return [key for key in entry.expected if key.startswith(prefix)]


def greedy_decoding(entry):
    config, arrays, pad = decoder_config(entry.config), entry.arrays, entry.config["pad_id"]
    params, number = _params(entry, config), entry.config["max_new_tokens"]

    def run(ids, mask, end_id=NEVER):
        rows = len(ids)
        return generate(
            config,
            params,
            jnp.asarray(ids),
            jnp.asarray(mask, bool),
            jax.random.split(jax.random.key(0), rows),
            sampling.sampling(rows, temperature=0.0),
            max_new_tokens=number,
            end_id=jnp.int32(end_id),
            pad_id=pad,
            cache_step=9,
            keep_logits=True,
        )

    ids = arrays["input/ids"]
    plain = run(ids, np.ones_like(ids))
    left = run(arrays["input/ids_left"], arrays["input/mask_left"])
    ended = run(ids, np.ones_like(ids), int(arrays["input/eos"]))
    return {
        "output/greedy_tokens": np.asarray(plain.tokens),
        "output/greedy_logits": np.asarray(plain.logits),
        "output/greedy_left_tokens": np.asarray(left.tokens),
        "output/greedy_left_logits": np.asarray(left.logits),
        "output/greedy_tokens_eos": np.asarray(ended.tokens),
    }


def _tx(train, rate):
    assert train["optimizer"] == "adamw"
    assert (train["b1"], train["b2"], train["eps"]) == (0.9, 0.95, 1e-8)
    return optimizer(rate, weight_decay=train["weight_decay"], clip_norm=train["clip_global_norm"])


def decoder_training(entry):
    config, arrays, train = decoder_config(entry.config), entry.arrays, entry.config["train"]
    rates = jnp.asarray(arrays[train["lrs_key"]])
    tx = _tx(train, lambda step: rates[step])
    params = _params(entry, config)
    batch = _right_padded(arrays)
    update, state, losses_, norms = _update_of(tx), jax.jit(tx.init)(params), [], []
    for _ in range(train["steps"]):
        loss, gradient = _loss_and_gradient(config, params, batch, train["prompt_weight"])
        losses_.append(float(loss))
        norms.append(float(optax.tree.norm(gradient)))
        params, state = update(gradient, state, params)
    return {
        "train/losses": np.array(losses_, F32),
        "train/grad_norms_before_clip": np.array(norms, F32),
        **_as_in_file(entry, "train/param_after/", convert.to_official(params, config)),
    }


def gguf_dequantise(entry):
    kind = entry.config["type"]
    return {f"output/{kind}": gguf_files.dequantise(entry.other("bytes"), kind)}


def gguf_model(entry):
    config, wanted = decoder_config(entry.config), entry.config
    file = gguf_files.open_gguf(entry.folder / entry.file)
    found_config, params = convert.from_gguf(file)
    for name in ("norm_epsilon", "rope_theta"):
        assert getattr(found_config, name) == pytest.approx(getattr(config, name), rel=1e-6)
    comparable = {name: getattr(config, name) for name in ("norm_epsilon", "rope_theta")}
    assert found_config.__class__(**(vars(found_config) | comparable)) == config
    assert len(file) == wanted["num_tensors"]
    kinds = {tensor.kind for tensor in file.tensors.values() if len(tensor.shape) > 1}
    assert kinds == {*wanted["weight_types"], wanted["embedding_type"]}
    tokenizer = tokenizers.tokenizer_of_gguf(file.metadata)
    prompt = str(entry.arrays["input/prompt"])
    ids = jnp.asarray([tokenizer.encode(prompt)], jnp.int32)
    logits = jax.jit(decoder.apply, static_argnums=0)(found_config, params, ids)
    greedy = _greedy(found_config, params, ids, wanted["new_tokens"])
    state = convert.state_dict_of_gguf(file, found_config)
    expected = {convert._bare(key.removeprefix("param/")): key for key in _keys(entry, "param/")}
    return {
        **{expected[convert._bare(name)]: array for name, array in state.items()},
        "input/ids": np.asarray(ids).reshape(entry.arrays["input/ids"].shape),
        "output/logits": np.asarray(logits).reshape(entry.arrays["output/logits"].shape),
        "output/greedy_tokens": greedy,
    }


def _greedy(config, params, ids, number, **options):
    keys = jax.random.split(jax.random.key(0), 1)
    settings = sampling.sampling(1, temperature=0.0)
    mask = jnp.ones(ids.shape, bool)
    out = generate(config, params, ids, mask, keys, settings, max_new_tokens=number, **options)
    return np.asarray(out.tokens)


def sampling_filter(entry):
    config = entry.config
    assert config["order"] == ["temperature", "top_k", "top_p", "softmax"]
    logits = jnp.asarray(entry.arrays["input/logits"])
    names = ("temperature", "top_k", "top_p")
    given = {name: config[name] for name in names if config[name] is not None}
    settings = sampling.sampling(len(logits), **({"temperature": 1.0} | given))
    (key,) = entry.expected
    return {key: np.asarray(jax.nn.softmax(sampling.filtered(logits, settings)))}


@functools.cache
def _smollm2(path, sha256):
    with open(path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return gguf_files.open_gguf(path)


@functools.cache
def _smollm2_model(path, sha256):
    file = _smollm2(path, sha256)
    return (*convert.from_gguf(file), tokenizers.tokenizer_of_gguf(file.metadata))


def _smollm2_place(entry):
    try:
        path = catalogue.locate("smollm2")
    except DatasetNotFoundError as error:
        pytest.skip(str(error))
    assert path.name == entry.config["gguf"]["file"]
    return path, entry.config["gguf"]["sha256"]


def _smollm2_of(entry):
    config, params, tokenizer = _smollm2_model(*_smollm2_place(entry))
    expected = decoder_config(entry.config["model"])
    assert (config.width, config.num_layers) == (expected.width, expected.num_layers)
    return config, params, tokenizer


def smollm2_tensors(entry):
    file = _smollm2(*_smollm2_place(entry))
    assert len(file) == entry.config["num_tensors"]
    names = [str(name) for name in entry.arrays["names"]]
    assert list(file) == names
    rows, found = entry.other("slice_rows"), {"names": np.array(names)}
    sums, squares, heads, tails, shapes = [], [], [], [], []
    config = convert.config_of_gguf(file)
    for name in names:
        tensor, values = file.tensors[name], file[name]
        sums.append(values.sum(dtype=np.float64))
        squares.append(np.square(values, dtype=np.float64).sum())
        heads.append(values.ravel()[:8])
        tails.append(values.ravel()[-8:])
        sizes = tensor.shape[::-1]
        shapes.append((*sizes, 0)[:2])
        if f"slice/{name}" in entry.expected:
            is_vector = values.ndim == 1
            found[f"slice/{name}"] = values if is_vector else values[rows[name]]
        if f"raw/{name}" in entry.expected:
            raw = np.ascontiguousarray(tensor.data).view(np.uint8).ravel()
            found[f"raw/{name}"] = raw[: entry.config["raw_bytes"]]
        if f"hf_rows/{name}" in entry.expected:
            heads_of = config.num_heads if "attn_q" in name else config.kv_heads
            found[f"hf_rows/{name}"] = convert.half_split_rows(values, heads_of)[rows[name]]
    kinds, offsets = zip(*((t.kind, t.offset) for t in file.tensors.values()), strict=True)
    stacked = {"types": kinds, "offsets": offsets, "sum": sums, "sumsq": squares}
    stacked |= {"head8": heads, "tail8": tails, "shapes_ggml": shapes}
    return found | {name: np.array(values) for name, values in stacked.items()}


def smollm2_logits(entry):
    config, params, tokenizer = _smollm2_of(entry)
    arrays, wanted = entry.arrays, entry.config
    ids = jnp.asarray([tokenizer.encode(str(arrays["prompt"]))], jnp.int32)
    ones = jnp.ones_like(ids)
    states, logits = _states(config, params, ids, ones, jnp.arange(ids.shape[1])[None])
    logits = np.asarray(logits[0])
    found = {f"hidden_{i}_last": np.asarray(states[i][0, -1]) for i in wanted["hidden_layers"]}
    found["hidden_1_all_first16"] = np.asarray(states[1][0, :, :16])
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :9]
    top = np.take_along_axis(logits, order, axis=-1)
    # Where neighbours are closer than rounding, their order says nothing.
    clear = np.diff(-top, axis=-1) > 4e-3
    is_sure = clear & np.concatenate([np.ones((len(top), 1), bool), clear[:, :-1]], axis=1)
    number = wanted["new_tokens"]
    greedy = _greedy(config, params, ids, number).ravel()
    margins = arrays["greedy_margin"].ravel()
    unsure = np.cumsum(margins < wanted["margin"]) > 0
    found |= {
        "ids": np.asarray(ids).reshape(arrays["ids"].shape),
        "last_logits": logits[-1],
        "logsumexp": np.asarray(jax.nn.logsumexp(jnp.asarray(logits), axis=-1)),
        "top8_logits": top[:, :8],
        "top8_ids": np.ma.array(order[:, :8], mask=~is_sure),
        "greedy_ids": np.ma.array(greedy, mask=unsure),
    }
    return {name: value for name, value in found.items() if name in entry.expected}


def _rows(entry):
    data = entry.config["data"]
    with tarfile.open(entry.data_path(data["rows"])) as archive:
        return read_rows(archive.extractfile(data["member"]).read().decode())


def _sequence(entry, tokenizer):
    config = entry.config
    (row,) = (row for row in _rows(entry) if row.name == config["row_name"])
    prompt = tokenizer.encode(row.prompt)
    assert len(prompt) == config["num_prompt_tokens"]
    completion = tokenizer.encode(row.completion)[: config["num_completion_tokens"]]
    return np.array(prompt + completion, np.int32), len(prompt)


def _batch(ids, prompt_length):
    ids = jnp.asarray(ids)[None]
    lengths = jnp.array([prompt_length]), jnp.array([ids.shape[1]])
    return {
        "ids": ids,
        "segments": jnp.ones_like(ids),
        "positions": jnp.arange(ids.shape[1])[None],
        **losses.target_masks(*lengths, ids.shape[1]),
    }


def smollm2_nll(entry):
    config, params, tokenizer = _smollm2_of(entry)
    ids, prompt_length = _sequence(entry, tokenizer)
    nll = jax.jit(losses.completion_nll, static_argnums=0)(
        config, params, _batch(ids, prompt_length)
    )
    return {"ids": ids, "token_nll": np.asarray(nll[0])}


def smollm2_finetune(entry):
    config, params, tokenizer = _smollm2_of(entry)
    train = entry.config["train"]
    ids, prompt_length = _sequence(entry, tokenizer)
    batch = _batch(ids, prompt_length)
    tx = _tx(train, train["lr"])
    update = _update_of(tx)
    params = jax.tree.map(jnp.array, params)
    state, losses_, norms, first = tx.init(params), [], [], None
    for _ in range(train["steps"]):
        loss, gradient = _loss_and_gradient(config, params, batch, train["prompt_weight"])
        losses_.append(float(loss))
        norms.append(float(optax.tree.norm(gradient)))
        if first is None:
            named = convert.to_official(gradient, config, prefix="model.")
            bare = {convert._bare(name): np.linalg.norm(g.ravel()) for name, g in named.items()}
            first = [bare[convert._bare(str(n))] for n in entry.other("grad0_names")]
        params, state = update(gradient, state, params)
    return {"losses": np.array(losses_), "grad_norms": np.array(norms), "grad0_norms": first}


def _update_of(tx):
    @functools.partial(jax.jit, donate_argnums=1)
    def update(gradient, state, params):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return update


KINDS = {
    "bpe_tokenizer": bpe_tokenizer,
    "bpe_training": bpe_training,
    "decoder_forward": decoder_forward,
    "prompt_weighted_loss": prompt_weighted_loss,
    "greedy_decoding": greedy_decoding,
    "decoder_training": decoder_training,
    "gguf_dequantise": gguf_dequantise,
    "gguf_model": gguf_model,
    "sampling_filter": sampling_filter,
    "smollm2_tensors": smollm2_tensors,
    "smollm2_logits": smollm2_logits,
    "smollm2_nll": smollm2_nll,
    "smollm2_finetune": smollm2_finetune,
}
