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
from lab.papers.drums.steps import optimizer
from lab.report import Run
from lab.train import Checkpoints, fit
from lab.train.devices import AXIS
from lab.train.schedules import warmup_polynomial

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

    Returns: nats a line on development texts before and after, and metrics of compositions.
    """
    config = dataclasses.replace(model.config, dtype=setup.dtype, remat=setup.whole_pieces)
    model = dataclasses.replace(model, config=config)
    arrays, dev = _texts(setup, model, pieces)
    evaluate = drums.evaluation(config, chunk=LOSS_CHUNK)
    found = {"before": {}, "after": {}, "steps": setup.steps, "rows": len(arrays["ids"])}
    found["metrics"] = {"untuned": _compositions(model, setup, pieces, seed)}
    for repeat in range(setup.repeats):
        for kind in ("pretrained", "random", *(["lora"] if setup.lora_rank else [])):
            start = model if kind != "random" else _random(model, seed + repeat)
            before = nats_per_line(evaluate, start.params, dev)
            tuned = _tune(run, f"{kind}-{repeat}", kind, setup, start, arrays, seed + repeat)
            after = nats_per_line(evaluate, tuned.params, dev)
            found["before"].setdefault(kind, []).append(before)
            found["after"].setdefault(kind, []).append(after)
            if kind == "pretrained":
                metrics = _compositions(tuned, setup, pieces, seed + repeat)
                found["metrics"].setdefault("tuned", []).append(metrics)
                if repeat == 0:
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


def _tune(run, name, kind, setup, start, arrays, seed) -> drums.DrumModel:
    """One fine-tuning run on the streaming engine, resumed where it was killed."""
    peaks = {
        "pretrained": setup.learning_rate,
        "random": setup.random_learning_rate,
        "lora": setup.lora_learning_rate,
    }
    warmup = min(max(round(0.05 * setup.steps), 4), setup.steps - 1)
    rate = warmup_polynomial(peaks[kind], warmup, setup.steps, floor=peaks[kind] / 10)
    tx = optimizer(rate, weight_decay=0.0 if kind == "lora" else 0.1)
    options = {"chunk": LOSS_CHUNK, "axis_name": AXIS}
    if kind == "lora":
        lora = drums.LoraConfig(rank=setup.lora_rank)
        step = drums.lora_tuning(start.config, lora, tx, **options)
        adapters = drums.init_lora(start.config, lora, jax.random.key(seed))
        state = drums.begin_lora(start.params, adapters, tx, jax.random.key(seed))
    else:
        step = drums.fine_tuning(start.config, tx, **options)
        state = drums.begin(start.params, tx, jax.random.key(seed))
    fitted = fit(
        step,
        state,
        stream(ArraySource(arrays), setup.batch_size, seed=seed),
        num_steps=setup.steps,
        checkpoints=Checkpoints(run.checkpoints / name, keep=1),
        save_every=max(setup.steps // 4, 20),
        log=run,
        log_every=5,
        name=f"tune {name}",
    )
    if kind != "lora":
        return dataclasses.replace(start, params=fitted.state.params)
    merge = functools.partial(drums.with_lora, start.config, lora)
    return dataclasses.replace(start, params=jax.jit(merge)(start.params, fitted.state.params))


def _compositions(model, setup: Pretrained, pieces: Pieces, seed: int) -> dict:
    """Metrics of measures composed along the grammar on every test prompt, in bfloat16."""
    composer = drums.Composer(model, dtype=drums.decoding_dtype(), cache_step=CACHE_STEP)
    found = {}
    for temperature in (0.9,):
        lines = compose_measures(composer, pieces, setup.num_measures, temperature, seed)
        metrics = piece_metrics(lines, pieces)
        found[str(temperature)] = {k: v for k, v in metrics.items() if isinstance(v, float)}
    return found


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
