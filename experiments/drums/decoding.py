"""How fast prompts are continued, and how near to what the memory allows."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.drums import Pretrained
from experiments.speed import SpeedCase
from lab.nn.decoder import DecoderConfig, decode, init_params, logits_of, prefill
from lab.nn.generation import generate
from lab.nn.sampling import draw, sampling
from lab.papers import drums

REPEATS = 3
TURNS = 5


def read_bandwidth(num_bytes: int = 1 << 28) -> float:
    """Bytes a second at which this machine reads an array far larger than its private caches."""
    data = jnp.ones(num_bytes // 4, jnp.float32)
    total = jax.jit(lambda x: x.reshape(64, -1).sum(axis=1))
    total(data).block_until_ready()
    return num_bytes / _best_seconds(lambda: total(data), repeats=4)


def decoding_speed(model: drums.DrumModel, setup: Pretrained, prompts: list[str]) -> dict:
    """Tokens a second at several batch sizes, and the share of the bandwidth used at batch 1.

    Weights are bfloat16; every prompt is continued along the grammar by the same number of tokens,
    prefill included. One program a batch size; the count of programs shows that a second call
    makes none. The share is measured in float32 too, without the prefill.
    """
    composer = drums.Composer(model, dtype="bfloat16")
    number = setup.speed_tokens
    automaton = composer.automaton(64)
    found = {"tokens_per_second": {}, "new_programs": 0}
    # A width for all sizes, so that they differ in the number of prompts alone.
    chosen = [prompts[i % len(prompts)] for i in range(max(setup.batches))]
    whole = drums.data.left_padded(chosen, composer.tokenizer)
    for size in setup.batches:
        settings = sampling(size, temperature=0.9)
        call = functools.partial(
            composer.run, whole.ids[:size], whole.mask[:size], 0, settings, number, automaton
        )
        jax.block_until_ready(call())
        programs = generate._cache_size()
        seconds = _best_seconds(call, REPEATS)
        lengths = np.asarray(call().lengths)
        found["tokens_per_second"][str(size)] = float(lengths.sum()) / seconds
        found["new_programs"] += generate._cache_size() - programs
    found |= {"seconds_per_token": {}, "bytes_per_token": {}, "bandwidth_share": {}}
    single = drums.Composer(model, dtype="float32")
    for dtype, ready in (("bfloat16", composer), ("float32", single)):
        seconds, bandwidth = _seconds_per_token(ready, whole, automaton, number)
        size = bytes_per_token(ready, automaton)
        found["seconds_per_token"][dtype] = seconds
        found["bytes_per_token"][dtype] = size
        found["bandwidth_share"][dtype] = size / bandwidth / seconds
        found["bandwidth"] = max(bandwidth, found.get("bandwidth", 0.0))
    return found


def _seconds_per_token(composer, prompts, automaton, number: int) -> tuple[float, float]:
    """Of one prompt, without the prefill: the difference of a long and a short continuation.

    Returns: (seconds, bytes a second that the machine reads). Both are the best of turns that
    follow each other, so that what else the machine does disturbs them alike.
    """
    settings = sampling(1, temperature=0.9)
    sizes = (number, number // 4)
    calls = [
        functools.partial(
            composer.run, prompts.ids[:1], prompts.mask[:1], 0, settings, tokens, automaton
        )
        for tokens in sizes
    ]
    for call in calls:
        jax.block_until_ready(call())
    seconds, bandwidths = ([], []), []
    for _ in range(TURNS):
        bandwidths.append(read_bandwidth())
        for found, call in zip(seconds, calls, strict=True):
            found.append(_best_seconds(call, 1))
    long, short = map(min, seconds)
    return (long - short) / (sizes[0] - sizes[1]), max(bandwidths)


def bytes_per_token(composer: drums.Composer, automaton) -> int:
    """Weights that a token must read: all blocks, and the output rows of the grammar's tokens."""
    blocks = sum(x.nbytes for x in jax.tree.leaves(composer.params["blocks"]))
    rows = len(automaton.tokens) * composer.config.width * composer.params["embed"].itemsize
    return blocks + rows


def _best_seconds(call, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def cases():
    """The line-token model of the bench on 37 prompts, 128 tokens each."""
    tokenizer = drums.LineTokenizer()
    config = DecoderConfig(vocab_size=67, context=352, width=128, num_layers=4, num_heads=4)
    model = drums.DrumModel(config, init_params(config, jax.random.key(0)), tokenizer)
    composer = drums.Composer(model)
    prompts = [row.prompt for row in drums.library_rows(37)]
    batch = drums.data.left_padded(prompts, tokenizer)
    automaton, number = composer.automaton(120), 128

    def together():
        return composer.run(batch.ids, batch.mask, 0, sampling(37), number, automaton).tokens

    def one_at_a_time():
        return [
            composer.run(
                batch.ids[i : i + 1], batch.mask[i : i + 1], 0, sampling(1), number, automaton
            ).tokens
            for i in range(37)
        ]

    read = jax.jit(functools.partial(prefill, config, num_slots=48 + number))
    step = jax.jit(functools.partial(_python_step, config))

    def python_loop():
        hidden, cache = read(composer.params, batch.ids, batch.mask)
        keys, tokens = jax.random.split(jax.random.key(0), 37), []
        settings = sampling(37)
        for _ in range(number):
            hidden, cache, token = step(composer.params, hidden, cache, keys, settings)
            tokens.append(token)
        return tokens

    yield SpeedCase(
        "37 prompts, 128 tokens each",
        together,
        one_at_a_time,
        python_loop,
        num_steps=number,
        num_copies=37,
        note="the Python loop draws without the grammar",
    )


def _python_step(config, params, hidden, cache, keys, settings):
    token = draw(keys, logits_of(params, hidden), settings)
    hidden, cache = decode(config, params, token, cache)
    return hidden, cache, token
