"""Steps: what they move, on one device and several, alone and as copies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.transformer import TransformerConfig
from lab.papers.tinymim import (
    Classifier,
    ClassifierConfig,
    Distillation,
    MAEConfig,
    TeacherLabels,
    class_logits,
    finetune_loss_fn,
    finetuning_adamw,
    mae_loss_fn,
    make_classifier_eval,
    make_distillation_step,
    make_step,
    moving_parts,
    pretraining_adamw,
    student_config,
)
from lab.papers.tinymim.optimizers import is_decayed_in_finetuning, layer_of, layer_scales
from lab.train import state_of
from lab.train.optimizers import by_path
from tests.papers.tinymim.networks import (
    STUDENT,
    TEACHER,
    pictures,
    quick_jit,
    random_variables,
    scanned,
)

DISTILLATION = Distillation(mask_ratio=0.5, target_block=2)
DROPPING = dataclasses.replace(
    scanned(STUDENT), drop_path_rate=0.4, drop_path_schedule="all_but_last", depth=3
)
STUDENT_CONFIG = student_config(DISTILLATION, DROPPING, TEACHER)


def distillation_parts(axis_name=None):
    # The bias of the keys has no true gradient; a large eps keeps Adam from stepping on its noise.
    tx = pretraining_adamw(1e-2, eps=1e-3, moves=moving_parts(DISTILLATION, STUDENT_CONFIG))
    step = make_distillation_step(DISTILLATION, STUDENT_CONFIG, TEACHER, tx, axis_name=axis_name)
    variables = random_variables(STUDENT_CONFIG) | {"teacher": random_variables(TEACHER, 1)}
    return step, state_of(variables, tx, jax.random.key(3))


def batch(rows=4):
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])[:rows]  # a ragged last batch
    return {"images": pictures(rows), "teacher_images": pictures(rows, 6), "mask": mask}


@pytest.fixture(scope="module")
def one_device():
    step, state = distillation_parts()
    step = quick_jit(step)
    return step, state, *step(state, batch())


def assert_close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def test_two_devices_take_the_step_of_one(one_device):
    """With masking, drop path and a ragged batch; vmap binds the axis that pmap would."""
    step, state = distillation_parts(axis_name="batch")
    parts = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch())
    both = quick_jit(jax.vmap(step, (None, 0), axis_name="batch"))
    new, metrics = both(state, parts)
    _, _, expected, expected_metrics = one_device
    for device in range(2):
        first = jax.tree.map(lambda x, device=device: x[device], (new.params, metrics))
        assert_close(first, (expected.params, expected_metrics))


def test_a_masked_row_does_not_count(one_device):
    step, state, _, metrics = one_device
    full = batch() | {"mask": jnp.ones(4)}
    assert abs(step(state, full)[1]["loss"] - metrics["loss"]) > 1e-4


def test_what_gets_no_gradient_stays_bit_for_bit(one_device):
    _, before, after, _ = one_device
    moves = moving_parts(DISTILLATION, STUDENT_CONFIG)

    def check(path, changed):
        still = np.broadcast_to(moves(path), changed.shape) == 0
        assert not changed[still].any(), path
        assert changed.any() == np.any(moves(path)), path

    by_path(check, jax.tree.map(lambda a, b: np.asarray(a != b), before.params, after.params))
    jax.tree.map(np.testing.assert_array_equal, before.model_state, after.model_state)


def test_copies_share_a_teacher_that_stands_in_the_batch(one_device):
    _, state, expected, _ = one_device
    step, _ = distillation_parts()
    alone = state.replace(model_state={"constants": state.model_state["constants"]})
    other = alone.replace(key=jax.random.key(8))
    both = jax.tree.map(lambda *x: jnp.stack(x), alone, other)
    data = batch() | {"teacher": state.model_state["teacher"]}
    copies, metrics = quick_jit(jax.vmap(step, (0, None)))(both, data)
    assert_close(jax.tree.map(lambda x: x[0], copies.params), expected.params)
    assert metrics["loss"][0] != metrics["loss"][1]


def test_relation_loss_falls():
    config = Distillation(target_block=2)
    student = student_config(config, scanned(STUDENT), TEACHER)
    tx = pretraining_adamw(5e-3, moves=moving_parts(config, student))
    step = make_distillation_step(config, student, TEACHER, tx)
    variables = random_variables(student) | {"teacher": random_variables(TEACHER, 1)}
    state, data = state_of(variables, tx, jax.random.key(0)), {"images": pictures(8)}
    run = quick_jit(lambda s: jax.lax.scan(lambda s, _: step(s, data), s, length=60))
    _, metrics = run(state)
    assert metrics["loss"][-1] < metrics["loss"][0] / 3


def test_mae_loss_falls_with_random_masks():
    model = MAEConfig(scanned(STUDENT), TransformerConfig(width=8, depth=1, num_heads=2, scan=True))
    tx = pretraining_adamw(5e-3)
    step = make_step(mae_loss_fn(model), tx)
    state = state_of(random_variables(model), tx, jax.random.key(0))
    data = {"images": pictures(8)}
    run = quick_jit(lambda s: jax.lax.scan(lambda s, _: step(s, data), s, length=60))
    _, metrics = run(state)
    assert metrics["loss"][-10:].mean() < 0.7 * metrics["loss"][:5].mean()
    assert len(set(metrics["loss"][:3].tolist())) == 3


STARRED = ClassifierConfig(
    dataclasses.replace(
        STUDENT, distilled=True, expanded_width=20, final_norm=False, position="learned"
    ),
    num_classes=3,
)


def test_the_starred_classifier_pools_patches_and_class_token_and_averages_its_heads():
    variables = random_variables(STARRED)
    out = quick_jit(lambda v, x: Classifier(STARRED).apply(v, x))(variables, pictures())
    assert out["features"].shape == (4, 20)
    expected = (np.asarray(out["logits"]) + np.asarray(out["logits_dist"])) / 2
    np.testing.assert_allclose(class_logits(out), expected, rtol=1e-6)
    params = variables["params"]
    by_hand = out["features"] @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(out["logits"], by_hand, atol=1e-4)


@pytest.mark.parametrize("is_hard", [True, False])
def test_deit_distillation_in_finetuning_weighs_labels_and_teacher(is_hard):
    teacher_logits = jnp.array([[0.0, 5.0, 0.0]] * 4)
    loss_fn = finetune_loss_fn(
        STARRED,
        label_smoothing=0.0,
        teacher_labels=TeacherLabels(alpha=0.3, is_hard=is_hard),
        teacher_apply=lambda teacher, images: teacher["logits"],
    )
    data = {"images": pictures(), "labels": jnp.array([0, 1, 2, 0])}
    variables = random_variables(STARRED)
    loss, aux = quick_jit(loss_fn)(
        variables["params"], {"teacher": {"logits": teacher_logits}}, data, jax.random.key(0)
    )
    out = quick_jit(lambda v, x: Classifier(STARRED).apply(v, x))(variables, pictures())
    logs = np.asarray(jax.nn.log_softmax(out["logits"]))
    base = -np.mean([logs[i, label] for i, label in enumerate([0, 1, 2, 0])])
    log_student = np.asarray(jax.nn.log_softmax(out["logits_dist"]))
    teacher = np.asarray(jax.nn.softmax(teacher_logits))
    soft = np.sum(teacher * (np.log(teacher) - log_student)) / (4 * 3)
    learned = -log_student[:, 1].mean() if is_hard else soft
    np.testing.assert_allclose(aux.metrics["distillation"], learned, rtol=1e-4)
    np.testing.assert_allclose(loss, 0.7 * base + 0.3 * learned, rtol=1e-4)


def test_finetuning_learns_its_labels_and_is_evaluated_on_real_rows_alone():
    backbone = dataclasses.replace(scanned(STUDENT), position="learned", final_norm=False)
    model = ClassifierConfig(backbone, num_classes=3)
    tx = finetuning_adamw(1e-2, backbone, layer_decay_rate=0.75)
    step = make_step(finetune_loss_fn(model), tx)
    data = {"images": pictures(), "labels": jnp.array([0, 1, 2, 0])}
    state = state_of(random_variables(model), tx, jax.random.key(0))
    run = quick_jit(lambda s: jax.lax.scan(lambda s, _: step(s, data), s, length=40))
    state, metrics = run(state)
    assert metrics["loss"][-1] < 0.6 < metrics["loss"][0]
    evaluate = quick_jit(make_classifier_eval(model))
    wrong = data | {"labels": jnp.array([0, 1, 2, 1])}
    assert evaluate(state, wrong)["accuracy"] == 0.75
    assert evaluate(state, wrong | {"mask": jnp.array([1.0, 1, 1, 0])})["accuracy"] == 1


def test_layers_and_decay_are_the_same_for_stacked_and_separate_blocks():
    config = ClassifierConfig(
        dataclasses.replace(STUDENT, position="learned", final_norm=False, layer_scale=1.0), 3
    )
    stacked = dataclasses.replace(config, backbone=scanned(config.backbone))
    scales, layers = layer_scales(2, 0.5), layer_of(2)

    def rules(config):
        params = random_variables(config)["params"]
        return by_path(
            lambda path, x: (
                np.broadcast_to(scales(path), x.shape),
                is_decayed_in_finetuning(path, x),
            ),
            params,
        )

    separate, together = rules(config)["backbone"], rules(stacked)["backbone"]
    for name in ("qkv", "norm1", "fc2"):
        for part, (scale, decays) in together["blocks"]["stacked"][name].items():
            for block in range(2):
                expected, expected_decays = separate["blocks"][str(block)][name][part]
                np.testing.assert_array_equal(scale[block], expected)
                assert decays == expected_decays == (part == "kernel")
    assert not together["blocks"]["stacked"]["gamma_1"][1]
    names = (
        "cls_token",
        "pos_embed",
        "patch_embed/kernel",
        "blocks/0/qkv/kernel",
        "blocks/1/fc1/bias",
    )
    assert [layers(f"backbone/{name}") for name in names] == [0, 0, 0, 1, 2]
    assert [layers(name) for name in ("fc_norm/scale", "head/kernel", "head_dist/bias")] == [3] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassifierConfig(STUDENT, 3), "needs backbone.final_norm=False"),
        (lambda: ClassifierConfig(STUDENT, 3, "mean"), "'global' or 'cls', got 'mean'"),
        (lambda: ClassifierConfig(STUDENT, 1, "cls"), "at least 2, got 1"),
        (lambda: dataclasses.replace(STARRED, pooling="cls"), "pool globally"),
        (lambda: MAEConfig(STARRED.backbone), "class token alone"),
        (lambda: TeacherLabels(alpha=1.5), r"\[0, 1\], got 1.5"),
        (lambda: TeacherLabels(temperature=0.0), "must be positive"),
        (lambda: finetune_loss_fn(STARRED, teacher_labels=TeacherLabels()), "go together"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
