"""SmolLM2 on drums: tuned from its weights, from random ones, and by adapters; what it composes."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp

import lab.data
from experiments.drums import Pretrained
from experiments.drums.corpora import Pieces
from experiments.drums.facts import piece_metrics
from experiments.drums.scratch import nats_per_line
from experiments.drums.transfer import WINDOW_MEASURES, compose_measures
from lab.data.streams import ArraySource, stream
from lab.errors import DatasetNotFoundError
from lab.nn.decoder import SMOLLM2_135M, init_params
from lab.papers import drums
from lab.papers.drums.data import windows
from lab.papers.drums.notation import HIT, REST, SEPARATOR, WIDTH
from lab.papers.drums.steps import optimizer
from lab.report import Run
from lab.train import Checkpoints, fit
from lab.train.devices import AXIS
from lab.train.schedules import warmup_cosine, warmup_polynomial

LOSS_CHUNK = 256
CACHE_STEP = 160
MULTIPLE = 64


def open_weights(setup: Pretrained, data_dir: Path | None) -> drums.DrumModel | None:
    """The pre-trained model, or None where its weights are not on this machine."""
    if Path(setup.weights).suffix:
        return drums.open_model(setup.weights)
    try:
        return drums.open_model(lab.data.locate(setup.weights, data_dir))
    except DatasetNotFoundError:
        return None


def run_pretrained(
    run: Run, setup: Pretrained, model: drums.DrumModel, pieces: Pieces, seed: int
) -> dict:
    """Tunes the weights, the same architecture from random ones, and adapters, under one budget.

    Returns: nats a line on development texts before and after, and what each composes.
    """
    config = dataclasses.replace(model.config, dtype=setup.dtype, remat=setup.whole_pieces)
    model = dataclasses.replace(model, config=config)
    texts = _texts(setup, model, pieces)
    arrays, dev = texts
    evaluate = drums.evaluation(config, chunk=LOSS_CHUNK)
    found = {"before": {}, "after": {}, "steps": setup.steps, "rows": len(arrays["ids"])}
    found["composed"] = {"untuned": [_compositions(model, setup, pieces, seed)]}
    for repeat in range(setup.repeats):
        for kind in ("pretrained", "random", *(["lora"] if setup.lora_rank else [])):
            start = model if kind != "random" else _random(model, seed + repeat)
            before = nats_per_line(evaluate, start.params, dev)
            tuned = _tune(run, f"{kind}-{repeat}", setup, start, texts, seed + repeat)
            after = nats_per_line(evaluate, tuned.params, dev)
            found["before"].setdefault(kind, []).append(before)
            found["after"].setdefault(kind, []).append(after)
            if kind == "lora":
                continue
            composed = _compositions(tuned, setup, pieces, seed + repeat)
            found["composed"].setdefault(kind, []).append(composed)
            if kind == "pretrained" and repeat == 0:
                drums.save_model(tuned, run.folder / "smollm2-drums.safetensors")
    return found


def _texts(setup: Pretrained, model: drums.DrumModel, pieces: Pieces) -> tuple[dict, list[dict]]:
    """Training rows and evaluation batches: windows one a row, or whole pieces packed."""
    tokenizer = model.tokenizer

    def encoded(rows):
        return drums.encode_rows(rows, tokenizer, context=model.config.context)

    if setup.whole_pieces:
        train, dev = encoded(pieces.rows["train"]), encoded(pieces.rows["dev"])
        length = -(-max(text.length for text in [*train, *dev]) // MULTIPLE) * MULTIPLE
        arrays = drums.packed(train, tokenizer.pad_id, length)
    else:
        train, dev = (
            encoded(windows(pieces.rows[split], WINDOW_MEASURES)) for split in ("train", "dev")
        )
        length = -(-max(text.length for text in [*train, *dev]) // MULTIPLE) * MULTIPLE
        arrays = drums.padded(train, tokenizer.pad_id, length=length)
    held_out = drums.padded(dev[: setup.eval_rows], tokenizer.pad_id, length=length)
    size = 4
    batches = [
        drums.data.filled({k: v[i : i + size] for k, v in held_out.items()}, size)
        for i in range(0, len(held_out["ids"]), size)
    ]
    return arrays, batches


def _random(model: drums.DrumModel, seed: int) -> drums.DrumModel:
    return dataclasses.replace(model, params=init_params(model.config, jax.random.key(seed)))


def _tune(run, name, setup, start, texts, seed) -> drums.DrumModel:
    """One fine-tuning run on the streaming engine, resumed where it was killed.

    Args: name, its kind and repeat; texts, training arrays and development batches.
    """
    kind, (arrays, dev) = name.partition("-")[0], texts
    stops_early = kind == "random" and setup.random_steps is not None
    num_steps = setup.random_steps if stops_early else setup.steps
    step, state, as_params = _recipe(setup, kind, start, num_steps, seed)
    checkpoints = Checkpoints(
        run.checkpoints / name, keep=1, best=_least_nats if stops_early else None
    )
    evaluate = drums.evaluation(start.config, chunk=LOSS_CHUNK)

    def score(state):
        return {"dev": nats_per_line(evaluate, as_params(state), dev)}

    fitted = fit(
        step,
        state,
        stream(ArraySource(arrays), setup.batch_size, seed=seed),
        num_steps=num_steps,
        checkpoints=checkpoints,
        evaluate=score if stops_early else None,
        eval_every=max(num_steps // 20, 1),
        save_every=max(num_steps // 4, 20),
        log=run,
        log_every=5,
        name=f"tune {name}",
    )
    best = checkpoints.best() if stops_early else None
    tuned = fitted.state if best is None else checkpoints.restore(state, best)
    return dataclasses.replace(start, params=as_params(tuned))


def _least_nats(metrics: dict[str, float]) -> float:
    return -metrics["dev"]


def _recipe(setup: Pretrained, kind: str, start: drums.DrumModel, num_steps: int, seed: int):
    """The step of a kind of tuning, its fresh state, and a function from states to parameters."""
    peak = {
        "pretrained": setup.learning_rate,
        "random": setup.random_learning_rate,
        "lora": setup.lora_learning_rate,
    }[kind]
    warmup = min(max(round(0.05 * num_steps), 4), num_steps - 1)
    falls = warmup_cosine if setup.decay == "cosine" else warmup_polynomial
    rate = falls(peak, warmup, num_steps, floor=peak / 10)
    key, config = jax.random.key(seed), start.config
    options = {"chunk": LOSS_CHUNK, "axis_name": AXIS, "prompt_weight": setup.prompt_weight}
    if kind == "lora":
        lora, tx = drums.LoraConfig(rank=setup.lora_rank), optimizer(rate, weight_decay=0.0)
        adapters = drums.init_lora(config, lora, key)
        merge = jax.jit(functools.partial(drums.with_lora, config, lora))
        return (
            drums.lora_tuning(config, lora, tx, **options),
            drums.begin_lora(start.params, adapters, tx, key),
            lambda state: merge(start.params, state.params),
        )
    frozen = setup.frozen_layers if kind == "pretrained" else 0
    tx = optimizer(rate, num_layers=config.num_layers, frozen_layers=frozen)
    step = drums.fine_tuning(config, tx, frozen_layers=frozen, **options)
    return step, drums.begin(start.params, tx, key), lambda state: state.params


def _compositions(model, setup: Pretrained, pieces: Pieces, seed: int) -> dict:
    """Measures composed along the grammar on every test prompt.

    Returns: "metrics" by temperature; "example", a piece of the first one; "free", the share of
    well-formed lines in what comes without the grammar.
    """
    composer = drums.Composer(model, dtype=drums.decoding_dtype(), cache_step=CACHE_STEP)
    found = {"metrics": {}}
    for temperature in setup.temperatures:
        lines = compose_measures(composer, pieces, setup.num_measures, temperature, seed)
        metrics = piece_metrics(lines, pieces)
        plain = {name: value for name, value in metrics.items() if isinstance(value, float)}
        found["metrics"][str(temperature)] = plain
        found.setdefault("example", "".join(lines[-1]))
    if setup.free_tokens:
        free = composer.compose(
            pieces.prompts,
            constrained=False,
            seeds=seed,
            max_new_tokens=setup.free_tokens,
            temperature=0.9,
        )
        texts = [one.text[len(prompt) :] for one, prompt in zip(free, pieces.prompts, strict=True)]
        found["free"] = drums.validity([_free_lines(text) for text in texts])
    return found


def _free_lines(text: str) -> list[str]:
    """Lines of a continuation up to `END`, without `SEP`s, and without a last one that was cut off
    while it was well formed."""
    lines = drums.drumroll_of(text).split("\n")
    is_begun = len(lines[-1]) < WIDTH and set(lines[-1]) <= {HIT, REST}
    return lines[:-1] if is_begun or SEPARATOR.startswith(lines[-1]) else lines


def one_reduced_step(seed: int) -> dict:
    """A packed step of a Llama of the same shape at a tenth of the width, on library pieces."""
    config = dataclasses.replace(
        SMOLLM2_135M,
        vocab_size=67,
        context=640,
        width=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        ffn_width=128,
        remat=True,
        dtype="bfloat16",
    )
    tokenizer = drums.LineTokenizer()
    texts = drums.encode_rows(drums.library_rows(8, seed=seed), tokenizer)
    batch = {k: jnp.asarray(v) for k, v in drums.packed(texts, tokenizer.pad_id, 576).items()}
    tx = optimizer(1e-3)
    step = jax.jit(drums.fine_tuning(config, tx, chunk=LOSS_CHUNK))
    state = drums.begin(init_params(config, jax.random.key(seed)), tx, jax.random.key(seed))
    state, first = step(state, batch)
    _, second = step(state, batch)
    return {"first": float(first["loss"]), "second": float(second["loss"])}
