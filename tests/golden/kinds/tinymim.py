"""Golden kinds of TinyMIM: distillation by relations, features and class tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.drop_path import kept
from lab.nn.transformer import KINDS as BLOCK_KINDS
from lab.nn.vit import ViT, ViTConfig
from lab.papers.tinymim import convert, losses, models, optimizers, relations, steps
from lab.papers.tinymim.distill import (
    Distillation,
    distillation_losses,
    student_config,
    student_names,
    target_heads,
    teacher_outputs,
)
from lab.train.optimizers import by_path
from lab.train.schedules import warmup_cosine
from lab.train.state import state_of
from tests.golden.documents import group, open_document

# Each program runs once, so that compiling it is what costs.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def channels_last(images) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(images), -3, -1)


def transformer_options(config: dict) -> dict:
    return {
        "width": config["width"],
        "depth": config["depth"],
        "num_heads": config["heads"],
        "mlp_ratio": config["mlp_ratio"],
        "scan": True,
    }


def vit_of(config: dict, sizes: dict, **options) -> ViTConfig:
    return ViTConfig(
        **transformer_options(sizes),
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        norm_epsilon=config["layernorm_eps"],
        **options,
    )


def load(state_dict, config):
    variables, _ = convert.from_official(dict(state_dict), config)
    return variables


def in_order(names, reference) -> np.ndarray:
    """A set of names in the order of the reference, so that equal sets are equal arrays."""
    place = {name: i for i, name in enumerate(reference.tolist())}
    return np.array(sorted(names, key=lambda name: (place.get(name, len(place)), name)))


def official_params(params, config: models.ModelConfig, prefix: str = "") -> dict:
    return {
        f"{prefix}{name}": array
        for name, array in convert.to_official({"params": params}, config).items()
    }


def names_where(chosen, params, config) -> set[str]:
    """Official names of the parameters for which `chosen(path, leaf)` is true everywhere."""
    marks = by_path(lambda path, x: np.broadcast_to(chosen(path, x), x.shape), params)
    return {name for name, mark in official_params(marks, config).items() if np.all(mark)}


def distillation_of(config: dict):
    """(Distillation, StudentConfig, teacher) of a manifest's config."""
    teacher = vit_of(config, config["teacher"])
    assert config["loss"] == "kl_softmax"
    distillation = Distillation(
        target_block=config["teacher"]["target_block"],
        relations=tuple(config["relations"]),
        include_cls=config["include_cls"],
    )
    rate = {"drop_path_rate": config["drop_path_rate"], "drop_path_schedule": "all_but_last"}
    student = student_config(distillation, vit_of(config, config["student"], **rate), teacher)
    assert student.encoder.heads[-1] == config["student"]["last_block_heads"]
    return distillation, student, teacher


def student_variables(document, student):
    return {
        collection: {"encoder": tree}
        for collection, tree in load(group(document, "student/param/"), student.encoder).items()
    }


def relation_maps(distillation, student, num_heads):
    """(variables, images, noise) -> (the student's q, k, v, its softmaxed relations)."""
    names, _ = student_names(distillation, student.encoder)

    def apply(variables, images, noise):
        out = models.Student(student).apply(
            variables, images, tuple(names.values()), drop_path_noise=noise
        )
        tokens = {short: out[name] for short, name in names.items()}
        return tokens, softmaxed(distillation, tokens, num_heads)

    return apply


def softmaxed(distillation, tokens, num_heads):
    logits = relations.token_relations(
        tokens, num_heads, distillation.relations, include_cls=distillation.include_cls
    )
    return {kind: jax.nn.softmax(x) for kind, x in logits.items()}


def relation_distill(entry):
    arrays, (distillation, student, teacher) = entry.arrays, distillation_of(entry.config)
    num_heads = target_heads(distillation, teacher)
    apply = relation_maps(distillation, student, num_heads)

    def loss(params, constants, teacher_variables, images, teacher_images):
        targets = teacher_outputs(distillation, teacher, teacher_variables, teacher_images)
        tokens, maps = apply({"params": params, "constants": constants}, images, None)
        terms = distillation_losses(distillation, targets, tokens, num_heads)
        means = {kind: term.mean() for kind, term in terms.items()}
        maps = {"student": maps, "teacher": softmaxed(distillation, targets, num_heads)}
        return sum(means.values()), (means, maps)

    variables = student_variables(entry.document, student)
    params = variables["params"]
    (total, (means, maps)), grads = compiled(jax.value_and_grad(loss, has_aux=True))(
        params,
        variables["constants"],
        load(group(entry.document, "teacher/param/"), teacher),
        channels_last(arrays["input/student_image"]),
        channels_last(arrays["input/teacher_image"]),
    )
    computed = {"output/loss": total}
    computed |= {f"output/{kind}_loss": value for kind, value in means.items()}
    computed |= {f"output/{who}_{k}": x for who, found in maps.items() for k, x in found.items()}
    gradient = official_params(grads, student)
    moves = optimizers.moving_parts(distillation, student)
    still = names_where(lambda path, _: moves(path) == 0, params, student)
    assert all(not np.any(gradient[name]) for name in still)
    key = "output/params_without_gradient"
    computed[key] = in_order(still, arrays[key])
    return computed | {
        f"student/grad/{name}": x for name, x in gradient.items() if name not in still
    }


def drop_path(entry):
    arrays, (distillation, student, teacher) = entry.arrays, distillation_of(entry.config)
    base = open_document(entry.other_file("base"))
    noise, rate = jnp.asarray(arrays["input/uniform"]), entry.config["drop_path_rate"]
    np.testing.assert_array_equal(kept(noise, rate), arrays["input/keep"])
    depth = student.encoder.depth
    noise = noise.reshape(depth - 1, 2, -1)
    noise = jnp.concatenate([noise, jnp.ones((1, *noise.shape[1:]))])
    apply = relation_maps(distillation, student, target_heads(distillation, teacher))
    images = channels_last(base["input/student_image"])
    _, maps = compiled(apply)(student_variables(base, student), images, noise)
    return {f"output/student_{kind}": x for kind, x in maps.items()}


def schedule_of(config: dict):
    rate = warmup_cosine(config["lr"], config["warmup_epochs"], config["epochs"], config["min_lr"])
    if "epoch_at_step" in config:
        epochs = jnp.asarray(config["epoch_at_step"], jnp.float32)
        return lambda step: rate(epochs[step])
    return lambda step: rate(step / config["steps_per_epoch"])


def pretraining_tx(config: dict, moves=None):
    b1, b2 = config["betas"]
    return optimizers.pretraining_adamw(
        schedule_of(config),
        weight_decay=config["weight_decay"],
        b1=b1,
        b2=b2,
        eps=config["eps"],
        moves=moves,
    )


def train(step, state, batches, config: dict):
    """The final state, the metrics of every step, and the learning rates."""
    state, metrics = compiled(lambda state, batches: jax.lax.scan(step, state, batches))(
        state, batches
    )
    return state, metrics, jax.vmap(schedule_of(config))(jnp.arange(config["num_steps"]))


def decay_groups(entry, params, layout) -> dict:
    """The names in both groups of weight decay, in the order of the file."""
    computed = {}
    for key, wanted in (("output/decay_names", True), ("output/no_decay_names", False)):
        names = names_where(
            lambda path, x, wanted=wanted: optimizers.is_decayed(path, x) == wanted, params, layout
        )
        computed[key] = in_order(names, entry.arrays[key])
    return computed


def distill_train(entry):
    arrays, config = entry.arrays, entry.config
    distillation, student, teacher = distillation_of(config)
    base = open_document(entry.other_file("base"))
    tx = pretraining_tx(config, optimizers.moving_parts(distillation, student))
    variables = student_variables(base, student)
    frozen = {"teacher": load(group(base, "teacher/param/"), teacher)}
    state = state_of(jax.tree.map(jnp.asarray, variables | frozen), tx, jax.random.key(0))
    batches = {
        "images": channels_last(arrays["input/student_images"]),
        "teacher_images": channels_last(arrays["input/teacher_images"]),
    }
    step = steps.make_distillation_step(distillation, student, teacher, tx)
    final, metrics, rates = train(step, state, batches, config)
    parts = [*config["relations"], "loss"]
    moves = optimizers.moving_parts(distillation, student)
    before, after = (official_params(s.params, student) for s in (state, final))
    for name in names_where(lambda path, _: moves(path) == 0, state.params, student):
        np.testing.assert_array_equal(before[name], after[name])
    return {
        "output/lrs": rates,
        "output/losses": jnp.stack([metrics[name] for name in parts], axis=1),
        **{f"output/param/{name}": x for name, x in after.items()},
        **decay_groups(entry, state.params, student),
    }


def relations_kind(entry):
    arrays, beta = entry.arrays, entry.config["smooth_l1_beta"]
    teacher, student = (
        {part: jnp.asarray(arrays[f"input/{who}_{part}"]) for part in "qkv"}
        for who in ("teacher", "student")
    )

    def logits(tokens, kind):
        return relations.relation_logits(tokens[kind[0]], tokens[kind[1]])

    def kl(tokens, kind):
        return losses.relation_kl(logits(teacher, kind), logits(tokens, kind)).mean()

    computed = {}
    for kind in entry.config["relations"]:
        of = {"teacher": logits(teacher, kind), "student": logits(student, kind)}
        value, grads = jax.value_and_grad(kl)(student, kind)
        computed |= {f"output/logit_{who}_{kind}": x for who, x in of.items()}
        computed |= {f"output/softmax_{who}_{kind}": jax.nn.softmax(x) for who, x in of.items()}
        computed[f"output/kl_{kind}"] = value
        computed |= {f"output/grad_kl_{kind}_{part}": grads[part] for part in set(kind)}
        for distance in ("smooth_l1", "mse", "l1"):
            far = losses.relation_distance(of["teacher"], of["student"], distance, beta)
            computed[f"output/{distance}_nosoftmax_{kind}"] = far.mean()
    return computed


def relation_kl_extreme(entry):
    teacher, student = (
        jnp.asarray(entry.arrays[f"input/extreme_logits_{who}"], entry.config["dtype"])
        for who in ("teacher", "student")
    )
    return {"output/extreme_kl_stable": losses.relation_kl(teacher, student).mean()}


def feature_targets(entry):
    config = entry.config
    vit = vit_of(config, config)
    blocks = range(1, config["depth"] + 1)
    names = [f"block{i}/{kind}" for i in blocks for kind in BLOCK_KINDS]
    apply = compiled(lambda v, x: ViT(vit).apply(v, x, ("embed", "norm", *names)))
    variables = load(group(entry.document, "param/"), vit)
    out = apply(variables, channels_last(entry.arrays["input/image"]))
    computed = {"output/embed": out["embed"], "output/final_norm": out["norm"]}
    return computed | {
        f"output/block{i - 1}/{kind}": out[f"block{i}/{kind}"]
        for i in blocks
        for kind in BLOCK_KINDS
        if f"output/block{i - 1}/{kind}" in entry.expected
    }


def projected(weight, bias, feature):
    return feature @ weight.T + bias


def feature_distill_loss(entry):
    arrays, config = entry.arrays, entry.config
    student, teacher, weight, bias = (
        jnp.asarray(arrays[f"input/{name}"])
        for name in ("student_feature", "teacher_feature", "weight", "bias")
    )

    def loss(weight, bias, scale=1.0):
        prediction = scale * projected(weight, bias, student)
        return losses.feature_loss(
            teacher, prediction, config["smooth_l1_beta"], config["whiten_eps"]
        ).mean()

    value, (grad_weight, grad_bias) = compiled(jax.value_and_grad(loss, (0, 1)))(weight, bias)
    return {
        "output/whitened": losses.whiten(teacher, config["whiten_eps"]),
        "output/loss": value,
        "output/grad_weight": grad_weight,
        "output/grad_bias": grad_bias,
        "output/loss_pred_times_10": loss(weight, bias, config["prediction_scale_second_case"]),
    }


def cls_token_kl(entry):
    student, teacher, weight, bias = (
        jnp.asarray(entry.arrays[f"fd/input/{name}"])
        for name in ("student_feature", "teacher_feature", "weight", "bias")
    )

    def loss(weight, bias):
        prediction = projected(weight, bias, student[:, 0])
        return losses.softmax_kl(teacher[:, 0], prediction, entry.config["temperature"]).mean()

    value, (grad_weight, grad_bias) = compiled(jax.value_and_grad(loss, (0, 1)))(weight, bias)
    return {
        "output/kl": value,
        "output/grad_weight": grad_weight,
        "output/grad_bias": grad_bias,
    }


KINDS = {
    "relation_distill": relation_distill,
    "drop_path": drop_path,
    "distill_train": distill_train,
    "relations": relations_kind,
    "relation_kl_extreme": relation_kl_extreme,
    "feature_targets": feature_targets,
    "feature_distill_loss": feature_distill_loss,
    "cls_token_kl": cls_token_kl,
}
