"""Every target of the study: what it reads, what it moves, and which networks go together."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.transformer import TransformerConfig
from lab.nn.vit import ViT, vit_config
from lab.papers.tinymim import (
    Distillation,
    distillation_loss_fn,
    moving_parts,
    student_config,
)
from lab.papers.tinymim.distill import (
    FEATURES,
    default_target_block,
    student_names,
    target_block,
    target_heads,
    teacher_names,
    teacher_outputs,
)
from lab.train.optimizers import by_path
from tests.papers.tinymim.networks import (
    STUDENT,
    TEACHER,
    pictures,
    quick_jit,
    random_variables,
    scanned,
)

DECODER = TransformerConfig(width=8, depth=1, num_heads=2)
RECONSTRUCTING = Distillation(mask_ratio=0.5, reconstruction_weight=1.0)
VARIANTS = {
    "relation": (Distillation(), {"qk", "vv"}),
    "all relations": (Distillation(relations=("qq", "kk", "vv")), {"qq", "kk", "vv"}),
    "no softmax": (Distillation(softmax=False, include_cls=False), {"qk", "vv"}),
    "reconstruction": (RECONSTRUCTING, {"qk", "vv", "reconstruction"}),
    "feature": (Distillation(target="feature", feature="ffn"), {"feature"}),
    "qkv": (Distillation(target="feature", feature="qkv"), {"q", "k", "v"}),
    "unnormed": (Distillation(target="feature", student_feature_norm=False), {"feature"}),
    "cls": (Distillation(target="cls"), {"cls"}),
    "pooled": (Distillation(target="pooled"), {"pooled"}),
    "cls smooth-L1": (Distillation(target="cls", cls_loss="whitened_smooth_l1"), {"cls"}),
}


@functools.cache
def gradient(name, scan=False):
    """(student config, loss, metrics, gradient) of one variant."""
    config, _ = VARIANTS[name]
    student = student_config(config, scanned(STUDENT) if scan else STUDENT, TEACHER, DECODER)
    variables = random_variables(student)
    frozen = {"constants": variables["constants"], "teacher": random_variables(TEACHER, 1)}
    batch = {"images": pictures(2), "teacher_images": pictures(2, seed=6)}
    loss_fn = distillation_loss_fn(config, student, TEACHER)
    (loss, aux), grads = quick_jit(jax.value_and_grad(loss_fn, has_aux=True))(
        variables["params"], frozen, batch, jax.random.key(0)
    )
    return student, loss, aux.metrics, grads


@pytest.mark.parametrize("name", VARIANTS)
def test_each_target_has_its_terms_and_they_add_up(name):
    _, loss, metrics, _ = gradient(name)
    assert set(metrics) == VARIANTS[name][1]
    np.testing.assert_allclose(loss, sum(metrics.values()), rtol=1e-6)
    assert all(value > 0 for value in metrics.values())


@pytest.mark.parametrize(
    ("name", "scan"), [*((name, False) for name in VARIANTS), ("relation", True)]
)
def test_moving_parts_are_those_that_get_a_gradient(name, scan):
    student, _, _, grads = gradient(name, scan)
    moves = moving_parts(VARIANTS[name][0], student)

    def check(path, grad):
        moving = np.broadcast_to(moves(path), grad.shape)
        blocks = zip(grad, moving, strict=True) if "/stacked/" in path else [(grad, moving)]
        for part, is_moving in blocks:
            assert np.any(part) == is_moving.all() == is_moving.any(), path

    by_path(check, grads)


def test_a_target_is_what_the_teacher_computes_there():
    images, variables = pictures(2), random_variables(TEACHER, 1)
    names = ("block2/block", "block2/ffn", "block3/block", "norm")
    out = quick_jit(lambda v, x: ViT(TEACHER).apply(v, x, names))(variables, images)

    def target(config, name):
        return quick_jit(functools.partial(teacher_outputs, config, TEACHER))(variables, images)[
            name
        ]

    feature = functools.partial(Distillation, target="feature", target_block=2)
    for kind, name in (("block", 0), ("ffn_res", 0), ("ffn", 1), ("output", 2)):
        got = target(feature(feature=kind), "feature")
        np.testing.assert_allclose(got, out[names[name]], atol=1e-5, err_msg=kind)
    cls = Distillation(target="cls")
    np.testing.assert_allclose(target(cls, "cls"), out["norm"][:, 0], atol=1e-5)
    pooled = np.asarray(out["norm"])[:, 1:].mean(1)
    np.testing.assert_allclose(target(Distillation(target="pooled"), "pooled"), pooled, atol=1e-5)
    raw = dataclasses.replace(cls, teacher_cls_norm=False)
    np.testing.assert_allclose(target(raw, "cls"), out["block3/block"][:, 0], atol=1e-5)


def test_the_teacher_runs_no_further_than_its_target_block():
    teacher = dataclasses.replace(TEACHER, depth=6)
    shapes = jax.eval_shape(ViT(teacher).init, jax.random.key(0), pictures(2))

    def products(block):
        config = Distillation(target_block=block)
        run = functools.partial(teacher_outputs, config, teacher)
        return str(jax.make_jaxpr(run)(shapes, pictures(2))).count("dot_general")

    # the patch embedding, whole blocks of six products, and the target block's qkv
    assert [products(block) for block in (1, 3)] == [2, 2 + 2 * 6]


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_of_the_paper_has_a_place_in_the_teacher(feature):
    config = Distillation(target="feature", feature=feature, target_block=2)
    shapes = jax.eval_shape(ViT(TEACHER).init, jax.random.key(0), pictures(2))
    out = jax.eval_shape(functools.partial(teacher_outputs, config, TEACHER), shapes, pictures(2))
    assert set(out) == set(teacher_names(config, TEACHER))
    assert {x.shape for x in out.values()} == {(2, 17, 16)}


def test_only_the_tokens_that_the_relations_need_are_taken():
    names, project = student_names(Distillation(relations=("vv",)), STUDENT)
    assert names == {"v": "block2/v"}
    assert project is None


@pytest.mark.parametrize(("depth", "block"), [(24, 18), (12, 12), (6, 6)])
def test_default_target_block(depth, block):
    assert default_target_block(depth) == block


def test_the_students_last_block_takes_the_teachers_heads():
    teacher = vit_config("L")
    student = student_config(Distillation(), vit_config("B"), teacher)
    assert student.encoder.heads == (12,) * 11 + (16,)
    assert target_block(Distillation(), teacher) == 18
    other = Distillation(teacher_target_heads=8)
    assert student_config(other, vit_config("B"), teacher).encoder.heads[-1] == 8


def test_a_distilled_student_teaches_with_the_heads_it_was_distilled_with():
    first = student_config(Distillation(), vit_config("S", num_heads=6), vit_config("B")).encoder
    assert target_heads(Distillation(), first) == 12
    second = student_config(Distillation(), vit_config("T", num_heads=6), first).encoder
    assert second.heads == (6,) * 11 + (12,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "logits"}, "one of relation, feature, cls, pooled, got 'logits'"),
        ({"relations": ("qv",)}, "different ones of qk"),
        ({"relations": ("qk", "qk")}, "different ones of qk"),
        ({"relations": ()}, "different ones of qk"),
        ({"feature": "mlp"}, "got 'mlp'"),
        ({"mask_ratio": 1.0}, "got 1.0"),
        ({"reconstruction_weight": 1.0}, "needs a mask_ratio"),
        ({"beta": 0.0}, "must be positive"),
    ],
)
def test_impossible_targets_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        Distillation(**change)


@pytest.mark.parametrize(
    ("config", "student", "teacher", "message"),
    [
        (Distillation(target_block=4), {}, {}, "in 1..3, the teacher's blocks, got 4"),
        (Distillation(target_block=0), {}, {}, "in 1..3, the teacher's blocks, got 0"),
        (Distillation(), {"patch_size": 4}, {}, "equal tokens, got 5 .* and 17"),
        (Distillation(), {"image_size": 10}, {}, "equal tokens, got 26 .* and 17"),
        (Distillation(), {"distilled": True}, {}, "equal tokens"),
        (Distillation(), {}, {"num_heads": 8}, "teacher's head count must divide the width 12"),
        (Distillation(teacher_target_heads=5), {}, {}, "teacher_target_heads must divide"),
        (Distillation(mask_ratio=0.99), {}, {}, "keeps none of 16"),
        (Distillation(target="cls"), {}, {"final_norm": False}, "need a teacher with a final"),
        (Distillation(target="feature"), {"final_norm": False}, {}, "a student with a final norm"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(config, student, teacher, message):
    with pytest.raises(InvalidInputError, match=message):
        student_config(
            config,
            dataclasses.replace(STUDENT, **student),
            dataclasses.replace(TEACHER, **teacher),
        )


def test_masked_networks_see_the_same_patches():
    """A student equal to the teacher has no loss, so both kept the same patches."""
    config = Distillation(mask_ratio=0.5, target_block=3)
    student = student_config(config, TEACHER, TEACHER)
    variables = random_variables(TEACHER, 1)
    loss_fn = quick_jit(distillation_loss_fn(config, student, TEACHER))
    loss, _ = loss_fn(
        {"encoder": variables["params"]},
        {"constants": {"encoder": variables["constants"]}, "teacher": variables},
        {"images": pictures(2)},
        jax.random.key(0),
    )
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert jnp.isfinite(loss)
