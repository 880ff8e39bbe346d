"""Whole runs of small networks: MAE, distillation, fine-tuning, each one compiled call.

Copies of a student (seeds) see the same batches and one teacher, whose part of a step is run once
for all of them. On a CPU the copies take turns inside the call, elsewhere they are one batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.tinymim import Config, Network
from lab.data.augment import random_crop, random_flip, random_roll
from lab.data.resident import Resident
from lab.nn.transformer import TransformerConfig
from lab.nn.vit import ViTConfig
from lab.papers import tinymim
from lab.papers.tinymim.data import Pictures
from lab.papers.tinymim.distill import teacher_outputs
from lab.papers.tinymim.steps import example_keys, split
from lab.train import compile_copies, require_finite, run, run_in_chunks, state_of
from lab.train.schedules import warmup_cosine
from lab.train.steps import Step

EVALUATED_AT_ONCE = 500
CHUNKS = 6
# Folded into the key for what copies share; more than there are copies.
SHARED = 1 << 20
# Of programs that run once, compiling is what costs.
COMPILED_QUICKLY = {"xla_backend_optimization_level": 0}
Losses = dict[str, np.ndarray]
OnSteps = Callable[[int, Losses], None]


@flax.struct.dataclass
class Copies:
    """Several trainings side by side.

    Attributes: step int32 scalar; states, a state with a leading axis of copies; key, typed, of
      what the copies share: augmentation.
    """

    step: jax.Array
    states: Any
    key: jax.Array


def vit_of(pictures: Pictures, patch_size: int, network: Network, **options: Any) -> ViTConfig:
    """The ViT of a size for these pictures."""
    return ViTConfig(
        image_size=pictures.image_size,
        patch_size=patch_size,
        **dataclasses.asdict(network),
        **options,
    )


def decoder_of(config: Config) -> TransformerConfig:
    """MAE's decoder."""
    return TransformerConfig(**dataclasses.asdict(config.decoder))


def student_of(config: Config, pictures: Pictures, patch_size: int) -> ViTConfig:
    """The student as it is distilled."""
    options = {"drop_path_rate": config.drop_path, "drop_path_schedule": "all_but_last"}
    return vit_of(pictures, patch_size, config.student, **options)


def augmented(pictures: Pictures, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Flipped and shifted at random, normalised; generated shapes roll around the edges."""
    images = random_flip(split(keys, 0), images)
    if pictures.name == "shapes12":
        return random_roll(split(keys, 1), images, 2)
    return pictures.normalised(random_crop(split(keys, 1), images, 4, mode="reflect"))


@dataclasses.dataclass(frozen=True)
class Training:
    """A kind of pre-training, ready to be run.

    Attributes: model, what is trained; tx; take_step, the step of one copy; complete, adds to a
      batch what copies share: `(batch, constants) -> batch`.
    """

    model: Any
    tx: optax.GradientTransformation
    take_step: Step
    complete: Callable[[Any, Any], Any] = lambda batch, _: batch


def mae_training(config: Config, model: tinymim.MAEConfig, num_steps: int) -> Training:
    """Of masked autoencoders."""
    what = config.pretraining
    tx = tinymim.pretraining_adamw(_rate(what, num_steps), weight_decay=what.weight_decay)
    loss_fn = tinymim.mae_loss_fn(model, what.mask_ratio)
    return Training(model, tx, tinymim.make_step(loss_fn, tx))


def distillation_training(config: Config, student: ViTConfig, teacher: ViTConfig) -> Training:
    """Of students of one teacher; the constants of a run are the teacher's variables.

    Args: student, before its last block takes the teacher's heads (`distilled_encoder`).
    """
    what, num_steps = config.distillation, config.pretraining.distill_steps
    teacher = dataclasses.replace(
        teacher, drop_path_rate=config.teacher_drop_path, drop_path_schedule="all_but_last"
    )
    model = tinymim.student_config(what, student, teacher, decoder_of(config))
    tx = tinymim.pretraining_adamw(
        _rate(config.pretraining, num_steps),
        weight_decay=config.pretraining.weight_decay,
        moves=tinymim.moving_parts(what, model),
    )
    # masks and dropped paths are a copy's own, and so is then what the teacher says
    is_shared = what.mask_ratio == 0 and config.teacher_drop_path == 0

    def complete(batch, variables):
        if not is_shared:
            return batch | {"teacher": variables}
        return batch | {"targets": teacher_outputs(what, teacher, variables, batch["images"])}

    take_step = tinymim.make_distillation_step(what, model, teacher, tx)
    return Training(model, tx, take_step, complete)


def distilled_encoder(config: Config, student: ViTConfig, teacher: ViTConfig) -> ViTConfig:
    """The student's encoder as it is distilled: its last block has the teacher's heads."""
    return tinymim.student_config(config.distillation, student, teacher).encoder


def init_copies(model: Any, keys: Sequence[jax.Array]) -> list[Any]:
    """Fresh variables of a model for each key, by one program."""
    init = jax.jit(
        lambda key: tinymim.init_variables(model, key), compiler_options=COMPILED_QUICKLY
    )
    return [init(key) for key in keys]


def stacked(trees: Sequence[Any]) -> Any:
    """Pytrees of copies as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def start_copies(training: Training, seed: int, repeats: int) -> Copies:
    """Fresh copies; copy i is the same however many there are."""
    root = jax.random.key(seed)
    keys = [jax.random.split(jax.random.fold_in(root, i)) for i in range(repeats)]
    variables = init_copies(training.model, [pair[0] for pair in keys])
    states = [
        state_of(one, training.tx, pair[1]) for one, pair in zip(variables, keys, strict=True)
    ]
    return Copies(jnp.int32(0), stacked(states), jax.random.fold_in(root, SHARED))


def compiled_chunk(config: Config, pictures: Pictures, training: Training, num_steps: int):
    """The compiled `(copies, (arrays, constants), last_step) -> (copies, history)` of a chunk.

    Args: num_steps, of the chunk; none is taken from `last_step` on.
    Returns: a function; metrics of its history are float [copies, num_steps].
    """
    batch_size, seed = config.pretraining.batch_size, config.seed
    resident = Resident({"images": pictures.unlabeled}, batch_size, seed=seed)

    def step(copies: Copies, data):
        arrays, constants = data
        images = resident.batch_at(arrays, copies.step)["images"]
        keys = example_keys(jax.random.fold_in(copies.key, copies.step), batch_size, None)
        batch = training.complete({"images": augmented(pictures, keys, images)}, constants)
        states, metrics = _over_copies(lambda s: training.take_step(s, batch), copies.states)
        return copies.replace(step=copies.step + 1, states=states), metrics

    @jax.jit
    def chunk(copies, data, last_step):
        copies, history = run(step, copies, data, num_steps, last_step, freeze=False)
        finite = history["finite"].reshape(num_steps, -1)  # of all copies at the very last step
        history["finite"] = jnp.broadcast_to(finite, history["loss"].shape)
        return copies, jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), history)

    return chunk


def pretrain(
    config: Config,
    pictures: Pictures,
    training: Training,
    num_steps: int,
    repeats: int,
    constants: Any = (),
    on_steps: OnSteps | None = None,
) -> tuple[Any, Losses]:
    """Runs copies of a training.

    Args: on_steps, called several times with the steps done and the history since.
    Returns: (variables with a leading axis of copies, each loss [copies, num_steps]).
    Raises: NonFiniteError.
    """
    chunk_steps = -(-num_steps // min(CHUNKS, num_steps))
    copies, history = run_in_chunks(
        compiled_chunk(config, pictures, training, chunk_steps),
        start_copies(training, config.seed, repeats),
        ({"images": pictures.unlabeled}, constants),
        num_steps,
        chunk_steps,
        on_chunk=on_steps,
    )
    require_finite(history)
    variables = {"params": copies.states.params, **copies.states.model_state}
    return variables, {k: x for k, x in history.items() if k not in ("finite", "grad_norm")}


def finetune(
    config: Config,
    pictures: Pictures,
    classifier: tinymim.ClassifierConfig,
    variables: Any,
    keys: jax.Array,
) -> dict[str, np.ndarray]:
    """Trains classifiers, a copy after the other in one call, and tests each on the way.

    Args: variables of the classifier with a leading axis of copies; keys, typed [copies].
    Returns: "accuracy" float [copies, evaluations], "loss" float [copies, steps].
    """
    train = compile_copies(
        _finetuning_run(config, pictures, classifier), (0, 0, None), in_turn=_is_cpu()
    )
    data = {
        "images": pictures.train_images,
        "labels": pictures.train_labels,
        "test_images": pictures.test_images,
        "test_labels": pictures.test_labels,
    }
    history = train(variables, keys, data)
    require_finite(history, "the loss of fine-tuning")
    return {name: np.asarray(history[name]) for name in ("accuracy", "loss")}


def _finetuning_run(config: Config, pictures: Pictures, classifier: tinymim.ClassifierConfig):
    """The run of one copy: variables, key, data -> history."""
    what = config.finetuning
    segments = max(1, what.num_evaluations)
    per_segment = -(-what.num_steps // segments)
    num_steps = segments * per_segment
    tx = tinymim.finetuning_adamw(
        _rate(what, num_steps),
        classifier.backbone,
        layer_decay_rate=what.layer_decay,
        weight_decay=what.weight_decay,
    )
    take_step = tinymim.make_step(
        tinymim.finetune_loss_fn(classifier, label_smoothing=what.label_smoothing), tx
    )
    evaluate = tinymim.make_classifier_eval(classifier)
    resident = Resident(
        {"images": pictures.train_images, "labels": pictures.train_labels},
        what.batch_size,
        seed=config.seed,
    )

    def step(state, data):
        batch = resident.batch_at({k: data[k] for k in ("images", "labels")}, state.step)
        keys = example_keys(jax.random.fold_in(state.key, state.step), what.batch_size, None)
        return take_step(state, batch | {"images": augmented(pictures, keys, batch["images"])})

    def segment(state, data):
        state, history = run(step, state, data, per_segment)
        return state, history | {"accuracy": _accuracy(evaluate, pictures, state, data)}

    def whole(variables, key, data):
        _, history = jax.lax.scan(
            lambda state, _: segment(state, data),
            state_of(variables, tx, key),
            length=segments,
        )
        return {
            "accuracy": history["accuracy"],
            "loss": history["loss"].reshape(-1),
            "finite": history["finite"].reshape(-1),
        }

    return whole


def _accuracy(evaluate, pictures: Pictures, state, data) -> jax.Array:
    """Of the whole test set, in parts."""
    count = len(pictures.test_labels)
    size = min(EVALUATED_AT_ONCE, count)
    parts = -(-count // size)

    def padded(x):
        return jnp.pad(x, [(0, parts * size - count)] + [(0, 0)] * (x.ndim - 1))

    arrays = {
        "images": padded(data["test_images"]),
        "labels": padded(data["test_labels"]),
        "mask": padded(jnp.ones(count)),
    }
    batches = jax.tree.map(lambda x: x.reshape(parts, size, *x.shape[1:]), arrays)

    def hits(batch):
        images = pictures.normalised(batch["images"])
        return evaluate(state, batch | {"images": images})["accuracy"] * batch["mask"].sum()

    return jax.lax.map(hits, batches).sum() / count


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _over_copies(function, states):
    return jax.lax.map(function, states) if _is_cpu() else jax.vmap(function)(states)


def _rate(what: Any, num_steps: int):
    return warmup_cosine(what.learning_rate, what.warmup * num_steps, num_steps)


def start_classifiers(
    classifier: tinymim.ClassifierConfig, encoders: Sequence[Any], keys: jax.Array
) -> Any:
    """Classifiers that start from encoders' variables, stacked along a new axis of copies."""
    started = [
        tinymim.start_classifier(variables, classifier, key)
        for variables, key in zip(encoders, keys, strict=True)
    ]
    return stacked(started)
