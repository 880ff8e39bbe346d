"""Models from random weights: copies of several seeds or settings trained in one compiled call."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.drums import Scratch
from experiments.drums.corpora import Pieces
from experiments.drums.facts import piece_metrics
from lab.nn.decoder import DecoderConfig, init_params
from lab.papers import drums
from lab.papers.drums.data import check_ids, left_padded
from lab.papers.drums.steps import optimizer
from lab.papers.drums.whole import Hyper, stack, train_copy
from lab.report import Run
from lab.train import Checkpoints, compile_copies, require_finite
from lab.train.schedules import warmup_cosine

# Tokens of the longest piece and its prompt, by tokenizer.
CONTEXTS = {"line": 352, "character": 2432, "bytes": 1408}
EVAL_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training of copies.

    Attributes:
      name: of its checkpoints and log lines.
      config: of the decoder; tokenizer, whatever the texts were encoded with.
      batch_size, num_steps, learning_rate, warmup_steps: as they say.
      eval_every: steps between evaluations, which are also the chunks of the compiled run.
      keep_best: keep each copy's parameters of its best evaluation instead of its last.
    """

    name: str
    config: DecoderConfig
    tokenizer: object
    batch_size: int
    num_steps: int
    learning_rate: float
    warmup_steps: int
    eval_every: int
    keep_best: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """Parameters with a leading axis of copies, and nats a line on dev after each chunk."""

    plan: Plan
    params: object
    steps: list[int]
    curves: np.ndarray

    def model(self, copy: int) -> drums.DrumModel:
        """One copy as a model."""
        params = jax.tree.map(lambda x: x[copy], self.params)
        return drums.DrumModel(self.plan.config, params, self.plan.tokenizer)


def scratch_plan(name: str, setup: Scratch, rows: Sequence[drums.Row]) -> Plan:
    """The model of a setup, and how it is trained on rows."""
    tokenizer = _tokenizer(setup, rows)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        context=CONTEXTS[setup.tokenizer],
        width=setup.width,
        num_layers=setup.num_layers,
        num_heads=setup.num_heads,
        dropout_rate=setup.dropout_rate,
    )
    per_epoch = max(len(rows) // setup.batch_size, 1)
    return Plan(
        name,
        config,
        tokenizer,
        setup.batch_size,
        per_epoch * setup.epochs,
        setup.learning_rate,
        setup.warmup_steps,
        eval_every=per_epoch,
        keep_best=setup.keep_best,
    )


def _tokenizer(setup: Scratch, rows: Sequence[drums.Row]):
    if setup.tokenizer == "line":
        return drums.LineTokenizer()
    if setup.tokenizer == "character":
        return drums.CharacterTokenizer()
    texts = [row.prompt + row.completion for row in rows]
    return drums.train_bpe(texts, setup.num_merges).tokenizer()


def train_copies(
    run: Run,
    plan: Plan,
    arrays: dict,
    evaluation_batches: Sequence[dict],
    starts: Sequence[object],
    seeds: Sequence[int],
    hyper: Hyper,
) -> Trained:
    """Trains one copy a start; resumes from the last chunk that was saved.

    Args: starts, parameters; seeds, of the order of data and of dropout; hyper of arrays [copies].
    """
    check_ids(arrays["ids"], plan.config.vocab_size)
    floor, steps = plan.learning_rate / 10, plan.num_steps
    tx = optimizer(warmup_cosine(plan.learning_rate, plan.warmup_steps, steps, floor))
    chunk = train_copy(plan.config, tx, plan.batch_size, plan.eval_every)
    compiled = compile_copies(chunk, (0, None, 0, None), in_turn=True)
    states = [
        drums.begin(params, tx, jax.random.key(seed))
        for params, seed in zip(starts, seeds, strict=True)
    ]
    state, arrays = stack(states), {k: jnp.asarray(v) for k, v in arrays.items() if k != "mask"}
    checkpoints = Checkpoints(run.checkpoints / plan.name, keep=1)
    done, curves, best = 0, [], state.params if plan.keep_best else None
    if checkpoints.latest() is not None:
        done = checkpoints.latest()
        state, best = checkpoints.restore((state, best))
        curves = checkpoints.note(done)["position"]
    evaluate = drums.evaluation(plan.config)
    with run.progress(f"train {plan.name}", steps) as task:
        task.advance(done)
        while done < steps:
            state, history = compiled(state, arrays, hyper, jnp.int32(steps))
            require_finite(history, f"the loss of {plan.name}")
            taken = min(plan.eval_every, steps - done)
            done += taken
            dev = [nats_per_line(evaluate, params, evaluation_batches) for params in _each(state)]
            if plan.keep_best:
                past = [
                    min(row[i] for _, row in curves) if curves else np.inf for i in range(len(dev))
                ]
                is_best = jnp.array(dev) < jnp.array(past)
                choose = functools.partial(_where, is_best)
                best = jax.tree.map(choose, state.params, best)
            curves.append([done, dev])
            checkpoints.save(done, (state, best), position=curves)
            run.log(done, stage=plan.name, loss=np.asarray(history["loss"])[:, taken - 1], dev=dev)
            task.advance(taken, dev=float(np.mean(dev)))
    params = best if plan.keep_best else state.params
    return Trained(
        plan, params, [step for step, _ in curves], np.array([dev for _, dev in curves]).T
    )


def _where(of_copies, new, old):
    """Leaves of the copies that are marked from `new`, of the others from `old`."""
    return jnp.where(of_copies.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _each(state):
    copies = len(jax.tree.leaves(state.params)[0])
    return [jax.tree.map(lambda x, i=i: x[i], state.params) for i in range(copies)]


def nats_per_line(evaluate, params, batches: Sequence[dict]) -> float:
    """-log p of the completions a line, whatever the tokenizer."""
    sums = [evaluate(params, batch) for batch in batches]
    return float(sum(s["nll"] for s in sums)) / float(sum(s["lines"] for s in sums))


def batches_of(rows: Sequence[drums.Row], tokenizer, context: int) -> list[dict]:
    """Evaluation batches of one shape."""
    texts = drums.encode_rows(rows, tokenizer, context=context)
    size = min(EVAL_BATCH, len(texts))
    whole = drums.padded(texts, tokenizer.pad_id, length=context)
    cut = [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, len(texts), size)]
    return [drums.data.filled(batch, size) for batch in cut]


def training_rows(rows: Sequence[drums.Row], tokenizer, context: int) -> dict:
    """All rows padded to what 99 % of them need; the few longer ones are cut after a measure, so
    that they do not make every step dearer."""
    lengths = [len(tokenizer.encode(row.prompt + row.completion)) for row in rows]
    length = min(-(-int(np.quantile(lengths, 0.99)) // 16) * 16, context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = drums.encode_rows(rows, tokenizer, context=length)
    return drums.padded(texts, tokenizer.pad_id, length=length)


def train_scratch(
    run: Run, name: str, setup: Scratch, pieces: Pieces, seed: int, ablations: bool = False
) -> tuple[Trained, list[str], dict]:
    """Trains a setup's repeats and, if asked, its ablations; returns (trained, labels of copies,
    nats a line on test by copy)."""
    rows = pieces.rows["train"]
    plan = scratch_plan(name, setup, rows)
    arrays = training_rows(rows, plan.tokenizer, plan.config.context)
    usual = setup.prompt_weight
    settings = [("full", usual, 1.0)] * setup.repeats
    if ablations:
        settings += [
            ("10 % of the data", usual, 0.1),
            ("30 % of the data", usual, 0.3),
            ("prompt weight 0", 0.0, 1.0),
            ("prompt weight 1", 1.0, 1.0),
        ]
    hyper = Hyper(
        jnp.array([weight for _, weight, _ in settings], jnp.float32),
        jnp.array([max(8, round(share * len(rows))) for *_, share in settings], jnp.int32),
    )
    seeds = [seed + i if label == "full" else seed for i, (label, *_) in enumerate(settings)]
    starts = [init_params(plan.config, jax.random.key(1000 + s)) for s in seeds]
    dev = batches_of(pieces.rows["dev"], plan.tokenizer, plan.config.context)
    trained = train_copies(run, plan, arrays, dev, starts, seeds, hyper)
    test = batches_of(pieces.test, plan.tokenizer, plan.config.context)
    evaluate = drums.evaluation(plan.config)
    nats = [nats_per_line(evaluate, trained.model(i).params, test) for i in range(len(seeds))]
    return trained, [label for label, *_ in settings], nats


def compose_at(
    model: drums.DrumModel, pieces: Pieces, temperatures: Sequence[float], seed: int
) -> list[list[list[str]]]:
    """Lines of the compositions on every test prompt, a list a temperature; one compiled call."""
    prompts = pieces.prompts
    composer = drums.Composer(model)
    room = model.config.context - left_padded(prompts, model.tokenizer).ids.shape[1]
    found = composer.compose(
        prompts * len(temperatures),
        constrained=False,
        seeds=seed,
        max_new_tokens=room,
        temperature=np.repeat(temperatures, len(prompts)),
    )
    lines = [composition.lines for composition in found]
    return [lines[i : i + len(prompts)] for i in range(0, len(lines), len(prompts))]


def sweep_temperatures(
    trained: Trained, copies: int, pieces: Pieces, temperatures: Sequence[float], seed: int
) -> dict:
    """Metrics at each temperature, a row a copy."""
    found = {str(t): [] for t in temperatures}
    for copy in range(copies):
        groups = compose_at(trained.model(copy), pieces, temperatures, seed + copy)
        for temperature, lines in zip(temperatures, groups, strict=True):
            found[str(temperature)].append(piece_metrics(lines, pieces))
    return found


def validity_of_samples(
    model: drums.DrumModel, pieces: Pieces, num_samples: int, num_bars: int, seed: int
) -> dict:
    """Of so many grooves drawn along the grammar: how many have exactly the asked bars.

    The MIDI file of each is read back: its length, meter, tempo and channel are looked at.
    """
    composer, prompts = drums.Composer(model), pieces.prompts
    size = min(250, num_samples)
    good = 0
    for start in range(0, num_samples, size):
        chosen = [prompts[(start + i) % len(prompts)] for i in range(size)]
        seeds = [seed + start + i for i in range(size)]
        grooves = drums.compose_bars(
            composer, chosen, num_bars=num_bars, bpm=92.0, seeds=seeds, temperature=1.0
        )
        wanted = min(size, num_samples - start)
        good += sum(has_exact_bars(groove, num_bars, 92.0) for groove in grooves[:wanted])
    return {"samples": num_samples, "good": good}


def has_exact_bars(groove: drums.Groove, num_bars: int, bpm: float) -> bool:
    """Whether a groove's MIDI file lasts exactly so many bars in its meter and tempo."""
    performance = drums.read_midi(drums.write_midi(groove, bpm=bpm, num_bars=num_bars))
    ticks = num_bars * groove.meter[0] * performance.ticks_per_quarter
    return (
        len(groove.hits) == num_bars * groove.steps_per_bar
        and performance.num_ticks == ticks
        and performance.time_signature == groove.meter
        and abs(performance.bpm - bpm) < 0.01
    )
