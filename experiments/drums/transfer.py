"""A small decoder pre-trained on English here, then on drums, against one from random weights."""

import jax
import jax.numpy as jnp
import numpy as np

import lab.data
from experiments.drums import Transfer
from experiments.drums.corpora import Pieces, lines_of_row
from experiments.drums.facts import piece_metrics
from experiments.drums.scratch import Plan, Trained, batches_of, nats_per_line, train_copies
from lab.nn.decoder import DecoderConfig, init_params
from lab.papers import drums
from lab.papers.drums.data import windows
from lab.papers.drums.whole import Hyper
from lab.report import Run

WINDOW_MEASURES = 2
# Characters of English that the tokenizer is learned on: about as many as there are of drums.
TOKENIZER_CHARACTERS = 600_000


def english_rows(texts: dict[str, str], tokenizer, num_rows: int, length: int) -> dict:
    """Rows of `length` tokens cut from the texts in turn, every token but the first a target."""
    per_text = -(-num_rows // len(texts))
    rows = []
    for text in texts.values():
        # Twice as many characters as tokens are needed, and no more of a long text is encoded.
        ids = tokenizer.encode(text[: per_text * length * 4])
        count = min(per_text, len(ids) // length)
        rows += [ids[i * length : (i + 1) * length] for i in range(count)]
    ids = np.array(rows[:num_rows], np.int32)
    targets = np.ones(ids.shape, np.float32)
    targets[:, 0] = 0
    return {
        "ids": ids,
        "segments": np.ones(ids.shape, np.int32),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape).copy(),
        "prompt": np.zeros(ids.shape, np.float32),
        "completion": targets,
        "lines": targets.sum(axis=1),
    }


def run_transfer(run: Run, setup: Transfer, pieces: Pieces, seed: int) -> dict:
    """Nats a line of both kinds while they are tuned under one budget, and their compositions."""
    texts = lab.data.load("text", data_dir=run.data_dir)
    held_out = lab.data.load("text", data_dir=run.data_dir, split="validation")
    tokenizer = _tokenizer(texts, pieces, setup.num_merges)
    train = windows(pieces.rows["train"], WINDOW_MEASURES)
    encoded = drums.encode_rows(train, tokenizer)
    longest = max(text.length for text in encoded)
    context = max(setup.pretrain_length, -(-(longest + 40) // 32) * 32)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        context=context,
        width=setup.width,
        num_layers=setup.num_layers,
        num_heads=setup.num_heads,
    )
    english = _pretrain(run, setup, config, tokenizer, (texts, held_out), seed)
    tuned = _tune(run, setup, english, encoded, pieces, seed)
    kinds = ["english"] * setup.repeats + ["random"] * setup.repeats
    test = batches_of(windows(pieces.test, WINDOW_MEASURES), tokenizer, context)
    evaluate = drums.evaluation(config)
    nats = [nats_per_line(evaluate, tuned.model(i).params, test) for i in range(len(kinds))]
    untuned = nats_per_line(evaluate, english.model(0).params, test)
    return {
        "kinds": kinds,
        "steps": tuned.steps,
        "curves": tuned.curves,
        "test": nats,
        "untuned": untuned,
        "english_nats_per_token": float(english.curves[0, -1]),
        "vocabulary": tokenizer.vocab_size,
        "num_parameters": english.model(0).num_parameters,
        "metrics": _compositions(tuned, len(kinds), pieces, seed),
    }


def _tokenizer(texts: dict[str, str], pieces: Pieces, num_merges: int):
    """One tokenizer for both languages, learned on samples of the training parts."""
    share = TOKENIZER_CHARACTERS // len(texts)
    sample = [text[:share] for text in texts.values()]
    drum_texts = [row.prompt + row.completion for row in pieces.rows["train"]]
    return drums.train_bpe([*sample, *drum_texts], num_merges).tokenizer()


def _pretrain(run, setup, config, tokenizer, texts, seed) -> Trained:
    num_rows = setup.pretrain_steps * setup.pretrain_batch
    arrays = english_rows(texts[0], tokenizer, num_rows, setup.pretrain_length)
    held_out = english_rows(texts[1], tokenizer, 24, setup.pretrain_length)
    dev = [drums.data.filled(held_out, len(held_out["ids"]))]
    plan = Plan(
        "english",
        config,
        tokenizer,
        setup.pretrain_batch,
        setup.pretrain_steps,
        setup.learning_rate,
        warmup_steps=max(setup.pretrain_steps // 20, 1),
        eval_every=-(-setup.pretrain_steps // 5),
    )
    start = init_params(config, jax.random.key(2000 + seed))
    hyper = Hyper(jnp.zeros(1), jnp.array([len(arrays["ids"])], jnp.int32))
    return train_copies(run, plan, arrays, dev, [start], [seed], hyper)


def _tune(run, setup, english: Trained, encoded, pieces: Pieces, seed) -> Trained:
    plan = english.plan
    config, tokenizer, repeats = plan.config, plan.tokenizer, setup.repeats
    arrays = drums.padded(encoded, tokenizer.pad_id, length=config.context)
    dev = batches_of(windows(pieces.rows["dev"], WINDOW_MEASURES), tokenizer, config.context)
    tuning = Plan(
        "tuned",
        config,
        tokenizer,
        setup.batch_size,
        setup.tune_steps,
        setup.learning_rate,
        warmup_steps=max(setup.tune_steps // 20, 1),
        eval_every=-(-setup.tune_steps // 4),
    )
    random = [init_params(config, jax.random.key(3000 + seed + i)) for i in range(repeats)]
    starts = [english.model(0).params] * repeats + random
    seeds = [seed + i for i in range(repeats)] * 2
    copies = len(starts)
    hyper = Hyper(jnp.full(copies, 0.01), jnp.full(copies, len(encoded), jnp.int32))
    return train_copies(run, tuning, arrays, dev, starts, seeds, hyper)


def _compositions(tuned: Trained, copies: int, pieces: Pieces, seed: int) -> list[dict]:
    """Metrics of two measures composed along the grammar, at two temperatures, a row a copy."""
    found = []
    for copy in range(copies):
        composer = drums.Composer(tuned.model(copy))
        row = {}
        for temperature in (0.7, 1.0):
            lines = compose_measures(composer, pieces, WINDOW_MEASURES, temperature, seed + copy)
            metrics = piece_metrics(lines, pieces)
            metrics = {k: v for k, v in metrics.items() if isinstance(v, float)}
            row[str(temperature)] = metrics
        found.append(row)
    return found


def compose_measures(
    composer: drums.Composer, pieces: Pieces, num_measures: int, temperature: float, seed: int
) -> list[list[str]]:
    """Lines of prompts with exactly so many measures composed behind each."""
    found = composer.compose(
        pieces.prompts,
        num_steps=16 * num_measures,
        seeds=seed,
        temperature=temperature,
    )
    return [_with_last_newline(composition.lines) for composition in found]


def _with_last_newline(lines: list[str]) -> list[str]:
    return [line if line.endswith("\n") else f"{line}\n" for line in lines]


def human_windows(pieces: Pieces, num_measures: int) -> list[list[str]]:
    """What the drummers played in the same measures."""
    steps = 16 * (2 + num_measures)
    return [lines_of_row(row)[:steps] for row in pieces.test]
